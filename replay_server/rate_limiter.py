"""How many samples or updates the rows that have arrived allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

UNLIMITED = 2**62


@dataclass(frozen=True)
class RateLimiter:
    """Bounds work done per row inserted; never holds up an insert.

    With I rows inserted so far in the run and D units of work done so far,

        allowed(I, D) = 0                                            if I < min_rows
                      = clip(floor(per_row * I) - D, 0, max_burst)   otherwise

    so that D / I tends to per_row, rows from before `min_rows` count too, and a worker that fell
    behind catches up in steps of at most `max_burst`. The replay server limits rows sampled, the
    learner limits updates:

        for _ in range(limiter.allowed(end_cursor, updates)):
            update()

    Attributes:
        per_row: Units of work per row inserted; none: no limit but `min_rows`.
        min_rows: Nothing is allowed below this many rows.
        max_burst: Most that one call allows.
    """

    per_row: float | None
    min_rows: int = 1
    max_burst: int = UNLIMITED

    def __post_init__(self) -> None:
        if self.per_row is not None and not (math.isfinite(self.per_row) and self.per_row > 0):
            raise ValueError(f"per_row must be positive and finite, or none: {self.per_row}")
        if self.min_rows < 0 or self.max_burst < 1:
            raise ValueError(f"min_rows ≥ 0 and max_burst ≥ 1: {self.min_rows}, {self.max_burst}")

    def allowed(self, inserted_rows: int, done: int) -> int:
        """How many more samples or updates may happen now."""
        if inserted_rows < self.min_rows:
            return 0
        if self.per_row is None:
            return self.max_burst
        return min(max(math.floor(self.per_row * inserted_rows) - done, 0), self.max_burst)
