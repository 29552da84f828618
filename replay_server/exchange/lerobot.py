"""Logs as a LeRobot dataset (v3.0): a folder with `meta/` and `data/`, in Parquet.

    exported = export_lerobot(logs, Path("datasets/reach"), instruction="Move the tool to the target.")

A frame is a step: `observation.state`, `action`, `next.reward`, `next.done`, `next.truncated`,
`next.success`. LeRobot itself has no last observation, so `next.observation.state` is there too, and our
other columns under their own names; policies take only what begins with `observation` or `action`.
`next.done` is `terminated` alone: LeRobot's only reader of it, its replay buffer, stops bootstrapping
there. `timestamp` counts steps at the control rate, as LeRobot demands; `stamp_ns` has the true times. What
else is known about an episode is in meta/episodes, and meta/info.json has the spec.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet.messages import Array, Transitions
from fleet.spaces import SpaceSpec
from replay_server.episode_file import EpisodeFileError, EpisodeInfo
from replay_server.exchange.column_statistics import ColumnStatistics
from replay_server.exchange.exported import Exported, check_some
from replay_server.exchange.facts import KEY, EpisodeFacts, dataset_facts
from replay_server.exchange.parquet_files import FILE_NAME, FILES_PER_CHUNK, ParquetFiles, require_pyarrow
from replay_server.exchange.whole_output import whole_output
from replay_server.logs import Logs, LogsError, Progress

if TYPE_CHECKING:
    import pyarrow as pa

FILE_MB = 100
"""LeRobot's own size of a file (MiB)."""

_GROUP_MB = 16  # rows that are kept in memory until they are written
_FOR_THE_RATE = 20  # episodes whose stamps are looked at


def features(spec: SpaceSpec) -> dict[str, dict[str, Any]]:
    """What LeRobot calls features: dtype, shape and names of each column, in their order."""

    def vector(names: tuple[str, ...]) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(names)], "names": list(names)}

    def number(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    return {
        "observation.state": vector(spec.observation.names),
        "action": vector(spec.action.names),
        "next.reward": number("float32"),
        "next.done": number("bool"),
        "next.truncated": number("bool"),
        "next.success": number("bool"),
        "next.observation.state": vector(spec.observation.names),
        "policy_action": vector(spec.action.names),
        "intervened": number("bool"),
        "clipped": number("bool"),
        "policy_version": number("int64"),
        "stamp_ns": number("int64"),
        "timestamp": number("float32"),
        "frame_index": number("int64"),
        "episode_index": number("int64"),
        "index": number("int64"),
        "task_index": number("int64"),
    }


def control_rate_hz(logs: Logs) -> float:
    """Steps per second, by the median distance of the stamps in the first episodes.

    Raises:
        LogsError: No episode has two rows, or the stamps stand still.
    """
    steps = []
    for summary in islice(logs.episodes, _FOR_THE_RATE):
        try:
            steps.append(np.diff(logs.transitions(summary).stamp_ns))
        except EpisodeFileError:
            continue  # named when it is to be written
    every = np.concatenate(steps) if steps else np.zeros(0)
    if not len(every) or (middle := float(np.median(every))) <= 0:
        raise LogsError("the stamps of these episodes do not say how many steps a second has: give --fps")
    rate = 1e9 / middle
    return float(round(rate)) if abs(rate - round(rate)) < 0.01 * rate else rate


def export_lerobot(
    logs: Logs,
    out: Path,
    *,
    instruction: str = "",
    fps: float | None = None,
    file_mb: float = FILE_MB,
    on_progress: Progress = lambda done, total: None,
) -> Exported:
    """Write all episodes; damaged ones are left out and noted in `logs.damaged`.

    Args:
        logs: Of one spec.
        out: The folder; it must not exist.
        instruction: The task in words, for policies that read; by default its kind.
        fps: Steps per second; by default as the stamps say.
        file_mb: Size of a file of rows (MiB).
        on_progress: Called after each episode.

    Raises:
        LogsError: There is nothing to export, `out` exists, pyarrow is missing, or the rate is not known.
        OSError: The disk is full, or not writable.
    """
    require_pyarrow()
    spec = logs.spec
    fps = fps or control_rate_hz(logs)
    with whole_output(out) as temporary:
        writer = _Writer(temporary, spec, fps, instruction, file_mb)
        for summary, transitions in logs.read(on_progress):
            writer.add(summary.info, transitions)
        check_some(writer.episodes, logs)
        writer.close()
    hint = f'LeRobotDataset("{out.name}", root="{out}")'
    return Exported(out, writer.episodes, writer.rows, hint)


class _Writer:
    """One dataset that comes into being."""

    def __init__(self, folder: Path, spec: SpaceSpec, fps: float, instruction: str, file_mb: float) -> None:
        self.episodes = self.rows = 0
        self._folder, self._spec, self._fps, self._instruction = folder, spec, fps, instruction
        self._file_mb = file_mb
        self._features = features(spec)
        self._data = ParquetFiles(folder / "data", file_mb)
        self._meta = ParquetFiles(folder / "meta" / "episodes", file_mb)
        self._tasks: dict[str, int] = {}
        self._statistics: ColumnStatistics | None = None
        self._waiting: list[dict[str, Array]] = []
        self._waiting_meta: list[dict[str, Any]] = []
        self._waiting_bytes = 0

    def add(self, info: EpisodeInfo, transitions: Transitions) -> None:
        instruction = self._instruction or info.task or "unknown"
        task = self._tasks.setdefault(instruction, len(self._tasks))
        rows = transitions.rows
        step = np.arange(rows)
        columns: dict[str, Array] = {
            "observation.state": transitions.observation,
            "action": transitions.action,
            "next.reward": transitions.reward,
            "next.done": transitions.terminated,
            "next.truncated": transitions.truncated,
            "next.success": (step == rows - 1) & info.success,
            "next.observation.state": transitions.next_observation,
            "policy_action": transitions.policy_action,
            "intervened": transitions.intervened,
            "clipped": transitions.clipped,
            "policy_version": transitions.policy_version,
            "stamp_ns": transitions.stamp_ns,
            "timestamp": (step / self._fps).astype("<f4"),
            "frame_index": step,
            "episode_index": np.full(rows, self.episodes),
            "index": self.rows + step,
            "task_index": np.full(rows, task),
        }
        statistics = ColumnStatistics.of(columns)
        self._statistics = self._statistics.merge(statistics) if self._statistics else statistics
        self._waiting.append(columns)
        self._waiting_meta.append(
            {
                "episode_index": self.episodes,
                "tasks": [instruction],
                "length": rows,
                "dataset_from_index": self.rows,
                "dataset_to_index": self.rows + rows,
                "robot_id": info.robot_id,
                "success": info.success,
                KEY: EpisodeFacts.of(info, transitions).to_text(),
                **{
                    f"stats/{column}/{name}": numbers
                    for column, found in statistics.as_lists().items()
                    for name, numbers in found.items()
                },
            }
        )
        self._waiting_bytes += sum(column.nbytes for column in columns.values())
        self.episodes, self.rows = self.episodes + 1, self.rows + rows
        if self._waiting_bytes >= min(_GROUP_MB, self._file_mb) * 2**20:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        places = {
            "data/chunk_index": self._data.chunk,
            "data/file_index": self._data.file,
            "meta/episodes/chunk_index": self._meta.chunk,
            "meta/episodes/file_index": self._meta.file,
        }
        self._data.write(self._table(self._waiting))
        self._meta.write(pa.Table.from_pylist([episode | places for episode in self._waiting_meta]))
        self._waiting, self._waiting_meta, self._waiting_bytes = [], [], 0

    def _table(self, episodes: list[dict[str, Array]]) -> pa.Table:
        import pyarrow as pa

        arrays = {}
        for name, feature in self._features.items():
            column = np.concatenate([episode[name] for episode in episodes])
            array = pa.array(column.reshape(-1), feature["dtype"])
            [size] = feature["shape"]
            arrays[name] = array if size == 1 else pa.FixedSizeListArray.from_arrays(array, size)
        return pa.table(arrays)

    def close(self) -> None:
        assert self._statistics is not None
        self._flush()
        self._data.close()
        self._meta.close()
        meta = self._folder / "meta"
        _write_tasks(meta / "tasks.parquet", list(self._tasks))
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": self.episodes,
            "total_frames": self.rows,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": 200,
            "fps": int(self._fps) if self._fps == int(self._fps) else self._fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": f"data/{FILE_NAME}",
            "video_path": None,
            "features": self._features,
            KEY: dataset_facts(self._spec),
        }
        (meta / "info.json").write_text(json.dumps(info, indent=4))
        (meta / "stats.json").write_text(json.dumps(self._statistics.as_lists(), indent=4))


def _write_tasks(path: Path, tasks: list[str]) -> None:
    """LeRobot reads this table with pandas and looks tasks up by its index, so it must say which that is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"task_index": np.arange(len(tasks)), "task": tasks})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)
