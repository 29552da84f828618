"""NAF's update as it is usually written in PyTorch, and the same as one compiled function: to compare with.

The network, the loss and the target are those of `learner/naf.py`; a minibatch is drawn from a tensor of rows
(`learner/packed_rows.py`) on the network's device.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from learner.naf import Naf, NafShape, evaluate, lower_triangular_of, naf_loss, td_target
from learner.packed_rows import RowLayout

RATE, GAMMA, TAU = 5e-4, 0.98, 0.005


class Batch:
    """A minibatch drawn from rows."""

    def __init__(self, rows: Tensor, layout: RowLayout) -> None:
        nx = layout.nx
        self.x, self.next_x = rows[:, :nx], rows[:, nx : 2 * nx]
        self.u, self.reward = rows[:, layout.action], rows[:, layout.reward]
        self.terminated = 1.0 - rows[:, layout.bootstrap]


class PlainNaf(nn.Module):
    """Layers, heads and all, as modules."""

    def __init__(self, shape: NafShape) -> None:
        super().__init__()
        sizes = [shape.nx, *shape.hidden_sizes]
        layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.value = nn.Linear(sizes[-1], shape.values)
        self.mu = nn.Linear(sizes[-1], shape.nu)
        self.d = nn.Linear(sizes[-1], shape.nu)
        self.o = nn.Linear(sizes[-1], shape.off_diagonals)
        self.shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """V, μ and L."""
        h = self.trunk(x)
        d, o = self.d(h), self.o(h)
        factor = lower_triangular_of(d, o, self.shape.diagonal, d.new_zeros(0))
        return self.value(h), torch.tanh(self.mu(h)), factor


def plain_update(shape: NafShape, rows: Tensor, batch_size: int) -> Callable[[], None]:
    """Modules, autograd, torch.optim.Adam, one operation after the other."""
    layout = RowLayout(shape.nx, shape.nu)
    online = PlainNaf(shape).to(rows.device)
    target = copy.deepcopy(online)
    optimiser = torch.optim.Adam(online.parameters(), RATE)
    ours, theirs = list(online.parameters()), list(target.parameters())

    def update() -> None:
        batch = Batch(rows[torch.randint(0, len(rows), (batch_size,), device=rows.device)], layout)
        with torch.no_grad():
            y = td_target(batch.reward, batch.terminated, target(batch.next_x)[0].amin(dim=1), GAMMA)
        naf = Naf(*online(batch.x))
        loss = naf_loss(naf, batch.u, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(theirs, ours, TAU)

    return update


def compiled_update(shape: NafShape, rows: Tensor, batch_size: int) -> Callable[[], None]:
    """torch.compile of loss, gradient, Adam and target step on flat parameters; drawing is outside."""
    layout = RowLayout(shape.nx, shape.nu)
    flat = shape.initial_parameters(None).to(rows.device)
    target, first, second = flat.clone(), torch.zeros_like(flat), torch.zeros_like(flat)
    steps = torch.zeros((), device=rows.device)

    def step(values: Tensor) -> None:
        batch = Batch(values, layout)
        y = td_target(
            batch.reward, batch.terminated, evaluate(shape, target, batch.next_x).V.amin(dim=1), GAMMA
        )
        gradient = torch.func.grad(lambda p: naf_loss(evaluate(shape, p, batch.x), batch.u, y))(flat)
        steps.add_(1)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient * gradient, 0.001)
        root = (second / (1 - 0.999**steps)).sqrt() + 1e-8
        flat.sub_(RATE / (1 - 0.9**steps) * first / root)
        target.lerp_(flat, TAU)

    compiled = torch.compile(step, dynamic=False)

    @torch.no_grad()
    def update() -> None:
        compiled(rows[torch.randint(0, len(rows), (batch_size,), device=rows.device)])

    return update
