"""What a run folder holds when the server starts: its episode files, and the journal behind them.

An episode that is whole in HDF5 is taken from there; what is only in the journal is put together
again, row by row in order. Rows behind a damaged stretch of the journal are not taken unless they
follow on what is there: the robots still have them and send them again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fleet.messages import Array, TransitionBatch, Transitions
from fleet.spaces import SpaceSpec
from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_file import Episode, EpisodeFileError, EpisodeInfo
from replay_server.episode_store import EpisodeStore, EpisodeSummary, list_episodes
from replay_server.journal import (
    GIVEN_UP,
    EpisodeKey,
    JournalBatch,
    Segment,
    keep_damage_aside,
    read_journal,
)
from replay_server.ring import Ring

logger = logging.getLogger(__name__)


@dataclass
class RecoveredStream:
    """How far one boot of one robot had come."""

    last_seq: int = -1
    last_cursor: int = -1
    sealed_seq: int = -1
    episode: int = -1
    ended: bool = True
    episode_rows: int = 0
    given_up: int = 0
    left_out: int = 0
    rows: int = 0
    builder: EpisodeBuilder | None = None


class Recovery:
    """Reads a run folder once; the attributes say what was found.

    Attributes:
        streams: By robot_id and boot_id.
        infos: Of every readable episode file, in order of arrival.
        ended_episodes: Episodes that ended but have no file yet: to be written.
        segments: Journal segments, each with the episodes that still need it.
        files: Readable episode files.
        files_unreadable: Others.
        journal_damage: Damaged stretches of the journal.
    """

    def __init__(
        self, store: EpisodeStore, spec: SpaceSpec, new_builder: Callable[[TransitionBatch], EpisodeBuilder]
    ) -> None:
        """Nothing is read yet; `new_builder` makes one that holds what is stored of the batch's episode."""
        self.streams: dict[tuple[str, str], RecoveredStream] = {}
        self.infos: list[EpisodeInfo] = []
        self.ended_episodes: list[Episode] = []
        self.segments: dict[Path, set[EpisodeKey]] = {}
        self.files = self.files_unreadable = self.journal_damage = 0
        self._store, self._spec, self._new_builder = store, spec, new_builder
        self._summaries: list[EpisodeSummary] = []
        self._complete: set[EpisodeKey] = set()  # in a file, or without rows
        self._ended: set[EpisodeKey] = set()
        self._newest_ns = 0
        self._builders: dict[EpisodeKey, EpisodeBuilder] = {}
        self._end_cursor = 0
        self._journal_rows: list[tuple[npt.NDArray[np.int64], Array]] = []

    def read_episode_files(self) -> None:
        """Take over what the episode files say, without their rows."""
        self._summaries = list_episodes(self._store.run_dir, self._count_unreadable, self._store.catalog)
        for summary in self._summaries:
            info = summary.info
            self.infos.append(info)
            stream = self.streams.setdefault((info.robot_id, info.boot_id), RecoveredStream())
            stream.rows += info.rows
            if info.last_seq > stream.last_seq:
                stream.last_seq = stream.sealed_seq = info.last_seq
                stream.last_cursor = info.last_cursor
            if info.episode > stream.episode:
                stream.episode, stream.ended, stream.episode_rows = info.episode, info.complete, info.rows
            if info.complete:
                self._complete.add((info.robot_id, info.boot_id, info.episode))
        self.files = len(self._summaries)

    def _count_unreadable(self, error: EpisodeFileError) -> None:
        self.files_unreadable += 1
        logger.error("left out: %s", error)

    def read_journal(self) -> None:
        """Put together what is not in episode files yet."""
        rows_found = 0
        for segment in read_journal(self._store.run_dir):
            if segment.damage:
                self._report(segment)
            needed: set[EpisodeKey] = set()
            for entry in segment.batches:
                rows_found += self._take(entry)
                if entry.known != GIVEN_UP and entry.key not in self._complete:
                    needed.add(entry.key)
            self.segments[segment.path] = needed
        self._finish_builders()
        for (robot_id, boot_id), stream in self.streams.items():
            if stream.left_out:
                logger.warning(
                    "journal: %d rows of %s (boot %s) are left out, as rows from %d on are missing before "
                    "them: asked of the robot again",
                    stream.left_out,
                    robot_id,
                    boot_id,
                    stream.last_seq + 1,
                )
        if self.segments:
            logger.info("%d rows recovered from the journal", rows_found)

    def _report(self, segment: Segment) -> None:
        self.journal_damage += len(segment.damage)
        size = sum(damage.end - damage.offset for damage in segment.damage)
        try:
            copy = keep_damage_aside(segment)
        except OSError as error:
            logger.error("%s cannot be kept aside: %s", segment.path, error)
            copy = None
        if copy is not None:
            logger.error(
                "%s: %d bytes are damaged; a copy is kept in %s, what is missing is asked of the robots",
                segment.path,
                size,
                copy.name,
            )

    def _take(self, entry: JournalBatch) -> int:
        """Take the rows of a batch that follow on what is there; returns how many."""
        batch, key = entry.batch, entry.key
        self._newest_ns = entry.received_ns
        stream = self.streams.setdefault((batch.robot_id, batch.boot_id), RecoveredStream())
        if entry.known == GIVEN_UP:
            stream.given_up = batch.first_seq
            stream.last_seq = max(stream.last_seq, batch.first_seq - 1)
            return 0
        # Counted even if they are left out: no other row may get these cursors, lest they come back later.
        self._end_cursor = max(self._end_cursor, entry.first_cursor - entry.known + batch.rows)
        if key in self._complete or key in self._ended:
            return 0
        builder = self._builders.get(key) or self._new_builder(batch)
        if builder.rows:
            expected, after = builder.last_seq + 1, builder.last_cursor
        elif batch.episode < stream.episode:  # its file was damaged: what is here fills the hole
            expected, after = batch.first_seq + entry.known, -1
        else:
            expected, after = stream.last_seq + 1, stream.last_cursor
        if batch.first_seq > max(expected, stream.given_up):
            stream.left_out += batch.rows
            return 0
        skip = min(max(expected - batch.first_seq, 0), batch.rows)
        packed = batch.packed()[skip:]
        cursors = entry.first_cursor - entry.known + np.arange(skip, batch.rows)
        if len(cursors) and cursors[0] <= after:
            # An earlier restart left them out, and its robot sends them again behind the rows that were
            # missing: with these cursors they would stand before those.
            return 0
        self._builders[key] = builder
        builder.extend(
            Transitions.from_packed(packed), batch.first_seq + np.arange(skip, batch.rows), cursors
        )
        self._journal_rows.append((cursors, packed))
        stream.rows += len(packed)
        if len(cursors) and batch.first_seq + batch.rows - 1 > stream.last_seq:
            stream.last_seq, stream.last_cursor = batch.first_seq + batch.rows - 1, int(cursors[-1])
        if batch.episode >= stream.episode:
            stream.episode, stream.ended, stream.episode_rows = batch.episode, bool(batch.end), builder.rows
        if batch.end:
            self._end(builder, batch, entry.received_ns)
        return len(packed)

    def _end(self, builder: EpisodeBuilder, batch: TransitionBatch, received_ns: int) -> None:
        del self._builders[builder.key]
        (self._ended if builder.rows else self._complete).add(builder.key)
        if builder.rows:
            self.ended_episodes.append(
                builder.seal(
                    end=batch.end, success=batch.success, metrics=batch.metrics, received_ns=received_ns
                )
            )

    def _finish_builders(self) -> None:
        """The newest episode of each stream goes on; an older one without an end is stored as it is."""
        for builder in self._builders.values():
            stream = self.streams[builder.key[:2]]
            if builder.episode == stream.episode and not stream.ended:
                stream.builder = builder
            elif builder.rows:
                self.ended_episodes.append(
                    builder.seal(end="", success=False, metrics={}, received_ns=self._newest_ns)
                )

    def ring(self, capacity: int) -> Ring:
        """A ring with the newest rows, in their old order.

        Cursors stay what they were, unless rows are missing in between (a damaged file, a journal cut
        short): then older rows move up, so that the end is never below where a reader has been told it
        is by a file, and the ring has no holes.
        """
        nx, nu, spec_hash = self._spec.observation.size, self._spec.action.size, self._spec.hash
        parts = list(self._journal_rows)
        rows = sum(len(cursors) for cursors, _ in parts)
        for summary in sorted(self._summaries, key=lambda s: s.info.last_cursor, reverse=True):
            if rows >= capacity:
                break
            if summary.info.spec_hash != spec_hash:
                logger.warning("left out of the ring: %s has another spec than the run", summary.path)
                continue
            try:
                found = self._store.catalog.read(summary.path, nx, nu)
            except EpisodeFileError as error:
                self._count_unreadable(error)
                continue
            parts.append((found.cursor, found.transitions.packed()))
            rows += summary.info.rows
        if not rows:
            return Ring(capacity, nx, nu, first_cursor=self._end_cursor)
        old_cursors = np.concatenate([cursors for cursors, _ in parts])
        ranks = np.empty(rows, np.int64)
        ranks[np.argsort(old_cursors, kind="stable")] = np.arange(rows)
        end = max(int(old_cursors.max()) + 1, rows, self._end_cursor)
        ring = Ring(capacity, nx, nu, first_cursor=end - rows)
        places = ring.reserve(rows) + ranks
        while parts:  # from the back, so that each is freed once it is in the ring
            _, packed = parts.pop()
            mine, places = places[len(places) - len(packed) :], places[: len(places) - len(packed)]
            ring.restore(mine, packed)
        return ring
