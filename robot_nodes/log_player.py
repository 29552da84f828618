"""Plays logged episodes into a running replay server, as the robots that lived them did.

ReplayPlan (what, in which order, when) ─▶ LoggedRobot × N ─▶ one DEALER each ─▶ replay server

No spool: the logs are the durable source, and the server says how far it has them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import zmq

from fleet.codec import decode, encode
from fleet.keys import Credentials
from fleet.messages import Message, MessageError
from fleet.sockets import Context, Socket, connect_dealer
from replay_server.episode_file import EpisodeFileError
from robot_nodes.log_plan import ReplayPlan
from robot_nodes.logged_robot import LoggedRobot
from robot_nodes.replay_outcome import INTERRUPTED, Outcome, RobotOutcome

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_SHORTEST_POLL_S = 0.001
_SHOW_PERIOD_S = 0.2
_QUIET_S = 3.0  # after which a person is told that the server says nothing
_DRAIN_S = 3.0
_LINGER_MS = 500
_BATCHES_UNDER_WAY = 1024  # of all robots: what the server holds before its disk has it is bounded, too
_WINDOW = 64


class PlayerError(RuntimeError):
    """The replay cannot go on; the text says why and what to do."""


class LogPlayer:
    """All robots of a replay, in one thread.

        player = LogPlayer(plan, endpoint, speed=1.0)
        outcome = player.run(stop)

    Attributes:
        robots: By id.
    """

    def __init__(
        self,
        plan: ReplayPlan,
        endpoint: str,
        *,
        speed: float,
        credentials: Mapping[str, Credentials | None] | None = None,
        wait_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        on_note: Callable[[str], None] = logger.info,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect to nobody yet.

        Args:
            plan: What to play.
            endpoint: Of the replay server.
            speed: How many times as fast as it was lived; infinite: as fast as the server stores it.
            credentials: Of each robot, if the server wants keys.
            wait_s: Silence of the server after which to give up (s).
            clock: Steady time (s).
            on_note: Called with what a person should know.
            on_progress: Called a few times a second, to look at `robots`.
        """
        self._plan, self._endpoint, self._speed = plan, endpoint, speed
        self._credentials = credentials or {}
        self._wait_s, self._clock = wait_s, clock
        self._on_note, self._on_progress = on_note, on_progress
        self._began_s = self._clock_began_s = clock()
        self._origin_s = 0.0
        self._log_s: float | None = None
        self._quiet = False
        window = max(1, min(_WINDOW, _BATCHES_UNDER_WAY // len(plan.robots)))
        pace = "as fast as it is stored" if math.isinf(speed) else f"at {speed:g} × its speed"
        self.robots = [
            LoggedRobot(
                robot,
                plan.spec,
                plan.read,
                window=window,
                now_s=self._began_s,
                note=f"a replay of {robot.rows:,} logged rows {pace}",
            )
            for robot in plan.robots
        ]

    def run(self, stop: threading.Event) -> Outcome:
        """Play until the server has everything, or until somebody stops it.

        Raises:
            PlayerError: The server refuses it or is silent, or a log has changed meanwhile.
            ConfigError: The endpoint may not be used like this.
        """
        context: Context = zmq.Context()
        sockets: list[Socket] = []
        try:
            for robot in self.robots:
                robot_id = robot.plan.robot_id
                identity = f"{robot_id}:{secrets.token_hex(8)}".encode()
                sockets.append(
                    connect_dealer(context, self._endpoint, identity, self._credentials.get(robot_id))
                )
            self._play(sockets, stop)
        except EpisodeFileError as error:
            raise PlayerError(f"{error}; it was whole when this replay began") from None
        finally:
            for socket in sockets:
                socket.close(linger=_LINGER_MS)
            context.term()
        return self._outcome()

    def _play(self, sockets: Sequence[Socket], stop: threading.Event) -> None:
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        pairs = list(zip(self.robots, sockets, strict=True))
        last_shown_s, drain_until_s = -math.inf, math.inf
        while not all(robot.ended for robot in self.robots):
            now_s = self._clock()
            self._check(now_s)
            if stop.is_set():
                for robot in self.robots:
                    robot.hold.stop(INTERRUPTED)
            if all(robot.hold.stop_reason or robot.finished for robot in self.robots):
                drain_until_s = min(drain_until_s, now_s + _DRAIN_S)
                if now_s > drain_until_s:
                    break
            self._log_s = self._log_time(now_s)
            for robot, socket in pairs:
                for message in robot.speak(now_s, self._log_s):
                    _send(socket, message)
            if now_s - last_shown_s > _SHOW_PERIOD_S:
                last_shown_s = now_s
                self._on_progress()
            ready = dict(poller.poll(math.ceil(self._patience_s() * 1000)))
            for robot, socket in pairs:
                if socket in ready:
                    self._receive(robot, socket)
        for robot, socket in pairs:
            _send(socket, robot.heartbeat())
        self._on_progress()

    def left_s(self, robot: LoggedRobot) -> float:
        """How long a robot still needs at this speed (s); NaN where nobody can know."""
        if self._log_s is None or math.isinf(self._speed):
            return math.nan
        last = robot.plan.boots[-1].episodes[-1]
        return max(0.0, last.start_s + robot.hold.lag_s - self._log_s) / self._speed

    def _log_time(self, now_s: float) -> float | None:
        """Where on the logs' timeline we are (s); it begins when it is known what the server has."""
        if self._log_s is None:
            if not all(robot.located for robot in self.robots):
                return None
            self._origin_s = min(robot.next_due_s for robot in self.robots)
            self._clock_began_s = now_s
        if math.isinf(self._speed):
            return math.inf
        return self._origin_s + (now_s - self._clock_began_s) * self._speed

    def _patience_s(self) -> float:
        """How long nothing has to be done, unless something arrives (s)."""
        if self._log_s is None or math.isinf(self._speed):
            return _POLL_S
        next_s = (min(robot.wake_s for robot in self.robots) - self._log_s) / self._speed
        return min(max(next_s, _SHORTEST_POLL_S), _POLL_S)

    def _receive(self, robot: LoggedRobot, socket: Socket) -> None:
        while True:
            try:
                frame = socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                robot.hear(decode(frame), self._clock())
            except MessageError as error:
                raise PlayerError(
                    f"{self._endpoint} sent something else than this version's messages: {error}"
                ) from None

    def _check(self, now_s: float) -> None:
        """Is anything in the way?

        Raises:
            PlayerError: Something that does not pass.
        """
        quiet_s, quietest = max((now_s - robot.last_heard_s, robot.plan.robot_id) for robot in self.robots)
        if quiet_s > self._wait_s:
            raise PlayerError(
                f"no answer to {quietest} from {self._endpoint} for {self._wait_s:g} s: is the replay server "
                f"running there? (pnaf replay-server){self._key_hint(quietest)} What it has stored is safe: "
                "the same command goes on from there"
            )
        if (quiet_s > _QUIET_S) != self._quiet:
            self._quiet = not self._quiet
            self._on_note(
                f"no answer to {quietest} from {self._endpoint}; waiting, {self._wait_s:g} s at most"
                if self._quiet
                else "the replay server answers"
            )
        for robot in self.robots:
            if robot.failure:
                raise PlayerError(robot.failure)
            if robot.run_id in self._plan.run_ids:
                raise PlayerError(
                    f"the replay server at {self._endpoint} serves run {robot.run_id}, which these logs are "
                    "of: its rows would be there twice; replay them into another run"
                )

    def _key_hint(self, robot_id: str) -> str:
        """A server says nothing to those it does not know."""
        credentials = self._credentials.get(robot_id)
        if credentials is None:
            return " Does it want keys? (--keys)"
        own = credentials.own
        return f" And does it allow the key {own.name} {own.fingerprint}? (pnaf keys show)"

    def _outcome(self) -> Outcome:
        robots = [
            RobotOutcome(
                robot.plan.robot_id,
                robot.plan.episodes,
                robot.plan.rows,
                robot.rows_before,
                robot.rows_durable - robot.rows_before,
            )
            for robot in self.robots
        ]
        reasons = [robot.hold.stop_reason for robot in self.robots if not robot.finished]
        run_id = next((robot.run_id for robot in self.robots if robot.run_id), "")
        return Outcome(run_id, robots, self._clock() - self._began_s, next(iter(reasons), ""))


def _send(socket: Socket, message: Message) -> None:
    with contextlib.suppress(zmq.Again):  # its queue is full: rows are sent again when the server is heard
        socket.send(encode(message), zmq.DONTWAIT)
