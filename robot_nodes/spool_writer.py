"""Appends to the spool's newest boot: into the page cache at once, onto the disk when asked."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque

from fleet.durable_files import fsync_path
from robot_nodes.spool_boot import Segment, SpoolBoot
from robot_nodes.spool_file import pack_head, segment_path

logger = logging.getLogger(__name__)


class SpoolWriter:
    """Writes records; what cannot be written waits in memory, in order, until it can.

    A killed process loses nothing that `append` was given, as the kernel has it; a computer that loses
    power loses what was appended since the last `sync`.

    Attributes:
        error: Why records wait in memory; empty if none do.
        written_bytes: Size of all segments written so far.
    """

    def __init__(self, boot: SpoolBoot, segment_bytes: int) -> None:
        """Make the boot's folder and its first segment.

        Raises:
            OSError: They cannot be made.
        """
        self._boot, self._segment_bytes = boot, segment_bytes
        self._lock = threading.Lock()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._segments_made = 0
        self._handle = -1
        self._torn = False  # the file may end in a part of a record
        self._full_handles: list[int] = []  # of segments that are not synced yet
        self._synced_segments = 0
        self._synced_bytes = 0
        self.error = ""
        self.written_bytes = 0
        boot.path.mkdir(parents=True)
        fsync_path(boot.path.parent)
        self._begin_segment(first_seq=0)

    def append(self, record: bytes, end_seq: int) -> None:
        """Write one record; `end_seq` is one above the newest row then. Never fails: see `error`."""
        with self._lock:
            self._waiting.append((record, end_seq))
            self._write_waiting()

    def retry(self) -> None:
        """Try again to write what waits in memory."""
        with self._lock:
            self._write_waiting()

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                record, end_seq = self._waiting[0]
                self._write(record, end_seq)
                self._waiting.popleft()
        except OSError as error:
            if not self.error:
                logger.error("%s cannot be written: %s; the robot waits", self._boot.path, error.strerror)
            self.error = f"spool {self._boot.path} cannot be written: {error.strerror}"
            return
        if self.error:
            logger.info("%s can be written again", self._boot.path)
            self.error = ""

    def _write(self, record: bytes, end_seq: int) -> None:
        segment = self._boot.segments[-1]
        if self._torn:
            os.ftruncate(self._handle, segment.size)
            self._torn = False
        if segment.end_seq > segment.first_seq and segment.size + len(record) > self._segment_bytes:
            self._begin_segment(segment.end_seq)
            segment = self._boot.segments[-1]
        self._torn = True
        _write_all(self._handle, record)
        self._torn = False
        self.written_bytes += len(record)
        segment.end_seq = end_seq
        segment.size += len(record)

    def _begin_segment(self, first_seq: int) -> None:
        path = segment_path(self._boot.path, self._segments_made + 1)
        head = pack_head(self._boot.head, first_seq)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        try:
            _write_all(handle, head)
        except OSError:
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._segments_made += 1
        if self._handle >= 0:
            self._full_handles.append(self._handle)
        self._handle = handle
        self.written_bytes += len(head)
        self._boot.segments.append(Segment(path, first_seq, first_seq, len(head)))

    def sync(self) -> None:
        """Put everything appended so far onto the disk; from one thread only.

        Raises:
            OSError: The disk will not take it; nothing may be sent yet.
        """
        with self._lock:
            handle, full, made = self._handle, self._full_handles.copy(), self._segments_made
            written = self.written_bytes
        if written == self._synced_bytes:
            return
        for old in full:
            os.fdatasync(old)
        os.fdatasync(handle)
        if made > self._synced_segments:
            fsync_path(self._boot.path)
            self._synced_segments = made
        for old in full:
            os.close(old)
        with self._lock:
            del self._full_handles[: len(full)]
        self._synced_bytes = written

    def close(self) -> int:
        """Close the files; returns how many records still wait in memory and are lost."""
        with self._lock:
            self._write_waiting()
        try:
            self.sync()
        except OSError as error:
            logger.error("%s cannot be synced: %s", self._boot.path, error.strerror)
        with self._lock:
            for handle in (*self._full_handles, self._handle):
                os.close(handle)
            self._full_handles, self._handle = [], -1
            return len(self._waiting)


def _write_all(handle: int, data: bytes) -> None:
    """Write, on and on: where there is room for a part only, the next call says why."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
