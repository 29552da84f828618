"""One robot's steps, numbered, packed and handed to a sink as they happen."""

from __future__ import annotations

from typing import Any

import numpy as np

from fleet.messages import COLUMNS, EndReason, row_dtype
from fleet.spaces import SpaceSpec
from robot_nodes.batch_former import EpisodeEnd, EpisodeSink


class EpisodeRecorder:
    """Packs each transition into a record and puts it into the sink at once.

    recorder = EpisodeRecorder(spec, sink=spool)
    recorder.begin(evaluation=False)
    recorder.add(observation=…, action=…, …)      # each tick
    recorder.end("time_limit", success, metrics)
    """

    def __init__(self, spec: SpaceSpec, sink: EpisodeSink) -> None:
        self._sink = sink
        self._row = np.zeros(1, row_dtype(spec.observation.size, spec.action.size))
        self._columns: dict[str, Any] = {name: self._row[name] for name in COLUMNS}
        self._evaluation = False
        self._rows_in_episode = 0
        self.episode = -1
        self.rows_produced = 0

    def begin(self, *, evaluation: bool) -> None:
        """Start the next episode."""
        self.episode += 1
        self._evaluation = evaluation
        self._rows_in_episode = 0

    def add(self, **row: Any) -> None:
        """Append one transition: a value for every column of `Transitions`."""
        for name, column in self._columns.items():
            column[0] = row[name]
        seq = self.rows_produced
        self.rows_produced += 1
        self._rows_in_episode += 1
        self._sink.add_row(seq, self.episode, self._evaluation, self._row.tobytes())

    def end(self, reason: EndReason, *, success: bool, metrics: dict[str, float]) -> None:
        """Close the episode."""
        if self._rows_in_episode == 0:
            return  # nothing happened, so there is no episode to speak of
        end = EpisodeEnd(reason=reason, success=success, metrics={k: float(v) for k, v in metrics.items()})
        self._sink.end_episode(self.rows_produced - 1, self.episode, end)
        self._rows_in_episode = 0
