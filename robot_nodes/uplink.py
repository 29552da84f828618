"""One robot's connection to its fleet: experience out, policies and the operator's commands in.

EpisodeRecorder ─▶ Spool ─▶ ExperienceSender ─▶ replay server
                            PolicyReceiver  ◀── learner
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet.config import FleetConfig
from fleet.keys import load_credentials
from fleet.messages import FleetCommand
from fleet.spaces import SpaceSpec
from robot_nodes.batch_former import EpisodeEnd
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.experience_sender import ExperienceSender
from robot_nodes.policy_receiver import PolicyReceiver
from robot_nodes.spool import Spool

logger = logging.getLogger(__name__)

_FLUSH_TIMEOUT_S = 10.0

Heartbeat = Callable[[], tuple[str, dict[str, Any]]]


class FleetUplink:
    """The connection of a robot at work.

    uplink = FleetUplink(fleet, robot_id, run.spool, task.spec, on_command, heartbeat)
    loop = ControlLoop(…, uplink.recorder, lambda: uplink.policies.newest, …)
    uplink.start()
    uplink.close()

    Attributes:
        recorder: Takes the robot's steps.
        policies: Hears the learner.
    """

    def __init__(
        self,
        fleet: FleetConfig,
        robot_id: str,
        spool_dir: Path,
        spec: SpaceSpec,
        on_command: Callable[[FleetCommand], None],
        heartbeat: Heartbeat,
    ) -> None:
        """Open the spool and connect; the callbacks run in a thread of their own.

        Raises:
            SpoolError: The spool cannot be used.
            ValueError: Keys are missing or wrong.
        """
        credentials = load_credentials(fleet, "robot", robot_id)
        self.boot_id = uuid.uuid4().hex[:12]
        self._spool = Spool(spool_dir, robot_id, self.boot_id, spec, fleet.spool)
        self.recorder = EpisodeRecorder(spec, sink=self._spool)
        self._sender = ExperienceSender(
            fleet.replay_server.endpoint,
            self._spool,
            spec,
            on_command=on_command,
            heartbeat=heartbeat,
            credentials=credentials,
        )
        self.policies = PolicyReceiver(fleet.learner.policy_endpoint, spec, credentials)
        self._synchronous = fleet.learner.synchronous

    def start(self) -> None:
        """Begin to send and to hear, once the heartbeat has something to say."""
        self.policies.start()
        self._sender.start()
        logger.info("boot %s", self.boot_id)

    @property
    def blocked(self) -> str:
        """Why the robot must not take another step; empty when it may."""
        return self._sender.blocked

    def learner_behind(self) -> str:
        """For whom the next episode must wait where updates are synchronous; empty when it may begin."""
        newest = self.policies.newest
        if not self._synchronous or newest is None:
            return ""
        if missing := self.recorder.rows_produced - self._sender.acked_rows:
            return f"for the replay server (learner.synchronous): {missing} rows are not stored yet"
        learned, stored = newest.policy.learned_rows, self._sender.stored_cursor
        if learned < stored:
            return (
                f"for the learner (learner.synchronous): it has learned from {learned} of {stored} rows, and "
                "goes on when every robot has ended its episode"
            )
        return ""

    @property
    def spool_full(self) -> str:
        """Why the spool takes nothing more; empty when it does."""
        return self._spool.blocked

    @property
    def refusal(self) -> str:
        """Why the replay server will not have this robot; empty when it will."""
        return self._sender.refusal

    @property
    def connected(self) -> bool:
        """Whether the replay server answers."""
        return self._sender.connected

    @property
    def stats(self) -> dict[str, Any]:
        """Numbers for the heartbeat."""
        return {
            "robot/steps": self.recorder.rows_produced,
            "robot/unacked": self._sender.waiting_rows,
            "robot/spool_mb": self._spool.used_bytes / 1e6,
            "robot/rows_dropped": self._spool.rows_dropped,
        }

    def close(self) -> None:
        """Ship what is left, for at most ten seconds, and disconnect."""
        left = self._sender.close(_FLUSH_TIMEOUT_S)
        self.policies.close()
        self._spool.close()
        if left:
            logger.warning(
                "%d steps are not stored by the replay server yet: they stay in %s until the next start",
                left,
                self._spool.path,
            )


class _Nowhere:
    """Takes episodes and forgets them."""

    def add_row(self, seq: int, episode: int, evaluation: bool, row: bytes) -> None:
        """Forget it."""

    def end_episode(self, seq: int, episode: int, end: EpisodeEnd) -> None:
        """Forget it."""


class DryUplink:
    """The same for a dry run: hears policies; records nothing and says nothing to anybody."""

    blocked = spool_full = refusal = ""
    connected = False

    def __init__(self, fleet: FleetConfig, robot_id: str, spec: SpaceSpec) -> None:
        """Connect to the learner.

        Raises:
            ValueError: Keys are missing or wrong.
        """
        credentials = load_credentials(fleet, "robot", robot_id)
        self.recorder = EpisodeRecorder(spec, sink=_Nowhere())
        self.policies = PolicyReceiver(fleet.learner.policy_endpoint, spec, credentials)

    def start(self) -> None:
        """Begin to hear."""
        self.policies.start()

    def learner_behind(self) -> str:
        """Nothing it does is learned from, so there is nothing to wait for."""
        return ""

    @property
    def stats(self) -> dict[str, Any]:
        """Numbers for the heartbeat."""
        return {}

    def close(self) -> None:
        """Disconnect."""
        self.policies.close()
