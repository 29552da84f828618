"""A trainer as it was between two updates: what others look at while the updates go on."""

from __future__ import annotations

import time
from collections.abc import Container

import torch
from torch import Tensor

from fleet.config import LearnerConfig
from fleet.spaces import SpaceSpec
from learner.mirror import ReplayMirror
from learner.trainer import Trainer


class Snapshot:
    """A second trainer that takes over the state of the first, again and again.

        snapshot.take(trainer, mirror, …)   # between two updates: copies, and nothing else
        snapshot.settle()                   # in the thread that looks at it
        save_checkpoint(…, snapshot.trainer, …)

    Attributes:
        trainer: Has the state after `settle`: as much of it as it is wanted for.
        cursor: The log's cursor up to which its statistics have seen rows.
        learned_rows: The log's cursor up to which all updates that the rows allow are done.
        taken_s: When (monotonic, s).
    """

    def __init__(self, config: LearnerConfig, spec: SpaceSpec) -> None:
        """Nothing taken yet."""
        # It never updates, so that no engine for updates need be compiled or captured.
        self.trainer = Trainer(config.model_copy(update={"engine": "eager"}), spec)
        self.cursor = self.learned_rows = 0
        self.taken_s = 0.0
        self._counts = (0, 0)
        self._statistics = (self.trainer.normaliser, self.trainer.rewards)
        self._generator_state: Tensor | None = None
        self._minibatch: Tensor | None = None

    @torch.no_grad()
    def take(
        self,
        trainer: Trainer,
        mirror: ReplayMirror,
        cursor: int,
        learned_rows: int,
        purposes: Container[str],
    ) -> None:
        """Copy of a trainer's state of now what is needed to "publish", "log" or "checkpoint" it."""
        mine, whole, measured = self.trainer.tensors(), "checkpoint" in purposes, "log" in purposes
        for name, theirs in trainer.tensors().items():
            if whole or name == "network" or (measured and name == "target"):
                _copy(mine[name], theirs)
        self._counts = trainer.updates, trainer.optimiser.steps
        self._statistics = trainer.normaliser, trainer.rewards
        self._generator_state = trainer.generator.get_state() if whole else None
        self.cursor, self.learned_rows, self.taken_s = cursor, learned_rows, time.monotonic()
        self._minibatch = trainer.sample(mirror) if measured and len(mirror) and trainer.updates else None

    def settle(self) -> None:
        """Bring `trainer` to the state taken."""
        self.trainer.updates, self.trainer.optimiser.steps = self._counts
        self.trainer.adopt(*self._statistics)
        if self._generator_state is not None:
            self.trainer.generator.set_state(self._generator_state)

    def measure(self) -> dict[str, float]:
        """The trainer's metrics; empty before the first update and without rows."""
        return {} if self._minibatch is None else self.trainer.measure(self._minibatch)


def _copy(into: Tensor, source: Tensor) -> None:
    """Copy in a way that keeps Python's lock, for another thread would hold it for longer than this takes."""
    if source.is_cuda:
        into.copy_(source)
    else:
        into.numpy().data.cast("B")[:] = source.numpy().data.cast("B")
