"""Which rows of the mirror are demonstrations: where the learner draws a part of its minibatches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replay_server.cursor_index import CursorIndex


class Demonstrations:
    """Cursors of the rows in which a person moved the robot, kept here and on the learner's device.

        demonstrations.extend(cursor + new_rows.intervened.nonzero()[0])
        demonstrations.keep(mirror.oldest_cursor, mirror.cursor)
        demonstrations.draw(generator, out=cursors)

    What a generator draws depends on the cursors held alone, not on when they came.
    """

    def __init__(self, device: torch.device | str) -> None:
        """None yet."""
        self._index = CursorIndex()
        self._copy = torch.empty(0, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._index)

    def extend(self, cursors: npt.NDArray[np.int64]) -> None:
        """Add cursors, ascending and above all that are here [n]."""
        if not len(cursors):
            return
        index, buffer = self._index, self._index.buffer
        index.extend(cursors)
        if index.buffer is not buffer:
            self._copy = torch.from_numpy(index.buffer).to(self._copy.device, copy=True)
        else:
            new = slice(index.end - len(cursors), index.end)
            self._copy[new] = torch.from_numpy(index.buffer[new]).to(self._copy.device)

    def keep(self, oldest: int, end: int) -> None:
        """Keep the cursors in oldest … end − 1 only."""
        self._index.drop_before(oldest)
        self._index.drop_from(end)

    def draw(self, generator: torch.Generator, out: Tensor) -> None:
        """Fill `out` with cursors, uniformly with replacement; waits for nothing on the device."""
        index = self._index
        places = torch.randint(
            index.first, index.end, out.shape, generator=generator, device=self._copy.device
        )
        torch.index_select(self._copy, 0, places, out=out)
