"""An episode that is still arriving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleet.messages import Array, Transitions
from fleet.spaces import SpaceSpec
from replay_server.episode_file import Episode, EpisodeInfo


class EpisodeBuilder:
    """Collects the rows of one episode and seals them into an `Episode`."""

    def __init__(
        self, *, run_id: str, robot_id: str, boot_id: str, episode: int, spec: SpaceSpec, task: str = ""
    ) -> None:
        """Begin an episode without rows."""
        self._run_id, self._robot_id, self._boot_id, self._episode = run_id, robot_id, boot_id, episode
        self._spec, self._task = spec, task
        self._parts: list[Array] = []
        self._seqs: list[Array] = []
        self._cursors: list[Array] = []
        self.rows = 0
        self.evaluation = False

    @property
    def episode(self) -> int:
        """Index of the episode in its boot."""
        return self._episode

    @property
    def key(self) -> tuple[str, str, int]:
        """robot_id, boot_id and index of the episode."""
        return self._robot_id, self._boot_id, self._episode

    @property
    def last_seq(self) -> int:
        """Seq of the newest row; there must be one."""
        return int(self._seqs[-1][-1])

    @property
    def last_cursor(self) -> int:
        """Cursor of the newest row; there must be one."""
        return int(self._cursors[-1][-1])

    def resume(self, episode: Episode) -> None:
        """Begin with what was sealed of this episode earlier."""
        self.extend(episode.transitions, episode.seq, episode.cursor)
        self.evaluation = episode.info.evaluation

    def extend(self, transitions: Transitions, seq: Array, cursor: Array) -> None:
        """Append rows with their seq and cursor, both rising [N]."""
        if not transitions.rows:
            return
        self._parts.append(transitions.packed())
        self._seqs.append(seq)
        self._cursors.append(cursor)
        self.rows += transitions.rows

    def seal(self, *, end: str, success: bool, metrics: Mapping[str, float], received_ns: int) -> Episode:
        """The episode as it is stored; complete if it has an `end`. Needs at least one row."""
        dtype = self._parts[0].dtype
        records = np.concatenate(
            [part.view(f"V{dtype.itemsize}") for part in self._parts]
        )  # not field by field
        transitions = Transitions.from_packed(records.view(dtype))
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
            task=self._task,
        )
        return Episode(info=info, spec=self._spec, transitions=transitions, seq=seq, cursor=cursor)
