"""Every row of a run, stored once and in order: sequence numbers, ring and episodes.

A stream is one boot of one robot; its rows are numbered 0, 1, 2, … and taken in that order only.
Rows at or below the stream's `durable_seq` are duplicates and dropped; rows that leave a gap are
not taken, and the ack then tells the sender where to go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleet.messages import FINISHED, TransitionBatch
from fleet.spaces import SpaceSpec
from replay_server.columns import rows_from
from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_file import EpisodeFileError, EpisodeInfo, read_episode
from replay_server.episode_store import Episode, EpisodeStore, EpisodeSummary, list_episodes
from replay_server.refused import RefusedError
from replay_server.ring import Ring

logger = logging.getLogger(__name__)

MAX_EPISODE_ROWS = 2**18
_KEPT_EVALUATIONS = 200


@dataclass
class _Stream:
    durable_seq: int = -1
    episode: int = -1
    ended: bool = True
    builder: EpisodeBuilder | None = None


class ExperienceLog:
    """Takes batches that were checked against the spec; `recover` first, `seal_all` last."""

    def __init__(
        self,
        *,
        capacity_rows: int,
        spec: SpaceSpec,
        run_id: str,
        store: EpisodeStore,
        wall_ns: Callable[[], int],
    ) -> None:
        """Begin an empty log for rows that follow `spec`."""
        self.spec = spec
        self.ring = Ring(capacity_rows, spec.observation.size, spec.action.size)
        self.rows_by_robot: dict[str, int] = {}
        self.evaluations: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVALUATIONS)
        self.duplicates = self.gaps = self.deferred = self.rows_lost = 0
        self.episodes_recovered = self.files_unreadable = 0
        self._run_id = run_id
        self._store = store
        self._wall_ns = wall_ns
        self._streams: dict[tuple[str, str], _Stream] = {}

    @property
    def rows_inserted(self) -> int:
        """Rows stored in this run so far, those of earlier starts included."""
        return sum(self.rows_by_robot.values())

    def durable_seq(self, robot_id: str, boot_id: str) -> int:
        """Highest seq stored of this stream; -1 if none."""
        stream = self._streams.get((robot_id, boot_id))
        return stream.durable_seq if stream else -1

    def give_up_before(self, robot_id: str, boot_id: str, oldest_seq: int) -> None:
        """Accept that the sender no longer has the rows before `oldest_seq`; they count as lost."""
        missing = oldest_seq - 1 - self.durable_seq(robot_id, boot_id)
        if missing > 0:
            self.rows_lost += missing
            self._streams.setdefault((robot_id, boot_id), _Stream()).durable_seq = oldest_seq - 1
            logger.error(
                "LOST: %d rows of %s (boot %s) before seq %d", missing, robot_id, boot_id, oldest_seq
            )

    def append(self, batch: TransitionBatch) -> int:
        """Store the rows of a batch that are new and return the seq to acknowledge.

        Raises:
            RefusedError: The batch contradicts what is stored.
        """
        key = batch.robot_id, batch.boot_id
        stream = self._streams.get(key) or _Stream()
        if batch.first_seq > stream.durable_seq + 1:
            self.gaps += 1
            return stream.durable_seq
        if not self._store.accepting:
            self.deferred += 1
            return stream.durable_seq
        known = min(stream.durable_seq + 1 - batch.first_seq, batch.rows)
        past = batch.episode < stream.episode or (batch.episode == stream.episode and stream.ended)
        if known == batch.rows and (past or not batch.end):
            self.duplicates += known
            return stream.durable_seq
        if past:
            raise RefusedError(
                f"episode {batch.episode} has ended; the newest of {batch.robot_id} is {stream.episode}"
            )
        builder = self._builder(stream, batch)
        if builder.rows + batch.rows > MAX_EPISODE_ROWS:
            raise RefusedError(f"episode {batch.episode} has more than {MAX_EPISODE_ROWS} rows: end it")
        self.duplicates += known
        self._streams[key] = stream
        self._store_rows(stream, builder, batch, known)
        if batch.end:
            self._end_episode(stream, builder, batch)
        return stream.durable_seq

    def _builder(self, stream: _Stream, batch: TransitionBatch) -> EpisodeBuilder:
        """The builder of the batch's episode; a new episode seals the one before."""
        if batch.episode == stream.episode and stream.builder is not None:
            return stream.builder
        self._seal(stream)
        builder = EpisodeBuilder(
            run_id=self._run_id,
            robot_id=batch.robot_id,
            boot_id=batch.boot_id,
            episode=batch.episode,
            spec=self.spec,
        )
        builder.evaluation = batch.evaluation
        if batch.episode == stream.episode:
            # The server stopped in the middle of this episode: its file is written again, whole.
            unfinished = self._store.load_unfinished(batch.robot_id, batch.boot_id, batch.episode)
            if unfinished is not None:
                builder.resume(unfinished)
        stream.episode, stream.ended, stream.builder = batch.episode, False, builder
        return builder

    def _store_rows(
        self, stream: _Stream, builder: EpisodeBuilder, batch: TransitionBatch, known: int
    ) -> None:
        """Make the rows from `known` on durable; once this returns they may be acknowledged.

        The journal belongs here, before the ring: until it exists, rows of an unfinished episode
        are lost if this process is killed.
        """
        new = rows_from(batch, known)
        first_cursor = self.ring.extend(new)
        if new.rows:
            builder.add(new, batch.first_seq + known, first_cursor)
        stream.durable_seq += new.rows
        self.rows_by_robot[batch.robot_id] = self.rows_by_robot.get(batch.robot_id, 0) + new.rows

    def _end_episode(self, stream: _Stream, builder: EpisodeBuilder, batch: TransitionBatch) -> None:
        stream.builder, stream.ended = None, True
        if builder.rows:
            episode = builder.seal(
                end=batch.end, success=batch.success, metrics=batch.metrics, received_ns=self._wall_ns()
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

    def _seal(self, stream: _Stream) -> None:
        if stream.builder is not None and stream.builder.rows:
            self._store.submit(
                stream.builder.seal(end="", success=False, metrics={}, received_ns=self._wall_ns())
            )
        stream.builder = None

    def seal_all(self) -> None:
        """Hand over every unfinished episode to be stored as incomplete."""
        for stream in self._streams.values():
            self._seal(stream)

    def recover(self) -> None:
        """Rebuild streams, counters and ring from the episode files of the run."""
        summaries = list_episodes(self._store.run_dir, on_error=self._count_unreadable)
        for summary in summaries:
            info = summary.info
            stream = self._streams.setdefault((info.robot_id, info.boot_id), _Stream())
            stream.durable_seq = max(stream.durable_seq, info.last_seq)
            if info.episode > stream.episode:
                stream.episode, stream.ended = info.episode, info.complete
            self.rows_by_robot[info.robot_id] = self.rows_by_robot.get(info.robot_id, 0) + info.rows
            self._remember_evaluation(info)
        self.episodes_recovered = len(summaries)
        self._recover_ring(summaries)

    def _recover_ring(self, summaries: list[EpisodeSummary]) -> None:
        """Fill the ring with the newest rows, in their old order.

        Cursors stay what they were, unless rows are missing in between (a server that was killed):
        then older rows move up, so that the end is never below where a reader has been told it is
        by a file, and the ring has no holes.
        """
        episodes: list[Episode] = []
        rows = 0
        for summary in sorted(summaries, key=lambda s: s.info.last_cursor, reverse=True):
            if rows >= self.ring.capacity:
                break
            if summary.info.spec_hash != self.spec.hash:
                logger.warning("left out of the ring: %s has another spec than the run", summary.path)
                continue
            try:
                episodes.append(read_episode(summary.path))
            except EpisodeFileError as error:
                self._count_unreadable(error)
                continue
            rows += summary.info.rows
        if not episodes:
            return
        old_cursors = np.concatenate([episode.cursor for episode in episodes])
        ranks = np.empty(rows, np.int64)
        ranks[np.argsort(old_cursors, kind="stable")] = np.arange(rows)
        end = max(int(old_cursors.max()) + 1, rows)
        self.ring = Ring(self.ring.capacity, self.ring.nx, self.ring.nu, first_cursor=end - rows)
        cursors = self.ring.reserve(rows) + ranks
        while episodes:  # from the back, so that each is freed once it is in the ring
            episode = episodes.pop()
            mine, cursors = cursors[-episode.info.rows :], cursors[: -episode.info.rows]
            self.ring.restore(mine, episode.transitions)

    def _count_unreadable(self, error: EpisodeFileError) -> None:
        self.files_unreadable += 1
        logger.error("left out: %s", error)
