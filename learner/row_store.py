"""Logged rows as one file on the disk, in the mirror's layout: minibatches come from logs of any size.

    FOLDER/rows.f32         one row of `RowLayout(nx, nu).width` floats per transition, episode after episode
    FOLDER/index.npz        where episodes begin, and which rows are of a person
    FOLDER/manifest.json    of which episodes they are; statistics of observations and rewards

The file is mapped into memory, not read: the kernel keeps what fits. It is written in one pass over the
logs, and a folder that is there under its name is a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fleet.durable_files import fsync_path
from fleet.spaces import SpaceSpec
from learner.normaliser import Normaliser
from learner.packed_rows import PackedRows, RowLayout
from learner.reward_statistics import RewardStatistics
from replay_server.logs import Logs, LogsError

_FORMAT = 1
_ROWS, _INDEX, _MANIFEST = "rows.f32", "index.npz", "manifest.json"


@dataclass(frozen=True)
class RowStore:
    """All rows of some logs.

    store = RowStore.build(folder / "rows", logs)       # the first time
    store = RowStore.open(folder / "rows")
    mirror = ReplayMirror.of(store.rows, store.layout, store.demonstrations)

    Attributes:
        spec: The spaces of the rows.
        rows: One transition each, mapped from the file [N, width].
        starts: Index of the first row of each episode, and N at the end [episodes + 1].
        demonstrations: Rows in which a person moved the robot, ascending [n].
        normaliser: Has seen all observations.
        rewards: Has seen all rewards.
        fingerprint: Of the logs it was made of.
    """

    spec: SpaceSpec
    rows: Tensor
    starts: npt.NDArray[np.int64]
    demonstrations: npt.NDArray[np.int64]
    normaliser: Normaliser
    rewards: RewardStatistics
    fingerprint: str

    @property
    def layout(self) -> RowLayout:
        """Columns of a row."""
        return RowLayout(self.spec.observation.size, self.spec.action.size)

    @classmethod
    def build(
        cls, folder: Path, logs: Logs, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> RowStore:
        """Write the rows of all readable episodes into `folder`, which must not exist.

        Raises:
            LogsError: There are none, or they have several specs.
            OSError: The disk refuses.
        """
        spec = logs.spec
        layout = RowLayout(spec.observation.size, spec.action.size)
        normaliser, rewards = Normaliser(layout.nx), RewardStatistics()
        starts, shown = [0], [np.zeros(0, np.int64)]
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            with (temporary / _ROWS).open("wb") as file:
                for _, transitions in logs.read(on_progress):
                    packed = PackedRows.pack(transitions, layout)
                    file.write(packed.values.data)
                    shown.append(starts[-1] + packed.demonstrations)
                    starts.append(starts[-1] + len(packed))
                    normaliser.extend(transitions.observation)
                    rewards.extend(transitions.reward)
                file.flush()
                os.fsync(file.fileno())
            if starts[-1] == 0:
                raise LogsError("no episode of these logs can be read")
            np.savez(temporary / _INDEX, starts=np.array(starts), demonstrations=np.concatenate(shown))
            facts = {
                "format": _FORMAT,
                "spec": spec.to_json(),
                "rows": starts[-1],
                "episodes": len(starts) - 1,
                "normaliser": normaliser.state(),
                "rewards": rewards.state(),
                "fingerprint": fingerprint(logs),
            }
            (temporary / _MANIFEST).write_text(json.dumps(facts) + "\n")
            for name in (_INDEX, _MANIFEST):
                fsync_path(temporary / name)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_path(folder.parent)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> RowStore:
        """Map what `build` wrote.

        Raises:
            LogsError: It is not there, or damaged.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
            if facts["format"] != _FORMAT:
                raise LogsError(f"{folder}: has format {facts['format']}, this program reads {_FORMAT}")
            spec = SpaceSpec.from_json(facts["spec"])
            width = RowLayout(spec.observation.size, spec.action.size).width
            size, expected = (folder / _ROWS).stat().st_size, 4 * facts["rows"] * width
            if size != expected:
                raise LogsError(f"{folder / _ROWS}: is damaged: {size} bytes, {expected} were written")
            rows = torch.from_file(
                str(folder / _ROWS), shared=False, size=facts["rows"] * width, dtype=torch.float32
            )
            with np.load(folder / _INDEX, allow_pickle=False) as index:
                starts, demonstrations = index["starts"], index["demonstrations"]
            normaliser, rewards = Normaliser(spec.observation.size), RewardStatistics()
            normaliser.load_state(facts["normaliser"])
            rewards.load_state(facts["rewards"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if isinstance(error, LogsError):
                raise
            raise LogsError(f"{folder}: cannot be read: {error}; remove it to have it made anew") from error
        return cls(
            spec,
            rows.view(-1, width),
            starts,
            demonstrations,
            normaliser,
            rewards,
            str(facts["fingerprint"]),
        )


def fingerprint(logs: Logs) -> str:
    """32 hex digits that say which episodes these are, wherever their files lie now."""
    digest = hashlib.blake2b(digest_size=16)
    for summary in logs.episodes:
        info = summary.info
        digest.update(f"{info.run_id} {info.robot_id} {info.boot_id} {info.episode} {info.rows}\n".encode())
    return digest.hexdigest()
