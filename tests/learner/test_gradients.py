"""The gradients that training uses are those that autograd finds on the plain loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learner.algorithms import make_gradient
from learner.gradients import AutogradGradient, NafGradient
from learner.naf import NafShape, evaluate, naf_loss, td_target

GAMMA = 0.9

NETWORKS: list[dict[str, Any]] = [
    {},
    {"hidden_sizes": (7,), "values": 1},
    {"hidden_sizes": (8, 8, 8), "values": 3},
    *({"diagonal": kind, "off_diagonal": off} for kind in ("bounded", "scaled", "exp") for off in (0, 1)),
    {"layer_norm": True},
    {"residual": True, "hidden_sizes": (8, 8)},
    {"linear_mean": True, "diagonal": "scaled"},
]


def make_batch(generator: torch.Generator, rows: int = 32) -> tuple[torch.Tensor, ...]:
    x, next_x = (torch.randn(rows, 5, generator=generator) for _ in range(2))
    u = 2 * torch.rand(rows, 3, generator=generator) - 1
    reward, terminated = torch.randn(rows, generator=generator), torch.rand(rows, generator=generator) < 0.3
    return x, u, reward, terminated, next_x


@pytest.mark.parametrize("bounds", [None, (-0.5, 0.25)])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_equals_autograd(network: dict[str, Any], bounds: tuple[float, float] | None) -> None:
    shape = NafShape(nx=5, nu=3, **{"hidden_sizes": (16, 12), **network})
    generator = torch.Generator().manual_seed(0)
    online, target = (shape.initial_parameters(generator) for _ in range(2))
    online += 0.2 * torch.randn(shape.parameters, generator=generator)
    x, u, reward, terminated, next_x = make_batch(generator)

    gradient = make_gradient(shape, 32, online, target, 32)
    closed = not {"layer_norm", "residual", "linear_mean"} & network.keys()
    assert type(gradient) is (NafGradient if closed else AutogradGradient)
    if bounds:
        gradient.bound(*bounds)
    gradient.compute(x, u, reward, GAMMA * (~terminated).float(), next_x)

    with torch.no_grad():
        y = td_target(reward, terminated, evaluate(shape, target, next_x).V.amin(dim=1), GAMMA)
        if bounds:
            assert (y < bounds[0]).any() and (y > bounds[1]).any()
            y = y.clamp(*bounds)
    loss = naf_loss(evaluate(shape, online.requires_grad_(), x), u, y)
    loss.backward()
    assert online.grad is not None
    assert online.grad.abs().max() > 0.1
    assert (gradient.flat - online.grad).norm() < 1e-5 * online.grad.norm()
    assert 0.5 * gradient.td_error.square().sum(1).mean().item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("network", [{}, {"layer_norm": True}], ids=["closed form", "autograd"])
def test_parts_of_a_batch_add_up_to_the_gradient_of_the_whole(network: dict[str, Any]) -> None:
    shape = NafShape(nx=5, nu=3, hidden_sizes=(16, 12), **network)
    generator = torch.Generator().manual_seed(1)
    flat, target = (shape.initial_parameters(generator) for _ in range(2))
    x, u, reward, terminated, next_x = make_batch(generator)
    columns = (x, u, reward, (~terminated).float(), next_x)
    whole = make_gradient(shape, 32, flat, target, 32)
    whole.compute(*columns)
    part = make_gradient(shape, 8, flat, target, 32)
    total = torch.zeros_like(flat)
    for quarter in zip(*(column.split(8) for column in columns), strict=True):
        part.compute(*quarter)
        total += part.flat
    torch.testing.assert_close(total, whole.flat, rtol=1e-4, atol=1e-6)


def test_sees_parameters_that_change_in_place() -> None:
    shape = NafShape(nx=2, nu=1, hidden_sizes=(4,), off_diagonal=False)
    flat = shape.initial_parameters(torch.Generator().manual_seed(0))
    gradient = NafGradient(shape, 1, flat, flat.clone(), 1)
    arguments = (torch.ones(1, 2), torch.zeros(1, 1), torch.zeros(1), torch.zeros(1), torch.ones(1, 2))
    gradient.compute(*arguments)
    before = gradient.td_error.clone()
    flat[-1 - (shape.head_size - 1)] += 1.0  # the bias of V1
    gradient.compute(*arguments)
    assert (gradient.td_error - before).tolist() == [[pytest.approx(1.0), pytest.approx(0.0)]]
