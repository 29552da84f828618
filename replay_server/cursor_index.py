"""Which rows of a ring are marked: their cursors in one array, kept up as rows come and go.

index.extend(first_cursor + marked.nonzero()[0])     # new rows, in order
index.drop_before(ring.oldest_cursor)                # what the ring has overwritten
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LEAST_ROOM = 64


class CursorIndex:
    """Ascending cursors; a cursor costs constant time to come and to go, however many there are.

    Attributes:
        buffer: The cursors lie at `first` … `end` − 1 of it, oldest first; the rest means nothing. It is
            another array after an `extend` that found no room.
        first: See `buffer`.
        end: See `buffer`.
    """

    def __init__(self) -> None:
        """No cursors yet."""
        self.buffer: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.first = self.end = 0

    def __len__(self) -> int:
        """How many there are."""
        return self.end - self.first

    @property
    def cursors(self) -> npt.NDArray[np.int64]:
        """All of them, oldest first: a view until the next change [len]."""
        return self.buffer[self.first : self.end]

    def extend(self, cursors: npt.NDArray[np.int64]) -> None:
        """Add cursors, ascending and above all that are here [n]."""
        if self.end + len(cursors) > len(self.buffer):
            held = self.cursors
            # Twice as large as needed: the next move is at least as many cursors away as this one moves.
            self.buffer = np.empty(max(_LEAST_ROOM, 2 * (len(held) + len(cursors))), np.int64)
            self.buffer[: len(held)] = held
            self.first, self.end = 0, len(held)
        self.buffer[self.end : self.end + len(cursors)] = cursors
        self.end += len(cursors)

    def drop_before(self, cursor: int) -> None:
        """Remove the cursors below this one."""
        if len(self) and self.buffer[self.first] < cursor:
            self.first += int(np.searchsorted(self.cursors, cursor))

    def drop_from(self, cursor: int) -> None:
        """Remove this cursor and those above it."""
        self.end = self.first + int(np.searchsorted(self.cursors, cursor))
