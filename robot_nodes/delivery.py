"""Which of a spool's rows go to the replay server next: boot after boot, in order, a window at a time."""

from __future__ import annotations

import logging

from fleet.messages import MAX_BACKLOG, Ack, TransitionBatch, Welcome
from robot_nodes.spool import Spool
from robot_nodes.spool_boot import SpoolBoot
from robot_nodes.spool_stream import SpoolStream

logger = logging.getLogger(__name__)


class Delivery:
    """The spool's boots on their way to one run's server, and how far each has come.

    Attributes:
        run_id: The run of the server last heard; empty before the first.
    """

    def __init__(self, spool: Spool, window: int) -> None:
        """Deliver what is in `spool`, with at most `window` batches under way."""
        self._spool, self._window = spool, window
        self._streams: dict[str, SpoolStream] = {}
        self._told: dict[str, int] = {}
        self._foreign_reported: set[str] = set()
        self.run_id = ""

    def join(self, message: Welcome) -> str:
        """Compare runs and note this one in the spool; why the server is not the right one, or "".

        Raises:
            OSError: The spool cannot be written.
        """
        mine = self._spool.current
        if mine.run_id not in ("", message.run_id):
            return (
                f"the replay server belongs to run {message.run_id!r} but this robot's rows to run "
                f"{mine.run_id!r}; they stay in {self._spool.path}: start the robot again to take part in "
                f"the new run, or the server with the old run's folder"
            )
        self.run_id = message.run_id
        mine.join_run(message.run_id)
        for boot in self._spool.boots:
            if boot.head.spec_hash != self._spool.spec_hash:
                continue
            if boot.run_id == "":
                boot.join_run(message.run_id)
            elif boot.run_id != message.run_id and boot.head.boot_id not in self._foreign_reported:
                self._foreign_reported.add(boot.head.boot_id)
                logger.warning(
                    "%d rows of run %s wait in %s: start the replay server of that run to deliver them",
                    boot.waiting_rows,
                    boot.run_id,
                    boot.path,
                )
        return ""

    def welcome(self, message: Welcome, *, again: bool) -> bool:
        """Take what the server has of each boot; whether it has more than before.

        Args:
            message: From a server that `join` found to be the right one.
            again: The server is new, or was silent: all that it does not have is sent again.
        """
        mine = [message.durable_seq, message.sealed_seq]
        reached = {**message.backlog, self._spool.current.head.boot_id: mine}
        progress = False
        for stream in self._active():
            match reached.get(stream.boot.head.boot_id):
                case [int(durable_seq), int(sealed_seq)]:
                    pass
                case _:
                    stream.known = stream.known and not again
                    continue
            if again or not stream.known or durable_seq < stream.boot.durable_seq:
                progress |= durable_seq > stream.boot.durable_seq
                stream.go_on_from(durable_seq)
            progress |= stream.acknowledge(durable_seq, sealed_seq)
        return progress

    def acknowledge(self, ack: Ack) -> bool:
        """Take an ack; whether the server has more than before."""
        stream = self._streams.get(ack.boot_id)
        return stream is not None and stream.known and stream.acknowledge(ack.durable_seq, ack.sealed_seq)

    def tell(self) -> tuple[int, dict[str, int]]:
        """`oldest_seq` and `backlog` of the hello that is about to be sent."""
        current = self._spool.current.head.boot_id
        streams = self._active() if self.run_id else [self._stream(self._spool.current)]
        streams.sort(key=lambda stream: stream.known and stream.delivered)  # the others first
        oldest = {s.boot.head.boot_id: s.oldest_seq for s in streams if s.boot is not self._spool.current}
        backlog = dict(list(oldest.items())[:MAX_BACKLOG])
        mine = self._stream(self._spool.current).oldest_seq
        self._told = {**backlog, current: mine}
        return mine, backlog

    @property
    def hello_due(self) -> bool:
        """Whether the server must hear of a gap, or of an earlier boot, before more can be sent."""
        for stream in self._active():
            told = self._told.get(stream.boot.head.boot_id)
            if stream.gap_end >= 0 and told != stream.gap_end:
                return True
            if not (stream.known and stream.delivered):
                return not stream.known and told is None
        return False

    def ready(self) -> list[TransitionBatch]:
        """The batches that may be sent now; `sent()` after each.

        Raises:
            OSError: The spool cannot be read.
        """
        stream = self._first()
        if stream is None or not stream.known:
            return []
        return stream.ready(self._window, self._told.get(stream.boot.head.boot_id, -1))

    def sent(self) -> None:
        """The first of the batches that are ready is under way."""
        stream = self._first()
        assert stream is not None
        stream.sent()

    @property
    def in_flight(self) -> bool:
        """Whether batches are under way."""
        stream = self._first()
        return stream is not None and stream.in_flight

    @property
    def waiting_rows(self) -> int:
        """Rows in the spool that are for this run's server and not in its journal yet; from any thread."""
        return sum(boot.waiting_rows for boot in self._boots())

    @property
    def finished(self) -> bool:
        """Whether the server has all that can be read."""
        return self._first() is None

    @property
    def sealed(self) -> bool:
        """Whether all rows for this server are in its episode files."""
        return all(boot.sealed_seq + 1 >= boot.end_seq for boot in self._boots())

    def _first(self) -> SpoolStream | None:
        return next((s for s in self._active() if not (s.known and s.delivered)), None)

    def _active(self) -> list[SpoolStream]:
        return [self._stream(boot) for boot in self._boots()]

    def _boots(self) -> list[SpoolBoot]:
        """The boots that are for this run's server, or may be; in the order of their starts."""
        return [
            boot
            for boot in tuple(self._spool.boots)
            if boot.head.spec_hash == self._spool.spec_hash
            and (not self.run_id or boot.run_id in ("", self.run_id))
        ]

    def _stream(self, boot: SpoolBoot) -> SpoolStream:
        stream = self._streams.get(boot.head.boot_id)
        if stream is None:
            stream = self._streams[boot.head.boot_id] = SpoolStream(boot)
        return stream
