"""How old the policies were that robots acted with, from what is in the log alone.

Two numbers per row, neither of which needs clocks that agree:

    behind   how many versions newer a policy any robot of the run had acted with before this row, in the
             order in which rows arrived; 0 of a robot that is alone
    held_s   how long this robot had acted with this very version, on its own clock; it grows when no new
             policy reaches the robot, also of one that is alone

    sweep = StalenessSweep()
    for key, rows in episodes of one run, by their first cursor:
        for settled, behind in sweep.add(key, rows.cursor, rows.transitions.policy_version): ...
    for settled, behind in sweep.finish(): ...
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


class StalenessSweep(Generic[Key]):
    """Says how many versions each row of a run is behind, holding only episodes that are under way.

    Episodes of several robots lie interleaved in the log. Those that start later cannot have rows before
    an episode's last one, so that episode is settled and forgotten.
    """

    def __init__(self) -> None:
        self._pending: dict[Key, tuple[Ints, Ints]] = {}
        self._cursors: Ints = np.empty(0, np.int64)  # where a version above all earlier ones of its
        self._versions: Ints = np.empty(0, np.int64)  # episode acted first, of all episodes

    def add(self, key: Key, cursor: Ints, version: Ints) -> Iterator[tuple[Key, Ints]]:
        """Take the next episode; yields the settled ones with how many versions each row is behind [N].

        Args:
            key: Names the episode.
            cursor: Places of its rows in the log [N], rising; the first not before that of any earlier call.
            version: The policies that acted [N].
        """
        yield from self._settle(int(cursor[0]))
        best = np.maximum.accumulate(version)
        rises = np.flatnonzero(np.diff(best, prepend=best[0] - 1))
        self._cursors = np.concatenate([self._cursors, cursor[rises]])
        self._versions = np.concatenate([self._versions, best[rises]])
        self._pending[key] = cursor, version

    def finish(self) -> Iterator[tuple[Key, Ints]]:
        """The episodes that are still to be settled; no other follows."""
        yield from self._settle(None)

    def _settle(self, next_cursor: int | None) -> Iterator[tuple[Key, Ints]]:
        """Settle what lies before a cursor, or all."""
        ready = [
            key
            for key, (cursor, _) in self._pending.items()
            if next_cursor is None or int(cursor[-1]) < next_cursor
        ]
        if not ready:
            return
        order = np.argsort(self._cursors, kind="stable")
        cursors, newest = self._cursors[order], np.maximum.accumulate(self._versions[order])
        for key in ready:
            cursor, version = self._pending.pop(key)
            seen = newest[np.searchsorted(cursors, cursor, side="right") - 1]  # its own version at least
            yield key, seen - version
        starts = [int(cursor[0]) for cursor, _ in self._pending.values()]
        starts += [next_cursor] if next_cursor is not None else []
        # Rows to come lie behind all of these: of what is before, only the newest version counts.
        keep = int(np.searchsorted(cursors, min(starts, default=0))) - 1
        self._cursors, self._versions = cursors[max(keep, 0) :], newest[max(keep, 0) :]


class HeldPolicy:
    """How long one boot of a robot has acted with the version it acts with, from episode to episode."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._since_ns = 0

    def add(self, version: Ints, stamp_ns: Ints) -> Floats:
        """Take the boot's next episode.

        Args:
            version: The policies that acted [N].
            stamp_ns: Times of the rows on the robot's clock [N] (ns).

        Returns:
            For how long each row's version had been acting [N] (s).
        """
        changed = np.flatnonzero(np.diff(version, prepend=version[0]))
        if self._version != version[0] or stamp_ns[0] < self._since_ns:  # a clock that was set back
            self._since_ns = int(stamp_ns[0])
        starts = np.concatenate([[self._since_ns], stamp_ns[changed]])
        lengths = np.diff(np.concatenate([[0], changed, [len(version)]]))
        since = np.repeat(starts, lengths)
        self._version, self._since_ns = int(version[-1]), int(since[-1])
        held_s: Floats = np.maximum(stamp_ns - since, 0) / 1e9
        return held_s
