"""The server's journal: batches on disk before they are acknowledged, until their episode is in HDF5.

RUN/journal/000000042.journal            append-only records (fleet/records.py), some MB each
RUN/journal/000000042.journal.damaged    what a restart could not read, kept aside

The payload of a record is the global cursor of its first new row (i64), the wall time of arrival
(ns, i64), how many of its first rows were known before (i64), and the TransitionBatch frame.
A restart begins a new segment; a segment goes when no episode in it is without its HDF5 file.
"""

from __future__ import annotations

import logging
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from fleet.codec import decode
from fleet.durable_files import fsync_path
from fleet.messages import MessageError, TransitionBatch
from fleet.records import Damage, pack_record, read_records

logger = logging.getLogger(__name__)

_HEAD = struct.Struct("<qqq")
_BUFFERS_PER_WRITE = 900  # below IOV_MAX
_RETRY_S = 1.0

GIVEN_UP = -1

EpisodeKey = tuple[str, str, int]
"""robot_id, boot_id and index of an episode."""


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """One batch as the journal holds it.

    Attributes:
        batch: The batch as it arrived.
        frame: The bytes it arrived in.
        known: How many of its first rows had been stored before; GIVEN_UP: it holds no rows and says that
            those before its first_seq will never come.
        first_cursor: Global cursor of the first row that had not.
        received_ns: Wall time of arrival (ns).
    """

    batch: TransitionBatch
    frame: bytes | memoryview
    known: int
    first_cursor: int
    received_ns: int

    @property
    def key(self) -> EpisodeKey:
        """The episode it belongs to."""
        return self.batch.robot_id, self.batch.boot_id, self.batch.episode

    def record(self) -> list[bytes | memoryview]:
        """The buffers of its record."""
        return pack_record(_HEAD.pack(self.first_cursor, self.received_ns, self.known), self.frame)


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a journal, read: its good batches in order, and the stretches that are damaged."""

    path: Path
    batches: list[JournalBatch]
    damage: list[Damage]


def read_journal(run_dir: Path) -> Iterator[Segment]:
    """The segments of a run's journal, oldest first; reads only.

    Raises:
        OSError: A segment cannot be read.
    """
    for path in sorted((run_dir / "journal").glob("*.journal")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # a running server removed it: its episodes are in HDF5 now
            continue
        records, damage = read_records(content)
        batches = []
        for record in records:
            try:
                batch = decode(record.payload[_HEAD.size :])
                if not isinstance(batch, TransitionBatch):
                    raise MessageError(f"a {type(batch).__name__} in a journal")
            except MessageError as error:
                logger.error("%s, offset %d: %s", path, record.offset, error)
                damage.append(Damage(record.offset, record.end))
                continue
            cursor, received_ns, known = _HEAD.unpack_from(record.payload)
            batches.append(JournalBatch(batch, record.payload[_HEAD.size :], known, cursor, received_ns))
        yield Segment(path, batches, sorted(damage, key=lambda d: d.offset))


@dataclass(frozen=True, slots=True)
class _Group:
    """What goes to the disk at once, and the episodes it is about."""

    buffers: list[bytes | memoryview]
    keys: set[EpisodeKey]


class Journal:
    """Writes groups of batches in a thread, one group at a time, and removes what is in HDF5.

        journal.submit(group)               # returns at once; `on_commit` is called when it is on disk
        journal.forget(key)                 # the episode is in HDF5
        journal.close()

    When the disk refuses, the group is tried again every second, in a new segment, until it is written.

    Attributes:
        error: Why the newest group is not on disk yet; empty if nothing is wrong.
        bytes_written: Bytes in all groups.
        groups: Groups written, one fdatasync each.
    """

    def __init__(
        self,
        run_dir: Path,
        on_commit: Callable[[], None],
        *,
        segment_bytes: int = 16 * 2**20,
        retry_s: float = _RETRY_S,
        fsync: bool = True,
    ) -> None:
        """Begin behind the segments that are there, without reading them.

        Args:
            run_dir: The run folder.
            on_commit: Called in the journal's thread after each group.
            segment_bytes: A segment of this size is not continued.
            retry_s: Pause after the disk refused (s).
            fsync: Make each group durable; otherwise it is only given to the kernel.

        Raises:
            OSError: The folder cannot be made.
        """
        self._folder = run_dir / "journal"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._on_commit, self._segment_bytes = on_commit, segment_bytes
        self._retry_s, self._fsync = retry_s, fsync
        self.error = ""
        self.bytes_written = self.groups = 0
        numbers = [int(path.name.split(".")[0]) for path in self._folder.glob("*.journal*")]
        self._number = max(numbers, default=0)
        self._fd: int | None = None
        self._size = 0
        self._open_episodes: dict[Path, set[EpisodeKey]] = {}
        self._lock = threading.Lock()
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, group: Sequence[JournalBatch]) -> None:
        """Write a group; wait for `on_commit` before the next."""
        # Packed here: the journal's thread shall not need the interpreter's lock for long.
        buffers = list(chain.from_iterable(entry.record() for entry in group))
        self._groups.put(_Group(buffers, {entry.key for entry in group if entry.known != GIVEN_UP}))

    def adopt(self, path: Path, keys: set[EpisodeKey]) -> None:
        """Take over a segment of an earlier start, with the episodes that are not in HDF5 yet."""
        with self._lock:
            self._open_episodes[path] = keys
        self._remove_finished()

    def forget(self, key: EpisodeKey) -> None:
        """An episode is in HDF5: its rows here are not needed any more."""
        with self._lock:
            for keys in self._open_episodes.values():
                keys.discard(key)
        self._remove_finished()

    def close(self) -> None:
        """Stop the thread, without waiting for a disk that refuses; remove what is not needed."""
        self._closing.set()
        self._groups.put(None)
        self._thread.join()
        self._end_segment()
        self._remove_finished()

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            while not self._try_write(group):
                if self._closing.wait(self._retry_s):
                    return
            self._on_commit()

    def _try_write(self, group: _Group) -> bool:
        try:
            self._write(group)
        except OSError as error:
            if not self.error:
                logger.error("journal cannot be written, nothing is acknowledged until it can: %s", error)
            self.error = str(error)
            self._abandon()
            return False
        if self.error:
            logger.warning("journal can be written again")
            self.error = ""
        self.groups += 1
        return True

    def _write(self, group: _Group) -> None:
        if self._fd is not None and self._size >= self._segment_bytes:
            self._end_segment()
            self._remove_finished()
        if self._fd is None:
            self._begin_segment()
        assert self._fd is not None
        with self._lock:
            self._open_episodes[self._path].update(group.keys)
        written = 0
        for start in range(0, len(group.buffers), _BUFFERS_PER_WRITE):
            written += _write_all(self._fd, group.buffers[start : start + _BUFFERS_PER_WRITE])
        if self._fsync:
            os.fdatasync(self._fd)
        self._size += written
        self.bytes_written += written

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._number:09d}.journal"

    def _begin_segment(self) -> None:
        with self._lock:
            self._number += 1
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._size = 0
            self._open_episodes[self._path] = set()
        fsync_path(self._folder)

    def _end_segment(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _abandon(self) -> None:
        """Cut the unfinished group off and leave the segment: after a failed sync it cannot be trusted."""
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
            if self._size == 0:
                self._path.unlink()
                with self._lock:
                    del self._open_episodes[self._path]
        except OSError as error:
            logger.error("%s: the unfinished group stays in it: %s", self._path, error)
        self._end_segment()

    def _remove_finished(self) -> None:
        with self._lock:
            current = self._path if self._fd is not None else None
            finished = [path for path, keys in self._open_episodes.items() if not keys and path != current]
            for path in finished:
                del self._open_episodes[path]
        for path in finished:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.error("%s cannot be removed: %s", path, error)


def _write_all(fd: int, buffers: list[bytes | memoryview]) -> int:
    """Write all buffers, however the kernel splits it; returns the bytes."""
    total = sum(len(buffer) for buffer in buffers)
    written = os.writev(fd, buffers)
    if written < total:
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
    return total


def keep_damage_aside(segment: Segment) -> Path | None:
    """Copy a segment from its first damaged byte on beside it; None if that was done before.

    Raises:
        OSError: The disk refuses.
    """
    copy = segment.path.with_name(segment.path.name + ".damaged")
    content = segment.path.read_bytes()[segment.damage[0].offset :]
    if copy.exists() and copy.stat().st_size == len(content):
        return None
    copy.write_bytes(content)
    return copy
