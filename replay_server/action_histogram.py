"""How actions and places of the tool are spread: counts in fixed bins, so that any number of rows fits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fleet.messages import Array
from fleet.spaces import Space, SpaceSpec

Counts = npt.NDArray[np.int64]

BINS = 41
"""Of actions in [-1, 1]; an odd number, so that one bin lies around zero."""

SATURATED = 0.999
"""An action is at its limit from this size on: float32 and a guard that rounds reach no further."""

PLACES = 150
"""Cells of each side of the workspace."""


def is_saturated(actions: Array) -> npt.NDArray[np.bool_]:
    """Which of the actions are at -1 or 1, same shape; NaN is not."""
    return np.abs(actions) >= SATURATED


class ActionHistogram:
    """Counts actions of `nu` dimensions.

    Attributes:
        counts: Per dimension and bin [nu, BINS]; what is beyond ±1 counts as the outermost.
        saturated: How many were at ±1 [nu].
        rows: How many were counted.
    """

    def __init__(self, nu: int) -> None:
        self.counts: Counts = np.zeros((nu, BINS), np.int64)
        self.saturated: Counts = np.zeros(nu, np.int64)
        self.rows = 0

    def add(self, actions: Array) -> None:
        """Count the rows of `actions` [N, nu]; a number that is none is left out."""
        self.rows += len(actions)
        self.saturated += is_saturated(actions).sum(axis=0)
        self.counts += _count(actions, -1.0, 1.0, BINS)

    @property
    def saturation(self) -> npt.NDArray[np.float64]:
        """Share of rows at ±1, per dimension [nu]."""
        return self.saturated / max(1, self.rows)


@dataclass(frozen=True)
class Coverage:
    """Where the tool was, in rows of successful and of other episodes.

    Attributes:
        axes: The two observations it is drawn over.
        dims: Their indices.
        success: Counts in episodes that succeeded, per cell [PLACES, PLACES].
        other: Counts in the others.
    """

    axes: tuple[str, str]
    dims: tuple[int, int]
    low: tuple[float, float]
    high: tuple[float, float]
    success: Counts = field(default_factory=lambda: np.zeros((PLACES, PLACES), np.int64))
    other: Counts = field(default_factory=lambda: np.zeros((PLACES, PLACES), np.int64))

    def add(self, observation: Array, success: bool) -> None:
        """Count the rows of one episode [N, nx]; what is outside the bounds counts at the edge."""
        cells = [
            _bins(observation[:, dim], self.low[side], self.high[side], PLACES)
            for side, dim in enumerate(self.dims)
        ]
        good = (cells[0] >= 0) & (cells[1] >= 0)
        flat = np.bincount(cells[0][good] * PLACES + cells[1][good], minlength=PLACES * PLACES)
        into = self.success if success else self.other
        into += flat.reshape(PLACES, PLACES)


def coverage_of(spec: SpaceSpec) -> list[Coverage]:
    """Of the tool from above and from the side, if the observation has it."""
    space = spec.observation
    return [
        _coverage(space, (first, second))
        for first, second in (("tool/x", "tool/y"), ("tool/x", "tool/z"))
        if first in space.names and second in space.names
    ]


def _coverage(space: Space, axes: tuple[str, str]) -> Coverage:
    a, b = (space.names.index(name) for name in axes)
    return Coverage(axes, (a, b), (space.low[a], space.low[b]), (space.high[a], space.high[b]))


def _bins(values: Array, low: float, high: float, bins: int) -> Counts:
    """Bin of each value, same shape; -1 for NaN."""
    scaled = (values.astype(np.float64) - low) * (bins / (high - low))
    return np.where(np.isnan(scaled), -1, np.clip(scaled, 0, bins - 1)).astype(np.int64)


def _count(values: Array, low: float, high: float, bins: int) -> Counts:
    """Counts per column and bin [n, bins] of values [N, n]."""
    n = values.shape[1]
    index = _bins(values, low, high, bins)
    flat = (index + bins * np.arange(n))[index >= 0]
    return np.bincount(flat, minlength=n * bins).reshape(n, bins)
