"""cpprb's replay buffers, in this process and in shared memory."""

# ruff: noqa: D102  # what the methods do stands in Peer

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks.peers.peer import CAPACITY, COLUMNS, NotOfferedError, Peer, Step, columns_of, lagging


class Cpprb(Peer):
    """cpprb's buffer, in this process."""

    groups = ("cpprb",)
    served = False
    how = "cpprb {cpprb}; ReplayBuffer, add / sample"
    kind = "ReplayBuffer"

    def __init__(self, stack: ExitStack, row_bytes: int, address: str = "") -> None:
        import cpprb

        shapes = {name: {"shape": n, "dtype": np.float32} for name, n in COLUMNS.items()}
        self.buffer = getattr(cpprb, self.kind)(CAPACITY, shapes)

    @contextmanager
    def writing(self, batch_rows: int, window: int) -> Iterator[Step]:
        if window > 1:
            raise NotOfferedError
        rows = columns_of(batch_rows)
        yield lagging(lambda: self.buffer.add(**rows), 1)

    @contextmanager
    def sampling(self, batches: int, in_flight: int) -> Iterator[Step]:
        if in_flight > 1:
            raise NotOfferedError
        yield lagging(lambda: self.buffer.sample(256 * batches), 1)


class CpprbShared(Cpprb):
    """cpprb's buffer in shared memory, which several processes of one host may use."""

    how = "cpprb {cpprb}; MPReplayBuffer, add / sample, used by one process"
    kind = "MPReplayBuffer"
