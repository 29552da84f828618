"""What the episode files of a run hold and where, in one file: a restart need not open each with HDF5.

RUN/episodes/catalog has one record (fleet/records.py) per file written, JSON. It is a cache: an entry
counts only while its file has the same size and modification time and its rows the same checksum;
everything else is read from the files themselves. A million rows in 12,500 files come back in seconds
instead of a minute.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.messages import COLUMNS, Array, Transitions
from fleet.records import pack_record, read_records
from replay_server.episode_file import (
    DATASETS,
    Episode,
    EpisodeFileError,
    EpisodeInfo,
    Layout,
    checksum,
    read_episode,
    read_facts,
    read_layout,
    write_episode,
)

logger = logging.getLogger(__name__)

_FILES_FOR_A_POOL = 500  # fewer are read before other processes have started
_CHUNK = 64
_RECORDS = 1000  # are parsed together
_REPEATED = {"run_id", "robot_id", "boot_id", "spec_hash", "end", "task", "origin"}
_LAYOUT = b', "extents": '
"""Where the second half of a record begins."""


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of one episode with their global cursors [N]."""

    transitions: Transitions
    cursor: npt.NDArray[np.int64]


class _Entry(NamedTuple):
    """What is known of a file: its size and modification time, the episode's facts, and its layout as JSON.

    Only who reads rows needs the layout, half of the record: until then nobody takes it apart.
    """

    stat: list[int]
    info: EpisodeInfo
    layout: bytes


class EpisodeCatalog:
    """The catalog of one run folder, as it was when this was made.

    infos = catalog.learn(paths, on_error)  # facts about many; files that are not known are read once
    info = catalog.info(path)               # None: not known, ask the file
    rows = catalog.read(path, nx, nu)       # by raw offsets where known, with HDF5 otherwise
    """

    def __init__(self, run_dir: Path) -> None:
        """Load what is there; a damaged catalog is only slower."""
        self._path = _catalog_path(run_dir)
        self._entries: dict[str, _Entry] = {}
        try:
            content = self._path.read_bytes()
        except OSError:
            return
        records = read_records(content)[0]
        with _no_garbage_collection():
            for first in range(0, len(records), _RECORDS):
                self._entries.update(_parse([bytes(r.payload) for r in records[first : first + _RECORDS]]))

    def _entry(self, path: Path) -> _Entry | None:
        entry = self._entries.get(_key(path))
        return entry if entry is not None and entry.stat == _stat(path) else None

    def info(self, path: Path) -> EpisodeInfo | None:
        """The facts about an episode file, if the catalog has them."""
        entry = self._entry(path)
        return entry.info if entry is not None else None

    def learn(
        self,
        paths: Sequence[Path],
        on_error: Callable[[EpisodeFileError], None],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[EpisodeInfo | None]:
        """The facts about all of `paths`, in their order; None for those that are not whole.

        What is not known is read, and remembered on the disk if that lets us.
        """
        infos = [self.info(path) for path in paths]
        unknown = [place for place, info in enumerate(infos) if info is None]
        learned = []
        read = _read_facts([paths[place] for place in unknown])
        for done, (place, (path, found)) in enumerate(zip(unknown, read, strict=True), start=1):
            on_progress(done, len(unknown))
            if isinstance(found, str):
                on_error(EpisodeFileError(found))
                continue
            payload = _payload(path, found)
            self._entries.update(_parse([payload]))
            infos[place] = self._entries[_key(path)].info
            learned.append(b"".join(pack_record(payload)))
        if learned:
            try:
                with self._path.open("ab") as file:
                    file.write(b"".join(learned))
            except OSError as error:
                logger.info("%s: not written, the next scan takes as long: %s", self._path, error)
        return infos

    def read(self, path: Path, nx: int, nu: int) -> EpisodeRows:
        """The rows of a file whose observations have `nx` numbers and whose actions have `nu`.

        Raises:
            EpisodeFileError: The file is damaged.
        """
        entry = self._entry(path)
        if entry is not None and (rows := _read_raw(path, entry, nx, nu)) is not None:
            return rows
        episode = read_episode(path)
        return EpisodeRows(episode.transitions, episode.cursor)


def seal_episode(run_dir: Path, episode: Episode, *, durable: bool = True) -> Path:
    """Write an episode's file as `write_episode` does, and note it in the catalog; returns its path.

    Raises:
        OSError: The disk is full, or not writable.
    """
    path = write_episode(run_dir, episode, durable=durable)
    try:
        payload = _payload(path, _facts(_stat(path), episode.info, read_layout(path)))
        with _catalog_path(run_dir).open("ab") as file:
            file.write(b"".join(pack_record(payload)))
    except (OSError, EpisodeFileError) as error:
        logger.warning("%s is not in the catalog, the next start takes longer: %s", path, error)
    return path


def _key(path: Path) -> str:
    """What an episode's file is called in the catalog of its run; many times as fast as `relative_to`."""
    return "/".join(path.parts[-2:])


def _payload(path: Path, facts: Mapping[str, Any]) -> bytes:
    return json.dumps({"file": _key(path), **facts}).encode()


def _parse(payloads: Sequence[bytes]) -> Iterator[tuple[str, _Entry]]:
    """File and entry of each record; of many at once, since the names in them are then kept only once."""
    halves = [half for payload in payloads if (half := payload.rpartition(_LAYOUT))[1]]
    heads = json.loads(b"[" + b",".join(head + b"}" for head, _, _ in halves) + b"]")
    for found, (_, _, layout) in zip(heads, halves, strict=True):
        facts = found["info"]
        for name in _REPEATED & facts.keys():
            facts[name] = sys.intern(facts[name])
        try:
            yield found["file"], _Entry(found["stat"], EpisodeInfo(**facts), layout)
        except TypeError:  # of another version of this program: the file itself is asked
            continue


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """While a hundred thousand entries are made, none of them garbage: looking for it takes as long again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _facts(stat: list[int], info: EpisodeInfo, layout: Layout) -> dict[str, Any]:
    return {"stat": stat, "info": asdict(info), "extents": layout.extents, "crc32": layout.crc32}


def _read_facts(paths: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any] | str]]:
    """What the catalog holds of each file, or what is wrong with it."""
    if len(paths) < _FILES_FOR_A_POOL:
        yield from zip(paths, map(_read_file, paths), strict=True)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawned) as pool:
        yield from zip(paths, pool.map(_read_file, paths, chunksize=_CHUNK), strict=True)


def _read_file(path: Path) -> dict[str, Any] | str:
    stat = _stat(path)  # before: of a file that is replaced meanwhile, the new one is not known then
    try:
        return _facts(stat, *read_facts(path))
    except EpisodeFileError as error:
        return str(error)


def _catalog_path(run_dir: Path) -> Path:
    return run_dir / "episodes" / "catalog"


def _stat(path: Path) -> list[int]:
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _read_raw(path: Path, entry: _Entry, nx: int, nu: int) -> EpisodeRows | None:
    """The rows straight from the file's bytes; None if they are not what the catalog says."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EpisodeFileError(f"{path}: cannot be read: {error}") from error
    layout = json.loads(b'{"extents": ' + entry.layout)
    sizes = {"N": entry.info.rows, "nx": nx, "nu": nu}
    arrays: dict[str, Array] = {}
    for name in DATASETS:
        offset, length = layout["extents"][name]
        dtype = COLUMNS[name]["dtype"] if name in COLUMNS else np.dtype("<i8")
        shape = [sizes[dim] for dim in COLUMNS[name]["dims"]] if name in COLUMNS else [sizes["N"]]
        if dtype.itemsize * int(np.prod(shape)) != length or offset + length > len(content):
            return None
        arrays[name] = np.frombuffer(content, dtype, length // dtype.itemsize, offset).reshape(shape)
    if checksum(arrays) != layout["crc32"]:
        return None
    return EpisodeRows(Transitions(**{name: arrays[name] for name in COLUMNS}), arrays["cursor"])
