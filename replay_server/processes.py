"""Who is out there: the connections that said hello, and the newest heartbeat of each process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fleet.messages import Heartbeat

_MAX_PEERS = 1024
_MAX_PROCESSES = 128
_MAX_STATS_BYTES = 4096
ALIVE_S = 5.0


@dataclass
class Peer:
    """One connection that said hello.

    Attributes:
        oldest_seqs: Robots: the boots whose rows it may send, each with the oldest row it still has.
    """

    role: str
    process_id: str
    boot_id: str
    last_heard_s: float
    oldest_seqs: dict[str, int] = field(default_factory=dict)


class PeerTable:
    """Connections by ZeroMQ identity; bounded, the longest silent one goes first."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._peers: dict[bytes, Peer] = {}

    def add(self, identity: bytes, peer: Peer) -> None:
        """Remember who said hello."""
        self._peers[identity] = peer
        if len(self._peers) > _MAX_PEERS:
            del self._peers[min(self._peers, key=lambda i: self._peers[i].last_heard_s)]

    def get(self, identity: bytes) -> Peer | None:
        """Who this is; none before its hello."""
        return self._peers.get(identity)

    def heard(self, identity: bytes, now_s: float) -> None:
        """A message of any kind arrived."""
        if peer := self._peers.get(identity):
            peer.last_heard_s = now_s

    def robots(self, target: str) -> list[tuple[bytes, Peer]]:
        """Connections of one robot, or of all ("*")."""
        return [
            (identity, peer)
            for identity, peer in self._peers.items()
            if peer.role == "robot" and target in ("*", peer.process_id)
        ]


class ProcessTable:
    """The newest heartbeat of each process; bounded, the longest silent one goes first."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._newest: dict[tuple[str, str], tuple[float, Heartbeat]] = {}

    def add(self, heartbeat: Heartbeat, now_s: float) -> None:
        """Remember a heartbeat that arrived now."""
        self._newest[heartbeat.role, heartbeat.process_id] = now_s, heartbeat
        if len(self._newest) > _MAX_PROCESSES:
            del self._newest[min(self._newest, key=lambda key: self._newest[key][0])]

    def newest(self, role: str, process_id: str) -> Heartbeat | None:
        """The newest heartbeat of a process, whichever boot it is of; none if there is none."""
        arrived = self._newest.get((role, process_id))
        return arrived[1] if arrived else None

    def rows(self, now_s: float) -> list[dict[str, Any]]:
        """One mapping per process, by role and id: the heartbeat's fields and `age_s`."""
        return [
            {
                "role": beat.role,
                "process_id": beat.process_id,
                "boot_id": beat.boot_id,
                "state": beat.state,
                "stamp_ns": beat.stamp_ns,
                "stats": beat.stats,
                "age_s": round(now_s - arrived_s, 3),
            }
            for _, (arrived_s, beat) in sorted(self._newest.items())
        ]


def heartbeat_error(heartbeat: Heartbeat) -> str:
    """Why a heartbeat cannot be shown; empty if it can."""
    for name in ("role", "process_id", "boot_id", "state"):
        if not 0 < len(value := getattr(heartbeat, name)) <= 64:
            return f"{name} must have 1 to 64 characters, got {value[:80]!r}"
    for key, value in heartbeat.stats.items():
        if type(key) is not str or type(value) not in (int, float, str, bool):
            return (
                f"stats must map names to numbers or strings, got {str(key)[:80]!r}: {type(value).__name__}"
            )
    if (size := len(json.dumps(heartbeat.stats))) > _MAX_STATS_BYTES:
        return f"stats are {size} bytes, at most {_MAX_STATS_BYTES}"
    return ""
