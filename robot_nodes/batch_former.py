"""Rows and ends of episodes, one by one, become TransitionBatch messages.

The newest row of an unfinished episode is held back until the next one or the end, so that an episode
which stops for any reason (a pause, a fault, a killed process) still has a last row to carry `truncated`
and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fleet.messages import TransitionBatch, row_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeEnd:
    """Why an episode ended, and the task's verdict."""

    reason: str
    success: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


class EpisodeSink(Protocol):
    """Where an EpisodeRecorder puts what happens: the spool, or straight into a BatchFormer."""

    def add_row(self, seq: int, episode: int, evaluation: bool, row: bytes) -> None:
        """Take one packed transition, a record of `row_dtype(nx, nu)`."""

    def end_episode(self, seq: int, episode: int, end: EpisodeEnd) -> None:
        """The episode is over; row `seq` was its last."""


class BatchFormer:
    """Forms batches of at most `max_rows` consecutive rows of one episode.

    former = BatchFormer("robot1", boot_id, spec_hash, nx, nu, emit=batches.append)
    former.add_row(seq, episode, evaluation, row)     # emits when max_rows and one more are there
    former.flush(min_rows=16)                         # emits sooner, all but the newest row
    former.end_episode(seq, episode, EpisodeEnd(…))   # emits the rest
    """

    def __init__(
        self,
        robot_id: str,
        boot_id: str,
        spec_hash: str,
        nx: int,
        nu: int,
        emit: Callable[[TransitionBatch], None],
        max_rows: int = 64,
    ) -> None:
        self._robot_id, self._boot_id, self._spec_hash = robot_id, boot_id, spec_hash
        self._dtype = row_dtype(nx, nu)
        self._emit, self._max_rows = emit, max_rows
        self._rows: list[bytes | memoryview] = []
        self._first_seq = self._episode = 0
        self._evaluation = False

    def add_row(self, seq: int, episode: int, evaluation: bool, row: bytes | memoryview) -> None:
        """Take the next row; one of another episode closes an episode whose end is missing."""
        if self._rows and episode != self._episode:
            self.close()
        elif self._rows and seq != self._first_seq + len(self._rows):
            self._send(len(self._rows))  # rows in between are missing: a batch has no gap
        if not self._rows:
            self._first_seq, self._episode, self._evaluation = seq, episode, evaluation
        self._rows.append(row)
        if len(self._rows) > self._max_rows:
            self._send(self._max_rows)

    def end_episode(self, seq: int, episode: int, end: EpisodeEnd) -> None:
        """Emit what is left of this episode; unless it terminated, its last row becomes truncated."""
        if self._rows and episode == self._episode:
            self._send(len(self._rows), end)

    def flush(self, min_rows: int) -> None:
        """Emit all but the newest row if they are at least `min_rows`."""
        if len(self._rows) > min_rows:
            self._send(len(self._rows) - 1)

    def close(self) -> None:
        """No more will come of this episode: if its end is missing, the process died in it."""
        if self._rows:
            self._send(len(self._rows), EpisodeEnd(reason="fault"))

    def clear(self) -> None:
        """Forget the rows that were not emitted."""
        self._rows = []

    def _send(self, count: int, end: EpisodeEnd | None = None) -> None:
        packed = np.frombuffer(bytearray(b"".join(self._rows[:count])), self._dtype)
        if end is not None:
            packed["truncated"][-1] = not packed["terminated"][-1]
        batch = TransitionBatch.from_packed(
            packed,
            robot_id=self._robot_id,
            boot_id=self._boot_id,
            first_seq=self._first_seq,
            episode=self._episode,
            spec_hash=self._spec_hash,
            evaluation=self._evaluation,
            end=end.reason if end else "",
            success=end.success if end else False,
            metrics=end.metrics if end else {},
        )
        del self._rows[:count]
        self._first_seq += count
        self._emit(batch)
