"""An operator's commands on their way to the robots, and which of them still hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from fleet.messages import COMMAND_KINDS, CommandReceipt, FleetCommand, Heartbeat, Hello
from replay_server.processes import ALIVE_S, Peer, PeerTable, ProcessTable
from replay_server.refused import RefusedError

logger = logging.getLogger(__name__)

_ESTOPPED = "estopped"
_HELD = ("paused", "fault", _ESTOPPED)
"""States of a robot that stands still until a person resumes it; in any other it moves, or soon will."""


@dataclass
class _Estop:
    """One robot's e-stop. `seen_in_boot` is the boot that has reported it; empty before that."""

    command: FleetCommand
    seen_in_boot: str = ""


@dataclass(frozen=True)
class Delivery:
    """The connections a command goes to, and what the operator is told."""

    command: FleetCommand
    robots: list[tuple[bytes, Peer]] = field(default_factory=list)
    note: str = ""

    def receipt(self, now_s: float) -> CommandReceipt:
        """The robots that were heard of late.

        A silent robot is sent the command too, in case it still listens, but nobody is told it got it.

        Raises:
            RefusedError: The one robot meant has been silent.
        """
        peers = [peer for _, peer in self.robots]
        alive = sorted({peer.process_id for peer in peers if now_s - peer.last_heard_s <= ALIVE_S})
        if peers and not alive and self.command.target != "*":
            silent_s = now_s - max(peer.last_heard_s for peer in peers)
            raise RefusedError(
                f"{self.command.target} is silent for {silent_s:.0f} s: "
                "the command was sent but may not arrive"
            )
        return CommandReceipt(kind=self.command.kind, delivered_to=alive, note=self.note)


class FleetCommands:
    """Passes commands to the robots they are for, and tells them again while they do not hold.

        delivery = commands.deliver(command)        # of an operator
        commands.observe(heartbeat)                 # of every process
        again = commands.standing(hello)            # of every robot, every few seconds

    A pause holds until the next resume or stop. An e-stop holds until the robot is resumed after a
    person has reset it: one boot of it was seen e-stopped and is in another state now. A robot that
    crashes and starts again has not been reset.
    """

    def __init__(self, peers: PeerTable, processes: ProcessTable) -> None:
        """Find robots in `peers` and their states in `processes`."""
        self.last_kind = ""
        self._peers, self._processes = peers, processes
        self._newest: dict[str, FleetCommand] = {}
        self._estops: dict[str, _Estop] = {}
        self._estop_of_newcomers: FleetCommand | None = None

    def deliver(self, command: FleetCommand) -> Delivery:
        """Remember a command and say to whom it goes.

        A resume is kept from robots that are e-stopped, by whomever.

        Raises:
            RefusedError: No such command or robot, or the one robot to be resumed is e-stopped.
        """
        if command.kind not in COMMAND_KINDS:
            raise RefusedError(f"kind must be one of {', '.join(COMMAND_KINDS)}, got {command.kind[:40]!r}")
        robots = self._peers.robots(command.target)
        if not robots and command.target != "*":
            known = ", ".join(sorted({peer.process_id for _, peer in self._peers.robots("*")})) or "none"
            raise RefusedError(f"no robot {command.target[:80]!r}; robots that said hello: {known}")
        note = ""
        if command.kind == "estop":
            self._estop(command, robots)
        elif command.kind == "resume":
            latched = self._release(command, robots)
            if latched:
                names = ", ".join(latched)
                note = f"{names}: e-stopped; reset it at the robot (service ~/reset_estop), then resume again"
                if command.target != "*":
                    raise RefusedError(note)
                robots = [(identity, peer) for identity, peer in robots if peer.process_id not in latched]
        if command.kind != "estop":
            if command.target == "*":
                self._newest.clear()
            self._newest[command.target] = command
        self.last_kind = command.kind
        logger.info("%s for %s (%s)", command.kind, command.target, command.reason[:200])
        return Delivery(command, robots, note)

    def _estop(self, command: FleetCommand, robots: list[tuple[bytes, Peer]]) -> None:
        self._estops.update({peer.process_id: _Estop(command) for _, peer in robots})
        if command.target == "*":
            self._estop_of_newcomers = command

    def _release(self, command: FleetCommand, robots: list[tuple[bytes, Peer]]) -> list[str]:
        """End the e-stops that were reset; returns the robots that are e-stopped still."""
        latched = set()
        if command.target == "*":
            self._estop_of_newcomers = None
        for robot_id in {peer.process_id for _, peer in robots}:
            estop, beat = self._estops.get(robot_id), self._processes.newest("robot", robot_id)
            if estop is None:  # but perhaps one that did not come from here: a button, a service, a topic
                if beat is not None and beat.state == _ESTOPPED:
                    latched.add(robot_id)
            elif beat is not None and _was_reset(estop, beat):
                del self._estops[robot_id]
            else:
                latched.add(robot_id)
        return sorted(latched)

    def observe(self, heartbeat: Heartbeat) -> None:
        """Note which boot of a robot has shown its e-stop."""
        estop = self._estops.get(heartbeat.process_id)
        if estop is not None and heartbeat.role == "robot" and heartbeat.state == _ESTOPPED:
            estop.seen_in_boot = heartbeat.boot_id

    def standing(self, hello: Hello) -> FleetCommand | None:
        """The pause or e-stop that holds for a robot and that its newest heartbeat contradicts.

        It may have restarted, or a short disconnect may have swallowed the command.
        """
        robot_id = hello.process_id
        if self._estop_of_newcomers is not None:
            self._estops.setdefault(robot_id, _Estop(self._estop_of_newcomers))
        beat = self._processes.newest("robot", robot_id)
        if beat is not None and beat.boot_id != hello.boot_id:
            beat = None  # of the boot before: says nothing about this one
        if estop := self._estops.get(robot_id):
            obeyed = beat is not None and (
                beat.state == _ESTOPPED or (beat.state in _HELD and _was_reset(estop, beat))
            )
            return None if obeyed else estop.command
        command = self._newest.get(robot_id) or self._newest.get("*")
        if command is None or command.kind != "pause" or (beat is not None and beat.state in _HELD):
            return None
        return command


def _was_reset(estop: _Estop, beat: Heartbeat) -> bool:
    return beat.state != _ESTOPPED and beat.boot_id == estop.seen_in_boot
