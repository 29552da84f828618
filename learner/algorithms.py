"""The algorithms that `algorithm:` can name, behind one interface: a network and its gradient."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fleet.algorithm_config import AlgorithmConfig
from learner.behaviour import Behaviour
from learner.ddpg import DdpgGradient, DdpgShape
from learner.gradients import AutogradGradient, NafGradient
from learner.naf import NafShape

Network = NafShape | DdpgShape
"""Describes flat parameters: initial_parameters, policy_layers, policy_layer_sizes, measure."""


class Gradient(Protocol):
    """Evaluates loss gradients for batches of one size.

    gradient.bound(low, high)                          # of the TD targets
    gradient.compute(x, u, reward, discount, next_x)   # fills gradient.flat and gradient.td_error

    Attributes:
        flat: ∂loss/∂θ [parameters].
        td_error: Q − y of each row and value [rows, values].
    """

    flat: Tensor
    td_error: Tensor

    def bound(self, low: float, high: float) -> None:
        """Clip the TD targets of all later calls to [low, high]."""

    def compute(self, x: Tensor, u: Tensor, reward: Tensor, discount: Tensor, next_x: Tensor) -> None:
        """Fill `flat` with ∂loss/∂θ and `td_error` with Q − y.

        Args:
            x: Normalised observations [rows, nx].
            u: Executed actions [rows, nu].
            reward: Scaled rewards [rows].
            discount: γ, or 0 where the task ended [rows].
            next_x: Normalised next observations [rows, nx].
        """


def make_network(config: AlgorithmConfig, nx: int, nu: int) -> Network:
    """The network that a config asks for, between observations of `nx` and actions of `nu` numbers."""
    return (DdpgShape if config.algorithm == "ddpg" else NafShape).of(config, nx, nu)


def make_gradient(
    network: Network,
    rows: int,
    online: Tensor,
    target: Tensor,
    batch_size: int,
    behaviour: Behaviour | None = None,
) -> Gradient:
    """What computes a network's gradient; the fastest there is.

    Args:
        network: The network.
        rows: Of each call.
        online: Flat parameters of the network, read in place.
        target: Those of the target network.
        batch_size: The loss is the sum over the rows divided by this: more than `rows` where several
            processes share a batch.
        behaviour: What keeps μ near the data; none: nothing does.
    """
    if isinstance(network, DdpgShape):
        return DdpgGradient(network, rows, online, target, batch_size)
    plain = not (network.layer_norm or network.residual or network.linear_mean)
    return (NafGradient if plain else AutogradGradient)(network, rows, online, target, batch_size, behaviour)
