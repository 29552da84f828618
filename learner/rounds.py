"""When a synchronous learner may learn: between rounds, in each of which every robot acts one episode."""

from __future__ import annotations

import logging
from typing import Any

import numpy.typing as npt

log = logging.getLogger(__name__)


class Rounds:
    """Finds the ends of rounds in the log.

        rounds.extend(first_cursor, rows, ends, now)    # every row of the log, in order
        rounds.tend(now)                                # often
        allowed = limiter.allowed(rounds.closed, updates)

    A round is over when as many episodes have ended in it as there are robots: they wait for each other. One
    that is paused or gone must not keep the others waiting for ever, so a round also is over when no row
    has come for a while.

    Attributes:
        closed: The log's cursor after the last round that is over.
    """

    def __init__(self, robots: int, timeout_s: float) -> None:
        """Begin with the log's first row.

        Args:
            robots: In the fleet.
            timeout_s: Silence after which those that are missing are not waited for (s).
        """
        self.closed = 0
        self._robots, self._timeout_s = robots, timeout_s
        self._cursor = self._ended = 0
        self._heard_s = 0.0

    def extend(self, first_cursor: int, rows: int, ends: npt.NDArray[Any], now: float) -> None:
        """Rows have come.

        Args:
            first_cursor: Of the first of them; below the last one's if the server lost rows.
            rows: How many.
            ends: Those of them that ended an episode, counted from the first, ascending.
            now: Monotonic time (s).
        """
        if first_cursor < self._cursor:
            self.closed, self._ended = min(self.closed, first_cursor), 0
        self._cursor = first_cursor + rows
        if rows:
            self._heard_s = now
        for end in ends:
            self._ended += 1
            if self._ended >= self._robots:
                self.closed, self._ended = first_cursor + int(end) + 1, 0

    def tend(self, now: float) -> None:
        """Close a round from which nobody is heard any more."""
        if self.closed == self._cursor or now - self._heard_s < self._timeout_s:
            return
        log.warning(
            "synchronous: %d of %d robots have ended their episodes, and no row came for %g s: going on "
            "without the others (learner.round_timeout_s)",
            self._ended,
            self._robots,
            self._timeout_s,
        )
        self.closed, self._ended = self._cursor, 0
