"""Fitted-Q evaluation against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from learner.episode_bootstrap import episode_weights, interval, weighted_mean
from learner.fqe import FqeSettings, evaluate_by_fitted_q
from learner.member_networks import MemberNetworks
from learner.packed_rows import RowLayout

LAYOUT = RowLayout(1, 1)
QUICK = FqeSettings(members=2, hidden_sizes=(32,), steps=600, batch_size=128)


def pack(x: torch.Tensor, u: torch.Tensor, r: torch.Tensor, next_x: torch.Tensor, bootstrap: torch.Tensor):
    return torch.stack([x, next_x, u, r, bootstrap.float()], dim=1)


def still(observation: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(observation), 1)


def values(rows, starts, act, gamma, settings=QUICK, seed=0, **more):
    next_actions, first_actions = act(rows[:, 1:2]), act(rows[starts, :1])
    return evaluate_by_fitted_q(
        rows, torch.tensor(starts), LAYOUT, next_actions, first_actions, gamma, settings,
        torch.Generator().manual_seed(seed), **more,
    )  # fmt: skip


def linear_system(episodes: int, steps: int, seed: int = 0):
    """x' = 0.5 x + u, r = x; x0 in [0.5, 1] and u in [-1, 1] at random; episodes are cut, not ended."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(episodes):
        x = 0.5 + 0.5 * torch.rand((), generator=generator)
        for _ in range(steps):
            u = torch.rand((), generator=generator) * 2 - 1
            following = 0.5 * x + u
            rows.append(torch.stack([x, following, u, x, torch.ones(())]))
            x = following
    return torch.stack(rows), list(range(0, episodes * steps, steps))


def test_a_linear_system_with_a_linear_policy() -> None:
    # Under u = −x: x' = −0.5 x, so V(x) = x / (1 + 0.5 γ); under u = 0.5: x' = 0.5 x + 0.5, so
    # V(x) = a x + b with a = 1 / (1 − 0.5 γ), b = γ (0.5 a + b)
    rows, starts = linear_system(40, 25)
    x0 = rows[starts, 0]
    gamma = 0.8
    braking = values(rows, starts, lambda x: -x, gamma)
    assert braking.value == pytest.approx(float(x0.mean()) / (1 + 0.5 * gamma), abs=0.05)
    pushing = values(rows, starts, lambda x: torch.full((len(x), 1), 0.5), gamma)
    a = 1 / (1 - 0.5 * gamma)
    b = gamma * 0.5 * a / (1 - gamma)
    assert b == pytest.approx(3.333, abs=1e-3)
    assert pushing.value == pytest.approx(a * float(x0.mean()) + b, abs=0.15)


def test_only_termination_stops_the_bootstrap() -> None:
    # One step, reward 1: ended it is worth 1, cut it is worth 1 / (1 − γ) = 5.
    n = 50
    x = torch.linspace(-1, 1, n)
    for bootstrap, expected in [(torch.zeros(n), 1.0), (torch.ones(n), 5.0)]:
        rows = pack(x, torch.zeros(n), torch.ones(n), x, bootstrap)
        assert values(rows, list(range(n)), still, 0.8).value == pytest.approx(expected, abs=0.02)


def test_a_chain_of_three_steps_that_ends() -> None:
    # r = 1, 2, 4 and the end: 1 + γ (2 + γ 4) = 3 with γ = 0.5
    x = torch.tensor([0.0, 1.0, 2.0]).repeat(20)
    rewards = torch.tensor([1.0, 2.0, 4.0]).repeat(20)
    ends = torch.tensor([1.0, 1.0, 0.0]).repeat(20)
    rows = pack(x, torch.zeros(60), rewards, x + 1, ends)
    assert values(rows, list(range(0, 60, 3)), still, 0.5).value == pytest.approx(3.0, abs=0.05)


def test_the_same_generator_gives_the_same_numbers_and_members_differ() -> None:
    rows, starts = linear_system(10, 10)
    settings = FqeSettings(members=3, hidden_sizes=(8,), steps=30)
    a, b = (values(rows, starts, still, 0.9, settings) for _ in range(2))
    assert torch.equal(a.values, b.values)
    assert torch.equal(a.weights, b.weights)
    assert len(set(a.values.tolist())) == 4
    assert values(rows, starts, still, 0.9, settings, seed=1).value != a.value
    with pytest.raises(ValueError, match="below 1, got 1"):
        values(rows, starts, still, 1.0, settings)


def test_progress_is_told_to_the_end() -> None:
    rows, starts = linear_system(2, 5)
    seen: list[tuple[int, int]] = []
    settings = FqeSettings(members=0, hidden_sizes=(4,), steps=70)
    values(rows, starts, still, 0.5, settings, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (70, 70)


def test_values_stay_within_what_rewards_can_sum_up_to() -> None:
    rows, starts = linear_system(10, 10)
    wild = FqeSettings(members=1, hidden_sizes=(16,), steps=50, learning_rate=3.0)
    estimate = values(rows, starts, still, 0.9, wild)
    rewards = rows[:, LAYOUT.reward]
    assert estimate.low == pytest.approx(10 * float(rewards.min()), rel=1e-5)
    assert estimate.high == pytest.approx(10 * float(rewards.max()), rel=1e-5)
    assert ((estimate.values >= estimate.low) & (estimate.values <= estimate.high)).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # One-step episodes that end, reward ±1 at random: the truth is 0, and one estimate is off by 1/√50.
    settings = FqeSettings(members=20, hidden_sizes=(4,), steps=60, batch_size=64, learning_rate=0.03)
    covered, widths = 0, []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        reward = torch.randint(2, (50,), generator=generator) * 2.0 - 1.0
        x = torch.zeros(50)
        rows = pack(x, x, reward, x, torch.zeros(50))
        low, high = values(rows, list(range(50)), still, 0.5, settings, seed=seed).interval
        covered += low <= 0.0 <= high
        widths.append(high - low)
    assert 32 <= covered <= 39  # 36 expected; all 40 would be intervals too wide
    assert sum(widths) / 40 == pytest.approx(2 * 1.645 / 50**0.5, rel=0.3)


def test_bootstrap_weights_and_intervals_by_hand() -> None:
    weights = episode_weights(6, 50, torch.Generator().manual_seed(0))
    assert weights.shape == (51, 6)
    assert (weights[0] == 1).all()
    assert (weights.sum(1) == 6).all()
    assert weights[1:].var() == pytest.approx(5 / 6, rel=0.3)  # multinomial: n p (1 − p)
    means = weighted_mean(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([1.0, 3.0]))
    assert means.tolist() == [2.0, 1.0]
    # Members 0, 1, …, 100 lie 5 … 95 in the middle 90 %; moved from their mean 50 to the estimate 7.
    values = torch.tensor([7.0, *range(101)])
    assert interval(values) == (pytest.approx(-38.0), pytest.approx(52.0))
    assert all(x != x for x in interval(torch.tensor([1.0, 2.0])))


def test_gradients_of_all_members_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    networks = MemberNetworks(members=3, inputs=2, hidden_sizes=(5, 4))
    flat = networks.initial_parameters(generator)
    assert len(flat) == networks.parameters == 3 * (3 * 5 + 6 * 4 + 5)
    x, y = torch.randn(7, 2, generator=generator), torch.randn(3, 7, generator=generator)
    gradient = torch.zeros_like(flat)
    q, activations = networks.evaluate(flat, x)
    networks.backward(flat, activations, q - y, gradient)

    wanted = flat.clone().requires_grad_()
    outputs = []
    for member in range(3):
        h = x
        layers = [(W[member], b[member]) for W, b in networks.layers(wanted)]
        for W, b in layers[:-1]:
            h = torch.relu(h @ W + b)
        outputs.append((h @ layers[-1][0] + layers[-1][1]).squeeze(1))
    by_hand = torch.stack(outputs)
    torch.testing.assert_close(q, by_hand.detach())
    (expected,) = torch.autograd.grad(0.5 * (by_hand - y).square().sum(), wanted)
    torch.testing.assert_close(gradient, expected)


def test_the_target_is_fast_enough_for_the_discount() -> None:
    settings = FqeSettings(steps=3000)
    assert settings.polyak_tau(0.8) == pytest.approx(0.01)
    assert settings.polyak_tau(0.95) == pytest.approx(0.04)  # 6 / (3000 · 0.05)
    assert settings.polyak_tau(0.99) == 0.1
    assert settings.settlings(0.8) == pytest.approx(6.0)
    assert settings.settlings(0.999) == pytest.approx(0.3)
