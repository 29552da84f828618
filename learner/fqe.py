"""Fitted-Q evaluation: what a policy would earn, from logs of others, and how sure that is.

    Q(x, u) ← r + γ Q′(x′, μ(x′))          r alone where the task ended; a time limit bootstraps

(Le, Voloshin and Yue 2019, arXiv:1903.08738), in its incremental form: minibatches, Adam and a
Polyak-averaged target instead of one regression per iteration. Every member of an ensemble fits the logs with
its own weights of episodes; their spread is a bootstrap interval (Hao et al. 2021, arXiv:2102.03607):

    value of member m = Σ_e w_me Q_m(x_e0, μ(x_e0)) / Σ_e w_me          x_e0: first observation of episode e

Actions in logs are what robots executed after their guard, so μ above must be what the guard would let
through, or else Q is asked about actions that nobody ever executed. That is the caller's to find out: here a
policy is its actions at the rows' observations, and rows are a tensor in the layout of
`learner/packed_rows.py`, mapped from a file or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fleet.messages import OBSERVATION_CLIP
from learner.adam import Adam
from learner.episode_bootstrap import episode_weights, interval, weighted_mean
from learner.member_networks import MemberNetworks
from learner.packed_rows import RowLayout

_CHUNK = 65_536
_SETTLINGS = 6
_LEAST_STD = 1e-3


@dataclass(frozen=True)
class FqeSettings:
    """How to fit; the defaults were chosen by `benchmarks/offline_evaluation.py`.

    Attributes:
        members: Bootstrap members beside the one with all episodes.
        hidden_sizes: Width of each ReLU layer of each Q.
        steps: Gradient steps.
        batch_size: Rows of each step, the same for all members.
        learning_rate: Of Adam, at first; it falls to zero along a cosine.
    """

    members: int = 20
    hidden_sizes: tuple[int, ...] = (64, 64)
    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 5e-3

    def polyak_tau(self, gamma: float) -> float:
        """Share of the way to the network that the target goes per step.

        A value settles within about 1 / (tau (1 − γ)) steps: there is time for six of these, as far as a
        target that follows at least ten steps behind allows. Too slow a target would give every policy the
        value of the average one, with an interval that is much too narrow.
        """
        return min(max(0.01, _SETTLINGS / (self.steps * (1.0 - gamma))), 0.1)

    def settlings(self, gamma: float) -> float:
        """How many times over a value can settle in all steps."""
        return self.polyak_tau(gamma) * self.steps * (1.0 - gamma)


@dataclass(frozen=True, eq=False)
class FqeEstimate:
    """What came out.

    Attributes:
        values: Discounted return from the logs' first observations, of each member [1 + members].
        weights: How often each member has drawn each episode [1 + members, E].
        low: Least that rewards as in the logs can sum up to.
        high: Most that they can.
    """

    values: Tensor
    weights: Tensor
    low: float
    high: float

    @property
    def value(self) -> float:
        """The estimate: of the member that has seen every episode once."""
        return float(self.values[0])

    @property
    def interval(self) -> tuple[float, float]:
        """90 % bootstrap interval: the members' spread around the estimate.

        Not around their own middle: each has seen fewer episodes, which moves all of them the same way.
        """
        return interval(self.values)


@dataclass(frozen=True, eq=False)
class _Scales:
    """x̂ = (x − mean) scale and Q = centre + unit Q̂, so that Q̂ is of order 1 and begins near 0."""

    mean: Tensor
    scale: Tensor
    centre: float
    unit: float
    low: float
    high: float

    @classmethod
    def of(cls, rows: Tensor, layout: RowLayout, gamma: float) -> _Scales:
        """Those of some rows [N, width], which are read once.

        The centre is the constant that solves Q = r + γ Q best: what no state and no action tells.
        """
        n, nx = len(rows), layout.nx
        sums = torch.zeros(4, max(nx, 1), dtype=torch.float64)
        low = high = bootstraps = 0.0
        for chunk in torch.split(rows, _CHUNK):
            x, r = chunk[:, :nx].double(), chunk[:, layout.reward].double()
            sums[0] += x.sum(0)
            sums[1] += x.square().sum(0)
            sums[2] += r.sum()
            sums[3] += r.square().sum()
            low, high = min(low, float(r.min())), max(high, float(r.max()))
            bootstraps += float(chunk[:, layout.bootstrap].sum())
        mean, reward = sums[0] / n, float(sums[2, 0]) / n
        std = (sums[1] / n - mean.square()).clamp_(min=0.0).sqrt_()
        spread = math.sqrt(max(float(sums[3, 0]) / n - reward**2, 0.0))
        return cls(
            mean.float(),
            (1.0 / std.clamp_(min=_LEAST_STD)).float(),
            reward / (1.0 - gamma * bootstraps / n),
            max(spread / (1.0 - gamma), 1e-6 * max(high, -low), 1e-12),
            low / (1.0 - gamma),
            high / (1.0 - gamma),
        )

    def inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        """What a Q-network sees of observations [B, nx] and actions [B, nu]."""
        x = ((observation - self.mean) * self.scale).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        return torch.cat([x, action], dim=1)


def evaluate_by_fitted_q(
    rows: Tensor,
    starts: Tensor,
    layout: RowLayout,
    next_actions: Tensor,
    first_actions: Tensor,
    gamma: float,
    settings: FqeSettings,
    generator: torch.Generator,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FqeEstimate:
    """Estimate what a policy would earn from where the logged episodes began.

    Args:
        rows: Transitions [N, width], episode after episode; only minibatches of them are read.
        starts: Where each episode begins [E].
        layout: Columns of a row.
        next_actions: What the policy would execute at each row's next observation [N, nu].
        first_actions: The same at the first observation of each episode [E, nu].
        gamma: Discount, below 1, as time limits bootstrap for ever.
        settings: How to fit.
        generator: Draws weights, networks and minibatches: the same generator, the same result. Policies that
            are given equal generators are compared pair by pair, member m of the one with m of the other.
        on_progress: Called now and then with the steps done and their total.

    Raises:
        ValueError: gamma is not in [0, 1).
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma must be at least 0 and below 1, got {gamma}")
    scales = _Scales.of(rows, layout, gamma)
    weights = episode_weights(len(starts), settings.members, generator)
    networks = MemberNetworks(1 + settings.members, layout.nx + layout.nu, settings.hidden_sizes)
    flat = networks.initial_parameters(generator)
    target, gradient = flat.clone(), torch.zeros_like(flat)
    adam = Adam(flat, gradient, settings.learning_rate)
    low, high = ((bound - scales.centre) / scales.unit for bound in (scales.low, scales.high))
    tau = settings.polyak_tau(gamma)
    for step in range(settings.steps):
        index = torch.randint(len(rows), (settings.batch_size,), generator=generator)
        batch = rows[index]
        x, next_x = batch[:, : layout.nx], batch[:, layout.nx : 2 * layout.nx]
        next_q, _ = networks.evaluate(target, scales.inputs(next_x, next_actions[index]))
        discount = gamma * batch[:, layout.bootstrap]
        y = (batch[:, layout.reward] + (discount - 1.0) * scales.centre) / scales.unit + discount * next_q
        q, activations = networks.evaluate(flat, scales.inputs(x, batch[:, layout.action]))
        w = weights[:, torch.searchsorted(starts, index, right=True) - 1]
        dq = w * (q - y.clamp_(low, high)) / settings.batch_size
        networks.backward(flat, activations, dq, gradient)
        adam.learning_rate = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
        adam.step()
        target.lerp_(flat, tau)
        if step % 50 == 49 or step + 1 == settings.steps:
            on_progress(step + 1, settings.steps)

    first = rows[starts, : layout.nx]
    q, _ = networks.evaluate(target, scales.inputs(first, first_actions))
    values = weighted_mean(weights, (scales.centre + scales.unit * q).clamp_(scales.low, scales.high))
    return FqeEstimate(values, weights, scales.low, scales.high)
