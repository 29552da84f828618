"""Runs of consecutive sequence numbers, and the holes between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Seqs = npt.NDArray[np.int64]

Span = tuple[int, int]
"""First and last of consecutive numbers."""


def spans(numbers: Seqs) -> list[Span]:
    """Rising numbers as runs of consecutive ones: [3, 4, 5, 9] is (3, 5), (9, 9)."""
    if not len(numbers):
        return []
    ends = np.flatnonzero(np.diff(numbers) != 1)
    firsts = numbers[np.concatenate([[0], ends + 1])]
    lasts = numbers[np.concatenate([ends, [len(numbers) - 1]])]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


def missing_spans(rows: Seqs) -> list[Span]:
    """The holes in rising numbers that should begin at 0: [1, 2, 5] lacks (0, 0) and (3, 4)."""
    bounds = np.concatenate([[-1], rows])
    holes = np.flatnonzero(np.diff(bounds) > 1)
    return [(int(bounds[i]) + 1, int(bounds[i + 1]) - 1) for i in holes]


def span_length(found: Sequence[Span]) -> int:
    """How many numbers there are in some spans."""
    return sum(last - first + 1 for first, last in found)
