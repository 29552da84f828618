"""The new rows of the replay log, made ready for the mirror: all the work that updates need not wait for."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

from learner.normaliser import Normaliser
from learner.packed_rows import PackedRows, RowLayout
from learner.replay_link import ReplayLink
from learner.reward_statistics import RewardStatistics

log = logging.getLogger(__name__)

TAIL_ROWS = 8192
PIECE_ROWS = 128  # to copy them takes about as long as an update


@dataclass(frozen=True)
class Arrival:
    """Rows that follow each other in the log.

        mirror.seek(arrival.first_cursor); mirror.append(arrival.rows)
        trainer.adopt(arrival.normaliser, arrival.rewards)

    Attributes:
        first_cursor: Of the first row; above the last arrival's end if rows were overwritten unread, below
            it if the server came back without some.
        rows: The rows, maybe none.
        normaliser: What it has seen with these rows.
        rewards: The same of the rewards.
        seen: The log's cursor up to which both have seen rows.
        caught_up: They are the newest of the log, as far as the server had them.
    """

    first_cursor: int
    rows: PackedRows
    normaliser: Normaliser
    rewards: RewardStatistics
    seen: int
    caught_up: bool


class LogTail:
    """Follows the log, packs its rows and keeps the statistics of all it has seen.

    tail = LogTail(link, layout, trainer.normaliser, trainer.rewards, seen)
    for arrival in tail.poll(): …
    """

    def __init__(
        self,
        link: ReplayLink,
        layout: RowLayout,
        normaliser: Normaliser,
        rewards: RewardStatistics,
        seen: int,
        *,
        normalise: bool = True,
    ) -> None:
        """Begin at the log's first row.

        Args:
            link: To the replay server.
            layout: Of the packed rows.
            normaliser: Has seen observations up to `seen`; it is copied before it sees more.
            rewards: The same of rewards.
            seen: By the process that wrote the checkpoint.
            normalise: Whether the normaliser is to see observations at all.
        """
        self._link, self._layout, self._normalise = link, layout, normalise
        self._normaliser, self._rewards, self._seen = normaliser, rewards, seen
        self._cursor = 0

    def poll(self) -> list[Arrival]:
        """What has arrived since; none if there is no answer yet."""
        reply = self._link.poll_tail(self._cursor, TAIL_ROWS)
        if reply is None:
            return []
        if reply.end_cursor < self._seen:
            log.warning(
                "the replay server came back with %d rows, %d were read before: following it from there",
                reply.end_cursor,
                self._seen,
            )
            self._seen = reply.end_cursor
        self._cursor = reply.next_cursor
        caught_up = reply.next_cursor >= reply.end_cursor
        packed = PackedRows.pack(reply, self._layout)
        pieces = packed.split(PIECE_ROWS)
        arrivals, first = [], reply.first_cursor
        for number, rows in enumerate(pieces, 1):
            self._observe(rows, first)
            arrivals.append(
                Arrival(
                    first,
                    rows,
                    self._normaliser,
                    self._rewards,
                    self._seen,
                    caught_up and number == len(pieces),
                )
            )
            first += len(rows)
        return arrivals

    def _observe(self, rows: PackedRows, first: int) -> None:
        known = max(0, self._seen - first)
        if known >= len(rows):
            return
        values = rows.values[known:]
        self._normaliser, self._rewards = copy.deepcopy((self._normaliser, self._rewards))
        if self._normalise:
            self._normaliser.extend(values[:, : self._layout.nx])
        self._rewards.extend(values[:, self._layout.reward])
        self._seen = first + len(rows)
