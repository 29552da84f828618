"""Which rows a minibatch holds."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Sampler(Protocol):
    """Chooses rows of the ring by cursor.

    The service's loop:

        cursors = sampler.sample(ring.oldest_cursor, ring.end_cursor, batches * batch_size)
        columns = ring.gather(cursors)
    """

    def sample(self, oldest_cursor: int, end_cursor: int, size: int) -> npt.NDArray[np.int64]:
        """`size` cursors in [oldest_cursor, end_cursor), repeats allowed [size]."""


class UniformSampler:
    """Every row of the ring is equally likely, with replacement."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw from `rng`."""
        self._rng = rng

    def sample(self, oldest_cursor: int, end_cursor: int, size: int) -> npt.NDArray[np.int64]:
        """`size` cursors in [oldest_cursor, end_cursor) [size]."""
        if not oldest_cursor < end_cursor:
            raise ValueError(f"nothing to sample: oldest cursor {oldest_cursor}, end {end_cursor}")
        return self._rng.integers(oldest_cursor, end_cursor, size, dtype=np.int64)
