"""Rows on their way to a replay server that loses acks, restarts, refuses, or is not there yet."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig, SpoolConfig
from fleet.messages import (
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    Status,
    TransitionBatch,
    Welcome,
    row_dtype,
)
from fleet.sockets import AddressInUseError, bind_router
from fleet.spaces import Space, SpaceSpec
from replay_server.client import ReplayClient
from replay_server.episode_store import list_episodes
from replay_server.report import count_rows
from replay_server.server import run_replay_server
from replay_server.verify import verify_run
from robot_nodes import experience_sender
from robot_nodes.batch_former import EpisodeEnd
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.experience_sender import ExperienceSender
from robot_nodes.spool import Spool
from robot_nodes.spool_file import read_spool

SPEC = SpaceSpec(
    observation=Space(("a", "b"), ("1", "1"), (-1e6, -1e6), (1e6, 1e6)),
    action=Space(("u",), ("1",), (-1.0,), (1.0,)),
)
TIMEOUT_S = 10.0

WaitUntil = Callable[..., None]


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience_sender, "_HELLO_PERIOD_S", 0.05)
    monkeypatch.setattr(experience_sender, "_HELLO_AGAIN_PERIOD_S", 0.1)
    monkeypatch.setattr(experience_sender, "_ACK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(experience_sender, "_HEARTBEAT_PERIOD_S", 0.05)
    monkeypatch.setattr(experience_sender, "_DISK_RETRY_S", 0.05)
    monkeypatch.setattr(experience_sender, "_SEAL_PATIENCE_S", 0.3)
    monkeypatch.setattr(experience_sender, "_LINGER_MS", 50)


def packed(seq: int) -> bytes:
    """A row whose reward is its own sequence number."""
    row = np.zeros(1, row_dtype(2, 1))
    row["observation"], row["next_observation"] = seq, seq + 1
    row["reward"] = row["stamp_ns"] = seq
    return row.tobytes()


class Sender(ExperienceSender):
    """With its spool, its commands kept, and heartbeats that say what a test wants."""

    def __init__(self, endpoint: str, folder: Path, boot_id: str = "boot", **settings: Any) -> None:
        self.commands: list[FleetCommand] = []
        self.stats: dict[str, Any] = {"robot/steps": 7}
        spec = settings.pop("spec", SPEC)
        config = settings.pop("config", SpoolConfig())
        segment_bytes = settings.pop("segment_bytes", 400)  # three rows
        self.spool = Spool(folder, "robot1", boot_id, spec, config, segment_bytes=segment_bytes)
        super().__init__(endpoint, self.spool, spec, self.commands.append, self.beat, **settings)
        self.rows = self.episodes = 0

    def beat(self) -> tuple[str, dict[str, Any]]:
        return "episode", self.stats

    def put(self, rows: int = 4, *, end: str = "time_limit") -> None:
        """A whole episode: it leaves as one batch. With end="" it goes on."""
        for seq in range(self.rows, self.rows + rows):
            self.spool.add_row(seq, self.episodes, False, packed(seq))
        self.rows += rows
        if end:
            self.spool.end_episode(self.rows - 1, self.episodes, EpisodeEnd(reason=end))
            self.episodes += 1

    def kill(self) -> None:
        """SIGKILL, as far as it goes inside a process: no farewell, nothing is tidied up."""
        self._deadline_s = float("-inf")
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        os.close(self.spool._lock_handle)
        self.spool._closed = True


@pytest.fixture
def make_sender(free_endpoint: str, tmp_path: Path) -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def make(*, start: bool = True, **settings: Any) -> Sender:
        made.append(Sender(free_endpoint, tmp_path / "spool", **settings))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for sender in made:
        sender.close(timeout_s=0.0)
        sender.spool.close()


class ScriptedServer:
    """A ROUTER that does what a test says, and keeps the rows it takes, by boot."""

    def __init__(self, endpoint: str, run_id: str = "run") -> None:
        self.endpoint, self.run_id = endpoint, run_id
        self.context: Any = zmq.Context()
        self.boot_id = "server-a"
        self.stored: dict[str, list[int]] = {}
        self.sealed: dict[str, int] = {}
        self.seen: list[Message] = []
        self.identity = b""
        self.router = self._bind()

    @property
    def rows(self) -> list[int]:
        return self.stored.setdefault("boot", [])

    def _bind(self) -> zmq.Socket[bytes]:
        deadline = time.monotonic() + TIMEOUT_S
        while True:  # the port of a socket that was just closed is free a moment later
            try:
                return bind_router(self.context, self.endpoint)
            except AddressInUseError:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def restart(self, boot_id: str, keep_rows: int | None = None) -> None:
        self.router.close(linger=0)
        self.boot_id = boot_id
        del self.rows[len(self.rows) if keep_rows is None else keep_rows :]
        self.router = self._bind()

    def receive(self, *kinds: type[Message]) -> Any:
        """The next message of these kinds; all that arrive are added to `seen`."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.router.poll(50):
                continue
            self.identity, frame = self.router.recv_multipart()
            message = decode(frame)
            self.seen.append(message)
            if isinstance(message, kinds):
                return message
        pytest.fail(f"no {kinds} within {TIMEOUT_S:g} s")

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.seen)

    def send(self, message: Message) -> None:
        self.router.send_multipart([self.identity, encode(message)])

    def welcome(self) -> Hello:
        """Answer the next hello."""
        hello: Hello = self.receive(Hello)
        self.send_welcome(hello)
        return hello

    def reached(self, boot_id: str) -> list[int]:
        rows = self.stored.get(boot_id, [])
        return [rows[-1] if rows else -1, self.sealed.get(boot_id, -1)]

    def send_welcome(self, hello: Hello) -> None:
        durable_seq, sealed_seq = self.reached(hello.boot_id)
        self.send(
            Welcome(
                run_id=self.run_id, server_boot_id=self.boot_id, spec={}, durable_seq=durable_seq,
                sealed_seq=sealed_seq, backlog={boot: self.reached(boot) for boot in hello.backlog},
            )
        )  # fmt: skip
        self.told = {**hello.backlog, hello.boot_id: hello.oldest_seq}

    def take(self) -> TransitionBatch:
        """Store the next batch as the real server does, without an ack."""
        message: TransitionBatch = self.receive(TransitionBatch)
        self._store(message)
        return message

    def _store(self, message: TransitionBatch) -> None:
        rows = self.stored.setdefault(message.boot_id, [])
        expected = rows[-1] + 1 if rows else 0
        if expected < self.told[message.boot_id] <= message.first_seq:
            expected = self.told[message.boot_id]  # the robot does not have what is before
        if message.first_seq <= expected:
            rows += message.reward.astype(int).tolist()[expected - message.first_seq :]

    def ack(self, boot_id: str = "boot") -> None:
        durable_seq, sealed_seq = self.reached(boot_id)
        ack = Ack(robot_id="robot1", boot_id=boot_id, durable_seq=durable_seq, sealed_seq=sealed_seq)
        self.send(ack)

    def take_all(self, rows: int, boot_id: str = "boot") -> None:
        """Store and acknowledge, answering hellos, until that many rows of a boot are here."""
        self.serve(lambda: len(self.stored.get(boot_id, [])) >= rows)

    def serve(self, until: Callable[[], object]) -> None:
        """Store and acknowledge, answering hellos, until a condition holds."""
        while not until():
            message = self.receive(TransitionBatch, Hello)
            if isinstance(message, Hello):
                self.send_welcome(message)
            else:
                self._store(message)
                self.ack(message.boot_id)


@pytest.fixture
def server(free_endpoint: str) -> Iterator[ScriptedServer]:
    made = ScriptedServer(free_endpoint)
    yield made
    made.context.destroy(linger=0)


# A scripted server ---------------------------------------------------------------------------


def test_hello_comes_first_and_nothing_before_its_answer(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    sender = make_sender()
    sender.put()
    for _ in range(3):
        hello = server.receive(Hello)
    assert (hello.role, hello.process_id, hello.boot_id, hello.oldest_seq) == ("robot", "robot1", "boot", 0)
    assert SpaceSpec.from_json(hello.spec) == SPEC
    assert re.fullmatch(rb"robot1:boot:[0-9a-f]{16}", server.identity)
    assert server.count(Hello) == len(server.seen), "neither rows nor heartbeats yet"
    assert not sender.connected


def test_rows_arrive_in_order_and_leave_the_queue_when_acknowledged(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    for _ in range(5):
        sender.put()
    server.welcome()
    for i in range(5):
        assert server.take().first_seq == 4 * i
    assert (sender.waiting_rows, sender.acked_rows) == (20, 0), "sent is not stored"
    server.ack()
    wait_until(lambda: sender.waiting_rows == 0)
    assert sender.acked_rows == 20
    assert server.rows == list(range(20))


def test_a_row_waits_until_it_is_stored(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    sender.put()
    server.welcome()
    server.take()
    server.take()
    server.send(Ack(robot_id="robot1", boot_id="boot", durable_seq=6))
    wait_until(lambda: sender.waiting_rows == 1)
    server.send(Ack(robot_id="robot1", boot_id="boot", durable_seq=7))
    wait_until(lambda: sender.waiting_rows == 0)


def test_a_running_episode_leaves_in_batches_of_sixteen(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    sender = make_sender()
    server.welcome()
    server.receive(Heartbeat)
    sender.put(rows=16, end="")
    server.receive(Heartbeat)
    server.receive(Heartbeat)
    assert server.count(TransitionBatch) == 0, "the newest row may be the last, and 15 are too few"
    sender.put(rows=1, end="")
    batch = server.take()
    assert (batch.first_seq, batch.rows, batch.end) == (0, 16, "")
    server.ack()
    sender.put(rows=1)
    batch = server.take()
    assert (batch.first_seq, batch.rows, batch.end) == (16, 2, "time_limit")
    assert batch.truncated.tolist() == [False, True]


def test_a_backlog_leaves_in_large_batches(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    sender = make_sender(start=False)
    sender.put(rows=150)
    sender.start()
    server.welcome()
    assert [server.take().rows for _ in range(3)] == [64, 64, 22]


def test_it_may_start_before_the_server(
    make_sender: Callable[..., Sender], free_endpoint: str, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    wait_until(lambda: sender._last_hello_s > 0)
    server = ScriptedServer(free_endpoint)
    try:
        server.take_all(4)
        wait_until(lambda: sender.waiting_rows == 0)
    finally:
        server.context.destroy(linger=0)


def test_hellos_that_waited_for_the_server_do_not_send_rows_again(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    for _ in range(5):
        hello = server.receive(Hello)
    for _ in range(5):
        server.send_welcome(hello)
    server.take()
    server.receive(Heartbeat)
    server.receive(Heartbeat)
    assert server.count(TransitionBatch) == 1
    server.ack()
    wait_until(lambda: sender.waiting_rows == 0)


def test_no_more_than_a_window_is_under_way(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    sender = make_sender(window=2)
    for _ in range(5):
        sender.put()
    server.welcome()
    server.take()
    server.take()
    server.receive(Heartbeat)
    server.receive(Heartbeat)  # a whole period later nothing more has come
    assert server.count(TransitionBatch) == 2
    server.ack()
    server.take()
    server.take()
    assert server.rows == list(range(16))


def test_a_lost_ack_is_asked_for_and_nothing_is_stored_twice(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    sender.put()
    server.welcome()
    server.take()
    server.take()
    server.welcome()  # after the silence; says that all is stored
    wait_until(lambda: sender.waiting_rows == 0)
    sender.put()
    assert server.take().first_seq == 8
    assert server.rows == list(range(12))
    assert server.count(TransitionBatch) == 3


def test_lost_batches_are_sent_again_in_order(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    for _ in range(4):
        sender.put()
    server.welcome()
    server.take()
    for _ in range(3):
        server.receive(TransitionBatch)  # lost
    server.take_all(16)
    wait_until(lambda: sender.waiting_rows == 0)
    assert server.rows == list(range(16))


def test_an_ack_that_tells_of_a_gap_keeps_the_rows(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    sender.put()
    server.welcome()
    server.receive(TransitionBatch)  # lost
    server.take()  # leaves a gap, so it is not stored
    assert server.rows == []
    server.ack()  # durable_seq -1
    server.take_all(8)
    wait_until(lambda: sender.waiting_rows == 0)
    assert server.rows == list(range(8))


def test_an_ack_of_another_boot_is_not_mine(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    server.welcome()
    server.take()
    server.ack(boot_id="an earlier boot")
    server.ack()
    wait_until(lambda: sender.waiting_rows == 0)
    sender.put()
    server.send(Ack(robot_id="robot1", boot_id="an earlier boot", durable_seq=1000))
    server.send(FleetCommand(kind="pause"))
    wait_until(lambda: sender.commands)
    assert sender.waiting_rows == 4


def test_a_restarted_server_gets_what_it_lacks(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    server.welcome()
    server.take()
    server.ack()
    wait_until(lambda: sender.acked_rows == 4)
    sender.put()
    sender.put()
    server.take()
    server.take()
    server.restart("server-b", keep_rows=8)  # the last batch was not on its disk
    while True:
        message = server.receive(Hello, TransitionBatch)
        if isinstance(message, Hello):
            break
        server.send(Refusal(request="TransitionBatch", reason="say hello first"))
    server.send_welcome(message)
    assert server.take().first_seq == 8
    server.ack()
    wait_until(lambda: sender.waiting_rows == 0)
    assert server.rows == list(range(12))


def test_an_idle_robot_says_hello_to_a_restarted_server(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    server.welcome()
    wait_until(lambda: sender.connected)
    server.restart("server-b")
    server.welcome()
    server.send(FleetCommand(kind="estop", reason="smoke"))
    wait_until(lambda: sender.commands)
    assert sender.commands == [FleetCommand(kind="estop", reason="smoke")]


def test_saying_hello_again_does_not_send_rows_again(
    make_sender: Callable[..., Sender], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experience_sender, "_ACK_TIMEOUT_S", 60.0)
    sender = make_sender()
    sender.put()
    server.welcome()
    server.receive(TransitionBatch)
    for _ in range(3):
        server.welcome()
    assert server.count(TransitionBatch) == 1


def test_a_refused_robot_is_told_why_and_may_come_back(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    server.receive(Hello)
    server.send(Refusal(request="Hello", reason="robot1 has another spec than run x"))
    wait_until(lambda: sender.refusal)
    assert sender.refusal == "robot1 has another spec than run x"
    server.take_all(4)
    wait_until(lambda: not sender.refusal and sender.waiting_rows == 0)


def test_closing_a_refused_robot_does_not_wait(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    server.receive(Hello)
    server.send(Refusal(request="Hello", reason="another spec"))
    wait_until(lambda: sender.refusal)
    started = time.monotonic()
    assert sender.close(timeout_s=30) == 4
    assert time.monotonic() - started < 5


def test_a_refused_batch_is_offered_again_and_not_dropped(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    server.welcome()
    server.receive(TransitionBatch)
    server.send(Refusal(request="TransitionBatch", reason="the disk is full"))
    server.take_all(4)
    wait_until(lambda: sender.waiting_rows == 0)
    assert sender.refusal == ""


def test_a_refused_heartbeat_does_not_stop_the_robot(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    server.welcome()
    server.receive(Heartbeat)
    server.send(Refusal(request="Heartbeat", reason="stats are 5000 bytes, at most 4096"))
    server.send(FleetCommand(kind="pause"))
    wait_until(lambda: sender.commands)
    assert sender.refusal == ""


def test_garbage_and_strangers_messages_are_dropped(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put()
    server.welcome()
    server.router.send_multipart([server.identity, b"garbage"])
    server.router.send_multipart([server.identity, b""])
    server.send(Status(request_id=1, run_id="run", stats={}, processes=[], evaluations=[]))
    server.take()
    server.ack()
    wait_until(lambda: sender.waiting_rows == 0)


def test_heartbeats_and_commands_pass(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    server.welcome()
    beat = server.receive(Heartbeat)
    assert (beat.role, beat.process_id, beat.boot_id, beat.state) == ("robot", "robot1", "boot", "episode")
    assert beat.stats == {"robot/steps": 7}
    for kind in ("pause", "resume", "stop"):
        server.send(FleetCommand(kind=kind))
    wait_until(lambda: len(sender.commands) == 3)
    assert [command.kind for command in sender.commands] == ["pause", "resume", "stop"]


def test_the_last_heartbeat_tells_the_final_numbers(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    server.welcome()
    wait_until(lambda: sender.connected)
    sender.stats = {"robot/steps": 99}
    sender.close(timeout_s=1.0)
    while server.receive(Heartbeat).stats != {"robot/steps": 99}:
        pass


def test_a_heartbeat_that_fails_does_not_stop_the_rows(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.stats = {"robot/tool": object()}
    sender.put()
    server.take_all(4)
    wait_until(lambda: sender.waiting_rows == 0)
    assert sender.close(timeout_s=1.0) == 0


def test_full_tells_the_robot_to_stop_and_nothing_is_dropped(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender(config=SpoolConfig(max_mb=1), segment_bytes=50_000)
    while not sender.blocked:
        sender.put(rows=50)
    assert f"is full (spool.max_mb 1): {sender.rows} rows wait" in sender.blocked
    sender.put()  # the end of the episode comes all the same
    server.take_all(sender.rows)
    wait_until(lambda: not sender.blocked)
    assert server.rows == list(range(sender.rows))


def test_close_without_a_server_ends_in_time_and_returns_what_stays(
    make_sender: Callable[..., Sender],
) -> None:
    sender = make_sender()
    sender.put()
    sender.put(rows=3)
    started = time.monotonic()
    assert sender.close(timeout_s=0.2) == 7
    assert time.monotonic() - started < 5
    assert sender.close(timeout_s=0.2) == 7, "a second time does no harm"


def test_closing_one_that_never_started(make_sender: Callable[..., Sender]) -> None:
    sender = make_sender(start=False)
    sender.put()
    assert sender.close(timeout_s=0.1) == 4


# Earlier starts ------------------------------------------------------------------------------


def left_behind(
    make_sender: Callable[..., Sender], boot_id: str, rows: int = 10, run_id: str = "", **settings: Any
) -> None:
    """A start of the robot that was killed before any server took its rows."""
    sender = make_sender(boot_id=boot_id, start=False, **settings)
    sender.put(rows=rows, end="")
    if run_id:
        sender.spool.current.join_run(run_id)
    sender.kill()


def test_earlier_boots_go_first_each_after_the_one_before_is_stored(
    make_sender: Callable[..., Sender], server: ScriptedServer, tmp_path: Path, wait_until: WaitUntil
) -> None:
    left_behind(make_sender, "older")
    left_behind(make_sender, "old", rows=70)
    sender = make_sender()
    sender.put()
    assert sender.waiting_rows == 84
    assert server.welcome().backlog == {}, "first: which run is it?"
    assert server.welcome().backlog == {"older": 0, "old": 0}
    batch = server.take()
    assert (batch.boot_id, batch.rows, batch.end, batch.truncated[-1]) == ("older", 10, "fault", True)
    server.receive(Heartbeat)
    server.receive(Heartbeat)
    assert server.count(TransitionBatch) == 1
    server.ack("older")
    assert [(server.take().boot_id, server.take().end)] == [("old", "fault")]
    server.ack("old")
    assert server.take().boot_id == "boot"
    server.ack()
    wait_until(lambda: sender.waiting_rows == 0)
    assert server.stored == {"older": [*range(10)], "old": [*range(70)], "boot": [*range(4)]}
    assert [boot.boot_id for boot in read_spool(tmp_path / "spool")] == ["boot", "old", "older"]
    server.sealed = {"older": 9, "old": 69}
    server.ack("older")
    server.welcome()  # tells of the other
    wait_until(lambda: [b.boot_id for b in read_spool(tmp_path / "spool")] == ["boot"])


def test_only_what_the_server_lacks_of_an_earlier_boot_is_sent(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    left_behind(make_sender, "old", rows=20)
    server.stored["old"] = [*range(15)]
    sender = make_sender()
    server.welcome()
    server.welcome()
    assert (server.take().first_seq, sender.waiting_rows) == (15, 5)
    assert server.stored["old"] == [*range(20)]
    server.ack("old")
    wait_until(lambda: sender.waiting_rows == 0)


def test_many_boots_are_told_thirty_two_at_a_time(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    boots = [f"boot{i:02d}" for i in range(40)]
    for boot_id in boots:
        left_behind(make_sender, boot_id, rows=2)
    sender = make_sender()
    sender.put()
    server.welcome()
    assert list(server.welcome().backlog) == boots[:32]
    server.take_all(4)
    taken = [m.boot_id for m in server.seen if isinstance(m, TransitionBatch)]
    assert taken == [*boots, "boot"]
    assert sender.close(timeout_s=TIMEOUT_S) == 0


def test_rows_of_another_run_stay_and_are_told_once(
    make_sender: Callable[..., Sender], server: ScriptedServer, tmp_path: Path, caplog: Any
) -> None:
    left_behind(make_sender, "other", run_id="run-x")
    left_behind(make_sender, "mine", run_id="run")
    left_behind(make_sender, "nobodys")
    sender = make_sender()
    sender.put()
    server.welcome()
    assert list(server.welcome().backlog) == ["mine", "nobodys"]
    server.take_all(4)
    assert [boot for boot, rows in server.stored.items() if rows] == ["mine", "nobodys", "boot"]
    for _ in range(3):
        server.welcome()
    assert sender.close(timeout_s=TIMEOUT_S) == 0
    told = f"10 rows of run run-x wait in {tmp_path / 'spool/robot1/other'}: start the replay server of that"
    assert caplog.text.count(told) == 1
    found = {boot.boot_id: (boot.run_id, boot.rows) for boot in read_spool(tmp_path / "spool")}
    assert found["other"] == ("run-x", 10)
    assert found["nobodys"] == ("run", 10)


def test_rows_of_another_spec_stay(
    make_sender: Callable[..., Sender], server: ScriptedServer, tmp_path: Path
) -> None:
    other = SpaceSpec(observation=SPEC.observation, action=Space(("v",), ("1",), (-1.0,), (1.0,)))
    left_behind(make_sender, "old", spec=other)
    sender = make_sender()
    sender.put()
    server.take_all(4)
    assert server.stored == {"boot": [0, 1, 2, 3]}
    assert sender.close(timeout_s=TIMEOUT_S) == 0
    assert [boot.rows for boot in read_spool(tmp_path / "spool") if boot.boot_id == "old"] == [10]


def test_another_run_under_a_living_robot_is_refused_and_gets_nothing(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    server.welcome()
    wait_until(lambda: sender.connected)
    server.run_id = "run-y"
    server.restart("server-b")
    sender.put()
    server.welcome()
    wait_until(lambda: sender.refusal)
    assert "belongs to run 'run-y' but this robot's rows to run 'run'" in sender.blocked
    for _ in range(3):
        server.welcome()
    assert server.rows == []
    server.run_id = "run"
    server.take_all(4)
    wait_until(lambda: not sender.blocked)


# Lost, damaged and dropped -------------------------------------------------------------------


def test_a_server_that_lost_its_journal_gets_the_rows_again(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil, caplog: Any
) -> None:
    sender = make_sender()
    for _ in range(5):
        sender.put()
    server.take_all(20)
    server.sealed["boot"] = 7
    server.ack()
    wait_until(lambda: sender.spool.current.segments[0].first_seq in (6, 7, 8))
    assert sender.waiting_rows == 0
    server.restart("server-b", keep_rows=8)
    server.take_all(20)
    assert server.rows == [*range(20)]
    assert "has lost rows of boot boot from seq 8 on" in caplog.text
    wait_until(lambda: sender.waiting_rows == 0)


def test_a_damaged_row_is_given_up_once_the_server_waits_for_it(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    left_behind(make_sender, "old", rows=20)
    sender = make_sender()
    sender.put()
    path = sender.spool.boots[0].segments[2].path  # rows 6, 7, 8
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # row 7
    path.write_bytes(content)
    server.welcome()
    server.welcome()
    assert (server.take().rows, server.told["old"]) == (7, 0)
    server.ack("old")
    for _ in range(5):
        if server.told["old"] == 0:
            server.welcome()
    assert server.told["old"] == 8
    assert server.take().first_seq == 8
    server.ack("old")
    server.take_all(4)
    assert server.stored["old"] == [*range(7), *range(8, 20)]
    wait_until(lambda: sender.waiting_rows == 0)


def test_rows_that_had_to_be_dropped_are_not_waited_for(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    config = SpoolConfig(max_mb=1, on_full="drop_oldest")
    sender = make_sender(config=config, segment_bytes=50_000)
    server.welcome()
    sender.put()
    server.take()
    server.ack()
    wait_until(lambda: sender.acked_rows == 4)
    while sender.spool.rows_dropped < 5000:  # nobody answers meanwhile
        assert not sender.blocked
        sender.put(rows=50)
    sender.put()
    server.serve(lambda: sender.waiting_rows == 0)
    assert server.rows[-1] == sender.rows - 1
    # What was read or sent before it was dropped may have got there all the same.
    missing = sorted(set(range(sender.rows)) - set(server.rows))
    assert 0 < len(missing) <= sender.spool.rows_dropped
    assert server.rows == sorted(set(server.rows))


def test_nothing_is_sent_that_is_not_on_the_disk(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil, monkeypatch: Any
) -> None:
    sender = make_sender()
    server.welcome()
    wait_until(lambda: sender.connected)
    fdatasync = os.fdatasync

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    sender.put()
    wait_until(lambda: "Input/output error" in sender.blocked)
    server.receive(Heartbeat)
    server.receive(Heartbeat)
    assert server.count(TransitionBatch) == 0
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    server.take_all(4)
    wait_until(lambda: not sender.blocked)


def test_closing_waits_a_little_for_episode_files_and_then_goes(
    make_sender: Callable[..., Sender],
    server: ScriptedServer,
    tmp_path: Path,
) -> None:
    sender = make_sender()
    sender.put()
    server.take_all(4)
    started = time.monotonic()
    assert sender.close(timeout_s=30) == 0
    assert 0.1 < time.monotonic() - started < 5
    sender.spool.close()
    (kept,) = read_spool(tmp_path / "spool")
    assert kept.spans == ((0, 3),), "the journal has them; until a file does, the robot keeps them, too"


def test_closing_in_the_middle_of_an_episode_ends_it(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    sender = make_sender()
    sender.put(rows=5, end="")
    server.welcome()
    closing = threading.Thread(target=sender.close, args=(TIMEOUT_S,))
    closing.start()
    batch = server.take()
    server.ack()
    closing.join()
    assert (batch.rows, batch.end) == (5, "fault")


# The real server -----------------------------------------------------------------------------


@pytest.fixture
def serving(free_endpoint: str, tmp_path: Path) -> Callable[[], Any]:
    """`with serving():` a replay server in a thread; the next one finds the files of the last."""

    @contextmanager
    def start() -> Iterator[None]:
        stop, ready = threading.Event(), threading.Event()
        config = ReplayServerConfig(endpoint=free_endpoint, capacity_rows=10_000)

        def run() -> None:
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                try:
                    return run_replay_server(config, tmp_path, "run", stop, ready.set)
                except AddressInUseError:  # the one before has just closed it
                    assert time.monotonic() < deadline
                    time.sleep(0.01)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(TIMEOUT_S)
            yield
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
        assert not thread.is_alive()

    return start


class Life:
    """Steps of a robot through its recorder, as the control loop takes them."""

    def __init__(self, sender: Sender) -> None:
        self.recorder = EpisodeRecorder(SPEC, sender.spool)

    def begin(self, rows: int) -> None:
        self.recorder.begin(evaluation=False)
        for n in range(self.recorder.rows_produced, self.recorder.rows_produced + rows):
            self.recorder.add(
                observation=[n, n], action=[0.5], policy_action=[0.5], reward=n, next_observation=[n, n],
                terminated=False, truncated=False, intervened=False, clipped=False, policy_version=1,
                stamp_ns=n,
            )  # fmt: skip

    def end(self) -> None:
        self.recorder.end("time_limit", success=True, metrics={})

    def episodes(self, count: int, rows: int) -> None:
        for _ in range(count):
            self.begin(rows)
            self.end()


def test_the_real_server_stores_every_row_once(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], tmp_path: Path
) -> None:
    sender = make_sender()
    Life(sender).episodes(2, rows=40)  # before the server is there
    with serving():
        assert sender.close(timeout_s=TIMEOUT_S) == 0
    episodes = list_episodes(tmp_path)
    facts = [(e.info.episode, e.info.rows, e.info.end) for e in episodes]
    assert facts == [(0, 40, "time_limit"), (1, 40, "time_limit")]
    counts = count_rows(verify_run(tmp_path), {"robot1:boot": 80})
    assert (counts.stored, counts.lost, counts.duplicated) == (80, 0, 0)


def test_close_flushes_to_the_real_server(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], tmp_path: Path, wait_until: WaitUntil
) -> None:
    with serving():
        sender = make_sender()
        wait_until(lambda: sender.connected)
        Life(sender).episodes(10, rows=50)
        assert sender.close(timeout_s=TIMEOUT_S) == 0
    counts = count_rows(verify_run(tmp_path), {"robot1:boot": 500})
    assert (counts.stored, counts.lost, counts.duplicated) == (500, 0, 0)


def test_a_restart_of_the_real_server_loses_and_doubles_nothing(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], tmp_path: Path, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    life = Life(sender)
    with serving():
        life.episodes(1, rows=30)
        life.begin(rows=20)  # the server goes in the middle of this episode
        wait_until(lambda: sender.acked_rows >= 46)
    life.end()
    life.episodes(1, rows=30)
    with serving():
        life.episodes(1, rows=30)
        assert sender.close(timeout_s=TIMEOUT_S) == 0
    episodes = list_episodes(tmp_path)
    assert [(e.info.rows, e.info.complete) for e in episodes] == [
        (30, True),
        (20, True),
        (30, True),
        (30, True),
    ]
    counts = count_rows(verify_run(tmp_path), {"robot1:boot": life.recorder.rows_produced})
    assert (counts.stored, counts.lost, counts.duplicated) == (110, 0, 0)


def test_a_robot_that_is_killed_again_and_again_loses_and_doubles_nothing(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], tmp_path: Path, wait_until: WaitUntil
) -> None:
    produced = {}
    for start in range(6):
        sender = make_sender(boot_id=f"boot{start}")
        life = Life(sender)
        life.episodes(2, rows=30)
        with serving():
            life.begin(rows=40)
            if start % 2:  # killed early, or in the middle of an episode that has arrived in part
                wait_until(lambda sender=sender: sender.acked_rows >= 76)
        life.begin(rows=3)
        produced[f"robot1:boot{start}"] = life.recorder.rows_produced
        sender.kill()
    sender = make_sender(boot_id="last")
    with serving():
        assert sender.close(timeout_s=TIMEOUT_S) == 0
    episodes = list_episodes(tmp_path)
    counts = count_rows(verify_run(tmp_path), produced)
    assert (counts.stored, counts.lost, counts.duplicated) == (6 * 103, 0, 0)
    ends = [e.info.end for e in episodes if e.info.boot_id == "boot3"]
    assert ends == ["time_limit", "time_limit", "fault", "fault"]


def test_the_operator_reaches_a_robot_also_after_a_restart_of_the_server(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], free_endpoint: str, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    for kind in ("pause", "resume"):
        with serving(), ReplayClient(free_endpoint, "monitor", "test") as client:
            wait_until(lambda client=client: numbers_of_robots(client) == [{"robot/steps": 7}])
            wait_until(lambda client=client, kind=kind: client.command(kind).delivered_to == ["robot1"])
            wait_until(lambda kind=kind: kind in [command.kind for command in sender.commands])


def numbers_of_robots(client: ReplayClient) -> list[dict[str, Any]]:
    return [p["stats"] for p in client.status().processes if p["role"] == "robot"]


def test_the_real_server_refuses_another_spec(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], wait_until: WaitUntil
) -> None:
    other = SpaceSpec(observation=SPEC.observation, action=Space(("v",), ("1",), (-1.0,), (1.0,)))
    with serving():
        first = make_sender()
        wait_until(lambda: first.connected)
        first.close(timeout_s=1.0)
        first.spool.close()
        second = make_sender(spec=other)
        wait_until(lambda: second.refusal)
        assert "action.names[0]" in second.refusal and "another spec" in second.refusal
