"""TorchRL's replay buffer, in this process and in a Ray actor."""

# ruff: noqa: D102  # what the methods do stands in Peer

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.peers.peer import CAPACITY, NotOfferedError, Peer, Step, columns_of, lagging


class TorchRL(Peer):
    """TorchRL's buffer, in this process."""

    groups: tuple[str, ...] = ("torchrl",)
    served = False
    how = "torchrl {torchrl}; ReplayBuffer(LazyTensorStorage), add / extend / sample, one thread"

    def __init__(self, stack: ExitStack, row_bytes: int, address: str = "") -> None:
        import torch
        from tensordict import TensorDict

        torch.set_num_threads(1)
        tensors = {name: torch.from_numpy(column) for name, column in columns_of(64).items()}
        self.rows = TensorDict(tensors, batch_size=[64])
        self.row = self.rows[0].clone()
        self.buffer = self._buffer(stack)

    def _buffer(self, stack: ExitStack) -> Any:
        from torchrl.data import LazyTensorStorage, ReplayBuffer

        return ReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=256)

    @contextmanager
    def writing(self, batch_rows: int, window: int) -> Iterator[Step]:
        if window > 1:
            raise NotOfferedError
        if batch_rows == 1:
            yield lagging(lambda: self.buffer.add(self.row), 1)
        else:
            yield lagging(lambda: self.buffer.extend(self.rows), 1)

    @contextmanager
    def sampling(self, batches: int, in_flight: int) -> Iterator[Step]:
        if in_flight > 1:
            raise NotOfferedError
        yield lagging(lambda: self.buffer.sample(256 * batches), 1)


class TorchRLRay(TorchRL):
    """TorchRL's buffer in a Ray actor."""

    groups = ("torchrl", "ray")
    served = True
    how = "torchrl {torchrl}, ray {ray}; RayReplayBuffer(LazyTensorStorage), add / extend / sample"
    rows_kept = 30_000

    def _buffer(self, stack: ExitStack) -> Any:
        import ray
        from torchrl.data import LazyTensorStorage, RayReplayBuffer

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        stack.callback(ray.shutdown)
        storage = functools.partial(LazyTensorStorage, CAPACITY)
        buffer = RayReplayBuffer(storage=storage, batch_size=256)
        stack.callback(buffer.close)
        return buffer
