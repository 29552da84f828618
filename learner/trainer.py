"""Minibatches in, better parameters out: Adam on the loss and a Polyak-averaged target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fleet.config import LearnerConfig
from fleet.messages import OBSERVATION_CLIP, Array, Transitions
from fleet.spaces import SpaceSpec
from learner.adam import Adam
from learner.algorithms import make_gradient, make_network
from learner.behaviour import Behaviour
from learner.cuda_graph import GraphedUpdates
from learner.fused.engine import FusedNaf, fused_engine
from learner.mirror import ReplayMirror
from learner.multistep import Batch, multistep
from learner.naf import NafShape, polyak_update
from learner.normaliser import Normaliser
from learner.packed_rows import RowLayout
from learner.ranks import Ranks
from learner.reward_statistics import RewardStatistics
from replay_server.sampler import demonstrations_in

_UPDATES_PER_GATHER = 16
_METRICS_SEED = 1


class DivergedError(RuntimeError):
    """Training left the finite numbers; the last checkpoint is from before that."""


class Trainer:
    """A network's parameters and the updates that improve them.

        trainer.observe(new_rows); mirror.extend(new_rows)
        trainer.update_many(mirror, 100)
        trainer.check_finite()          # before anything leaves this process

    Nothing in an update waits for the device. What a run of updates does depends on the parameters,
    the optimiser, the statistics of observations and rewards, the generator and the mirror's cursors
    alone, neither on how the updates are divided into calls nor on what is measured in between: a
    checkpoint holds it all.

    Attributes:
        updates: Updates done.
        network: Describes the parameters.
        flat: Parameters of the network [parameters].
        target: Those of the target network.
        optimiser: Adam on `flat`.
        normaliser: Of observations.
        rewards: Statistics of the rewards.
        behaviour: What keeps μ near the data; online nothing does.
        generator: Draws the minibatches, and nothing else.
    """

    def __init__(
        self, config: LearnerConfig, spec: SpaceSpec, seed: int = 0, ranks: Ranks | None = None
    ) -> None:
        """Draw a network for `spec` from `seed`.

        Args:
            config: How to learn.
            spec: The spaces of the task.
            seed: Of the first parameters and the minibatches.
            ranks: The other processes that share each minibatch with this one.

        Raises:
            ConfigError: A minibatch cannot be divided among the ranks.
        """
        self.config = config
        self.spec = spec
        self.device = torch.device(config.device)
        self.network = make_network(config, spec.observation.size, spec.action.size)
        self.layout = RowLayout(self.network.nx, self.network.nu)
        self.normaliser = Normaliser(self.network.nx)
        self.rewards = RewardStatistics()
        self.updates = 0
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._metrics_generator = torch.Generator(self.device).manual_seed(_METRICS_SEED)
        self.flat = self.network.initial_parameters(torch.Generator().manual_seed(seed)).to(self.device)
        self.target = self.flat.clone()
        size = config.batch_size
        self._ranks, self._part = ranks, ranks.slice(size) if ranks else slice(0, size)
        rows = self._part.stop - self._part.start
        self.behaviour = Behaviour(
            config.behaviour_weight, config.behaviour_temperature, self.flat, self.network.nu
        )
        self._gradient = make_gradient(self.network, rows, self.flat, self.target, size, self.behaviour)
        self.optimiser = Adam(self.flat, self._gradient.flat, config.learning_rate)
        self._fused = self._find_fused()
        self._graphs_updates = (
            config.engine == "auto"
            and self.device.type == "cuda"
            and ranks is None
            and config.n_step == 1
            and config.demonstration_fraction == 0.0
        )
        self._graphed: GraphedUpdates | None = None
        self._mean = torch.zeros(2 * self.network.nx, device=self.device)
        self._scale = torch.ones(2 * self.network.nx, device=self.device)
        self._reward_scale = 1.0
        self._bounds = -math.inf, math.inf
        self.refresh_statistics()
        self._demonstrations = demonstrations_in(size, config.demonstration_fraction)
        self._index = torch.empty(_UPDATES_PER_GATHER, size, dtype=torch.int64, device=self.device)
        depth = config.n_step, _UPDATES_PER_GATHER
        self._rows = torch.empty(*depth, rows, self.layout.width, device=self.device)

    def _find_fused(self) -> FusedNaf | None:
        """The engine that does all of an update in one call, if the config and this machine allow it."""
        config, network = self.config, self.network
        if config.engine == "eager" or not isinstance(network, NafShape):
            return None
        if self.device.type != "cpu" or self._ranks is not None or config.n_step > 1:
            return None
        return fused_engine(network, config.batch_size, self.behaviour)

    def observe(self, transitions: Transitions, start: int = 0) -> None:
        """Let the statistics see observations and rewards of new rows, those before `start` left out."""
        if self.config.normalise_observations:
            self.normaliser.extend(transitions.observation[start:])
        self.rewards.extend(transitions.reward[start:])
        self.refresh_statistics()

    def adopt(self, normaliser: Normaliser, rewards: RewardStatistics) -> None:
        """Go on with statistics that have seen the new rows already; nobody changes them from now on."""
        self.normaliser, self.rewards = normaliser, rewards
        self.refresh_statistics()

    def refresh_statistics(self) -> None:
        """Bring the numbers of the statistics to the device."""
        for tensor, values in ((self._mean, self.normaliser.mean), (self._scale, self.normaliser.scale)):
            if tensor.is_cuda:
                tensor.view(2, -1).copy_(torch.from_numpy(values))
            else:  # between updates numpy is several times as fast
                tensor.numpy().reshape(2, -1)[:] = values
        self._reward_scale = self.rewards.scale(self.config)
        bounds = self.rewards.target_bounds(self.config)
        if bounds != self._bounds:
            self._bounds = bounds
            self._gradient.bound(*bounds)
        self._normalise_graphs()

    def update(self, rows: Tensor) -> None:
        """One gradient step and one target step on raw rows [batch_size, width], as the mirror gives them."""
        self._step(self._prepare(rows[self._part].clone()))

    def update_many(self, mirror: ReplayMirror, updates: int) -> None:
        """Do `updates` updates, each on its own random minibatch; a few of them share one gather.

        Indices are drawn update by update: on CUDA one draw of many differs from many draws of one.
        And each update has its own place in the buffer, because the rounding of a matrix product
        may depend on how its operands lie in memory.
        """
        if self._graphs_updates:
            self._graphs_on(mirror).update_many(updates)
            self.updates += updates
            return
        while updates > 0:
            place = self.updates % _UPDATES_PER_GATHER
            n = min(updates, _UPDATES_PER_GATHER - place)
            index = self._index[place : place + n]
            mirror.draw(self.generator, index.unbind(), self._demonstrations)
            if self._fused is not None:
                self._update_fused(self._fused, mirror, index)
            else:
                self._update_eagerly(mirror, index[:, self._part], self._rows[:, place : place + n])
            updates -= n

    def _graphs_on(self, mirror: ReplayMirror) -> GraphedUpdates:
        """The graphs of updates, which hold the addresses of one mirror."""
        if self._graphed is None or self._graphed.mirror is not mirror:
            self._graphed = GraphedUpdates(
                self.config, mirror, self._gradient, self.flat, self.target, self.optimiser, self.generator
            )
            self._normalise_graphs()
        return self._graphed

    def _normalise_graphs(self) -> None:
        if self._graphed is not None:
            self._graphed.normalise(self._mean, self._scale, self._reward_scale)

    def _update_fused(self, fused: FusedNaf, mirror: ReplayMirror, index: Tensor) -> None:
        config, adam = self.config, self.optimiser
        fused.update(
            mirror.rows, index, self._mean, self._scale, self.flat, self.target, adam.first, adam.second,
            adam.steps, config.learning_rate, config.polyak_tau, config.gamma, self._reward_scale,
            *self._bounds,
        )  # fmt: skip
        adam.steps += len(index)
        self.updates += len(index)

    def _update_eagerly(self, mirror: ReplayMirror, index: Tensor, rows: Tensor) -> None:
        """One update for each row of `index` [n, B]; `rows` [n_step, n, B, width] is overwritten."""
        width, size = self.layout.width, index.shape[1]
        steps = []
        for k in range(self.config.n_step):
            mirror.gather(mirror.after(index.reshape(-1), k), out=rows[k].view(-1, width))
            parts = self._prepare(rows[k].view(-1, width))
            steps.append([torch.split(part, size) for part in parts])
        for i in range(len(index)):
            batches = [Batch(*(part[i] for part in parts)) for parts in steps]
            self._step(self._look_ahead(batches))

    def _look_ahead(self, batches: list[Batch]) -> Batch:
        if len(batches) == 1:
            return batches[0]
        assert isinstance(self.network, NafShape), "AlgorithmConfig allows n_step with NAF only"
        return multistep(self.network, self.target, batches)

    def _prepare(self, rows: Tensor) -> Batch:
        """Rows [B, width], which are overwritten, as the gradient takes them."""
        layout, nx = self.layout, self.network.nx
        observations = rows[:, layout.observations]
        observations.sub_(self._mean).mul_(self._scale).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        return Batch(
            observations[:, :nx],
            rows[:, layout.action],
            rows[:, layout.reward] * self._reward_scale,
            rows[:, layout.bootstrap] * self.config.gamma,
            observations[:, nx:],
        )

    def _step(self, batch: Batch) -> None:
        self._gradient.compute(*batch)
        if self._ranks is not None:
            self._ranks.sum_(self._gradient.flat)
        self.optimiser.step()
        polyak_update(self.target, self.flat, self.config.polyak_tau)
        self.updates += 1

    def policy_parameters(self) -> Array:
        """The layers of μ, W [out, in] in C order then b [out] of each, and of L, as robots get them."""
        flat = self.flat.to("cpu", torch.float32)
        tensors = [part for layer in self.network.policy_layers(flat) for part in layer]
        if self.config.exploration == "precision":
            assert isinstance(self.network, NafShape)
            tensors += self.network.factor_parameters(flat)
        return torch.cat([tensor.reshape(-1) for tensor in tensors]).numpy().astype("<f4")

    def check_finite(self) -> None:
        """Wait for the device and make sure that the parameters are finite.

        Raises:
            DivergedError: They are not; what to look at is in the text.
        """
        if not bool(torch.isfinite(self.flat).all()):
            raise DivergedError(
                f"the network's parameters are no longer finite after {self.updates} updates; "
                "lower learner.learning_rate or the scale of rewards and look at learner/td_loss, "
                "learner/v_mean and learner/mu_saturation before this point"
            )

    def metrics(self, mirror: ReplayMirror) -> dict[str, float]:
        """Numbers that show how training goes, of one fresh minibatch; waits for the device."""
        return self.measure(self.sample(mirror))

    def sample(self, mirror: ReplayMirror) -> Tensor:
        """A minibatch for `measure`; drawing it changes nothing of what updates draw [batch_size, width]."""
        return mirror.sample(self._metrics_generator, self.config.batch_size, self._demonstrations)

    @torch.no_grad()
    def measure(self, rows: Tensor) -> dict[str, float]:
        """What `metrics` says, of raw rows [batch_size, width], which are overwritten."""
        batch = self._prepare(rows[self._part])
        with torch.enable_grad():
            self._gradient.compute(*batch)
        values: dict[str, Any] = {
            "td_loss": 0.5 * self._gradient.td_error.square().sum(dim=1).mean(),
            "gradient_norm": self._gradient.flat.norm(),
            "reward_scale": self._reward_scale,
            **self.network.measure(self.flat, batch.x, batch.u),
        }
        return {f"learner/{key}": float(value) for key, value in values.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds besides `facts`, by the names it has there; the tensors themselves."""
        return {
            "network": self.flat,
            "target": self.target,
            "adam_first": self.optimiser.first,
            "adam_second": self.optimiser.second,
        }

    def facts(self) -> dict[str, Any]:
        """The numbers that a checkpoint holds besides `tensors` and the generator."""
        return {
            "updates": self.updates,
            "optimiser_steps": self.optimiser.steps,
            "normaliser": self.normaliser.state(),
            "rewards": self.rewards.state(),
        }

    def load(self, facts: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        """Continue from `facts()` and `tensors()`, which must be of the same network."""
        for name, tensor in self.tensors().items():
            tensor.copy_(torch.from_numpy(tensors[name]))
        self.load_facts(facts)

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Take up `facts()`; the tensors have come in another way."""
        self.updates = int(facts["updates"])
        self.optimiser.steps = int(facts["optimiser_steps"])
        self.normaliser.load_state(facts["normaliser"])
        self.rewards.load_state(facts["rewards"])
        self.refresh_statistics()
