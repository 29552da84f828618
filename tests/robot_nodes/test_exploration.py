from __future__ import annotations

import math

import numpy as np
import pytest

from robot_nodes.exploration import GaussianExploration
from robot_nodes.precision import shaped_by_precision

N = 20_000
L = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-0.5, 0.25, 1.0]])


def series(std: float, correlation: float, seed: int = 0, size: int = 3) -> np.ndarray:
    exploration = GaussianExploration(size, np.random.default_rng(seed))
    exploration.reset()
    return np.array([exploration.sample(std, correlation) for _ in range(N)])


class Recorded:
    """A generator that gives what it is told."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.draws.pop(0))


def test_correlated_noise_by_hand() -> None:
    exploration = GaussianExploration(1, Recorded(1.0, 2.0, -1.0))  # type: ignore[arg-type]
    exploration.reset()
    # ρ = 0.6, √(1 − ρ²) = 0.8: 0.6 · 1 + 0.8 · 2 = 2.2, then 0.6 · 2.2 − 0.8 = 0.52; times σ = 0.5
    assert exploration.sample(0.5, 0.6) == pytest.approx([1.1])
    assert exploration.sample(0.5, 0.6) == pytest.approx([0.26])


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_noise_is_an_ornstein_uhlenbeck_process_in_its_stationary_state(correlation: float) -> None:
    noise = series(0.4, correlation)
    # Neighbours count less than once: so many independent samples are in the series, times √2 for a variance.
    tolerance = 5 * math.sqrt(2 / N * (1 + correlation**2) / (1 - correlation**2))
    np.testing.assert_allclose(noise.var(axis=0) / 0.4**2, 1.0, atol=tolerance)
    for lag in (1, 2, 5):  # exp(−θ dt lag), with ρ = exp(−θ dt)
        measured = (noise[lag:] * noise[:-lag]).mean(axis=0) / 0.4**2
        np.testing.assert_allclose(measured, correlation**lag, atol=tolerance)


def test_noise_is_stationary_from_the_first_tick_of_an_episode() -> None:
    exploration = GaussianExploration(5000, np.random.default_rng(1))
    exploration.reset()
    first = exploration.sample(0.4, 0.95)
    assert first.std() == pytest.approx(0.4, rel=0.05)
    exploration.reset()
    assert abs(np.corrcoef(first, exploration.sample(0.4, 0.95))[0, 1]) < 0.06


# Shaped by P⁻¹ ------------------------------------------------------------------------------


def test_shaped_noise_by_hand() -> None:
    # L = diag(1, 2), P⁻¹ = diag(1, 1/4), tr P⁻¹ / nu = 5/8: (1, 1/2) √(8/5)
    shaped = shaped_by_precision(np.ones(2), np.diag([1.0, 2.0]))
    np.testing.assert_allclose(shaped, np.array([1.0, 0.5]) * math.sqrt(8 / 5))
    # L = [[1, 0], [1, 1]]: L⁻¹ = [[1, 0], [−1, 1]], L⁻ᵀ (2, 1) = (1, 1), ‖L⁻¹‖² / nu = 3/2
    shaped = shaped_by_precision(np.array([2.0, 1.0]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(shaped, np.array([1.0, 1.0]) / math.sqrt(3 / 2))


def test_the_covariance_of_shaped_noise_is_p_inverse_and_its_mean_variance_is_1() -> None:
    white = np.random.default_rng(0).standard_normal((6000, 3))
    noise = np.array([shaped_by_precision(eps, L) for eps in white])
    covariance = np.linalg.inv(L @ L.T)
    covariance *= 3 / np.trace(covariance)
    np.testing.assert_allclose(np.cov(noise.T), covariance, atol=0.15)
    assert noise.var(axis=0).mean() == pytest.approx(1.0, abs=0.05)


def test_the_scale_of_p_does_not_matter() -> None:
    white = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(shaped_by_precision(white, 1e-6 * L), shaped_by_precision(white, 1e6 * L))


def test_without_preference_shaped_noise_is_plain_noise() -> None:
    plain, shaped = (GaussianExploration(3, np.random.default_rng(3)) for _ in range(2))
    for _ in range(5):
        np.testing.assert_allclose(plain.sample(0.3, 0.5), shaped.sample(0.3, 0.5, 7.0 * np.eye(3)))


def test_no_action_gets_more_than_three_sigma() -> None:
    exploration = GaussianExploration(7, np.random.default_rng(0))
    flat = np.diag([1e-6, 1, 1, 1, 1, 1, 1])
    noise = np.array([exploration.sample(0.2, 0.0, flat) for _ in range(500)])
    assert np.abs(noise).max() == pytest.approx(0.6)
    assert 0.15 < np.mean(np.abs(noise[:, 0]) > 0.599) < 0.4  # its own σ is √7 · 0.2
    assert np.abs(noise[:, 1:]).max() < 1e-5


def test_a_correlated_process_keeps_its_correlation_where_it_is_shaped() -> None:
    exploration = GaussianExploration(3, np.random.default_rng(2))
    exploration.reset()
    noise = np.array([exploration.sample(1.0, 0.8, np.diag([1.0, 2.0, 4.0])) for _ in range(N)])
    np.testing.assert_allclose((noise[1:] * noise[:-1]).mean(axis=0) / noise.var(axis=0), 0.8, atol=0.05)
