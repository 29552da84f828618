"""Specs, batches and running servers for the tests of the replay server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.messages import Ack, Hello, Message, TransitionBatch, Transitions
from fleet.sockets import connect_dealer
from fleet.spaces import Space, SpaceSpec
from replay_server.server import run_replay_server

NX, NU = 3, 2


def _spec(low: float = -1.0) -> SpaceSpec:
    return SpaceSpec(
        observation=Space(names=("a", "b", "c"), units=("rad",) * 3, low=(low,) * 3, high=(1.0,) * 3),
        action=Space(names=("u", "v"), units=("1", "1"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    )


def _transitions(rows: int, start: int = 0, tag: float = 0.0) -> Transitions:
    """Row i holds start + i wherever a number fits, so that a lost or swapped row is seen."""
    n = np.arange(start, start + rows)
    return Transitions(
        observation=np.stack([n, n + 0.25, np.full(rows, tag)], 1).astype("<f4"),
        action=np.stack([n, -n], 1).astype("<f4"),
        policy_action=np.stack([n + 0.5, -n], 1).astype("<f4"),
        reward=n.astype("<f4"),
        next_observation=np.stack([n + 1, n + 1.25, np.full(rows, tag)], 1).astype("<f4"),
        terminated=n % 5 == 4,
        truncated=n % 7 == 6,
        intervened=n % 3 == 0,
        clipped=n % 2 == 0,
        policy_version=n.astype("<i8") // 10,
        stamp_ns=n.astype("<i8") * 50_000_000,
    )


def _batch(
    rows: int, first_seq: int = 0, episode: int = 0, tag: float = 0.0, **fields: Any
) -> TransitionBatch:
    values = {"robot_id": "arm1", "boot_id": "b0", "spec_hash": _spec().hash, **fields}
    return TransitionBatch(
        **vars(_transitions(rows, first_seq, tag)), first_seq=first_seq, episode=episode, **values
    )


class RawPeer:
    """A DEALER that speaks the protocol without any of the clients' care."""

    def __init__(self, context: zmq.Context, endpoint: str, identity: bytes) -> None:
        self.socket = connect_dealer(context, endpoint, identity)

    def send(self, message: Message) -> None:
        self.socket.send(encode(message))

    def receive(self, timeout_s: float = 10.0) -> Message:
        assert self.socket.poll(timeout_s * 1000), f"nothing received in {timeout_s} s"
        return decode(self.socket.recv())

    def ask(self, message: Message) -> Message:
        """The answer; for rows the ack that says they are on disk."""
        self.send(message)
        while True:
            answer = self.receive()
            if not isinstance(answer, Ack):
                return answer
            rows = isinstance(message, TransitionBatch)
            if rows and answer.durable_seq >= message.first_seq + message.rows - 1:
                return answer

    def hello(self, robot_id: str = "arm1", boot_id: str = "b0", spec: SpaceSpec | None = None) -> Message:
        spec = spec or _spec()
        return self.ask(Hello(role="robot", process_id=robot_id, boot_id=boot_id, spec=spec.to_json()))


# As fixtures because test modules cannot import a conftest; of the session because hypothesis wants that.


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., SpaceSpec]:
    return _spec


@pytest.fixture(scope="session")
def make_transitions() -> Callable[..., Transitions]:
    return _transitions


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., TransitionBatch]:
    return _batch


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


@contextmanager
def serving(config: ReplayServerConfig, run_dir: Path) -> Iterator[None]:
    """A replay server in a thread, stopped and sealed at the end; its exception is raised here."""
    stop, ready = threading.Event(), threading.Event()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            run_replay_server(config, run_dir, "run1", stop, ready.set, seed=0)
        except BaseException as error:
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        if not failure:
            yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
    if failure:
        raise failure[0]


@pytest.fixture
def fleet(context: zmq.Context, free_endpoint: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`with fleet() as it:` a running server with `it.peer(identity)`, `it.endpoint`, `it.run_dir`."""
    peers: list[RawPeer] = []

    @contextmanager
    def start(**settings: Any) -> Iterator[SimpleNamespace]:
        config = ReplayServerConfig(endpoint=free_endpoint, **settings)

        def peer(identity: bytes = b"arm1:b0") -> RawPeer:
            peers.append(RawPeer(context, free_endpoint, identity))
            return peers[-1]

        with serving(config, tmp_path / "run"):
            yield SimpleNamespace(endpoint=free_endpoint, run_dir=tmp_path / "run", peer=peer)

    yield start
    for made in peers:
        made.socket.close()
