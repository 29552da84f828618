from __future__ import annotations

import pytest
import torch

from learner.adam import Adam


def test_first_step_moves_by_the_learning_rate_against_the_sign() -> None:
    parameters = torch.zeros(3)
    Adam(parameters, torch.tensor([5.0, -1e-3, 0.0]), learning_rate=0.1).step()
    assert parameters.tolist() == [pytest.approx(-0.1), pytest.approx(0.1, rel=1e-4), 0.0]


def test_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(50, generator=generator)
    theirs = mine.clone().requires_grad_()
    gradient = torch.zeros(50)
    adam, reference = Adam(mine, gradient, 1e-2), torch.optim.Adam([theirs], lr=1e-2)
    for step in range(100):
        gradient.copy_(torch.randn(50, generator=generator) * 10.0 ** (step % 5 - 3))
        theirs.grad = gradient.clone()
        adam.step()
        reference.step()
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_state_round_trip_is_exact() -> None:
    first, second = torch.zeros(4), torch.zeros(4)
    gradient = torch.tensor([1.0, 2.0, -3.0, 0.0])
    a, b = Adam(first, gradient, 0.1), Adam(second, gradient, 0.1)
    for _ in range(3):
        a.step()
    b.steps = a.steps
    b.first.copy_(a.first)
    b.second.copy_(a.second)
    second.copy_(first)
    a.step()
    b.step()
    assert torch.equal(first, second)
    assert b.steps == 4
