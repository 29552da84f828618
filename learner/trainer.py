"""Minibatches in, better parameters out: Adam on the NAF loss and a Polyak-averaged target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fleet.config import LearnerConfig
from fleet.messages import OBSERVATION_CLIP, Array
from fleet.spaces import SpaceSpec
from learner.adam import Adam
from learner.gradients import NafGradient
from learner.mirror import ReplayMirror, RowLayout
from learner.naf import NafNetwork, NafShape, advantage, polyak_update
from learner.normaliser import Normaliser
from replay_server.sampler import demonstrations_in

_UPDATES_PER_GATHER = 16
_METRICS_SEED = 1


class DivergedError(RuntimeError):
    """Training left the finite numbers; the last checkpoint is from before that."""


class Trainer:
    """NAF's parameters and the updates that improve them.

        trainer.observe(new_rows.observation); mirror.extend(new_rows)
        trainer.update_many(mirror, 100)
        trainer.check_finite()          # before anything leaves this process

    Nothing in an update waits for the device. What a run of updates does depends on the parameters,
    the optimiser, the normaliser, the generator and the mirror's cursors alone, neither on how the
    updates are divided into calls nor on what is measured in between: a checkpoint holds it all.

    Attributes:
        updates: Updates done.
        network: The online network.
        target: Flat parameters of the target network.
        generator: Draws the minibatches, and nothing else.
    """

    def __init__(self, config: LearnerConfig, spec: SpaceSpec, seed: int = 0) -> None:
        """Draw a network for `spec` from `seed`."""
        self.config = config
        self.spec = spec
        self.device = torch.device(config.device)
        self.shape = NafShape(
            spec.observation.size, spec.action.size, tuple(config.hidden_sizes), config.off_diagonal
        )
        self.layout = RowLayout(self.shape.nx, self.shape.nu)
        self.normaliser = Normaliser(self.shape.nx)
        self.updates = 0
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._metrics_generator = torch.Generator(self.device).manual_seed(_METRICS_SEED)
        self.network = NafNetwork(self.shape, torch.Generator().manual_seed(seed)).to(self.device)
        self._flat = self.network.flat.data
        self.target = self._flat.clone()
        self._gradient = NafGradient(self.shape, config.batch_size, self._flat, self.target)
        self.optimiser = Adam(self._flat, self._gradient.flat, config.learning_rate)
        self._mean = torch.zeros(2 * self.shape.nx, device=self.device)
        self._scale = torch.ones(2 * self.shape.nx, device=self.device)
        self._demonstrations = demonstrations_in(config.batch_size, config.demonstration_fraction)
        block = _UPDATES_PER_GATHER * config.batch_size
        self._index = torch.empty(block, dtype=torch.int64, device=self.device)
        self._index_of_update = torch.split(self._index, config.batch_size)
        self._rows = torch.empty(block, self.layout.width, device=self.device)

    def observe(self, observation: Array) -> None:
        """Let the observation normaliser see those of new rows [N, nx]."""
        if self.config.normalise_observations:
            self.normaliser.extend(observation)
            self.refresh_normaliser()

    def refresh_normaliser(self) -> None:
        """Bring the normaliser's numbers to the device."""
        self._mean.copy_(torch.from_numpy(self.normaliser.mean).repeat(2))
        self._scale.copy_(torch.from_numpy(self.normaliser.scale).repeat(2))

    def update(self, rows: Tensor) -> None:
        """One gradient step and one target step on raw rows [batch_size, width], as the mirror gives them."""
        self._step(*self._prepare(rows.clone()))

    def update_many(self, mirror: ReplayMirror, updates: int) -> None:
        """Do `updates` updates, each on its own random minibatch; a few of them share one gather.

        Indices are drawn update by update: on CUDA one draw of many differs from many draws of one.
        And each update has its own place in the buffer, because the rounding of a matrix product
        may depend on how its operands lie in memory.
        """
        size = self.config.batch_size
        while updates > 0:
            place = self.updates % _UPDATES_PER_GATHER
            n = min(updates, _UPDATES_PER_GATHER - place)
            index = self._index[place * size : (place + n) * size]
            mirror.draw(self.generator, self._index_of_update[place : place + n], self._demonstrations)
            rows = self._rows[place * size : (place + n) * size]
            mirror.gather(index, out=rows)
            parts = self._prepare(rows)
            for batch in zip(*(torch.split(part, size) for part in parts), strict=True):
                self._step(*batch)
            updates -= n

    def _prepare(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rows to (x, u, reward, discount, next_x); `rows` is overwritten."""
        layout, nx = self.layout, self.shape.nx
        observations = rows[:, layout.observations]
        observations.sub_(self._mean).mul_(self._scale).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        return (
            observations[:, :nx],
            rows[:, layout.action],
            rows[:, layout.reward] * self.config.reward_scale,
            rows[:, layout.bootstrap] * self.config.gamma,
            observations[:, nx:],
        )

    def _step(self, x: Tensor, u: Tensor, reward: Tensor, discount: Tensor, next_x: Tensor) -> None:
        self._gradient.compute(x, u, reward, discount, next_x)
        self.optimiser.step()
        polyak_update(self.target, self._flat, self.config.polyak_tau)
        self.updates += 1

    def check_finite(self) -> None:
        """Wait for the device and make sure that the parameters are finite.

        Raises:
            DivergedError: They are not; what to look at is in the text.
        """
        if not bool(torch.isfinite(self._flat).all()):
            raise DivergedError(
                f"the network's parameters are no longer finite after {self.updates} updates; "
                "lower learner.learning_rate or learner.reward_scale and look at learner/td_loss, "
                "learner/v_mean and learner/mu_saturation before this point"
            )

    @torch.no_grad()
    def metrics(self, mirror: ReplayMirror) -> dict[str, float]:
        """Numbers that show how training goes, of one fresh minibatch; waits for the device.

        `learner/mu_saturation` near 1 (tanh at its ends) and `learner/diag_l_median` at a bound are
        the two ways in which NAF fails silently.
        """
        x, u, reward, discount, next_x = self._prepare(
            mirror.sample(self._metrics_generator, self.config.batch_size, self._demonstrations)
        )
        naf = self.network(x)
        self._gradient.compute(x, u, reward, discount, next_x)
        td_error = self._gradient.td_error
        values: dict[str, Any] = {
            "learner/td_loss": 0.5 * td_error.square().sum(dim=1).mean(),
            "learner/q_mean": (naf.V[:, 0] + advantage(u, naf.mu, naf.L)).mean(),
            "learner/v_mean": naf.V.mean(),
            "learner/mu_saturation": (naf.mu.abs() > 0.99).float().mean(),
            "learner/diag_l_median": naf.L.diagonal(dim1=1, dim2=2).median(),
            "learner/gradient_norm": self._gradient.flat.norm(),
        }
        return {key: float(value) for key, value in values.items()}
