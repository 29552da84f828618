"""A `RowFile` that outlasts the process, with what training needs beside it.

    FOLDER/rows.f32         one row of `RowLayout(nx, nu).width` floats per transition, episode after episode
    FOLDER/index.npz        where episodes begin, and which rows are of a person
    FOLDER/manifest.json    of which episodes they are; statistics of observations and rewards

The rows are mapped into memory, not read: logs may be of any size, the kernel keeps what fits. A folder that
is there under its name is a whole one.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from fleet.durable_files import fsync_path
from fleet.spaces import SpaceSpec
from learner.normaliser import Normaliser
from learner.packed_rows import RowLayout
from learner.reward_statistics import RewardStatistics
from learner.row_file import RowFile
from replay_server.logs import Logs, LogsError

_FORMAT = 1
_ROWS, _INDEX, _MANIFEST = "rows.f32", "index.npz", "manifest.json"


@dataclass(frozen=True)
class RowStore:
    """All rows of some logs.

    store = RowStore.build(folder / "rows", logs)       # the first time
    store = RowStore.open(folder / "rows")
    mirror = ReplayMirror.of(store.file.values, store.file.layout, store.file.demonstrations)

    Attributes:
        file: The rows; its `infos` are not kept.
        normaliser: Has seen all observations.
        rewards: Has seen all rewards.
        fingerprint: Of the logs it was made of.
    """

    file: RowFile
    normaliser: Normaliser
    rewards: RewardStatistics
    fingerprint: str

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
        normaliser, rewards = Normaliser(spec.observation.size), RewardStatistics()
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            file = RowFile.build(temporary / _ROWS, logs, on_progress)
            for episode in file.slices:
                rows = file.values[episode].numpy()
                normaliser.extend(rows[:, : file.layout.nx])
                rewards.extend(rows[:, file.layout.reward])
            np.savez(temporary / _INDEX, starts=file.starts.numpy(), demonstrations=file.demonstrations)
            facts = {
                "format": _FORMAT,
                "spec": spec.to_json(),
                "rows": file.rows,
                "normaliser": normaliser.state(),
                "rewards": rewards.state(),
                "fingerprint": fingerprint(logs),
            }
            (temporary / _MANIFEST).write_text(json.dumps(facts) + "\n")
            for name in (_ROWS, _INDEX, _MANIFEST):
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
            layout = RowLayout(spec.observation.size, spec.action.size)
            size, expected = (folder / _ROWS).stat().st_size, 4 * facts["rows"] * layout.width
            if size != expected:
                raise LogsError(f"{folder / _ROWS}: is damaged: {size} bytes, {expected} were written")
            # Shared, or else the kernel would set memory aside for the whole file.
            values = torch.from_file(
                str(folder / _ROWS), shared=True, size=expected // 4, dtype=torch.float32
            )
            index_file = io.BytesIO((folder / _INDEX).read_bytes())
            with np.load(index_file, allow_pickle=False) as index:
                starts, demonstrations = torch.from_numpy(index["starts"]), index["demonstrations"]
            normaliser, rewards = Normaliser(spec.observation.size), RewardStatistics()
            normaliser.load_state(facts["normaliser"])
            rewards.load_state(facts["rewards"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, BadZipFile) as error:
            if isinstance(error, LogsError):
                raise
            raise LogsError(f"{folder}: cannot be read: {error}; remove it to have it made anew") from error
        file = RowFile(spec, layout, values.view(-1, layout.width), starts, [], demonstrations)
        return cls(file, normaliser, rewards, str(facts["fingerprint"]))


def fingerprint(logs: Logs) -> str:
    """32 hex digits that say which episodes these are, wherever their files lie now."""
    digest = hashlib.blake2b(digest_size=16)
    for summary in logs.episodes:
        info = summary.info
        digest.update(f"{info.run_id} {info.robot_id} {info.boot_id} {info.episode} {info.rows}\n".encode())
    return digest.hexdigest()
