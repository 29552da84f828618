"""Transitions of one episode, packed into TransitionBatch messages as they happen.

The newest row is held back until the next one or the end, so that an episode which stops for any
reason (a pause, a fault, a signal) still has a last row to carry `truncated` and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fleet.messages import EndReason, TransitionBatch, Transitions
from fleet.spaces import SpaceSpec

_COLUMNS = {name: f.metadata for name, f in Transitions.__dataclass_fields__.items()}


class EpisodeRecorder:
    """Collects rows and emits a batch every `batch_rows` and at the end.

    recorder.begin(evaluation=False)
    recorder.add(observation=…, action=…, …)      # each tick
    recorder.end("time_limit", success, metrics)
    """

    def __init__(
        self,
        robot_id: str,
        boot_id: str,
        spec: SpaceSpec,
        emit: Callable[[TransitionBatch], None],
        batch_rows: int = 16,
    ) -> None:
        self._robot_id, self._boot_id = robot_id, boot_id
        self._spec_hash = spec.hash
        self._emit = emit
        self._batch_rows = batch_rows
        sizes = {"N": batch_rows + 1, "nx": spec.observation.size, "nu": spec.action.size}
        self._buffer: dict[str, Any] = {
            name: np.zeros([sizes[dim] for dim in meta["dims"]], meta["dtype"])
            for name, meta in _COLUMNS.items()
        }
        self._filled = 0
        self._evaluation = False
        self.episode = -1
        self.rows_produced = 0

    def begin(self, *, evaluation: bool) -> None:
        """Start the next episode."""
        self.episode += 1
        self._evaluation = evaluation
        self._filled = 0

    def add(self, **row: Any) -> None:
        """Append one transition: a value for every column of `Transitions`."""
        if self._filled >= self._batch_rows:
            self._flush(self._filled - 1)
        for name, column in self._buffer.items():
            column[self._filled] = row[name]
        self._filled += 1
        self.rows_produced += 1

    def end(self, reason: EndReason, *, success: bool, metrics: dict[str, float]) -> None:
        """Close the episode; unless it terminated, its last row becomes truncated."""
        if self._filled == 0:
            return  # nothing happened, so there is no episode to speak of
        last = self._filled - 1
        self._buffer["truncated"][last] = not self._buffer["terminated"][last]
        self._flush(self._filled, end=reason, success=success, metrics=metrics)

    def _flush(self, rows: int, *, end: str = "", success: bool = False, metrics: Any = None) -> None:
        self._emit(
            TransitionBatch(
                robot_id=self._robot_id,
                boot_id=self._boot_id,
                first_seq=self.rows_produced - self._filled,
                episode=self.episode,
                spec_hash=self._spec_hash,
                evaluation=self._evaluation,
                end=end,
                success=success,
                metrics=metrics or {},
                **{name: column[:rows].copy() for name, column in self._buffer.items()},
            )
        )
        for column in self._buffer.values():
            column[: self._filled - rows] = column[rows : self._filled]
        self._filled -= rows
