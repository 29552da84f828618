"""The processes of one data-parallel learner: each works on its part of every minibatch.

`torchrun` starts them and tells each its number through the environment; rank 0 leads.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from fleet.config import ConfigError

_TIMEOUT = timedelta(seconds=60)


class RankError(RuntimeError):
    """Another rank ended or does not answer: this one cannot go on."""


class Ranks:
    """All ranks, as one of them sees them.

        ranks = Ranks.join("cpu")
        part = ranks.slice(batch_size)      # every rank draws the same minibatch and takes its rows of it
        gradient = …                        # of the sum of their losses, divided by the *whole* batch_size
        ranks.sum_(gradient)                # that of the whole minibatch, the same bits on every rank

    Attributes:
        rank: This process's number, from 0.
        world: How many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        """One of `world` processes of the default process group, which exists already."""
        self.rank, self.world = rank, world

    @staticmethod
    def launched() -> bool:
        """Whether `torchrun` started this process."""
        return dist.is_torchelastic_launched()

    @classmethod
    def join(cls, device: torch.device | str) -> Ranks:
        """Meet the others that `torchrun` started; tensors on `device` will be exchanged, and on the CPU.

        Raises:
            RankError: They do not come.
        """
        backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise RankError(f"the ranks of this learner do not find each other: {error}") from error
        return cls(dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        """Close the connections to the others."""
        dist.destroy_process_group()

    def slice(self, batch_size: int) -> slice:
        """This rank's rows of a minibatch.

        Raises:
            ConfigError: They cannot be divided evenly.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"learner.batch_size {batch_size} cannot be divided among {self.world} ranks: "
                "make it a multiple of torchrun's --nproc-per-node"
            )
        size = batch_size // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum of those of all ranks.

        Raises:
            RankError: Another rank is gone.
        """
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise self._lost(error) from error

    def broadcast_(self, tensor: Tensor) -> None:
        """Replace a tensor by that of rank 0.

        Raises:
            RankError: Another rank is gone.
        """
        try:
            dist.broadcast(tensor, src=0)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RankError:
        text = str(error).strip().splitlines() or [""]
        return RankError(
            f"rank {self.rank} of {self.world} cannot go on: another rank ended or does not answer within "
            f"{_TIMEOUT.total_seconds():g} s ({text[0]})"
        )


def device_of(name: str) -> str:
    """This rank's own device where the config says `cuda`: one GPU for each process of a machine.

    Raises:
        ConfigError: The config names one GPU for all of them.
    """
    if name.startswith("cuda:") and Ranks.launched() and int(os.environ["LOCAL_WORLD_SIZE"]) > 1:
        raise ConfigError(
            f"learner.device = {name}: is one GPU for all ranks; cuda gives each one of its own"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and Ranks.launched() else name
