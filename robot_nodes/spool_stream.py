"""One boot of the spool on its way to the replay server."""

from __future__ import annotations

import logging
from collections import deque

from fleet.messages import TransitionBatch
from robot_nodes.spool_boot import SpoolBoot
from robot_nodes.spool_reader import SpoolReader

logger = logging.getLogger(__name__)

_AHEAD = 4  # batches formed in one go: a few milliseconds, in which the control loop has to share


class SpoolStream:
    """One boot on its way: what is under way, and what follows.

    Attributes:
        known: Whether the server that is connected has told how far it has this boot.
        gap_end: The first row on disk behind rows that are neither there nor on the server; -1: no such gap.
            The server has to be told, as otherwise it would wait for them for ever.
    """

    def __init__(self, boot: SpoolBoot) -> None:
        """Deliver a boot; nothing is sent before `go_on_from`."""
        self.boot = boot
        self.known = False
        self.gap_end = -1
        self._reader = SpoolReader(boot)
        self._next_seq = 0  # one above the last row that was sent
        self._outgoing: deque[TransitionBatch] = deque()
        self._in_flight: deque[int] = deque()  # the last row of each batch under way
        self._exhausted = False  # closed, and nothing more can be read

    @property
    def delivered(self) -> bool:
        """Whether the server has all that can be read."""
        nothing_left = self._exhausted and not self._outgoing and not self._in_flight
        return nothing_left or self.boot.durable_seq + 1 >= self.boot.end_seq

    @property
    def in_flight(self) -> bool:
        """Whether batches are under way."""
        return bool(self._in_flight)

    def go_on_from(self, durable_seq: int) -> None:
        """Send again what comes after `durable_seq`: what was under way may be lost."""
        if durable_seq < self.boot.durable_seq:
            logger.warning(
                "the replay server has lost rows of boot %s from seq %d on: they are sent again",
                self.boot.head.boot_id,
                durable_seq + 1,
            )
        self.boot.durable_seq = durable_seq
        self.boot.sealed_seq = min(self.boot.sealed_seq, durable_seq)
        self.known, self.gap_end, self._next_seq = True, -1, durable_seq + 1
        self._exhausted = False
        self._outgoing.clear()
        self._in_flight.clear()
        self._reader.seek(durable_seq + 1)

    def acknowledge(self, durable_seq: int, sealed_seq: int) -> bool:
        """Note what the server has; whether that is more than before."""
        boot = self.boot
        durable_seq = min(durable_seq, boot.end_seq - 1)
        boot.sealed_seq = max(boot.sealed_seq, min(sealed_seq, durable_seq))
        if durable_seq <= boot.durable_seq:
            return False
        boot.durable_seq = durable_seq
        self._next_seq = max(self._next_seq, durable_seq + 1)
        if durable_seq + 1 >= self.gap_end:
            self.gap_end = -1
        while self._in_flight and self._in_flight[0] <= durable_seq:
            self._in_flight.popleft()
        while self._outgoing and _last_seq(self._outgoing[0]) <= durable_seq:
            self._outgoing.popleft()
        return True

    @property
    def oldest_seq(self) -> int:
        """The oldest row that can be sent: what is behind a gap, once the server waits there."""
        if self.gap_end >= 0:
            return self.gap_end
        segments = self.boot.segments
        return segments[0].first_seq if segments else self.boot.end_seq

    def ready(self, window: int, told_oldest: int) -> list[TransitionBatch]:
        """The batches that may be sent now.

        Raises:
            OSError: They cannot be read.
        """
        room = window - len(self._in_flight)
        while len(self._outgoing) < min(room, _AHEAD):
            closed = self.boot.closed
            if (batch := self._reader.next_batch()) is None:
                self._exhausted = closed
                break
            self._outgoing.append(batch)
        batches: list[TransitionBatch] = []
        expected = self._next_seq
        for batch in tuple(self._outgoing)[: max(0, room)]:
            if batch.first_seq > expected:
                if batches or self._in_flight:
                    break  # first what lies before the gap
                self.gap_end = batch.first_seq
                if told_oldest != self.gap_end:
                    break
            expected = _last_seq(batch) + 1
            batches.append(batch)
        return batches

    def sent(self) -> None:
        """The first of the batches that are ready is under way."""
        batch = self._outgoing.popleft()
        self._in_flight.append(_last_seq(batch))
        self._next_seq = _last_seq(batch) + 1


def _last_seq(batch: TransitionBatch) -> int:
    return batch.first_seq + batch.rows - 1
