"""Many small networks of one shape as one: each operation is one batched matrix product for all of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class MemberNetworks:
    """Sizes of M multilayer perceptrons with ReLU and one output, and where they lie in flat parameters.

        networks = MemberNetworks(members=21, inputs=27, hidden_sizes=(64, 64))
        flat = networks.initial_parameters(generator)
        y, activations = networks.evaluate(flat, x)         # [B, 27] to [21, B]
        networks.backward(flat, activations, dy, gradient)  # ∂loss/∂y to ∂loss/∂flat

    Attributes:
        members: M.
        inputs: Size of the input, which all members share.
        hidden_sizes: Width of each ReLU layer.
    """

    members: int
    inputs: int
    hidden_sizes: tuple[int, ...]

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return list(itertools.pairwise((self.inputs, *self.hidden_sizes, 1)))

    @property
    def parameters(self) -> int:
        """Number of parameters of all members."""
        return self.members * sum((n + 1) * m for n, m in self._shapes)

    def layers(self, flat: Tensor) -> Layers:
        """Views W [M, in, out] and b [M, 1, out] of each layer in a flat vector [parameters]."""
        views, start = [], 0
        for n, m in self._shapes:
            middle, end = start + self.members * n * m, start + self.members * (n + 1) * m
            views.append((flat[start:middle].view(-1, n, m), flat[middle:end].view(-1, 1, m)))
            start = end
        return views

    def initial_parameters(self, generator: torch.Generator) -> Tensor:
        """Parameters of their own for each member [parameters] (He); outputs begin near zero."""
        flat = torch.zeros(self.parameters)
        layers = self.layers(flat)
        for W, _ in layers:
            bound = (6.0 / W.shape[1]) ** 0.5
            W.uniform_(-bound, bound, generator=generator)
        layers[-1][0].mul_(0.1)
        return flat

    def evaluate(self, flat: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Outputs [M, B] for inputs x [B, inputs], and what `backward` needs of the way there."""
        *hidden, (W, b) = self.layers(flat)
        h = x.expand(self.members, *x.shape)
        activations = [h]
        for weight, bias in hidden:
            h = torch.baddbmm(bias, h, weight).relu_()
            activations.append(h)
        return torch.baddbmm(b, h, W).squeeze(2), activations

    def backward(self, flat: Tensor, activations: list[Tensor], dy: Tensor, gradient: Tensor) -> None:
        """Write the gradient by all parameters into `gradient` [parameters], from that by the outputs.

        Args:
            flat: The parameters.
            activations: What `evaluate` gave.
            dy: ∂loss/∂y [M, B].
            gradient: Where to; as flat as the parameters.
        """
        dz = dy.unsqueeze(2)
        places = zip(self.layers(flat), self.layers(gradient), activations, strict=True)
        for (W, _), (dW, db), h in reversed(list(places)):
            torch.bmm(h.transpose(1, 2), dz, out=dW)
            torch.sum(dz, dim=1, keepdim=True, out=db)
            if h is not activations[0]:
                dz = torch.bmm(dz, W.transpose(1, 2)).mul_(h > 0)
