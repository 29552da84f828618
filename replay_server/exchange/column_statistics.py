"""Statistics of columns as LeRobot keeps them, of each episode and of all: with them it normalises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.messages import Array

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ColumnStatistics:
    """Statistics of all columns of some rows, side by side: one numpy call serves all.

    Attributes:
        widths: Numbers per row of each column, in order.
        count: Rows.
        values: `min`, `max`, `mean`, `std` and the quantiles, of all columns [sum of widths].
    """

    widths: dict[str, int]
    count: int
    values: dict[str, Vector]

    @classmethod
    def of(cls, columns: Mapping[str, Array]) -> ColumnStatistics:
        """Of columns [N] or [N, n]; quantiles are interpolated linearly."""
        parts = {name: column.reshape(len(column), -1) for name, column in columns.items()}
        rows = np.sort(np.concatenate([part.astype(np.float64) for part in parts.values()], axis=1), axis=0)
        values = {"min": rows[0], "max": rows[-1], "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
        for name, share in QUANTILES.items():
            place = share * (len(rows) - 1)
            below = int(place)
            above = min(below + 1, len(rows) - 1)
            values[name] = rows[below] + (place - below) * (rows[above] - rows[below])
        return cls({name: part.shape[1] for name, part in parts.items()}, len(rows), values)

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """Of the rows of both; quantiles become the mean of both, weighted by rows, as in LeRobot."""
        a, b = self.values, other.values
        share = other.count / (self.count + other.count)
        values = {name: (1 - share) * a[name] + share * b[name] for name in ("mean", *QUANTILES)}
        values["min"], values["max"] = np.minimum(a["min"], b["min"]), np.maximum(a["max"], b["max"])
        spread = share * (1 - share) * (b["mean"] - a["mean"]) ** 2
        values["std"] = np.sqrt((1 - share) * a["std"] ** 2 + share * b["std"] ** 2 + spread)
        return ColumnStatistics(self.widths, self.count + other.count, values)

    def as_lists(self) -> dict[str, dict[str, list[float]]]:
        """From column and name to plain numbers, with the `count` beside them."""
        lists = {name: vector.tolist() for name, vector in self.values.items()}
        found: dict[str, dict[str, list[float]]] = {}
        first = 0
        for column, width in self.widths.items():
            found[column] = {name: numbers[first : first + width] for name, numbers in lists.items()}
            found[column]["count"] = [self.count]
            first += width
        return found
