"""NAF from logs alone: no robot, no server; what it leaves is a run folder like any other.

RUN/config.yaml, run_id     the config as trained
RUN/rows/                   the logged rows (`learner/row_store.py`); may be removed when training is over
RUN/checkpoints/            resumed from; `pnaf fleet up … --from RUN` begins with the newest
RUN/policy.pnaf             the policy it ended with
RUN/tensorboard/            curves
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fleet.codec import encode
from fleet.config import FleetConfig
from fleet.messages import PolicyMessage
from fleet.run_folder import RunFolder
from learner.checkpoint import Progress, resume, save_checkpoint
from learner.curves import Curves
from learner.device import DeviceQueue, check_device
from learner.logged_spread import measure_spread
from learner.mirror import ReplayMirror
from learner.publisher import policy_message
from learner.row_store import RowStore
from learner.trainer import Trainer
from replay_server.episode_file import write_atomically

_SLICE_S = 0.2
_EXPLORING_VARIANCE = 0.09
_LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class OfflineProgress:
    """Where a training is.

    Attributes:
        updates: Updates done, those before a resume included.
        updates_per_s: Since the last report.
        metrics: Of the trainer, as in `Trainer.metrics`.
    """

    updates: int
    updates_per_s: float
    metrics: dict[str, float]


class OfflineTraining:
    """One network, trained from one row store.

    training = OfflineTraining(fleet, run, store)      # takes up the newest checkpoint
    training.train(200_000, stop, on_progress=show)
    training.save()
    """

    def __init__(self, fleet: FleetConfig, run: RunFolder, store: RowStore) -> None:
        """Draw a network, or go on from the run's newest checkpoint.

        Raises:
            fleet.config.ConfigError: The device is not there or too small.
            learner.checkpoint.WrongCheckpointError: The checkpoint is of another network.
        """
        self.config = fleet.learner
        self.run, self.store = run, store
        check_device(self.config.device)
        torch.set_num_threads(self.config.threads)
        seed = fleet.seed + 1000 * self.config.seed
        file = store.file
        self.mirror = ReplayMirror.of(file.values, file.layout, file.demonstrations, self.config.device)
        self.trainer = Trainer(self.config, file.spec, seed)
        normaliser = store.normaliser if self.config.normalise_observations else self.trainer.normaliser
        self.trainer.adopt(normaliser, store.rewards)
        if self.config.behaviour_weight:
            spread = measure_spread(file, torch.Generator().manual_seed(seed))
            self.trainer.behaviour.precision.copy_(precision_of(spread.values.square()))
        resume(run.checkpoints, self.trainer, run.run_id())
        self._curves = Curves(run.tensorboard)
        self._queue = DeviceQueue(self.trainer.device)

    @property
    def updates(self) -> int:
        """Updates done."""
        return self.trainer.updates

    def train(
        self,
        updates: int,
        stop: threading.Event,
        on_progress: Callable[[OfflineProgress], None] = lambda progress: None,
    ) -> bool:
        """Train until `updates` are done in all, or until `stop`: then False; saves now and then.

        Raises:
            learner.trainer.DivergedError: The network left the finite numbers.
            learner.checkpoint.CheckpointError: The disk refuses a checkpoint.
        """
        size, now = 64, time.monotonic()
        next_save_s = now + self.config.checkpoint_period_s
        log_s, logged, next_log_s = now, self.updates, now + self.config.log_period_s
        while self.updates < updates and not stop.is_set():
            started = time.monotonic()
            done = min(size, updates - self.updates)
            self.trainer.update_many(self.mirror, done)
            self._queue.bound()
            now = time.monotonic()
            if done == size:
                size = max(1, min(2 * size, int(size * _SLICE_S / max(now - started, 1e-6))))
            if now >= next_log_s or self.updates >= updates:
                self.trainer.check_finite()
                metrics = self.trainer.metrics(self.mirror)
                rate = (self.updates - logged) / max(now - log_s, 1e-6)
                log_s, logged, next_log_s = now, self.updates, now + self.config.log_period_s
                self._curves.add({"learner/updates_per_s": rate, **metrics}, self.updates)
                on_progress(OfflineProgress(self.updates, rate, metrics))
            if now >= next_save_s:
                next_save_s = now + self.config.checkpoint_period_s
                self.save()
        return self.updates >= updates

    def policy(self) -> PolicyMessage:
        """The policy of now; each hundred updates is one version.

        Raises:
            learner.trainer.DivergedError: It is not finite.
        """
        return policy_message(
            self.trainer, self.run.run_id(), self._version, self.config.exploration_std, time.time_ns()
        )

    @property
    def _version(self) -> int:
        return self.updates // 100

    def save(self) -> None:
        """Write a checkpoint and `policy.pnaf`.

        Raises:
            learner.trainer.DivergedError: The network is not finite.
            learner.checkpoint.CheckpointError: The disk refuses.
        """
        self.trainer.check_finite()
        policy = self.policy()
        progress = Progress(
            run_id=self.run.run_id(),
            policy_version=self._version,
            policies_published=0,
            cursor=self.store.file.rows,
        )
        save_checkpoint(self.run.checkpoints, self.trainer, progress, policy, self.config.keep_checkpoints)
        frame = encode(policy)
        write_atomically(self.run.policy, lambda temporary: temporary.write_bytes(frame))

    def close(self) -> None:
        """Write out the curves."""
        self._curves.close()


def precision_of(variance: torch.Tensor) -> torch.Tensor:
    """How firmly μ is kept near actions of such a variance: the ρ of `learner/behaviour.py` [nu].

    (0.09 / σ²)², 1 for logs that explored with a standard deviation of 0.3. One factor is that of a Gaussian
    likelihood. The other is what the logs tell of Q's slope in u, which takes actions that differ.
    """
    return (_EXPLORING_VARIANCE / (variance + _LEAST_VARIANCE)).square()
