"""An operator's commands on their way to the robots."""

from __future__ import annotations

import logging

from fleet.messages import COMMAND_KINDS, FleetCommand, Hello
from replay_server.processes import ALIVE_S, PeerTable
from replay_server.refused import RefusedError

logger = logging.getLogger(__name__)


class FleetCommands:
    """Passes commands to the robots they are for, and remembers what holds for restarted ones."""

    def __init__(self, peers: PeerTable) -> None:
        """Find robots in `peers`."""
        self.last_kind = ""
        self._peers = peers
        self._newest: dict[str, FleetCommand] = {}

    def recipients(self, command: FleetCommand) -> list[bytes]:
        """Remember a command and return the connections to pass it to.

        Raises:
            RefusedError: No such command or robot.
        """
        if command.kind not in COMMAND_KINDS:
            raise RefusedError(f"kind must be one of {', '.join(COMMAND_KINDS)}, got {command.kind[:40]!r}")
        robots = self._peers.robots(command.target)
        if not robots and command.target != "*":
            known = ", ".join(sorted({peer.process_id for _, peer in self._peers.robots("*")})) or "none"
            raise RefusedError(f"no robot {command.target[:80]!r}; robots that said hello: {known}")
        if command.target == "*":
            self._newest.clear()
        self._newest[command.target] = command
        self.last_kind = command.kind
        logger.info("%s for %s (%s)", command.kind, command.target, command.reason[:200])
        return [identity for identity, _ in robots]

    def listening(self, target: str, now_s: float) -> list[str]:
        """The robots among the recipients that were heard of late.

        A silent robot is sent the command too, in case it still listens, but nobody is told it got it.

        Raises:
            RefusedError: The one robot meant has been silent.
        """
        robots = [peer for _, peer in self._peers.robots(target)]
        alive = sorted({peer.process_id for peer in robots if now_s - peer.last_heard_s <= ALIVE_S})
        if robots and not alive and target != "*":
            silent_s = now_s - max(peer.last_heard_s for peer in robots)
            reason = f"{target} is silent for {silent_s:.0f} s: the command was sent but may not arrive"
            raise RefusedError(reason)
        return alive

    def standing(self, identity: bytes, hello: Hello) -> FleetCommand | None:
        """The pause or e-stop that a restarted robot would otherwise not know of."""
        known = self._peers.get(identity)
        if known is not None and known.boot_id == hello.boot_id:
            return None
        command = self._newest.get(hello.process_id) or self._newest.get("*")
        return command if command is not None and command.kind in ("pause", "estop") else None
