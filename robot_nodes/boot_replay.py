"""One logged boot on its way to the replay server: what is due, what is under way, what is there."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable

import numpy as np

from fleet.messages import Array, TransitionBatch
from robot_nodes.log_plan import PlannedBoot, PlannedEpisode

MAX_BATCH_ROWS = 64

Read = Callable[[PlannedEpisode], tuple[Array, Array]]
"""An episode's packed rows [N] and the time of each (s) [N]; see `ReplayPlan.read`."""


class BootReplay:
    """Sends the rows of a boot when they are due, a window at a time.

        while (batch := replay.next_batch(log_s)) is not None:
            socket.send(encode(batch))
        replay.acknowledge(ack.durable_seq)        # on every ack
        replay.go_on_from(welcome.durable_seq)     # after a silence or a restart of the server

    Attributes:
        plan: What is replayed.
        name: The boot's id in the new run.
        durable_seq: The last row that the server has on disk; -1: none.
        next_seq: The row that is sent next.
    """

    def __init__(
        self, plan: PlannedBoot, name: str, durable_seq: int, spec_hash: str, read: Read, window: int
    ) -> None:
        """Begin after `durable_seq`, with at most `window` batches under way."""
        self.plan, self.name = plan, name
        self._spec_hash, self._read, self._window = spec_hash, read, window
        self._firsts = [episode.first_seq for episode in plan.episodes]
        self._in_flight: deque[int] = deque()  # the last row of each batch under way
        self._loaded = -1
        self._rows: Array = np.zeros(0)
        self._due_s: Array = np.zeros(0)
        self.durable_seq = -1
        self.go_on_from(durable_seq)

    @property
    def delivered(self) -> bool:
        """Whether the server has all rows on disk."""
        return self.durable_seq + 1 >= self.plan.rows

    @property
    def in_flight(self) -> bool:
        """Whether batches are under way."""
        return bool(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether as many batches are under way as may be."""
        return len(self._in_flight) >= self._window

    @property
    def episodes_sent(self) -> int:
        """Episodes of which every row is under way or there."""
        return bisect_right(self._firsts, self.next_seq) - (self.next_seq < self.plan.rows)

    @property
    def next_due_s(self) -> float:
        """When the next row is due (s), on the timeline of the logs; infinite if all are sent."""
        if self.next_seq >= self.plan.rows:
            return float("inf")
        first_seq = self._load()
        return float(self._due_s[self.next_seq - first_seq])

    def go_on_from(self, durable_seq: int) -> None:
        """Send (again) what comes after `durable_seq`: what was under way may be lost."""
        self.durable_seq = min(durable_seq, self.plan.rows - 1)
        self.next_seq = self.durable_seq + 1
        self._in_flight.clear()

    def acknowledge(self, durable_seq: int) -> bool:
        """Note what the server has; whether that is more than before."""
        durable_seq = min(durable_seq, self.plan.rows - 1)
        if durable_seq <= self.durable_seq:
            return False
        self.durable_seq = durable_seq
        self.next_seq = max(self.next_seq, durable_seq + 1)
        while self._in_flight and self._in_flight[0] <= durable_seq:
            self._in_flight.popleft()
        return True

    def next_batch(self, log_s: float) -> TransitionBatch | None:
        """The rows that are due at `log_s` and may be sent now, of one episode; they count as sent.

        Raises:
            EpisodeFileError: The episode's file was damaged since it was planned.
        """
        if self.next_seq >= self.plan.rows or self.full:
            return None
        first_seq = self._load()
        begin = self.next_seq - first_seq
        end = min(int(np.searchsorted(self._due_s, log_s, side="right")), begin + MAX_BATCH_ROWS)
        if end <= begin:
            return None
        info = self.plan.episodes[self._loaded].summary.info
        last = end == info.rows
        batch = TransitionBatch.from_packed(
            self._rows[begin:end],
            robot_id=self.plan.robot_id,
            boot_id=self.name,
            first_seq=self.next_seq,
            episode=info.episode,
            spec_hash=self._spec_hash,
            evaluation=info.evaluation,
            end=info.end if last else "",
            success=info.success if last else False,
            metrics=info.metrics if last else {},
        )
        self.next_seq = first_seq + end
        self._in_flight.append(self.next_seq - 1)
        return batch

    def _load(self) -> int:
        """Have the episode of the next row in memory; returns its first number."""
        index = bisect_right(self._firsts, self.next_seq) - 1
        if index != self._loaded:
            self._rows, self._due_s = self._read(self.plan.episodes[index])
            self._loaded = index
        return self._firsts[index]
