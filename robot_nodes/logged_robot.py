"""One robot of a replay, as the replay server sees it: messages in, messages out, without a socket.

    for message in robot.speak(now_s, log_s):
        socket.send(encode(message))
    robot.hear(decode(frame), now_s)

It says hello, learns how far the server has each of its boots, sends what is due, and goes on from there
after a silence or a restart of the server.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Iterator

from fleet.messages import (
    FINISHED,
    MAX_BACKLOG,
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    TransitionBatch,
    Welcome,
)
from fleet.spaces import SpaceSpec
from robot_nodes.boot_replay import BootReplay, Read
from robot_nodes.boot_search import BootSearch
from robot_nodes.log_plan import RobotPlan
from robot_nodes.replay_hold import ReplayHold

_HELLO_PERIOD_S = 1.0
_HELLO_AGAIN_PERIOD_S = 2.0  # a restarted server knows an idle robot, and has commands for it, only by hello
_ACK_TIMEOUT_S = 2.0
_HEARTBEAT_PERIOD_S = 0.5
_OUTCOMES = 20  # as of a robot's success rates


class LoggedRobot:
    """One connection and how far its replay is.

    Attributes:
        plan: What it replays.
        hold: What the operator wants of it.
        failure: Why it cannot go on; empty if it can.
        run_id: The run that it replays into; empty before the server told.
        rows_before: Rows that were there when it began.
        last_heard_s: When the server last said something (s).
    """

    def __init__(
        self, plan: RobotPlan, spec: SpaceSpec, read: Read, *, window: int, now_s: float, note: str = ""
    ) -> None:
        """Know nothing of the server yet; at most `window` batches will be under way.

        Args:
            plan: What it replays.
            spec: Of all rows.
            read: How to get at them.
            window: Batches under way.
            now_s: Time on a steady clock (s).
            note: What it says about itself in the status.
        """
        self.plan, self.hold = plan, ReplayHold()
        self.failure = self.run_id = ""
        self.rows_before = 0
        self.last_heard_s = now_s
        # Of this start, as of any robot: who was e-stopped and starts again has not been reset.
        self._session_id = f"replay-{secrets.token_hex(6)}"
        self._spec_json, self._spec_hash = spec.to_json(), spec.hash
        self._read, self._window, self._note = read, window, note
        self._search: BootSearch | None = BootSearch(plan.boots)
        self._positions: list[tuple[str, int]] = []
        self._index = 0
        self._current: BootReplay | None = None
        self._rows_elsewhere = self._episodes_of_past_boots = 0
        self._admitted: frozenset[str] = frozenset()  # boots that the server takes on this connection
        self._server_boot_id = ""
        self._hello_unanswered = False
        self._last_hello_s = self._last_heartbeat_s = self._last_progress_s = -math.inf
        self._training: deque[bool] = deque(maxlen=_OUTCOMES)
        self._evaluations: deque[bool] = deque(maxlen=_OUTCOMES)
        self._policy_version = -1

    # What it is ------------------------------------------------------------------------------

    @property
    def located(self) -> bool:
        """Whether the server told how far it has each boot."""
        return self._search is None

    @property
    def finished(self) -> bool:
        """Whether the server has all rows on disk."""
        return self.located and self._current is None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen: finished, or stopped and nothing is under way."""
        return self.finished or (bool(self.hold.stop_reason) and not self.in_flight)

    @property
    def in_flight(self) -> bool:
        """Whether rows are under way."""
        return self._current is not None and self._current.in_flight

    @property
    def rows_durable(self) -> int:
        """Rows that the server has on disk, those of earlier starts included."""
        return self._rows_elsewhere + (self._current.durable_seq + 1 if self._current else 0)

    @property
    def rows_sent(self) -> int:
        """The same, and those under way."""
        return self._rows_elsewhere + (self._current.next_seq if self._current else 0)

    @property
    def next_due_s(self) -> float:
        """When its next row is due (s), on the timeline of the logs; infinite if there is none.

        Raises:
            EpisodeFileError: A file was damaged since it was planned.
        """
        return self._current.next_due_s + self.hold.lag_s if self._current else math.inf

    @property
    def wake_s(self) -> float:
        """The same; infinite, too, while something else than time has to pass first."""
        current = self._current
        if self.hold.blocked or current is None or current.full or current.name not in self._admitted:
            return math.inf
        return self.next_due_s

    # What it says ----------------------------------------------------------------------------

    def speak(self, now_s: float, log_s: float | None) -> Iterator[Message]:
        """All that is to be sent now.

        Args:
            now_s: Time on a steady clock (s).
            log_s: Time on the timeline of the logs (s); infinite: everything is due; none: nothing yet.

        Raises:
            EpisodeFileError: A file was damaged since it was planned.
        """
        if self._server_boot_id and self.in_flight and now_s - self._last_progress_s > _ACK_TIMEOUT_S:
            self._lose_server()
        if self._hello_due(now_s):
            self._last_hello_s, self._hello_unanswered = now_s, True
            yield self._hello()
        if self._server_boot_id and now_s - self._last_heartbeat_s >= _HEARTBEAT_PERIOD_S:
            self._last_heartbeat_s = now_s
            yield self.heartbeat()
        if log_s is not None:
            yield from self._rows(now_s, self.hold.position(log_s))

    def _hello_due(self, now_s: float) -> bool:
        if not self._server_boot_id or self._hello_unanswered:
            return now_s - self._last_hello_s >= _HELLO_PERIOD_S
        if self._search is not None or (self._current and self._current.name not in self._admitted):
            return True
        return now_s - self._last_hello_s >= _HELLO_AGAIN_PERIOD_S

    def _hello(self) -> Hello:
        if self._search is not None:
            names = self._search.ask()
        else:
            names = [name for name, _ in self._positions[self._index : self._index + MAX_BACKLOG]]
        return Hello(
            role="robot",
            process_id=self.plan.robot_id,
            boot_id=self._session_id,
            spec=self._spec_json,
            backlog=dict.fromkeys(names, 0),
        )

    def heartbeat(self) -> Heartbeat:
        """How it is, for the status."""
        held = self.hold.report()
        state = "finished" if self.finished else held or ("running" if self.located else "waiting")
        note = self._note
        if self.hold.held and not self.finished:
            note += "; held, no robot moves: `pnaf fleet resume` lets it go on"
        episodes = self._current.episodes_sent if self._current else 0
        return Heartbeat(
            role="robot",
            process_id=self.plan.robot_id,
            boot_id=self._session_id,
            state=state,
            stamp_ns=time.time_ns(),
            stats={
                "robot/note": note,
                "robot/steps": self.rows_sent,
                "robot/unacked": self.rows_sent - self.rows_durable,
                "robot/episodes": self._episodes_of_past_boots + episodes,
                "robot/success_rate": _rate(self._training),
                "robot/evaluation_success_rate": _rate(self._evaluations),
                "robot/policy_version": self._policy_version,
            },
        )

    def _rows(self, now_s: float, position_s: float) -> Iterator[TransitionBatch]:
        current = self._current
        if current is None or current.name not in self._admitted:
            return
        if not current.in_flight:
            self._last_progress_s = now_s
        while (batch := current.next_batch(position_s)) is not None:
            self._policy_version = int(batch.policy_version[-1])
            if batch.end in FINISHED:
                (self._evaluations if batch.evaluation else self._training).append(batch.success)
            yield batch

    # What it hears ---------------------------------------------------------------------------

    def hear(self, message: Message, now_s: float) -> None:
        """Take a message of the server."""
        self.last_heard_s = now_s
        match message:
            case Welcome():
                self._on_welcome(message, now_s)
            case Ack(robot_id=self.plan.robot_id):
                self._acknowledge(message.boot_id, message.durable_seq, now_s)
            case FleetCommand():
                if self.hold.obey(message):
                    self._last_heartbeat_s = -math.inf  # told at once
            case Refusal(request="TransitionBatch") if "say hello first" in message.reason:
                self._lose_server()  # it has restarted
            case Refusal(request="Hello" | "TransitionBatch" | "frame"):
                self.failure = f"the replay server refuses {self.plan.robot_id}: {message.reason}"
            case _:
                pass  # a heartbeat that it does not like is no reason to end

    def _on_welcome(self, message: Welcome, now_s: float) -> None:
        if self.run_id not in ("", message.run_id):
            self.failure = (
                f"the replay server now serves run {message.run_id}, but this replay began in run "
                f"{self.run_id}: start the server with that run's folder, or the replay anew"
            )
            return
        self.run_id = message.run_id
        again = message.server_boot_id != self._server_boot_id
        self._server_boot_id, self._hello_unanswered = message.server_boot_id, False
        self._admitted = frozenset(message.backlog)
        durable = {name: reached[0] for name, reached in message.backlog.items()}
        if self._search is not None:
            self._search.answer(durable)
            if not self._search.ask():
                self._locate(self._search)
        elif self._current is not None and self._current.name in durable:
            durable_seq = durable[self._current.name]
            if again:
                self._current.go_on_from(durable_seq)
                self._last_progress_s = now_s
            self._acknowledge(self._current.name, durable_seq, now_s)

    def _acknowledge(self, boot_id: str, durable_seq: int, now_s: float) -> None:
        if self._current is None or self._current.name != boot_id:
            return
        if self._current.acknowledge(durable_seq):
            self._last_progress_s = now_s
        self._skip_delivered()

    def _locate(self, search: BootSearch) -> None:
        self._search = None
        self._positions = [search.found(index) for index in range(len(self.plan.boots))]
        self._begin(0)
        self.rows_before = self._rows_elsewhere = sum(durable_seq + 1 for _, durable_seq in self._positions)
        if self._current is not None:
            self._rows_elsewhere -= self._current.durable_seq + 1
        self._skip_delivered()

    def _begin(self, index: int) -> None:
        self._index, self._current = index, None
        if index < len(self._positions):
            name, durable_seq = self._positions[index]
            self._current = BootReplay(
                self.plan.boots[index], name, durable_seq, self._spec_hash, self._read, self._window
            )

    def _skip_delivered(self) -> None:
        """Go on to the first boot that the server does not have whole."""
        while (done := self._current) is not None and done.delivered:
            self._rows_elsewhere += done.plan.rows
            self._episodes_of_past_boots += len(done.plan.episodes)
            self._begin(self._index + 1)
            if self._current is not None:
                self._rows_elsewhere -= self._current.durable_seq + 1

    def _lose_server(self) -> None:
        """Say hello again before anything else is sent."""
        self._server_boot_id, self._admitted = "", frozenset()


def _rate(outcomes: deque[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else -1.0
