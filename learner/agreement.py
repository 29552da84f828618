"""How well estimates agree with the truth over several policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Of estimates and truths, one pair per policy.

    Attributes:
        pearson: Linear correlation; NaN if either does not vary.
        spearman: Correlation of the ranks: whether the order is right.
        mean_absolute_error: Mean |estimate − truth|.
        mean_error: Mean (estimate − truth): a lean to one side.
    """

    pearson: float
    spearman: float
    mean_absolute_error: float
    mean_error: float

    @classmethod
    def of(cls, estimates: Sequence[float], truths: Sequence[float]) -> Agreement:
        """Of equally many of both, at least two."""
        a, b = np.array(estimates, np.float64), np.array(truths, np.float64)
        return cls(
            pearson=_correlation(a, b),
            spearman=_correlation(ranks(a), ranks(b)),
            mean_absolute_error=float(np.abs(a - b).mean()),
            mean_error=float((a - b).mean()),
        )


def ranks(values: Array) -> Array:
    """Ranks from 0 on [n]; equal values share the mean of theirs."""
    below = (values[:, None] > values).sum(1)
    same = (values[:, None] == values).sum(1)
    mean_ranks: Array = below + (same - 1) / 2
    return mean_ranks


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b / size) if size > 0.0 else float("nan")
