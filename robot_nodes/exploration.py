"""Exploration noise added to μ(x): Gaussian, white or correlated in time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


class GaussianExploration:
    """n' = ρ n + √(1 − ρ²) σ ε: standard deviation σ at every tick, correlation ρ between ticks.

    ρ = 0 is white noise; ρ near 1 is an Ornstein–Uhlenbeck process sampled at the control rate.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._unit = np.zeros(size)

    def reset(self) -> None:
        """Forget the past: at the start of an episode."""
        self._unit = self._rng.standard_normal(self._unit.shape)

    def sample(self, std: float, correlation: float) -> npt.NDArray[np.float64]:
        """Noise of this tick [nu], in units of the action."""
        fresh = self._rng.standard_normal(self._unit.shape)
        self._unit = correlation * self._unit + math.sqrt(1.0 - correlation**2) * fresh
        return std * self._unit
