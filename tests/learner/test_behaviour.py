"""What keeps μ near the data: weights by hand, and one gradient from all three ways to compute it."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.config import LearnerConfig
from fleet.spaces import SpaceSpec
from learner.algorithms import make_gradient
from learner.behaviour import Behaviour
from learner.fused.engine import fused_engine
from learner.gradients import AutogradGradient, NafGradient
from learner.mirror import ReplayMirror
from learner.naf import NafShape, evaluate
from learner.trainer import Trainer

NX, NU = 5, 3


def make_behaviour(weight: float, temperature: float = 1.0, nu: int = NU) -> Behaviour:
    behaviour = Behaviour(weight, temperature, torch.zeros(1), nu)
    behaviour.precision.copy_(torch.linspace(0.5, 2.0, nu))
    return behaviour


def make_batch(rows: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x, next_x = (torch.randn(rows, NX, generator=generator) for _ in range(2))
    u = 2 * torch.rand(rows, NU, generator=generator) - 1
    reward = torch.randn(rows, generator=generator)
    discount = 0.9 * (torch.rand(rows, generator=generator) < 0.8).float()
    return x, u, reward, discount, next_x


def test_weights_by_hand() -> None:
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])  # root mean square 1
    w = Behaviour(0.5, 1.0, advantage, 1).row_weights(advantage)[:, 0]
    mean = (math.e + 1 / math.e) / 2
    assert w.tolist() == pytest.approx([math.e / mean, 1 / math.e / mean] * 2)
    half = Behaviour(0.5, 0.5, advantage, 1).row_weights(advantage)[:, 0]
    assert half[0] / half[1] == pytest.approx(math.exp(4.0))
    assert Behaviour(0.5, 0.0, advantage, 1).row_weights(advantage)[:, 0].tolist() == [1.0] * 4


def test_weights_do_not_mind_scale_and_are_of_groups_of_64_rows() -> None:
    advantage = torch.randn(100, generator=torch.Generator().manual_seed(0))
    behaviour = Behaviour(0.5, 1.0, advantage, 1)
    w = behaviour.row_weights(advantage)
    assert torch.allclose(behaviour.row_weights(1000 * advantage), w, rtol=1e-4)
    assert w[:64].mean().item() == pytest.approx(1.0, abs=1e-5)
    assert w[64:].mean().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(behaviour.row_weights(advantage[64:]), w[64:])
    outlier = torch.zeros(64)
    outlier[0] = 1.0  # rms 1/8: exp(8) is cut off at 20
    w = behaviour.row_weights(outlier)[:, 0]
    assert (w[0] / w[1]).item() == pytest.approx(20.0)


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0])
def test_where_all_actions_turned_out_worse_weights_stay_finite(temperature: float) -> None:
    behaviour = make_behaviour(0.5, temperature)
    for advantage in (torch.full((70,), -3.0), torch.zeros(70)):
        assert torch.allclose(behaviour.row_weights(advantage), torch.ones(70, 1))


@pytest.mark.parametrize("network", [{}, {"off_diagonal": True}, {"diagonal": "scaled"}], ids=str)
@pytest.mark.parametrize("rows", [7, 64, 150])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    weight=st.sampled_from([0.2, 0.9, 1.0]),
    temperature=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 9),
)
def test_all_gradients_agree(network, rows, weight, temperature, seed) -> None:
    shape = NafShape(NX, NU, (16, 12), **network)
    generator = torch.Generator().manual_seed(seed)
    online, target = (shape.initial_parameters(generator) for _ in range(2))
    online += 0.1 * torch.randn(shape.parameters, generator=generator)
    behaviour, batch = make_behaviour(weight, temperature), make_batch(rows, seed)
    gradients = [
        kind(shape, rows, online, target, rows, behaviour) for kind in (AutogradGradient, NafGradient)
    ]
    for gradient in gradients:
        gradient.compute(*batch)
    expected, closed = gradients
    tolerance = 1e-4 * expected.flat.norm() + 1e-6
    assert (closed.flat - expected.flat).norm() <= tolerance
    assert torch.allclose(closed.td_error, expected.td_error, atol=1e-4)
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return
    fused = fused_engine(shape, rows, behaviour)
    assert (fused.gradient(*batch, online, target) - expected.flat).norm() <= tolerance


def test_alone_it_is_behaviour_cloning() -> None:
    """λ = 1: the gradient is that of the weighted squared distance, and values stay as they are."""
    shape, batch = NafShape(NX, NU, (16,)), make_batch(10)
    online = shape.initial_parameters(torch.Generator().manual_seed(0))
    behaviour = make_behaviour(1.0, 0.0)
    gradient = make_gradient(shape, 10, online, online.clone(), 10, behaviour)
    gradient.compute(*batch)
    flat = online.clone().requires_grad_()
    distance = behaviour.precision * (batch[1] - evaluate(shape, flat, batch[0]).mu).square()
    (expected,) = torch.autograd.grad(0.5 * distance.sum(dim=1).mean(), flat)
    assert torch.allclose(gradient.flat, expected, atol=1e-6)


@pytest.mark.parametrize("linear_mean", [False, True])
@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_trainer_comes_to_the_actions_of_the_data(engine: str, linear_mean: bool) -> None:
    """Rewards that lure μ to where there is no data: plain NAF strays, with the behaviour term it stays."""
    names = lambda n: tuple(f"{n}{i}" for i in range(2))  # noqa: E731
    from fleet.spaces import Space

    spec = SpaceSpec(*(Space(names(n), ("1", "1"), (-1.0, -1.0), (1.0, 1.0)) for n in "xu"))
    generator = torch.Generator().manual_seed(0)
    mirror = ReplayMirror(2, 2, 500)
    rows = torch.zeros(500, mirror.layout.width)
    rows[:, :2] = 2 * torch.rand(500, 2, generator=generator) - 1
    rows[:, mirror.layout.action] = 0.3 + 0.05 * torch.randn(500, 2, generator=generator)
    rows[:, mirror.layout.reward] = rows[:, mirror.layout.action].sum(dim=1)  # more is better, for ever
    mirror = ReplayMirror.of(rows, mirror.layout, torch.zeros(0, dtype=torch.int64).numpy())

    def mean_action(weight: float) -> float:
        config = LearnerConfig(
            hidden_sizes=[16],
            engine=engine,
            linear_mean=linear_mean,
            behaviour_weight=weight,
            learning_rate=1e-3,
        )
        trainer = Trainer(config, spec)
        trainer.update_many(mirror, 1500)
        return float(evaluate(trainer.network, trainer.flat, rows[:, :2]).mu.mean())

    assert abs(mean_action(0.0) - 0.3) > 0.1
    assert mean_action(0.9) == pytest.approx(0.3, abs=0.1)
