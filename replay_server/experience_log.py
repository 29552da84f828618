"""Every row of a run, stored once and in order: sequence numbers, journal, ring and episodes.

A stream is one boot of one robot; its rows are numbered 0, 1, 2, … and taken in that order only.
Rows at or below the newest one taken are duplicates and dropped; rows that leave a gap are not taken,
and the ack then tells the sender where to go on.

    log.stage(batch, frame)       # checked and numbered, not visible to anybody
    log.flush()                   # the staged batches go to the journal, as one group
    log.collect()                 # groups on disk: into ring and episodes, to be acknowledged
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleet.codec import encode
from fleet.messages import FINISHED, TransitionBatch, Transitions, row_dtype
from fleet.spaces import SpaceSpec
from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_file import EpisodeInfo
from replay_server.episode_store import EpisodeStore
from replay_server.journal import GIVEN_UP, Journal, JournalBatch
from replay_server.recovery import Recovery
from replay_server.refused import RefusedError
from replay_server.ring import Ring

logger = logging.getLogger(__name__)

MAX_EPISODE_ROWS = 2**18
MAX_STAGED_BYTES = 64 * 2**20
_KEPT_EVALUATIONS = 200

StreamKey = tuple[str, str]
"""robot_id and boot_id."""


@dataclass
class Stream:
    """How far one boot of one robot is.

    Attributes:
        accepted_seq: Newest row that was taken, on disk or not.
        durable_seq: Newest row that is on disk.
        sealed_seq: Newest row that is in an episode file.
        cursor: The ring's, after the newest row on disk; after a restart that after all rows.
        episode: Index of the newest episode.
        ended: That episode's end was taken.
        episode_rows: Rows taken of it.
        builder: Its rows on disk, until it ends.
    """

    accepted_seq: int = -1
    durable_seq: int = -1
    sealed_seq: int = -1
    cursor: int = 0
    episode: int = -1
    ended: bool = True
    episode_rows: int = 0
    builder: EpisodeBuilder | None = None


class ExperienceLog:
    """Takes batches that were checked against the spec; `recover` first, `close` last."""

    def __init__(
        self,
        *,
        capacity_rows: int,
        spec: SpaceSpec,
        run_id: str,
        store: EpisodeStore,
        wall_ns: Callable[[], int],
        on_commit: Callable[[], None] = lambda: None,
        fsync: bool = True,
    ) -> None:
        """Begin an empty log for rows that follow `spec`.

        Args:
            capacity_rows: Rows in the ring.
            spec: The run's spec.
            run_id: The run, for episode files.
            store: The run folder.
            wall_ns: Wall time (ns).
            on_commit: Called in another thread when a group is on disk and `collect` has work.
            fsync: Wait for the disk itself, not only for the kernel.

        Raises:
            OSError: The journal's folder cannot be made.
        """
        self.spec = spec
        self.ring = Ring(capacity_rows, spec.observation.size, spec.action.size)
        self.rows_by_robot: dict[str, int] = {}
        self.evaluations: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVALUATIONS)
        self.duplicates = self.gaps = self.deferred = self.rows_lost = 0
        self.episodes_recovered = self.files_unreadable = self.journal_damage = 0
        self._run_id = run_id
        self._store = store
        self._wall_ns = wall_ns
        self._streams: dict[StreamKey, Stream] = {}
        self._staged: list[JournalBatch] = []
        self._staged_rows = self._staged_bytes = 0
        self._in_flight: list[JournalBatch] = []
        self._on_commit = on_commit
        self._commits: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.journal = Journal(store.run_dir, self._committed, fsync=fsync)

    @property
    def rows_inserted(self) -> int:
        """Rows stored in this run so far, those of earlier starts included."""
        return sum(self.rows_by_robot.values())

    def stream(self, robot_id: str, boot_id: str) -> Stream:
        """How far this boot is; at -1 if nothing of it was ever taken."""
        return self._streams.get((robot_id, boot_id)) or Stream()

    @property
    def accepting(self) -> bool:
        """Whether rows can be kept: the disk takes them and not too much waits for it."""
        return self._store.accepting and not self.journal.error and self._staged_bytes < MAX_STAGED_BYTES

    def give_up_before(self, robot_id: str, boot_id: str, oldest_seq: int) -> None:
        """Accept that the sender no longer has the rows before `oldest_seq`; they count as lost."""
        missing = oldest_seq - 1 - self.stream(robot_id, boot_id).accepted_seq
        if missing <= 0:
            return
        stream = self._streams.setdefault((robot_id, boot_id), Stream())
        self.rows_lost += missing
        logger.error("LOST: %d rows of %s (boot %s) before seq %d", missing, robot_id, boot_id, oldest_seq)
        nothing = np.zeros(0, row_dtype(self.spec.observation.size, self.spec.action.size))
        batch = TransitionBatch.from_packed(
            nothing,
            robot_id=robot_id,
            boot_id=boot_id,
            first_seq=oldest_seq,
            episode=max(stream.episode, 0),
            spec_hash=self.spec.hash,
        )
        stream.accepted_seq = oldest_seq - 1
        self._stage(batch, encode(batch), GIVEN_UP)

    def stage(self, batch: TransitionBatch, frame: bytes | memoryview) -> bool:
        """Take the rows of a batch that are new; False if there are none or they cannot be taken now.

        Args:
            batch: The batch.
            frame: The bytes it was decoded from.

        Raises:
            RefusedError: The batch contradicts what is stored.
        """
        key, rows = (batch.robot_id, batch.boot_id), batch.rows
        stream = self._streams.get(key) or Stream()
        if batch.first_seq > stream.accepted_seq + 1:
            self.gaps += 1
            return False
        known = min(stream.accepted_seq + 1 - batch.first_seq, rows)
        past = batch.episode < stream.episode or (batch.episode == stream.episode and stream.ended)
        if known == rows and (past or not batch.end):
            self.duplicates += known
            return False
        if not self.accepting:
            self.deferred += 1
            return False
        if past:
            raise RefusedError(
                f"episode {batch.episode} has ended; the newest of {batch.robot_id} is {stream.episode}"
            )
        rows_before = stream.episode_rows if batch.episode == stream.episode else 0
        if rows_before + rows - known > MAX_EPISODE_ROWS:
            raise RefusedError(f"episode {batch.episode} has more than {MAX_EPISODE_ROWS} rows: end it")
        self.duplicates += known
        self._streams[key] = stream
        stream.accepted_seq += rows - known
        stream.episode_rows = rows_before + rows - known
        stream.episode, stream.ended = batch.episode, bool(batch.end)
        self._stage(batch, frame, known)
        return True

    def _stage(self, batch: TransitionBatch, frame: bytes | memoryview, known: int) -> None:
        cursor = self.ring.end_cursor + self._staged_rows
        self._staged.append(JournalBatch(batch, frame, known, cursor, self._wall_ns()))
        self._staged_rows += batch.rows - max(known, 0)
        self._staged_bytes += len(frame)

    def flush(self) -> None:
        """Hand what is staged to the journal, unless a group is under way."""
        if self._staged and not self._in_flight:
            self._in_flight, self._staged = self._staged, []
            self.journal.submit(self._in_flight)

    def _committed(self) -> None:
        self._commits.put(None)
        self._on_commit()

    def collect(self) -> list[StreamKey]:
        """Make what has reached the disk visible; returns the streams that can be acknowledged."""
        try:
            self._commits.get_nowait()
        except queue.Empty:
            return []
        return self._apply_group()

    @property
    def waiting(self) -> int:
        """Batches that are not on disk yet."""
        return len(self._staged) + len(self._in_flight)

    def commit(self, timeout_s: float | None = None) -> bool:
        """Wait until everything staged is on disk and visible; False if the disk does not take it in time."""
        while self.waiting:
            self.flush()
            try:
                self._commits.get(timeout=timeout_s)
            except queue.Empty:
                return False
            self._apply_group()
        return True

    def _apply_group(self) -> list[StreamKey]:
        group, self._in_flight = self._in_flight, []
        keys: dict[StreamKey, None] = {}
        for entry in group:
            self._apply(entry)
            keys[entry.batch.robot_id, entry.batch.boot_id] = None
            self._staged_rows -= entry.batch.rows - max(entry.known, 0)
            self._staged_bytes -= len(entry.frame)
        return list(keys)

    def _apply(self, entry: JournalBatch) -> None:
        batch = entry.batch
        stream = self._streams[batch.robot_id, batch.boot_id]
        if entry.known == GIVEN_UP:
            stream.durable_seq = batch.first_seq - 1
            return
        builder = self._builder(stream, batch)
        new = Transitions.from_packed(batch.packed()[entry.known :]) if entry.known else batch
        first_cursor = self.ring.extend(new)
        first_seq = batch.first_seq + entry.known
        builder.extend(
            new,
            np.arange(first_seq, first_seq + new.rows),
            np.arange(first_cursor, first_cursor + new.rows),
        )
        stream.durable_seq = max(stream.durable_seq, first_seq + new.rows - 1)
        stream.cursor = self.ring.end_cursor
        self.rows_by_robot[batch.robot_id] = self.rows_by_robot.get(batch.robot_id, 0) + new.rows
        if batch.end:
            self._end_episode(stream, builder, batch, entry.received_ns)

    def _builder(self, stream: Stream, batch: TransitionBatch) -> EpisodeBuilder:
        """The builder of the batch's episode; a new episode seals the one before."""
        if stream.builder is not None and stream.builder.episode == batch.episode:
            return stream.builder
        self._seal(stream)
        stream.builder = self._new_builder(batch)
        return stream.builder

    def _new_builder(self, batch: TransitionBatch) -> EpisodeBuilder:
        builder = EpisodeBuilder(
            run_id=self._run_id,
            robot_id=batch.robot_id,
            boot_id=batch.boot_id,
            episode=batch.episode,
            spec=self.spec,
            task=self._store.task,
        )
        builder.evaluation = batch.evaluation
        # The server stopped in the middle of this episode: its file is written again, whole.
        unfinished = self._store.load_unfinished(batch.robot_id, batch.boot_id, batch.episode)
        if unfinished is not None:
            builder.resume(unfinished)
        return builder

    def _end_episode(
        self, stream: Stream, builder: EpisodeBuilder, batch: TransitionBatch, received_ns: int
    ) -> None:
        stream.builder = None
        if not builder.rows:
            self.journal.forget(builder.key)
            return
        episode = builder.seal(
            end=batch.end, success=batch.success, metrics=batch.metrics, received_ns=received_ns
        )
        self._remember_evaluation(episode.info)
        self._store.submit(episode)

    def _remember_evaluation(self, info: EpisodeInfo) -> None:
        if info.evaluation and info.end in FINISHED:
            self.evaluations.append(
                {
                    "robot_id": info.robot_id,
                    "episode": info.episode,
                    "success": info.success,
                    "policy_version": info.policy_version,
                    "metrics": info.metrics,
                }
            )

    def _seal(self, stream: Stream) -> None:
        if stream.builder is not None and stream.builder.rows:
            self._store.submit(
                stream.builder.seal(end="", success=False, metrics={}, received_ns=self._wall_ns())
            )
        stream.builder = None

    def tend(self) -> list[StreamKey]:
        """Take note of the episode files that were written; returns the streams they belong to."""
        written = self._store.take_written()
        for info in written:
            self.journal.forget((info.robot_id, info.boot_id, info.episode))
            stream = self._streams.setdefault((info.robot_id, info.boot_id), Stream())
            stream.sealed_seq = max(stream.sealed_seq, info.last_seq)
        return [(info.robot_id, info.boot_id) for info in written]

    def seal_all(self, timeout_s: float = 5.0) -> None:
        """Hand over every unfinished episode to be stored as incomplete."""
        if not self.commit(timeout_s):
            logger.error(
                "%d batches were not acknowledged, as the journal cannot be written; the robots keep them",
                self.waiting,
            )
        for stream in self._streams.values():
            self._seal(stream)

    def close(self) -> None:
        """End the journal; call it when the store is closed. Unwritten episodes stay in it."""
        self.tend()
        self.journal.close()

    def recover(self) -> None:
        """Rebuild streams, counters, episodes and ring from the episode files and the journal of the run."""
        recovery = Recovery(self._store, self.spec, self._new_builder)
        recovery.read_episode_files()
        recovery.read_journal()
        for (robot_id, boot_id), found in recovery.streams.items():
            self._streams[robot_id, boot_id] = Stream(
                accepted_seq=found.last_seq,
                durable_seq=found.last_seq,
                sealed_seq=found.sealed_seq,
                episode=found.episode,
                ended=found.ended,
                episode_rows=found.episode_rows,
                builder=found.builder,
            )
            self.rows_by_robot[robot_id] = self.rows_by_robot.get(robot_id, 0) + found.rows
        for info in recovery.infos:
            self._remember_evaluation(info)
        self.ring = recovery.ring(self.ring.capacity)
        for stream in self._streams.values():
            stream.cursor = self.ring.end_cursor
        self.episodes_recovered = recovery.files
        self.files_unreadable = recovery.files_unreadable
        self.journal_damage = recovery.journal_damage
        for path, keys in recovery.segments.items():
            self.journal.adopt(path, keys)
        for episode in recovery.ended_episodes:
            self._remember_evaluation(episode.info)
            self._store.submit(episode)
