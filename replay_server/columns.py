"""The columns of a transition as the ring and the files hold them: read off `fleet.messages.Transitions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fleet.messages import Array, Transitions


@dataclass(frozen=True)
class Column:
    """Dtype of one column and its dimensions after N ("nx", "nu" or none)."""

    dtype: np.dtype[Any]
    dims: tuple[str, ...]

    def row_shape(self, nx: int, nu: int) -> tuple[int, ...]:
        """Shape of one row of this column."""
        return tuple({"nx": nx, "nu": nu}[dim] for dim in self.dims)


COLUMNS: dict[str, Column] = {
    f.name: Column(dtype=f.metadata["dtype"], dims=tuple(f.metadata["dims"][1:])) for f in fields(Transitions)
}


def row_bytes(nx: int, nu: int) -> int:
    """Bytes of one transition."""
    return sum(c.dtype.itemsize * int(np.prod(c.row_shape(nx, nu))) for c in COLUMNS.values())


def shape_error(transitions: Transitions, nx: int, nu: int) -> str:
    """What is wrong with the shapes or dtypes of some transitions, in words; empty if nothing."""
    rows = transitions.rows
    for name, column in COLUMNS.items():
        values = getattr(transitions, name)
        expected = (rows, *column.row_shape(nx, nu))
        if values.shape != expected or values.dtype != column.dtype:
            return f"{name} must be {column.dtype} {list(expected)}, got {values.dtype} {list(values.shape)}"
    return ""


def empty_columns(nx: int, nu: int) -> dict[str, Array]:
    """All columns with no rows."""
    return {name: np.empty((0, *c.row_shape(nx, nu)), c.dtype) for name, c in COLUMNS.items()}


def from_columns(columns: Mapping[str, Array]) -> Transitions:
    """Transitions from a mapping of all columns."""
    return Transitions(**columns)


def rows_from(transitions: Transitions, start: int) -> Transitions:
    """The rows from `start` on, as views."""
    return Transitions(**{name: getattr(transitions, name)[start:] for name in COLUMNS})


def concatenate(parts: Sequence[Transitions]) -> Transitions:
    """One after the other; at least one part."""
    return Transitions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS})
