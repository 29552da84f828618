"""One start of a robot in its spool: a folder of segments, read in order, removed when stored."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fleet.durable_files import fsync_path
from fleet.records import read_records
from robot_nodes.spool_file import (
    DAMAGED_FOLDER,
    RUN_ID_FILE,
    SegmentContent,
    SegmentHead,
    SpoolEnd,
    SpoolRow,
    read_run_id,
    read_segment,
    segment_paths,
    unpack_record,
)

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**16  # a millisecond of parsing, in which the control loop has to wait
_HEAD_BYTES = 2**12


@dataclass(slots=True)
class Segment:
    """One file: rows `first_seq … end_seq - 1` in `size` good bytes."""

    path: Path
    first_seq: int
    end_seq: int
    size: int

    def rows_after(self, seq: int) -> int:
        """Rows above `seq`."""
        return max(0, self.end_seq - max(self.first_seq, seq + 1))


class SpoolBoot:
    """The rows of one boot on disk, and how far the server has them.

    The robot's own boot grows while it is read (`SpoolWriter`); those of earlier starts are closed.

    Attributes:
        durable_seq: Rows up to it are in the server's journal; -1 if none.
        sealed_seq: Rows up to it are in finished episode files, too.
        run_id: The run whose server this boot has met; empty if none.
        closed: No more rows will come.
        removed_bytes: Size of the segments removed so far.
    """

    def __init__(self, path: Path, head: SegmentHead, segments: list[Segment], *, closed: bool) -> None:
        self.path, self.head, self.segments, self.closed = path, head, segments, closed
        self.durable_seq = self.sealed_seq = -1
        self.run_id = read_run_id(path)
        self.removed_bytes = 0
        self._reported: set[tuple[str, int]] = set()

    @classmethod
    def recover(cls, path: Path) -> SpoolBoot | None:
        """Open what an earlier start left; a torn end is cut and kept aside. None: there are no rows.

        Only the newest segment is read as a whole: damage in others is found when they are sent.

        Raises:
            OSError: A file cannot be read or cut.
        """
        paths = [file for file in segment_paths(path) if file.exists()]
        newest = read_segment(paths[-1]) if paths else None
        while newest is not None and newest.first_seq < 0 and len(paths) > 1:  # torn in its first record
            _cut(paths[-1], 0)
            paths.pop().unlink()
            newest = read_segment(paths[-1])
        if newest is None or newest.first_seq < 0:
            return None
        segments: list[Segment] = []
        head = newest.head
        for file in paths[:-1]:
            begin = _read_head(file) or read_segment(file)
            if begin.first_seq < 0:
                logger.error("%s holds no readable row: left where it is", file)
                continue
            head = head or begin.head
            segments.append(Segment(file, begin.first_seq, begin.first_seq, file.stat().st_size))
        end_seq = newest.seqs[-1] + 1 if newest.seqs else newest.first_seq
        segments.append(Segment(paths[-1], newest.first_seq, end_seq, newest.good_bytes))
        for segment, following in pairwise(segments):
            segment.end_seq = following.first_seq
        if head is None:
            return None
        _cut(paths[-1], newest.good_bytes)
        return cls(path, head, segments, closed=True)

    def read(self, segment: Segment, offset: int) -> tuple[list[SpoolRow | SpoolEnd], int]:
        """The rows and ends from `offset` of a segment on, some at a time, and where to go on."""
        size = segment.size
        length = _CHUNK_BYTES
        while True:
            data = _read_bytes(segment.path, offset, min(length, size - offset))
            records, damage = read_records(data)
            end = offset + len(data)
            if end < size and damage and damage[-1].end == len(data):
                end = offset + damage[-1].offset  # a record that goes on behind what was read
                damage.pop()
            if end > offset or not data:
                break
            length *= 2
        items: list[SpoolRow | SpoolEnd] = []
        for record in records:
            try:
                item = unpack_record(record.payload)
            except ValueError as error:
                self._report_damage(segment, offset + record.offset, offset + record.end, str(error))
                continue
            if not isinstance(item, tuple):
                items.append(item)
        for stretch in damage:
            self._report_damage(segment, offset + stretch.offset, offset + stretch.end, "checksum")
        return items, end

    def _report_damage(self, segment: Segment, offset: int, end: int, why: str) -> None:
        if (segment.path.name, offset) in self._reported:
            return
        self._reported.add((segment.path.name, offset))
        logger.error("%s: bytes %d to %d are damaged (%s)", segment.path, offset, end, why)
        _keep_aside(segment.path, offset, end)

    @property
    def bytes_on_disk(self) -> int:
        """Size of its segments."""
        return sum(segment.size for segment in self.segments)

    @property
    def end_seq(self) -> int:
        """One above the newest row."""
        return self.segments[-1].end_seq if self.segments else 0

    @property
    def waiting_rows(self) -> int:
        """Rows on disk that are not in the server's journal."""
        return sum(segment.rows_after(self.durable_seq) for segment in tuple(self.segments))

    def remove_oldest(self) -> int:
        """Delete the oldest segment; returns the rows in it that the server does not have.

        Raises:
            OSError: It cannot be deleted.
        """
        segment = self.segments[0]
        segment.path.unlink(missing_ok=True)
        del self.segments[0]
        self.removed_bytes += segment.size
        return segment.rows_after(self.durable_seq)

    def remove_through(self, seq: int) -> int:
        """Delete all segments without a row above `seq`, the growing one excepted; returns how many."""
        removed = 0
        growing = 0 if self.closed else 1
        while len(self.segments) > growing and self.segments[0].end_seq <= seq + 1:
            self.remove_oldest()
            removed += 1
        return removed

    def remove_folder(self) -> None:
        """Delete all there is of this boot.

        Raises:
            OSError: It cannot be deleted.
        """
        while self.segments:
            self.remove_oldest()
        shutil.rmtree(self.path)

    def join_run(self, run_id: str) -> None:
        """Note on disk that these rows belong to a run, before its server gets the first.

        Raises:
            OSError: It cannot be written.
        """
        if self.run_id == run_id:
            return
        temporary = self.path / f"{RUN_ID_FILE}.tmp"
        with temporary.open("w") as file:
            file.write(f"{run_id}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / RUN_ID_FILE)
        fsync_path(self.path)
        self.run_id = run_id


def _keep_aside(path: Path, offset: int, end: int) -> None:
    """Copy bytes of a segment to where a person may look at them; nothing depends on it."""
    folder = path.parent.parent / DAMAGED_FOLDER
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        copy = folder / f"{path.parent.name}-{path.stem}-{offset}.bin"
        copy.write_bytes(_read_bytes(path, offset, end - offset))


def _read_bytes(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(length) or b""


def _read_head(path: Path) -> SegmentContent | None:
    """What the head at a segment's begin says, without reading the rows; None if it is damaged."""
    records, _ = read_records(_read_bytes(path, 0, _HEAD_BYTES))
    if not records or records[0].offset > 0:
        return None
    with contextlib.suppress(ValueError):
        item = unpack_record(records[0].payload)
        if isinstance(item, tuple):
            return SegmentContent(item[0], item[1], [], [], records[0].end)
    return None


def _cut(path: Path, size: int) -> None:
    """Cut a torn end off a segment."""
    end = path.stat().st_size
    if end == size:
        return
    logger.warning("%s ended in a torn record: its last %d bytes are cut off", path, end - size)
    _keep_aside(path, size, end)
    os.truncate(path, size)
