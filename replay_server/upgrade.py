"""Episode files of older schema versions, rewritten in place: each whole, or as it was.

A file is written anew beside the old one, read back, compared with it row by row, and only then takes
its place: one rename, so whoever looks sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import h5py

from fleet.durable_files import fsync_path
from fleet.messages import COLUMNS
from replay_server.episode_catalog import EpisodeCatalog
from replay_server.episode_file import (
    SCHEMA_VERSION,
    Episode,
    EpisodeFileError,
    EpisodeInfo,
    read_episode,
    write_episode,
)
from replay_server.episode_store import StoreError, lock_run
from replay_server.logs import Logs, LogsError, Progress, run_folder_of

_BESIDE = ".upgrade"


@dataclass(frozen=True)
class Upgraded:
    """What became of the files.

    Attributes:
        upgraded: Files that are of the newest version now.
        current: How many were before.
        failed: File to why it is as it was.
    """

    upgraded: list[Path] = field(default_factory=list)
    current: int = 0
    failed: dict[Path, str] = field(default_factory=dict)


def upgrade(logs: Logs, on_progress: Progress = lambda done, total: None) -> Upgraded:
    """Bring all files to the newest schema version; `task` becomes what their run's config says.

    Raises:
        LogsError: A replay server holds one of the folders; nothing was changed.
        OSError: The disk is full, or not writable; all files are whole, and the rest can be done later.
    """
    old = [summary for summary in logs.episodes if _schema_version(summary.path) < SCHEMA_VERSION]
    result = Upgraded(current=len(logs.episodes) - len(old), failed=dict(logs.damaged))
    folders = {run_folder_of(summary.path): None for summary in old}
    with contextlib.ExitStack() as held:
        for folder in filter(None, folders):
            held.enter_context(_held(folder))
        for done, summary in enumerate(old, start=1):
            try:
                _rewrite(summary.path, summary.info)
            except (EpisodeFileError, ValueError) as error:
                result.failed[summary.path] = str(error).removeprefix(f"{summary.path}: ")
            else:
                result.upgraded.append(summary.path)
            on_progress(done, len(old))
        for folder in filter(None, folders):
            _tell_catalog(folder, result.upgraded)
    return result


def _schema_version(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return int(file.attrs["schema_version"])


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep replay servers from starting in a run folder meanwhile.

    Raises:
        LogsError: One is there.
    """
    try:
        lock = lock_run(folder)
    except StoreError as error:
        raise LogsError(
            f"{folder} is in use by a replay server: stop it first; nothing was changed"
        ) from error
    try:
        yield
    finally:
        os.close(lock)


def _rewrite(path: Path, info: EpisodeInfo) -> None:
    """Replace one file.

    Raises:
        EpisodeFileError: It is damaged.
        ValueError: It cannot be written as it should be; the old file stays.
        OSError: The disk is full, or not writable.
    """
    old = read_episode(path)
    info = replace(old.info, task=old.info.task or info.task)
    beside = path.parent / _BESIDE
    shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
    try:
        new = write_episode(beside, replace(old, info=info))
        if _content(read_episode(new)) != _content(replace(old, info=info)):
            raise ValueError("what was written is not what was read: the disk may be failing")
        shutil.copymode(path, new)
        new.replace(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _content(episode: Episode) -> tuple[object, ...]:
    rows = [getattr(episode.transitions, name) for name in COLUMNS]
    facts = json.dumps(asdict(episode.info))  # as text: a metric that is NaN equals itself
    return facts, episode.spec, [array.tobytes() for array in (*rows, episode.seq, episode.cursor)]


def _tell_catalog(folder: Path, upgraded: Sequence[Path]) -> None:
    mine = [path for path in upgraded if run_folder_of(path) == folder]
    EpisodeCatalog(folder).learn(mine, on_error=lambda error: None)
