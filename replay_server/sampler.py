"""Which rows a minibatch holds."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Cursors = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Chooses rows of the ring by cursor.

    The service's loop:

        cursors = sampler.sample(ring.oldest_cursor, ring.end_cursor, batches * batch_size)
        columns = ring.gather(cursors)
    """

    def sample(self, oldest_cursor: int, end_cursor: int, size: int) -> Cursors:
        """`size` cursors in [oldest_cursor, end_cursor), repeats allowed [size]."""


class UniformSampler:
    """Every row of the ring is equally likely, with replacement."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw from `rng`."""
        self._rng = rng

    def sample(self, oldest_cursor: int, end_cursor: int, size: int) -> Cursors:
        """`size` cursors in [oldest_cursor, end_cursor) [size]."""
        if not oldest_cursor < end_cursor:
            raise ValueError(f"nothing to sample: oldest cursor {oldest_cursor}, end {end_cursor}")
        return self._rng.integers(oldest_cursor, end_cursor, size, dtype=np.int64)


def demonstrations_in(batch_size: int, fraction: float) -> int:
    """How many rows of a minibatch a fraction is: rounded, and at least one unless it is 0."""
    return max(1, round(batch_size * fraction)) if fraction else 0


class MixedSampler:
    """Part of each minibatch from demonstrations, the rest as another sampler draws it from all rows.

        cursors = mixed.sample(
            ring.oldest_cursor, ring.end_cursor, ring.demonstrations,
            batches=batches, batch_size=batch_size, fraction=0.5,
        )
        columns = ring.gather(cursors)

    Half of each is the symmetric sampling of RLPD (Ball et al. 2023, arXiv:2302.02948): what people have
    shown keeps its weight, however many rows the robots add.
    """

    def __init__(self, rest: Sampler, rng: np.random.Generator) -> None:
        """Draw demonstrations from `rng`, uniformly with replacement."""
        self._rest = rest
        self._rng = rng

    def sample(
        self,
        oldest_cursor: int,
        end_cursor: int,
        demonstrations: Cursors,
        *,
        batches: int,
        batch_size: int,
        fraction: float,
    ) -> Cursors:
        """Cursors of `batches` minibatches, one after the other [batches · batch_size].

        Args:
            oldest_cursor: Of the ring.
            end_cursor: Of the ring.
            demonstrations: Cursors of the demonstrations in it [D]; none: all rows come from the rest.
            batches: Number of minibatches.
            batch_size: Rows of each; the demonstrations come first.
            fraction: Share of each minibatch that is drawn from the demonstrations, 0 … 1.
        """
        chosen = demonstrations_in(batch_size, fraction) if len(demonstrations) else 0
        rest = self._rest.sample(oldest_cursor, end_cursor, batches * (batch_size - chosen))
        if not chosen:
            return rest
        shown = demonstrations[self._rng.integers(0, len(demonstrations), (batches, chosen))]
        return np.concatenate([shown, rest.reshape(batches, -1)], axis=1).reshape(-1)
