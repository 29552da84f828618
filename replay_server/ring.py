"""The newest `capacity` transitions as packed rows in one array, addressed by a global cursor.

The n-th row ever inserted has cursor n and lies at position n mod capacity; cursors never restart,
so `tail(cursor)` streams the ring as a log and a reader notices what it missed.

Typical loop of a reader:

    first, rows = ring.tail(cursor, max_rows=4096)
    cursor = first + len(rows)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.messages import Array, Transitions, row_dtype
from replay_server.columns import shape_error
from replay_server.cursor_index import CursorIndex


class Ring:
    """Ring buffer of packed rows; memory is reserved at once but touched only as rows arrive."""

    def __init__(self, capacity: int, nx: int, nu: int, first_cursor: int = 0) -> None:
        """Reserve `capacity` rows.

        Args:
            capacity: Rows kept; older ones are overwritten.
            nx: Size of an observation.
            nu: Size of an action.
            first_cursor: Cursor of the first row that will be inserted.
        """
        if capacity < 1 or nx < 1 or nu < 1 or first_cursor < 0:
            raise ValueError(
                f"capacity, nx, nu ≥ 1 and first_cursor ≥ 0: {capacity}, {nx}, {nu}, {first_cursor}"
            )
        self.capacity = capacity
        self.nx, self.nu = nx, nu
        # np.empty leaves large blocks to the kernel: pages cost memory when first written.
        self._rows: Array = np.empty(capacity, row_dtype(nx, nu))
        # As opaque records they are copied whole, not field by field.
        self._records: Array = self._rows.view(f"V{self._rows.itemsize}")
        self._first = first_cursor
        self._end = first_cursor
        self._intervened: CursorIndex | None = CursorIndex()

    @property
    def end_cursor(self) -> int:
        """Cursor of the next row to be inserted."""
        return self._end

    @property
    def oldest_cursor(self) -> int:
        """Cursor of the oldest row still here; equals `end_cursor` when empty."""
        return max(self._first, self._end - self.capacity)

    @property
    def rows(self) -> int:
        """Number of rows here."""
        return self._end - self.oldest_cursor

    @property
    def demonstrations(self) -> npt.NDArray[np.int64]:
        """Cursors of the rows in which a person moved the robot, oldest first: a view until an insert."""
        if self._intervened is None:
            cursors = np.arange(self.oldest_cursor, self._end)
            self._intervened = CursorIndex()
            self._intervened.extend(cursors[self._rows["intervened"][cursors % self.capacity]])
        self._intervened.drop_before(self.oldest_cursor)
        return self._intervened.cursors

    def extend(self, transitions: Transitions) -> int:
        """Insert rows in order and return the cursor of the first; of too many the newest stay."""
        if error := shape_error(transitions, self.nx, self.nu):
            raise ValueError(error)
        packed = transitions.packed()
        first, rows = self._end, len(packed)
        newest = packed.view(self._records.dtype)[max(0, rows - self.capacity) :]
        start = (first + rows - len(newest)) % self.capacity
        head = min(len(newest), self.capacity - start)
        self._records[start : start + head] = newest[:head]
        if head < len(newest):
            self._records[: len(newest) - head] = newest[head:]
        self._end += rows
        if self._intervened is not None and len(marked := transitions.intervened.nonzero()[0]):
            self._intervened.extend(first + marked)
            self._intervened.drop_before(self.oldest_cursor)
        return first

    def reserve(self, rows: int) -> int:
        """Move the end by `rows` that `restore` then fills, and return the first one's cursor."""
        first = self._end
        self._end += rows
        return first

    def restore(self, cursors: npt.NDArray[np.int64], packed: Array) -> None:
        """Fill reserved rows; those the ring is too small for are left out."""
        if packed.dtype != self._rows.dtype:
            raise ValueError(f"rows must be {self._rows.dtype}, got {packed.dtype}")
        if len(cursors) and not self._first <= cursors.min() <= cursors.max() < self._end:
            raise IndexError(f"cursors {cursors.min()} … {cursors.max()} were not reserved")
        kept = cursors >= self.oldest_cursor
        self._rows[cursors[kept] % self.capacity] = packed[kept]
        self._intervened = None  # rows come in any order: found again when somebody asks

    def gather(self, cursors: npt.NDArray[np.int64]) -> Array:
        """The packed rows at these cursors, copied, in the order asked for [len(cursors)].

        Raises:
            IndexError: A cursor is not in the ring (any more).
        """
        return self._records.take(self._positions(cursors)).view(self._rows.dtype)

    def _positions(self, cursors: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if len(cursors) and not self.oldest_cursor <= cursors.min() <= cursors.max() < self._end:
            raise IndexError(
                f"cursors {cursors.min()} … {cursors.max()} asked for, "
                f"{self.oldest_cursor} … {self._end - 1} are here"
            )
        return cursors % self.capacity

    def tail(self, cursor: int, max_rows: int) -> tuple[int, Array]:
        """A copy of at most `max_rows` rows from `cursor` on, and the cursor of the first.

        The first cursor is above the one asked for when those rows are gone, and below it (with no
        rows) when `cursor` lies beyond the end, as after a restart that lost rows.
        """
        first = min(max(cursor, self.oldest_cursor), self._end)
        rows = min(max_rows, self._end - first)
        start = first % self.capacity
        head = min(rows, self.capacity - start)
        return first, np.concatenate([self._rows[start : start + head], self._rows[: rows - head]])
