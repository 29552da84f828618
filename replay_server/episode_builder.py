"""An episode that is still arriving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleet.messages import Array, Transitions
from fleet.spaces import SpaceSpec
from replay_server.columns import concatenate
from replay_server.episode_file import Episode, EpisodeInfo


class EpisodeBuilder:
    """Collects the rows of one episode and seals them into an `Episode`."""

    def __init__(self, *, run_id: str, robot_id: str, boot_id: str, episode: int, spec: SpaceSpec) -> None:
        """Begin an episode without rows."""
        self._run_id, self._robot_id, self._boot_id, self._episode = run_id, robot_id, boot_id, episode
        self._spec = spec
        self._parts: list[Transitions] = []
        self._seqs: list[Array] = []
        self._cursors: list[Array] = []
        self.rows = 0
        self.evaluation = False

    def add(self, transitions: Transitions, first_seq: int, first_cursor: int) -> None:
        """Append rows that are consecutive in seq and cursor."""
        rows = transitions.rows
        self._add(
            transitions, np.arange(first_seq, first_seq + rows), np.arange(first_cursor, first_cursor + rows)
        )

    def resume(self, episode: Episode) -> None:
        """Begin with what was sealed of this episode earlier."""
        self._add(episode.transitions, episode.seq, episode.cursor)
        self.evaluation = episode.info.evaluation

    def _add(self, transitions: Transitions, seq: Array, cursor: Array) -> None:
        self._parts.append(transitions)
        self._seqs.append(seq)
        self._cursors.append(cursor)
        self.rows += transitions.rows

    def seal(self, *, end: str, success: bool, metrics: Mapping[str, float], received_ns: int) -> Episode:
        """The episode as it is stored; complete if it has an `end`. Needs at least one row."""
        transitions = concatenate(self._parts)
        seq, cursor = np.concatenate(self._seqs), np.concatenate(self._cursors)
        info = EpisodeInfo(
            run_id=self._run_id,
            robot_id=self._robot_id,
            boot_id=self._boot_id,
            episode=self._episode,
            rows=self.rows,
            first_seq=int(seq[0]),
            last_seq=int(seq[-1]),
            first_cursor=int(cursor[0]),
            last_cursor=int(cursor[-1]),
            received_ns=received_ns,
            spec_hash=self._spec.hash,
            policy_version=int(transitions.policy_version.min()),
            evaluation=self.evaluation,
            end=end,
            success=success,
            metrics=dict(metrics),
            complete=bool(end),
        )
        return Episode(info=info, spec=self._spec, transitions=transitions, seq=seq, cursor=cursor)
