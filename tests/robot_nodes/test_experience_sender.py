"""Rows on their way to a replay server that loses acks, restarts, refuses, or is not there yet."""

from __future__ import annotations

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
from fleet.config import ReplayServerConfig
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
)
from fleet.sockets import AddressInUseError, bind_router
from fleet.spaces import Space, SpaceSpec
from replay_server.client import ReplayClient
from replay_server.episode_store import list_episodes
from replay_server.report import count_rows
from replay_server.server import run_replay_server
from robot_nodes import experience_sender
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.experience_sender import ExperienceSender

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
    monkeypatch.setattr(experience_sender, "_ACK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(experience_sender, "_HEARTBEAT_PERIOD_S", 0.05)


def batch(first_seq: int, rows: int = 4, episode: int = 0, end: str = "") -> TransitionBatch:
    """Row i holds its own sequence number."""
    seq = np.arange(first_seq, first_seq + rows)
    no = np.zeros(rows, bool)
    return TransitionBatch(
        robot_id="robot1", boot_id="boot", first_seq=first_seq, episode=episode, spec_hash=SPEC.hash, end=end,
        observation=np.stack([seq, seq], 1).astype("<f4"), action=np.zeros((rows, 1), "<f4"),
        policy_action=np.zeros((rows, 1), "<f4"), reward=seq.astype("<f4"),
        next_observation=np.stack([seq + 1, seq + 1], 1).astype("<f4"), terminated=no, truncated=no,
        intervened=no, clipped=no, policy_version=np.zeros(rows, "<i8"), stamp_ns=seq.astype("<i8"),
    )  # fmt: skip


class Sender(ExperienceSender):
    """With its commands kept, and heartbeats that say what a test wants."""

    def __init__(self, endpoint: str, **settings: Any) -> None:
        self.commands: list[FleetCommand] = []
        self.stats: dict[str, Any] = {"robot/steps": 7}
        super().__init__(
            endpoint,
            "robot1",
            "boot",
            settings.pop("spec", SPEC),
            self.commands.append,
            self.beat,
            **settings,
        )

    def beat(self) -> tuple[str, dict[str, Any]]:
        return "episode", self.stats


@pytest.fixture
def make_sender(free_endpoint: str) -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def make(**settings: Any) -> Sender:
        made.append(Sender(free_endpoint, **settings))
        made[-1].start()
        return made[-1]

    yield make
    for sender in made:
        sender.close(timeout_s=0.0)


class ScriptedServer:
    """A ROUTER that does what a test says, and keeps the rows it takes in `rows`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.context: Any = zmq.Context()
        self.boot_id = "server-a"
        self.rows: list[int] = []
        self.seen: list[Message] = []
        self.identity = b""
        self.router = self._bind()

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
        self.send_welcome()
        return hello

    def send_welcome(self) -> None:
        self.send(Welcome(run_id="run", server_boot_id=self.boot_id, spec={}, durable_seq=len(self.rows) - 1))

    def take(self) -> TransitionBatch:
        """Store the next batch as the real server does, without an ack."""
        message: TransitionBatch = self.receive(TransitionBatch)
        self._store(message)
        return message

    def _store(self, message: TransitionBatch) -> None:
        if message.first_seq <= len(self.rows):
            self.rows += message.reward.astype(int).tolist()[len(self.rows) - message.first_seq :]

    def ack(self, boot_id: str = "boot") -> None:
        self.send(Ack(robot_id="robot1", boot_id=boot_id, durable_seq=len(self.rows) - 1))

    def take_all(self, rows: int) -> None:
        """Store and acknowledge, answering hellos, until that many rows are here."""
        while len(self.rows) < rows:
            message = self.receive(TransitionBatch, Hello)
            if isinstance(message, Hello):
                self.send_welcome()
            else:
                self._store(message)
                self.ack()


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
    sender.put(batch(0))
    for _ in range(3):
        hello = server.receive(Hello)
    assert (hello.role, hello.process_id, hello.boot_id, hello.oldest_seq) == ("robot", "robot1", "boot", 0)
    assert SpaceSpec.from_json(hello.spec) == SPEC
    assert server.identity == b"robot1:boot"
    assert server.count(Hello) == len(server.seen), "neither rows nor heartbeats yet"
    assert not sender.connected


def test_rows_arrive_in_order_and_leave_the_queue_when_acknowledged(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    for i in range(5):
        sender.put(batch(4 * i))
    server.welcome()
    for i in range(5):
        assert server.take().first_seq == 4 * i
    assert (sender.queued_rows, sender.acked_rows) == (20, 0), "sent is not stored"
    server.ack()
    wait_until(lambda: sender.queued_rows == 0)
    assert sender.acked_rows == 20
    assert server.rows == list(range(20))


def test_a_batch_leaves_only_when_its_last_row_is_stored(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    sender.put(batch(4))
    server.welcome()
    server.send(Ack(robot_id="robot1", boot_id="boot", durable_seq=6))
    wait_until(lambda: sender.queued_rows == 4)
    server.send(Ack(robot_id="robot1", boot_id="boot", durable_seq=7))
    wait_until(lambda: sender.queued_rows == 0)


def test_it_may_start_before_the_server(
    make_sender: Callable[..., Sender], free_endpoint: str, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    wait_until(lambda: sender._last_hello_s > 0)
    server = ScriptedServer(free_endpoint)
    try:
        server.take_all(4)
        wait_until(lambda: sender.queued_rows == 0)
    finally:
        server.context.destroy(linger=0)


def test_hellos_that_waited_for_the_server_do_not_send_rows_again(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    for _ in range(5):
        server.receive(Hello)
    for _ in range(5):
        server.send_welcome()
    server.take()
    server.receive(Heartbeat)
    server.receive(Heartbeat)
    assert server.count(TransitionBatch) == 1
    server.ack()
    wait_until(lambda: sender.queued_rows == 0)


def test_no_more_than_a_window_is_under_way(
    make_sender: Callable[..., Sender], server: ScriptedServer
) -> None:
    sender = make_sender(window=2)
    for i in range(5):
        sender.put(batch(4 * i))
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
    sender.put(batch(0))
    sender.put(batch(4))
    server.welcome()
    server.take()
    server.take()
    server.welcome()  # after the silence; says that all is stored
    wait_until(lambda: sender.queued_rows == 0)
    sender.put(batch(8))
    assert server.take().first_seq == 8
    assert server.rows == list(range(12))
    assert server.count(TransitionBatch) == 3


def test_lost_batches_are_sent_again_in_order(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    for i in range(4):
        sender.put(batch(4 * i))
    server.welcome()
    server.take()
    for _ in range(3):
        server.receive(TransitionBatch)  # lost
    server.take_all(16)
    wait_until(lambda: sender.queued_rows == 0)
    assert server.rows == list(range(16))


def test_an_ack_that_tells_of_a_gap_keeps_the_rows(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    sender.put(batch(4))
    server.welcome()
    server.receive(TransitionBatch)  # lost
    server.take()  # leaves a gap, so it is not stored
    assert server.rows == []
    server.ack()  # durable_seq -1
    server.take_all(8)
    wait_until(lambda: sender.queued_rows == 0)
    assert server.rows == list(range(8))


def test_an_ack_of_another_boot_is_not_mine(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    server.welcome()
    server.take()
    server.ack(boot_id="an earlier boot")
    server.ack()
    wait_until(lambda: sender.queued_rows == 0)
    sender.put(batch(4))
    server.send(Ack(robot_id="robot1", boot_id="an earlier boot", durable_seq=1000))
    server.send(FleetCommand(kind="pause"))
    wait_until(lambda: sender.commands)
    assert sender.queued_rows == 4


def test_a_restarted_server_gets_what_it_lacks(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    server.welcome()
    server.take()
    server.ack()
    wait_until(lambda: sender.acked_rows == 4)
    sender.put(batch(4))
    sender.put(batch(8))
    server.take()
    server.take()
    server.restart("server-b", keep_rows=8)  # the last batch was not on its disk
    while True:
        message = server.receive(Hello, TransitionBatch)
        if isinstance(message, Hello):
            break
        server.send(Refusal(request="TransitionBatch", reason="say hello first"))
    assert message.oldest_seq == 4
    server.send_welcome()
    assert server.take().first_seq == 8
    server.ack()
    wait_until(lambda: sender.queued_rows == 0)
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
    sender.put(batch(0))
    server.welcome()
    server.receive(TransitionBatch)
    for _ in range(3):
        server.welcome()
    assert server.count(TransitionBatch) == 1


def test_a_refused_robot_is_told_why_and_may_come_back(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    server.receive(Hello)
    server.send(Refusal(request="Hello", reason="robot1 has another spec than run x"))
    wait_until(lambda: sender.refusal)
    assert sender.refusal == "robot1 has another spec than run x"
    server.take_all(4)
    wait_until(lambda: not sender.refusal and sender.queued_rows == 0)


def test_closing_a_refused_robot_does_not_wait(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    sender.put(batch(0))
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
    sender.put(batch(0))
    server.welcome()
    server.receive(TransitionBatch)
    server.send(Refusal(request="TransitionBatch", reason="the disk is full"))
    server.take_all(4)
    wait_until(lambda: sender.queued_rows == 0)
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
    sender.put(batch(0))
    server.welcome()
    server.router.send_multipart([server.identity, b"garbage"])
    server.router.send_multipart([server.identity, b""])
    server.send(Status(request_id=1, run_id="run", stats={}, processes=[], evaluations=[]))
    server.take()
    server.ack()
    wait_until(lambda: sender.queued_rows == 0)


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
    sender.put(batch(0))
    server.take_all(4)
    wait_until(lambda: sender.queued_rows == 0)
    assert sender.close(timeout_s=1.0) == 0


def test_full_tells_the_robot_to_stop_and_nothing_is_dropped(
    make_sender: Callable[..., Sender], server: ScriptedServer, wait_until: WaitUntil
) -> None:
    sender = make_sender(max_queued_rows=8)
    sender.put(batch(0))
    assert not sender.full
    sender.put(batch(4))
    assert sender.full
    sender.put(batch(8))  # the end of the episode comes all the same
    server.take_all(12)
    wait_until(lambda: not sender.full)
    assert server.rows == list(range(12))


def test_close_without_a_server_ends_in_time_and_returns_what_stays(
    make_sender: Callable[..., Sender],
) -> None:
    sender = make_sender()
    sender.put(batch(0))
    sender.put(batch(4, rows=3))
    started = time.monotonic()
    assert sender.close(timeout_s=0.2) == 7
    assert time.monotonic() - started < 5
    assert sender.close(timeout_s=0.2) == 7, "a second time does no harm"


def test_closing_one_that_never_started(free_endpoint: str) -> None:
    sender = Sender(free_endpoint)
    sender.put(batch(0))
    assert sender.close(timeout_s=0.1) == 4


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
    """Steps of a robot through its recorder, as the control loop has them."""

    def __init__(self, sender: Sender) -> None:
        self.recorder = EpisodeRecorder("robot1", "boot", SPEC, sender.put, batch_rows=7)

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
    counts = count_rows(episodes, {"robot1:boot": 80})
    assert (counts.stored, counts.lost, counts.duplicated) == (80, 0, 0)


def test_close_flushes_to_the_real_server(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], tmp_path: Path, wait_until: WaitUntil
) -> None:
    with serving():
        sender = make_sender()
        wait_until(lambda: sender.connected)
        Life(sender).episodes(10, rows=50)
        assert sender.close(timeout_s=TIMEOUT_S) == 0
    counts = count_rows(list_episodes(tmp_path), {"robot1:boot": 500})
    assert (counts.stored, counts.lost, counts.duplicated) == (500, 0, 0)


def test_a_restart_of_the_real_server_loses_and_doubles_nothing(
    make_sender: Callable[..., Sender], serving: Callable[[], Any], tmp_path: Path, wait_until: WaitUntil
) -> None:
    sender = make_sender()
    life = Life(sender)
    with serving():
        life.episodes(1, rows=30)
        life.begin(rows=15)  # the server goes in the middle of this episode
        wait_until(lambda: sender.acked_rows >= 37)
    life.end()
    life.episodes(1, rows=30)
    with serving():
        life.episodes(1, rows=30)
        assert sender.close(timeout_s=TIMEOUT_S) == 0
    episodes = list_episodes(tmp_path)
    assert [(e.info.rows, e.info.complete) for e in episodes] == [
        (30, True),
        (15, True),
        (30, True),
        (30, True),
    ]
    counts = count_rows(episodes, {"robot1:boot": life.recorder.rows_produced})
    assert (counts.stored, counts.lost, counts.duplicated) == (105, 0, 0)


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
        second = make_sender(spec=other)
        wait_until(lambda: second.refusal)
        assert "action.names[0]" in second.refusal and "another spec" in second.refusal
