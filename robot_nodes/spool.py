"""A robot's experience on its own disk, from the tick it happens in until the replay server has it.

    EpisodeRecorder ─▶ Spool ─▶ SpoolReader (ExperienceSender's thread) ─▶ replay server

A folder per start of the robot (boot); `robot_nodes/spool_file.py` says what lies in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from pathlib import Path

from fleet.config import SpoolConfig
from fleet.spaces import SpaceSpec
from robot_nodes.batch_former import EpisodeEnd
from robot_nodes.spool_boot import SpoolBoot
from robot_nodes.spool_file import LOCK_FILE, SegmentHead, boot_paths, pack_end, pack_row, row_bytes
from robot_nodes.spool_writer import SpoolWriter

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 4 * 2**20
_RESERVE_BYTES = 2**16  # for the row and the end of the episode that come after "full"
_LOG_PERIOD_S = 10.0


class SpoolError(RuntimeError):
    """The spool cannot be used; the text says why and what to do."""


class Spool:
    """What was recorded and is not in an episode file of the server's yet.

    spool = Spool(RUN / "spool", "robot1", boot_id, spec, config)
    spool.add_row(…); spool.end_episode(…)    # control loop: into the page cache, never blocks or fails
    spool.sync()                              # sender: onto the disk, before rows are sent
    spool.boots[0].durable_seq = …            # sender: what the server has
    spool.trim()                              # sender: delete what is no longer needed
    spool.close()
    """

    def __init__(
        self,
        folder: Path,
        robot_id: str,
        boot_id: str,
        spec: SpaceSpec,
        config: SpoolConfig,
        *,
        segment_bytes: int = _SEGMENT_BYTES,
    ) -> None:
        """Take hold of the robot's folder, recover what earlier starts left, and begin a boot.

        Args:
            folder: The spools of all robots; this one's is a folder in it.
            robot_id: The robot.
            boot_id: This start of it.
            spec: Of its rows.
            config: Size, and what is done when it is full.
            segment_bytes: Files are about as large; the unit in which room is made.

        Raises:
            SpoolError: Another process uses it, or the disk will not have it.
        """
        self.path = folder / robot_id
        self.spec_hash = spec.hash
        self._max_bytes = config.max_mb * 10**6
        self._drop_oldest = config.on_full == "drop_oldest"
        self._config = config
        self.rows_dropped = 0
        self._rows_dropped_told = 0
        self._next_log_s = float("-inf")
        self._closed = False
        nx, nu = spec.observation.size, spec.action.size
        self._reserve_bytes = _RESERVE_BYTES + row_bytes(nx, nu)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_handle = self._lock()
        except OSError as error:
            raise SpoolError(
                f"the spool {self.path} cannot be made ({error.strerror}): give --run-dir a folder that "
                "this user may write"
            ) from error
        try:
            self.boots = self._recover()
            ordinal = max((boot.head.ordinal for boot in self.boots), default=-1) + 1
            head = SegmentHead(robot_id, boot_id, ordinal, spec.hash, nx, nu)
            self.current = SpoolBoot(self.path / boot_id, head, [], closed=False)
            self._writer = SpoolWriter(self.current, min(segment_bytes, self._max_bytes // 8))
        except OSError as error:
            os.close(self._lock_handle)
            raise SpoolError(f"the spool {self.path} cannot be used: {error}") from error
        self.boots.append(self.current)
        self._bytes_found = sum(boot.bytes_on_disk for boot in self.boots[:-1])
        self._bytes_forgotten = 0

    def _lock(self) -> int:
        handle = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            raise SpoolError(
                f"the spool {self.path} is in use by process {owner or 'unknown'}: a robot runs once; "
                "stop the other one first"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return handle

    def _recover(self) -> list[SpoolBoot]:
        boots: list[SpoolBoot] = []
        for path in boot_paths(self.path):
            boot = SpoolBoot.recover(path)
            if boot is None:
                if any(file.stat().st_size for file in path.iterdir()):
                    logger.error("%s holds nothing readable: left where it is", path)
                else:  # the process died before it had written anything
                    shutil.rmtree(path)
            elif boot.waiting_rows == 0:
                boot.remove_folder()
            else:
                boots.append(boot)
        boots.sort(key=lambda boot: boot.head.ordinal)
        for boot in boots:
            if boot.head.spec_hash != self.spec_hash:
                logger.error(
                    "%d rows in %s were recorded with another spec (task or robot config) than today's: "
                    "start the robot with that config to deliver them, or remove the folder",
                    boot.waiting_rows,
                    boot.path,
                )
        return boots

    def add_row(self, seq: int, episode: int, evaluation: bool, row: bytes) -> None:
        """Append a packed transition. Look at `blocked` before the next: nothing is dropped here."""
        self._writer.append(pack_row(seq, episode, evaluation, row), seq + 1)

    def end_episode(self, seq: int, episode: int, end: EpisodeEnd) -> None:
        """Append the end of an episode whose last row is `seq`."""
        self._writer.append(pack_end(seq, episode, end), seq + 1)

    @property
    def used_bytes(self) -> int:
        """Size of all segments on disk, those of other runs included."""
        removed = sum(boot.removed_bytes for boot in tuple(self.boots))
        return self._bytes_found + self._writer.written_bytes - removed - self._bytes_forgotten

    @property
    def blocked(self) -> str:
        """Why no more rows may be recorded for now; empty when they may."""
        if self._writer.error:
            return self._writer.error
        if not self._drop_oldest and self._full:
            rows = sum(boot.waiting_rows for boot in tuple(self.boots))
            limit = f"spool.max_mb {self._config.max_mb}"
            return f"spool {self.path} is full ({limit}): {rows} rows wait in it; is their replay server up?"
        return ""

    @property
    def _full(self) -> bool:
        return self.used_bytes > self._max_bytes - self._reserve_bytes

    def sync(self) -> None:
        """Everything recorded so far is on the disk after this.

        Raises:
            OSError: It is not.
        """
        self._writer.sync()

    def trim(self) -> None:
        """Delete what the server has in episode files; more where the room is needed, oldest first.

        Raises:
            OSError: A file cannot be deleted.
        """
        if self._writer.error:
            self._writer.retry()
        for boot in tuple(self.boots):
            boot.remove_through(boot.sealed_seq)
            self._forget_empty(boot)
        # A robot that may stop rather waits for room: until it is sealed, a row that is acknowledged may be
        # needed again, should the server's journal be damaged.
        if not (self._full or (self._drop_oldest and self._writer.error)):
            return
        for boot in tuple(self.boots):
            boot.remove_through(boot.durable_seq)
            self._forget_empty(boot)
        while self._drop_oldest and self._full and (oldest := self._oldest()) is not None:
            self.rows_dropped += oldest.remove_oldest()
            self._forget_empty(oldest)
        self._tell_dropped()

    def _oldest(self) -> SpoolBoot | None:
        """The boot of the oldest segment that may go."""
        boot = self.boots[0]
        return boot if len(boot.segments) > (1 if boot is self.current else 0) else None

    def _forget_empty(self, boot: SpoolBoot) -> None:
        if boot.segments or boot is self.current:
            return
        boot.remove_folder()
        self._bytes_forgotten += boot.removed_bytes
        self.boots.remove(boot)

    def _tell_dropped(self) -> None:
        now_s = time.monotonic()
        if self.rows_dropped > self._rows_dropped_told and now_s > self._next_log_s:
            self._next_log_s = now_s + _LOG_PERIOD_S
            self._rows_dropped_told = self.rows_dropped
            logger.error(
                "LOST: %d rows so far, dropped as the spool %s is full (spool.max_mb %d, spool.on_full "
                "drop_oldest)",
                self.rows_dropped,
                self.path,
                self._config.max_mb,
            )

    def end_boot(self) -> None:
        """No more rows will come: the reader then closes an episode whose end is missing."""
        self.current.closed = True

    @property
    def unwritten(self) -> bool:
        """Whether records wait in memory."""
        return bool(self._writer.error)

    def close(self) -> None:
        """Let go of the folder; this boot's is removed if the server has all its rows in episode files."""
        if self._closed:
            return
        self._closed = True
        self.end_boot()
        if lost := self._writer.close():
            logger.error("LOST: %d records could not be written to the spool %s", lost, self.path)
        with contextlib.suppress(OSError):  # it is found empty at the next start
            if self.current.sealed_seq + 1 >= self.current.end_seq:
                self.current.remove_folder()
        os.close(self._lock_handle)
