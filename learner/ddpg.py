"""DDPG, the papers' other baseline, behind the interface of a NAF network (arXiv:1509.02971).

    y = r + γ min_k Q_k′(x′, μ′(x′))     critics minimise Σ_k ½ (Q_k(x, u) − y)², the actor −Q_1(x, μ(x))

Actor and critics lie one after the other in one flat parameter vector, so that Adam, Polyak averaging,
checkpoints and publication are those of NAF. With `values: 2` the target takes the smaller of two critics
(arXiv:1802.09477, without its noise and delay); `values: 1` is DDPG as published.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fleet.algorithm_config import AlgorithmConfig
from learner.naf import linear_layers
from learner.target_bounds import TargetBounds

Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DdpgShape:
    """Sizes of an actor and its critics, and where they lie in the flat parameters.

    Attributes:
        nx: Size of the observation.
        nu: Size of the action.
        hidden_sizes: Width of each ReLU layer, of the actor and of each critic.
        values: Number of critics.
    """

    nx: int
    nu: int
    hidden_sizes: tuple[int, ...]
    values: int = 1

    @classmethod
    def of(cls, config: AlgorithmConfig, nx: int, nu: int) -> DdpgShape:
        """What a config asks for, between observations of `nx` and actions of `nu` numbers."""
        return cls(nx, nu, tuple(config.hidden_sizes), config.values)

    @property
    def policy_layer_sizes(self) -> list[int]:
        """[nx, hidden…, nu]: the actor, which is all a robot needs."""
        return [self.nx, *self.hidden_sizes, self.nu]

    @property
    def critic_layer_sizes(self) -> list[int]:
        """[nx + nu, hidden…, 1]."""
        return [self.nx + self.nu, *self.hidden_sizes, 1]

    @property
    def _actor_parameters(self) -> int:
        return _count(self.policy_layer_sizes)

    @property
    def parameters(self) -> int:
        """Number of parameters of actor and critics."""
        return self._actor_parameters + self.values * _count(self.critic_layer_sizes)

    def policy_layers(self, flat: Tensor) -> Layers:
        """Views W [out, in] and b [out] of the actor's layers."""
        return linear_layers(flat, list(itertools.pairwise(self.policy_layer_sizes)))

    def critics(self, flat: Tensor) -> list[Layers]:
        """Views of each critic's layers."""
        sizes = self.critic_layer_sizes
        parts = torch.split(flat[self._actor_parameters :], _count(sizes))
        return [linear_layers(part, list(itertools.pairwise(sizes))) for part in parts]

    def initial_parameters(self, generator: torch.Generator | None) -> Tensor:
        """A flat vector of initial parameters [parameters] on the CPU; outputs start near zero."""
        flat = torch.zeros(self.parameters)
        for layers in [self.policy_layers(flat), *self.critics(flat)]:
            for W, _ in layers:
                bound = (6.0 / W.shape[1]) ** 0.5
                W.uniform_(-bound, bound, generator=generator)
            layers[-1][0].mul_(0.1)
        return flat

    def mean_action(self, flat: Tensor, x: Tensor) -> Tensor:
        """μ(x) in (-1, 1) [B, nu] of normalised observations x [B, nx]."""
        return torch.tanh(_network(self.policy_layers(flat), x))

    def action_values(self, flat: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Q of each critic [B, values] for normalised observations x [B, nx] and actions u [B, nu]."""
        xu = torch.cat([x, u], dim=1)
        return torch.cat([_network(layers, xu) for layers in self.critics(flat)], dim=1)

    def measure(self, flat: Tensor, x: Tensor, u: Tensor) -> dict[str, Tensor]:
        """Numbers that show how the networks fare, of observations x [B, nx] and actions u [B, nu]."""
        mu = self.mean_action(flat, x)
        return {
            "q_mean": self.action_values(flat, x, u)[:, 0].mean(),
            "v_mean": self.action_values(flat, x, mu).mean(),
            "mu_saturation": (mu.abs() > 0.99).float().mean(),
        }


class DdpgGradient(TargetBounds):
    """The gradients of the actor's and the critics' losses in one flat vector; see `Gradient`."""

    def __init__(self, shape: DdpgShape, rows: int, online: Tensor, target: Tensor, batch_size: int) -> None:
        """See `learner.algorithms.make_gradient`."""
        super().__init__(online)
        self.shape, self._online, self._target, self._share = shape, online, target, rows / batch_size
        self.flat = torch.zeros_like(online)
        self.td_error = online.new_zeros(rows, shape.values)

    def compute(self, x: Tensor, u: Tensor, reward: Tensor, discount: Tensor, next_x: Tensor) -> None:
        """See `Gradient.compute`."""
        shape = self.shape
        with torch.no_grad():
            next_u = shape.mean_action(self._target, next_x)
            next_value = shape.action_values(self._target, next_x, next_u).amin(dim=1)
            y = torch.addcmul(reward, discount, next_value).clamp_(self.low, self.high)
        fixed = self._online.detach()
        flat = fixed.clone().requires_grad_()
        td_error = shape.action_values(flat, x, u) - y[:, None]
        critic_loss = 0.5 * td_error.square().sum(dim=1).mean()
        actor_loss = -shape.action_values(fixed, x, shape.mean_action(flat, x))[:, 0].mean()
        self.flat.copy_(torch.autograd.grad(self._share * (critic_loss + actor_loss), flat)[0])
        self.td_error.copy_(td_error.detach())


def _network(layers: Layers, x: Tensor) -> Tensor:
    *hidden, (W, b) = layers
    for weight, bias in hidden:
        x = torch.relu(functional.linear(x, weight, bias))
    return functional.linear(x, W, b)


def _count(sizes: list[int]) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
