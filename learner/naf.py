"""The NAF network and its maths, as pure functions of tensors.

    Q(x, u) = V(x) + A(x, u)                        arXiv:1603.00748, section 4
    A(x, u) = −½ (u − μ(x))ᵀ P(x) (u − μ(x))        P = L Lᵀ, L lower triangular, diagonal > 0

so argmax_u Q is μ(x) and max_u Q is V(x). arXiv:1610.00633 runs it asynchronously (Algorithm 1).

Names here and at the boundaries: x normalised observation, u action, mu policy mean, V value,
A advantage, Q action value, gamma discount, tau Polyak rate.

Differences from the papers, each a key of `fleet/algorithm_config.py`: one trunk with one linear head for
everything, which is faster; several values of which the target takes the smallest; entries of L bounded,
so that P can neither collapse nor explode.

`td_target`, `q_value` and `naf_loss` are the loss in its plain form, for reading (`docs/learning.md`), for
autograd where a network has parts without a gradient in closed form, and for the tests, which compare
them with `learner/gradients.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fleet.algorithm_config import AlgorithmConfig
from fleet.messages import LAYER_NORM_EPSILON, Diagonal


@dataclass(frozen=True)
class NafShape:
    """Sizes of a NAF network, the columns of its head, and where they lie in the flat parameters.

    Attributes:
        nx: Size of the observation.
        nu: Size of the action.
        hidden_sizes: Width of each ReLU layer.
        off_diagonal: L has entries below its diagonal; otherwise P is diagonal.
        values: Number of values V.
        diagonal: How the diagonal of L is made: see `lower_triangular_of`.
        layer_norm: Hidden layers are normalised before their ReLU.
        residual: Hidden layers as wide as their input add it to their output.
        linear_mean: μ = tanh(K x + k) has parameters of its own; the head has no columns for it.
    """

    nx: int
    nu: int
    hidden_sizes: tuple[int, ...]
    off_diagonal: bool = False
    values: int = 2
    diagonal: Diagonal = "bounded"
    layer_norm: bool = False
    residual: bool = False
    linear_mean: bool = False

    @classmethod
    def of(cls, config: AlgorithmConfig, nx: int, nu: int) -> NafShape:
        """The network that a config asks for, between observations of `nx` and actions of `nu` numbers."""
        return cls(
            nx,
            nu,
            tuple(config.hidden_sizes),
            config.off_diagonal,
            config.values,
            config.diagonal,
            config.layer_norm,
            config.residual,
            config.linear_mean,
        )

    @property
    def off_diagonals(self) -> int:
        """Number of entries of L strictly below the diagonal."""
        return self.nu * (self.nu - 1) // 2 if self.off_diagonal else 0

    @property
    def head_means(self) -> int:
        """Columns of the head that give μ."""
        return 0 if self.linear_mean else self.nu

    @property
    def head_size(self) -> int:
        """Columns of the head: V1 … Vk, then μ, diagonal and off-diagonals before their tanh."""
        return self.values + self.head_means + self.nu + self.off_diagonals

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer, head last; after it that of a linear μ."""
        sizes = [self.nx, *self.hidden_sizes, self.head_size]
        return list(itertools.pairwise(sizes)) + ([(self.nx, self.nu)] if self.linear_mean else [])

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole network."""
        log_scale = self.nu if self.diagonal == "scaled" else 0
        return sum((inputs + 1) * outputs for inputs, outputs in self.layer_shapes) + log_scale

    def layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views W [out, in] and b [out] of each layer in a flat parameter vector [parameters]."""
        return linear_layers(flat, self.layer_shapes)

    def log_scale(self, flat: Tensor) -> Tensor:
        """View of the logarithm of each action's factor in the diagonal of L [nu]; [0] unless scaled."""
        return flat[self.parameters - self.nu :] if self.diagonal == "scaled" else flat[:0]

    def initial_parameters(self, generator: torch.Generator | None) -> Tensor:
        """A flat vector of initial parameters [parameters] on the CPU (He for ReLU layers).

        The outputs start at a tenth of the usual scale: μ ≈ 0, far from the flat ends of tanh, L ≈ 1.
        """
        flat = torch.zeros(self.parameters)
        layers = self.layers(flat)
        for W, _ in layers:
            bound = (6.0 / W.shape[1]) ** 0.5
            W.uniform_(-bound, bound, generator=generator)
        for W, _ in layers[len(self.hidden_sizes) :]:
            W.mul_(0.1)
        return flat

    def policy_layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The layers of μ alone: the trunk and the rows of the head that feed μ, or the linear μ."""
        layers = self.layers(flat)
        if self.linear_mean:
            return layers[-1:]
        *hidden, (W, b) = layers
        rows = slice(self.values, self.values + self.nu)
        return [*hidden, (W[rows], b[rows])]

    def factor_parameters(self, flat: Tensor) -> list[Tensor]:
        """What gives a robot L: W and b of the head's rows for it, which follow those of μ, and log_scale."""
        W, b = self.layers(flat)[len(self.hidden_sizes)]
        first = self.values + self.head_means
        return [W[first:], b[first:], self.log_scale(flat)]

    @property
    def policy_layer_sizes(self) -> list[int]:
        """[nx, hidden…, nu]: the sizes a robot needs to unpack the parameters."""
        return [self.nx, *(() if self.linear_mean else self.hidden_sizes), self.nu]

    def measure(self, flat: Tensor, x: Tensor, u: Tensor) -> dict[str, Tensor]:
        """Numbers that show how the network fares, of observations x [B, nx] and actions u [B, nu].

        `mu_saturation` near 1 (tanh at its ends) and `diag_l_median` at a bound are the two ways in which
        NAF fails silently. `action_distance` is the root mean square of u − μ.
        """
        naf = evaluate(self, flat, x)
        return {
            "q_mean": (naf.V[:, 0] + advantage(u, naf.mu, naf.L)).mean(),
            "v_mean": naf.V.mean(),
            "mu_saturation": (naf.mu.abs() > 0.99).float().mean(),
            "action_distance": (u - naf.mu).square().mean().sqrt(),
            "diag_l_median": naf.L.diagonal(dim1=1, dim2=2).median(),
        }

    def lower_indices(self) -> Tensor:
        """Places of the off-diagonals in a flattened [nu, nu] matrix, row by row."""
        rows, columns = torch.tril_indices(self.nu, self.nu, -1)
        index: Tensor = rows * self.nu + columns
        return index


def linear_layers(flat: Tensor, shapes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    """Views W [out, in] and b [out] of layers of `shapes` (inputs, outputs) at the start of `flat`."""
    views, start = [], 0
    for inputs, outputs in shapes:
        middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
        views.append((flat[start:middle].view(outputs, inputs), flat[middle:end]))
        start = end
    return views


def hidden_output(
    layers: Sequence[tuple[Tensor, Tensor]], x: Tensor, *, layer_norm: bool, residual: bool
) -> Tensor:
    """What the hidden layers make of x [B, nx]: the head's input [B, width of the last layer]."""
    h = x
    for W, b in layers:
        z = functional.linear(h, W, b)
        if layer_norm:
            z = functional.layer_norm(z, z.shape[-1:], eps=LAYER_NORM_EPSILON)
        h = torch.relu(z) + h if residual and z.shape == h.shape else torch.relu(z)
    return h


class Naf(NamedTuple):
    """What the network says about B observations.

    Attributes:
        V: Values [B, values].
        mu: Greedy action in (-1, 1) [B, nu].
        L: Lower triangular factor of P [B, nu, nu].
    """

    V: Tensor
    mu: Tensor
    L: Tensor


def lower_triangular(diagonal: Tensor, off_diagonal: Tensor) -> Tensor:
    """Assemble L [B, nu, nu].

    Args:
        diagonal: Positive diagonal [B, nu].
        off_diagonal: Entries below it, row by row [B, nu (nu − 1) / 2], or [B, 0] for none.
    """
    L = torch.diag_embed(diagonal)
    if off_diagonal.shape[-1]:
        rows, columns = torch.tril_indices(diagonal.shape[-1], diagonal.shape[-1], -1, device=diagonal.device)
        L[:, rows, columns] = off_diagonal
    return L


def lower_triangular_of(d: Tensor, o: Tensor, diagonal: Diagonal, log_scale: Tensor) -> Tensor:
    """L [B, nu, nu] from the head's numbers.

    bounded: L_jj = exp(tanh d_j), in (1/e, e), and tanh of the entries below the diagonal: P can neither
    collapse nor explode. scaled: both times exp(log_scale_j), the same for all observations, row by row:
    only how P changes with the observation is bounded. exp: L_jj = exp(d_j), the entries below as they
    are (arXiv:1603.00748, section 4).

    Args:
        d: Of the diagonal [B, nu].
        o: Of the entries below it, row by row [B, nu (nu − 1) / 2], or [B, 0] for none.
        diagonal: The kind.
        log_scale: [nu] if scaled, else [0].
    """
    if diagonal == "exp":
        return lower_triangular(torch.exp(d), o)
    if diagonal == "bounded":
        return lower_triangular(torch.exp(torch.tanh(d)), torch.tanh(o))
    return lower_triangular(torch.exp(torch.tanh(d)), torch.tanh(o)) * torch.exp(log_scale)[:, None]


def advantage(u: Tensor, mu: Tensor, L: Tensor) -> Tensor:
    """A(x, u) = −½ ‖Lᵀ (u − μ)‖² ≤ 0 [B]; P is never formed."""
    w = torch.einsum("bij,bi->bj", L, u - mu)
    return -0.5 * w.square().sum(dim=1)


def q_value(V: Tensor, u: Tensor, mu: Tensor, L: Tensor) -> Tensor:
    """Q(x, u) = V(x) + A(x, u), for each of the values [B, values]."""
    return V + advantage(u, mu, L)[:, None]


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """TD target y = r + γ V′(x′), or r where the task ended [B] (arXiv:1603.00748, Algorithm 1).

    A truncated episode is not an ended task: its last transition bootstraps like any other.

    Args:
        reward: Rewards, scaled [B].
        terminated: 1 (or True) where the task ended, else 0 [B].
        next_value: V′(x′), the smallest of the target network's values [B].
        gamma: Discount in [0, 1].
    """
    return reward + gamma * next_value * (1.0 - terminated.to(reward.dtype))


def naf_loss(naf: Naf, u: Tensor, y: Tensor) -> Tensor:
    """Half the squared TD error, mean over the batch and summed over the values: a scalar.

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


def evaluate(shape: NafShape, flat: Tensor, x: Tensor) -> Naf:
    """V, μ and L of normalised observations x [B, nx] under flat parameters [parameters]."""
    layers = shape.layers(flat)
    hidden, (W, b) = layers[: len(shape.hidden_sizes)], layers[len(shape.hidden_sizes)]
    h = hidden_output(hidden, x, layer_norm=shape.layer_norm, residual=shape.residual)
    head = functional.linear(h, W, b)
    sizes = [shape.values, shape.head_means, shape.nu, shape.off_diagonals]
    V, m, d, o = torch.split_with_sizes(head, sizes, dim=1)
    if shape.linear_mean:
        m = functional.linear(x, *layers[-1])
    return Naf(V, torch.tanh(m), lower_triangular_of(d, o, shape.diagonal, shape.log_scale(flat)))
