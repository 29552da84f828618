"""What a measured buffer must offer, and what the peers share: rows, windows, server processes."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {"observation": 30, "action": 7, "reward": 1, "next_observation": 30, "terminated": 1}
WIDTH = sum(COLUMNS.values())
CAPACITY = 1_000_000
SPAWN = multiprocessing.get_context("spawn")
Step = Callable[[], int]  # does the next thing, returns how many are newly known to be done


class NotOfferedError(Exception):
    """The peer has no such way of being used."""


class Peer:
    """One buffer behind two calls: put the next batch, take the next reply.

    Attributes:
        groups: The groups of peers.txt it needs.
        served: Whether it is another process; else it is a buffer in the caller's own.
        how: The calls that were used.
        rows_kept: Rows there when it is sampled; fewer only where filling would take minutes,
            which favours the peer.
    """

    groups: tuple[str, ...]
    served = True
    how: str
    rows_kept = 300_000
    address = ""

    def __init__(self, stack: ExitStack, row_bytes: int, address: str = "") -> None:
        """Connect to the server at `address`; without one, start what it needs; `stack` stops that."""

    def writing(self, batch_rows: int, window: int) -> AbstractContextManager[Step]:
        """A call that puts a batch and returns with fewer than `window` batches unacknowledged."""
        raise NotOfferedError

    def sampling(self, batches: int, in_flight: int) -> AbstractContextManager[Step]:
        """A call that returns with the next reply, `batches` minibatches of 256 as numpy arrays."""
        raise NotOfferedError

    def fill(self) -> None:
        """Put the rows that are sampled."""
        with self.writing(64, 1) as put:
            for _ in range(self.rows_kept // 64):
                put()


def columns_of(rows: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {name: random.random((rows, n), np.float32) for name, n in COLUMNS.items()}


@contextmanager
def windowed(send: Callable[[], None], receive: Step, window: int) -> Iterator[Step]:
    """`send`s and `receive`s as a step with `window` in flight; drained at the end."""
    waiting = 0

    def step() -> int:
        nonlocal waiting
        send()
        waiting += 1
        done = receive() if waiting == window else 0
        waiting -= done
        return done

    yield step
    while waiting > 0:
        waiting -= receive()


def lagging(call: Callable[[], Any], in_flight: int) -> Step:
    """`call` as a step, if it returns when at most `in_flight` − 1 are not done."""
    called = 0

    def step() -> int:
        nonlocal called
        call()
        called += 1
        return int(called >= in_flight)

    return step


@contextmanager
def serving(target: Callable[..., None], *args: Any) -> Iterator[Any]:
    """A server process; yields what it says first, its address."""
    ours, its = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(its, *args), daemon=True)
    process.start()
    try:
        if not ours.poll(120):
            raise RuntimeError("its server did not come up in 120 s")
        yield ours.recv()
    finally:
        process.terminate()
        process.join(10)


def scratch_folder() -> AbstractContextManager[str]:
    """A folder where ours has its run folders: the checkout, as /tmp may be memory."""
    return tempfile.TemporaryDirectory(prefix="replay-", dir=ROOT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
