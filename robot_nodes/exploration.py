"""Exploration noise added to μ(x): Gaussian, white or correlated in time, the same for all actions or not."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from robot_nodes.precision import shaped_by_precision

Vector = npt.NDArray[np.float64]

_MOST_SHAPED = 3.0  # standard deviations: an action that P says nothing about is not thrown from end to end


class GaussianExploration:
    """n' = ρ n + √(1 − ρ²) ε, times σ: standard deviation σ at every tick, correlation ρ between ticks.

    ρ = 0 is white noise. Any other is a stationary Ornstein–Uhlenbeck process dn = −θ n dt + √(2θ) dW,
    sampled exactly at the control rate: ρ = exp(−θ dt), so it forgets in −dt / ln ρ seconds. DDPG's
    x' = x − θ x + σ ε (arXiv:1509.02971: θ 0.15, σ 0.2 per step) has ρ = 1 − θ and the standard deviation
    σ / √(1 − ρ²), here 0.85 and 0.38.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._unit = np.zeros(size)

    def reset(self) -> None:
        """Forget the past: at the start of an episode."""
        self._unit = self._rng.standard_normal(self._unit.shape)

    def sample(self, std: float, correlation: float, factor: Vector | None = None) -> Vector:
        """Noise of this tick [nu], in units of the action.

        Args:
            std: σ.
            correlation: ρ in [0, 1).
            factor: L, which shapes it like P⁻¹, P = L Lᵀ [nu, nu]: σ² is then the mean of the actions'
                variances, and no action gets more than 3 σ (`shaped_by_precision`); none: all alike.
        """
        fresh = self._rng.standard_normal(self._unit.shape)
        self._unit = correlation * self._unit + math.sqrt(1.0 - correlation**2) * fresh
        if factor is None:
            return std * self._unit
        return std * np.clip(shaped_by_precision(self._unit, factor), -_MOST_SHAPED, _MOST_SHAPED)
