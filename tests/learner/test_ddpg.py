"""DDPG's losses against autograd on their plain form."""

from __future__ import annotations

import pytest
import torch

from fleet.algorithm_config import AlgorithmConfig
from learner.algorithms import make_gradient, make_network
from learner.ddpg import DdpgGradient, DdpgShape

GAMMA = 0.9


def q_by_hand(
    shape: DdpgShape, flat: torch.Tensor, critic: int, x: torch.Tensor, u: torch.Tensor
) -> torch.Tensor:
    (W1, b1), (W2, b2) = shape.critics(flat)[critic]
    return (torch.relu(torch.cat([x, u], 1) @ W1.T + b1) @ W2.T + b2)[:, 0]


def mu_by_hand(shape: DdpgShape, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    (W1, b1), (W2, b2) = shape.policy_layers(flat)
    return torch.tanh(torch.relu(x @ W1.T + b1) @ W2.T + b2)


@pytest.mark.parametrize("values", [1, 2])
def test_gradients_of_critics_and_actor(values: int) -> None:
    shape = make_network(AlgorithmConfig(algorithm="ddpg", hidden_sizes=[12], values=values), 5, 3)
    assert isinstance(shape, DdpgShape)
    generator = torch.Generator().manual_seed(0)
    online, target = (shape.initial_parameters(generator) for _ in range(2))
    online += 0.2 * torch.randn(shape.parameters, generator=generator)
    x, next_x = (torch.randn(16, 5, generator=generator) for _ in range(2))
    u = 2 * torch.rand(16, 3, generator=generator) - 1
    reward, bootstrap = (
        torch.randn(16, generator=generator),
        (torch.rand(16, generator=generator) < 0.7).float(),
    )

    gradient = make_gradient(shape, 16, online, target, 16)
    assert isinstance(gradient, DdpgGradient)
    gradient.compute(x, u, reward, GAMMA * bootstrap, next_x)

    next_u = mu_by_hand(shape, target, next_x)
    next_q = torch.stack([q_by_hand(shape, target, k, next_x, next_u) for k in range(values)]).amin(0)
    y = reward + GAMMA * bootstrap * next_q
    flat = online.clone().requires_grad_()
    td_error = torch.stack([q_by_hand(shape, flat, k, x, u) - y for k in range(values)], 1)
    (critic,) = torch.autograd.grad(0.5 * td_error.square().sum(1).mean(), flat)
    actor_loss = -q_by_hand(shape, flat, 0, x, mu_by_hand(shape, flat, x)).mean()
    (actor,) = torch.autograd.grad(actor_loss, flat)
    n = sum(W.numel() + b.numel() for W, b in shape.policy_layers(online))
    torch.testing.assert_close(gradient.flat[:n], actor[:n], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient.flat[n:], critic[n:], rtol=1e-4, atol=1e-6)
    assert actor[:n].abs().max() > 1e-3 and critic[:n].abs().max() == 0
    torch.testing.assert_close(gradient.td_error, td_error.detach())


def test_several_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="n_step: needs NAF's advantage"):
        AlgorithmConfig(algorithm="ddpg", n_step=3)
