"""The closed-form gradient is the gradient that autograd finds."""

from __future__ import annotations

import pytest
import torch

from learner.gradients import NafGradient
from learner.naf import NafNetwork, NafShape, naf_loss, td_target

GAMMA = 0.9


@pytest.mark.parametrize("off_diagonal", [False, True])
@pytest.mark.parametrize("hidden_sizes", [(7,), (16, 12), (8, 8, 8)])
def test_equals_autograd(off_diagonal: bool, hidden_sizes: tuple[int, ...]) -> None:
    shape = NafShape(nx=5, nu=3, hidden_sizes=hidden_sizes, off_diagonal=off_diagonal)
    generator = torch.Generator().manual_seed(0)
    online, target = NafNetwork(shape, generator), NafNetwork(shape, generator)
    with torch.no_grad():
        online.flat.add_(0.2 * torch.randn(shape.parameters, generator=generator))
    x, next_x = (torch.randn(32, 5, generator=generator) for _ in range(2))
    u = 2 * torch.rand(32, 3, generator=generator) - 1
    reward, terminated = torch.randn(32, generator=generator), torch.rand(32, generator=generator) < 0.3

    gradient = NafGradient(shape, 32, online.flat.data, target.flat.data)
    gradient.compute(x, u, reward, GAMMA * (~terminated).float(), next_x)

    with torch.no_grad():
        y = td_target(reward, terminated, target(next_x).V.amin(dim=1), GAMMA)
    loss = naf_loss(online(x), u, y)
    loss.backward()
    assert online.flat.grad is not None
    assert online.flat.grad.abs().max() > 0.1
    torch.testing.assert_close(gradient.flat, online.flat.grad, rtol=1e-4, atol=1e-6)
    assert 0.5 * gradient.td_error.square().sum(1).mean().item() == pytest.approx(loss.item(), rel=1e-5)


def test_sees_parameters_that_change_in_place() -> None:
    shape = NafShape(nx=2, nu=1, hidden_sizes=(4,), off_diagonal=False)
    flat = NafNetwork(shape, torch.Generator().manual_seed(0)).flat.data
    gradient = NafGradient(shape, 1, flat, flat.clone())
    arguments = (torch.ones(1, 2), torch.zeros(1, 1), torch.zeros(1), torch.zeros(1), torch.ones(1, 2))
    gradient.compute(*arguments)
    before = gradient.td_error.clone()
    flat[-1 - (shape.head_size - 1)] += 1.0  # the bias of V1
    gradient.compute(*arguments)
    assert (gradient.td_error - before).tolist() == [[pytest.approx(1.0), pytest.approx(0.0)]]
