"""Rows and spaces for the learner's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq

from fleet.codec import decode, encode
from fleet.config import FleetConfig, LearnerConfig, ReplayServerConfig
from fleet.messages import Ack, Hello, Message, TailReply, TransitionBatch, Transitions, Welcome
from fleet.sockets import Context, connect_dealer
from fleet.spaces import Space, SpaceSpec
from learner.process import run_learner
from replay_server.server import run_replay_server

NX, NU = 3, 2
ROWS = 32

torch.set_num_threads(1)  # two threads on a busy machine are many times slower than one


def make_space(n: int, letter: str) -> Space:
    return Space(tuple(f"{letter}{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)


@pytest.fixture
def spec() -> SpaceSpec:
    return SpaceSpec(make_space(NX, "x"), make_space(NU, "u"))


def make_columns(n: int, first: int = 0) -> dict[str, np.ndarray]:
    """Row i is recognisable: its reward is first + i, a third of them end the task."""
    number = np.arange(first, first + n)
    rng = np.random.default_rng(first)
    no = np.zeros(n, bool)
    return {
        "observation": rng.normal(size=(n, NX)).astype("f4"),
        "action": rng.uniform(-1, 1, (n, NU)).astype("f4"),
        "policy_action": rng.uniform(-1, 1, (n, NU)).astype("f4"),
        "reward": number.astype("f4"),
        "next_observation": rng.normal(size=(n, NX)).astype("f4"),
        "terminated": number % 3 == 0,
        "truncated": no,
        "intervened": no,
        "clipped": no,
        "policy_version": np.zeros(n, "i8"),
        "stamp_ns": number.astype("i8"),
    }


@pytest.fixture
def make_rows() -> Callable[..., Transitions]:
    return lambda n, first=0: Transitions(**make_columns(n, first))


@pytest.fixture
def make_reply() -> Callable[[int, int, int], TailReply]:
    """TailReply of the rows first … next − 1 of a log that ends at `end`."""

    def make(first: int, next_cursor: int, end: int) -> TailReply:
        columns = make_columns(next_cursor - first, first)
        return TailReply(request_id=0, first_cursor=first, next_cursor=next_cursor, end_cursor=end, **columns)

    return make


@dataclass
class Process:
    """A thread that ends on `stop` and passes on what it raised."""

    run: Callable[[threading.Event, Callable[[], None]], None]
    stop: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def start(self) -> Process:
        self.thread = threading.Thread(target=self._main)
        self.thread.start()
        assert self.ready.wait(10) and self.error is None
        return self

    def _main(self) -> None:
        try:
            self.run(self.stop, self.ready.set)
        except BaseException as error:
            self.error = error
            self.ready.set()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error


class Robot:
    """Sends episodes of ROWS rows and waits for their acks."""

    def __init__(self, context: Context, endpoint: str, spec: SpaceSpec) -> None:
        self.spec, self.seq, self.episode = spec, 0, 0
        self.socket = connect_dealer(context, endpoint, b"robot1")

    def send(self, message: Message) -> None:
        self.socket.send(encode(message))

    def receive(self) -> Message:
        assert self.socket.poll(10_000), "no answer"
        return decode(self.socket.recv())

    def hello(self) -> None:
        self.send(Hello(role="robot", process_id="robot1", boot_id="b1", spec=self.spec.to_json()))
        while isinstance(answer := self.receive(), Ack):
            pass  # episodes of the last connection are in their files by now
        assert isinstance(answer, Welcome), answer

    def send_episode(self) -> None:
        rng = np.random.default_rng(self.seq)
        no, action = np.zeros(ROWS, bool), rng.uniform(-1, 1, (ROWS, 2)).astype("f4")
        truncated = no.copy()
        truncated[-1] = True
        batch = TransitionBatch(
            robot_id="robot1",
            boot_id="b1",
            first_seq=self.seq,
            episode=self.episode,
            spec_hash=self.spec.hash,
            end="time_limit",
            observation=rng.uniform(-1, 1, (ROWS, 3)).astype("f4"),
            action=action,
            policy_action=action,
            reward=rng.normal(size=ROWS).astype("f4"),
            next_observation=rng.uniform(-1, 1, (ROWS, 3)).astype("f4"),
            terminated=no,
            truncated=truncated,
            intervened=np.arange(ROWS) % 5 == 0,
            clipped=no,
            policy_version=np.zeros(ROWS, "i8"),
            stamp_ns=np.arange(ROWS, dtype="i8"),
        )
        self.send(batch)
        while getattr(answer := self.receive(), "durable_seq", None) != self.seq + ROWS - 1:
            assert isinstance(answer, Ack), answer
        self.seq += ROWS
        self.episode += 1


@pytest.fixture
def capacity() -> int:
    return 10_000


@pytest.fixture
def demonstration_fraction() -> float:
    return 0.0


@pytest.fixture
def config(make_endpoint: Callable[[], str], capacity: int, demonstration_fraction: float) -> FleetConfig:
    learner = LearnerConfig(
        demonstration_fraction=demonstration_fraction,
        policy_endpoint=make_endpoint(),
        hidden_sizes=[8, 8],
        batch_size=8,
        warmup_rows=64,
        updates_per_row=2.0,
        publish_period_s=0.05,
        log_period_s=0.05,
        exploration_std=0.25,
        warmup_exploration_std=1.0,
    )
    server = ReplayServerConfig(endpoint=make_endpoint(), capacity_rows=capacity)
    return FleetConfig.model_construct(name="test", seed=4, learner=learner, replay_server=server)


@pytest.fixture
def start(config: FleetConfig, tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    processes: list[Process] = []

    def make(kind: str) -> Process:
        def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
            if kind == "learner":
                run_learner(config, tmp_path, stop, on_ready)
            else:
                run_replay_server(config.replay_server, tmp_path, "run1", stop, on_ready, seed=0)

        process = Process(run)
        processes.append(process)
        return process.start()

    yield make
    for process in processes:
        process.end()


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def robot(context: Context, config: FleetConfig, spec: SpaceSpec) -> Iterator[Robot]:
    robot = Robot(context, config.replay_server.endpoint, spec)
    yield robot
    robot.socket.close()
