"""Logs as one file of packed rows, mapped into memory: a minibatch reads what it draws and no more.

    with TemporaryDirectory() as folder:
        rows = RowFile.build(Path(folder) / "rows", logs)
        rows.values[index]                       # a minibatch [B, width]

Written from front to back, so that a full disk is an error here and not a signal later.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fleet.spaces import SpaceSpec
from learner.packed_rows import PackedRows, RowLayout
from replay_server.episode_file import EpisodeInfo
from replay_server.logs import Logs, LogsError, Progress


@dataclass(frozen=True, eq=False)
class RowFile:
    """All rows of some episodes, episode after episode.

    Attributes:
        spec: What the columns of observation and action mean.
        layout: Columns of a row.
        values: The rows [N, width], float32, on the disk.
        starts: Where each episode begins [E], int64.
        infos: Facts of each episode, E of them.
        demonstrations: Rows in which a person moved the robot, ascending [n].
    """

    spec: SpaceSpec
    layout: RowLayout
    values: Tensor
    starts: Tensor
    infos: list[EpisodeInfo]
    demonstrations: npt.NDArray[np.int64]

    @classmethod
    def build(cls, path: Path, logs: Logs, on_progress: Progress = lambda done, total: None) -> RowFile:
        """Write the rows of logs to `path`, which must outlive the result.

        Episodes with numbers that are not finite are noted in `logs.damaged` and left out.

        Raises:
            LogsError: There is no row, or there are several specs.
            OSError: The disk is full, or not writable.
        """
        layout = RowLayout(logs.spec.observation.size, logs.spec.action.size)
        starts, infos, rows = [], [], 0
        shown = [np.zeros(0, np.int64)]
        with path.open("wb") as file:
            for summary, transitions in logs.read(on_progress):
                if not transitions.rows:
                    continue
                packed = PackedRows.pack(transitions, layout)
                if not np.isfinite(packed.values).all():
                    logs.damaged[summary.path] = "holds numbers that are not finite"
                    continue
                file.write(packed.values.data)
                shown.append(rows + packed.demonstrations)
                starts.append(rows)
                infos.append(summary.info)
                rows += transitions.rows
        if not rows:
            raise LogsError("these logs hold no row that can be read")
        values = np.memmap(path, np.float32, "r+", shape=(rows, layout.width))
        return cls(
            logs.spec, layout, torch.from_numpy(values), torch.tensor(starts), infos, np.concatenate(shown)
        )

    @property
    def rows(self) -> int:
        """Number of transitions N."""
        return len(self.values)

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return len(self.starts)

    @property
    def slices(self) -> list[slice]:
        """Where the rows of each episode are, E of them."""
        starts = [*self.starts.tolist(), self.rows]
        return [slice(start, end) for start, end in itertools.pairwise(starts)]

    def episode_of(self, index: Tensor) -> Tensor:
        """The episode of each row in `index`, any shape."""
        return torch.searchsorted(self.starts, index, right=True) - 1
