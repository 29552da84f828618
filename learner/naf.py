"""The NAF network and its maths, as pure functions of tensors.

    Q(x, u) = V(x) + A(x, u)                        arXiv:1603.00748, section 4
    A(x, u) = −½ (u − μ(x))ᵀ P(x) (u − μ(x))        P = L Lᵀ, L lower triangular, diagonal > 0

so argmax_u Q is μ(x) and max_u Q is V(x). arXiv:1610.00633 runs it asynchronously (Algorithm 1).

Names here and at the boundaries: x normalised observation, u action, mu policy mean, V value,
A advantage, Q action value, gamma discount, tau Polyak rate.

Differences from the papers: one trunk with one linear head for everything, which is faster; two values
of which the target takes the smaller; every entry of L bounded, so that P can neither collapse nor
explode. Bounds have a price: rewards must be scaled until Q − V fits them (`learner.reward_scale`).

Training takes its gradient from `learner/gradients.py`, without autograd. `td_target`, `q_value` and
`naf_loss` are the same loss in its plain form, for reading (`docs/learning.md`) and for the tests, which
compare the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

VALUES = 2


@dataclass(frozen=True)
class NafShape:
    """Sizes of a NAF network and the columns of its head.

    Attributes:
        nx: Size of the observation.
        nu: Size of the action.
        hidden_sizes: Width of each ReLU layer.
        off_diagonal: L has entries below its diagonal; otherwise P is diagonal.
    """

    nx: int
    nu: int
    hidden_sizes: tuple[int, ...]
    off_diagonal: bool

    @property
    def off_diagonals(self) -> int:
        """Number of entries of L strictly below the diagonal."""
        return self.nu * (self.nu - 1) // 2 if self.off_diagonal else 0

    @property
    def head_size(self) -> int:
        """Columns of the head: V1, V2, then μ, diagonal and off-diagonals before their tanh."""
        return VALUES + 2 * self.nu + self.off_diagonals

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer, head last."""
        sizes = [self.nx, *self.hidden_sizes, self.head_size]
        return list(itertools.pairwise(sizes))

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole network."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layer_shapes)

    def layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views W [out, in] and b [out] of each layer in a flat parameter vector [parameters]."""
        views, start = [], 0
        for inputs, outputs in self.layer_shapes:
            middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
            views.append((flat[start:middle].view(outputs, inputs), flat[middle:end]))
            start = end
        return views

    def lower_indices(self) -> Tensor:
        """Places of the off-diagonals in a flattened [nu, nu] matrix, row by row."""
        rows, columns = torch.tril_indices(self.nu, self.nu, -1)
        index: Tensor = rows * self.nu + columns
        return index


class Naf(NamedTuple):
    """What the network says about B observations.

    Attributes:
        V: Two values [B, 2].
        mu: Greedy action in (-1, 1) [B, nu].
        L: Lower triangular factor of P [B, nu, nu].
    """

    V: Tensor
    mu: Tensor
    L: Tensor


def positive_diagonal(d: Tensor) -> Tensor:
    """Diagonal of L from the head: exp(tanh d), in (1/e, e) [B, nu]."""
    return torch.exp(torch.tanh(d))


def lower_triangular(diagonal: Tensor, off_diagonal: Tensor) -> Tensor:
    """Assemble L [B, nu, nu].

    Args:
        diagonal: Positive diagonal [B, nu].
        off_diagonal: Entries below it, row by row [B, nu (nu − 1) / 2], or [B, 0] for none.
    """
    L = torch.diag_embed(diagonal)
    if off_diagonal.shape[-1]:
        rows, columns = torch.tril_indices(diagonal.shape[-1], diagonal.shape[-1], -1)
        L[:, rows, columns] = off_diagonal
    return L


def split_head(head: Tensor, shape: NafShape) -> Naf:
    """Turn the head's numbers [B, head_size] into V, μ and L."""
    V, m, d, o = torch.split_with_sizes(head, [VALUES, shape.nu, shape.nu, shape.off_diagonals], dim=1)
    return Naf(V, torch.tanh(m), lower_triangular(positive_diagonal(d), torch.tanh(o)))


def advantage(u: Tensor, mu: Tensor, L: Tensor) -> Tensor:
    """A(x, u) = −½ ‖Lᵀ (u − μ)‖² ≤ 0 [B]; P is never formed."""
    w = torch.einsum("bij,bi->bj", L, u - mu)
    return -0.5 * w.square().sum(dim=1)


def q_value(V: Tensor, u: Tensor, mu: Tensor, L: Tensor) -> Tensor:
    """Q(x, u) = V(x) + A(x, u), for each of the values [B, 2]."""
    return V + advantage(u, mu, L)[:, None]


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """TD target y = r + γ V′(x′), or r where the task ended [B] (arXiv:1603.00748, Algorithm 1).

    A truncated episode is not an ended task: its last transition bootstraps like any other.

    Args:
        reward: Rewards, scaled [B].
        terminated: 1 (or True) where the task ended, else 0 [B].
        next_value: V′(x′), the smaller of the target network's two values [B].
        gamma: Discount in [0, 1].
    """
    return reward + gamma * next_value * (1.0 - terminated.to(reward.dtype))


def naf_loss(naf: Naf, u: Tensor, y: Tensor) -> Tensor:
    """Half the squared TD error, mean over the batch and summed over the two values: a scalar.

    Args:
        naf: The network's output for the observations.
        u: Actions that were executed [B, nu].
        y: TD targets, without gradient [B].
    """
    td_error = q_value(naf.V, u, naf.mu, naf.L) - y[:, None]
    return 0.5 * td_error.square().sum(dim=1).mean()


@torch.no_grad()
def polyak_update(target: Tensor, online: Tensor, tau: float) -> None:
    """θ′ ← τ θ + (1 − τ) θ′, in place on the flat parameters."""
    target.lerp_(online, tau)


class NafNetwork(nn.Module):
    """V, μ and L of an observation; all parameters lie in one flat vector `flat`.

    The flat vector makes Adam, Polyak averaging, checkpoints and publication one operation each.
    """

    def __init__(self, shape: NafShape, generator: torch.Generator | None = None) -> None:
        """Draw the initial parameters (He for ReLU layers, a head near zero)."""
        super().__init__()
        self.shape = shape
        self.flat = nn.Parameter(initial_parameters(shape, generator))

    def forward(self, x: Tensor) -> Naf:
        """Evaluate normalised observations x [B, nx]."""
        *hidden, (W, b) = self.shape.layers(self.flat)
        for weight, bias in hidden:
            x = torch.relu(functional.linear(x, weight, bias))
        return split_head(functional.linear(x, W, b), self.shape)


def initial_parameters(shape: NafShape, generator: torch.Generator | None) -> Tensor:
    """A flat vector of initial parameters [parameters] on the CPU.

    The head starts at a tenth of the usual scale: μ ≈ 0, far from the flat ends of tanh, L ≈ 1.
    """
    flat = torch.zeros(shape.parameters)
    layers = shape.layers(flat)
    for W, _ in layers:
        bound = (6.0 / W.shape[1]) ** 0.5
        W.uniform_(-bound, bound, generator=generator)
    layers[-1][0].mul_(0.1)
    return flat


def policy_layers(shape: NafShape, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The layers of μ alone: the trunk, then the rows of the head that feed μ."""
    *hidden, (W, b) = shape.layers(flat)
    yield from hidden
    yield W[VALUES : VALUES + shape.nu], b[VALUES : VALUES + shape.nu]


def policy_layer_sizes(shape: NafShape) -> Sequence[int]:
    """[nx, hidden…, nu]: the sizes a robot needs to unpack the parameters."""
    return [shape.nx, *shape.hidden_sizes, shape.nu]
