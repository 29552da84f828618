"""Sequence numbers and cursors of many episode files, each checked whole."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from replay_server.episode_file import EpisodeFileError, EpisodeInfo, read_episode
from replay_server.spans import Seqs

_FILES_FOR_A_POOL = 500  # fewer are read before other processes have started
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class EpisodeNumbers:
    """What one episode file says; `damage` is why it says nothing, and then there is no `info`."""

    path: Path
    info: EpisodeInfo | None = None
    seq: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))
    cursor: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))
    damage: str = ""


def read_numbers(paths: Sequence[Path]) -> Iterator[EpisodeNumbers]:
    """Read episode files, in several processes if they are many: HDF5 lets threads wait for each other."""
    if len(paths) < _FILES_FOR_A_POOL:
        yield from map(_read_file, paths)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawned) as pool:
        try:
            yield from pool.map(_read_file, paths, chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _read_file(path: Path) -> EpisodeNumbers:
    try:
        episode = read_episode(path)
    except EpisodeFileError as error:
        return EpisodeNumbers(path, damage=str(error).removeprefix(f"{path}: "))
    return EpisodeNumbers(path, episode.info, episode.seq, episode.cursor)
