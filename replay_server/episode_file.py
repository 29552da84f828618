"""One episode as one HDF5 file: every column of `Transitions`, `seq`, `cursor`, and facts as attributes.

The attribute `crc32` covers all datasets, in the order of `DATASETS`. A file appears under its name
only when it is whole: written beside it, closed, fsynced, renamed, and the folder fsynced. `h5dump`,
`h5py` or `pnaf logs show` read it.
"""

from __future__ import annotations

import json
import os
import re
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from fleet.durable_files import fsync_path
from fleet.messages import COLUMNS, Array, Transitions
from fleet.spaces import SpaceError, SpaceSpec
from replay_server.columns import shape_error

SCHEMA_VERSION = 2
"""1: without `task` and `origin`. Older files are read as well; `pnaf logs upgrade` rewrites them."""

DATASETS = (*COLUMNS, "seq", "cursor")
_T = TypeVar("_T")
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class EpisodeFileError(RuntimeError):
    """A file is not a whole episode; the text names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """What is known about one episode beside its rows; the file's root attributes.

    Attributes:
        run_id: The run it belongs to.
        robot_id: Who lived it.
        boot_id: Which start of that robot's process.
        episode: Its index in that boot.
        rows: Number of transitions.
        first_seq: Sequence number of its first row in that boot.
        last_seq: Sequence number of its last row.
        first_cursor: Global cursor of its first row; other robots' rows lie in between.
        last_cursor: Global cursor of its last row.
        received_ns: Wall time at which its last row arrived (ns).
        spec_hash: Hash of the spec its columns follow.
        policy_version: Oldest policy that acted in it; -1 before the first.
        evaluation: It ran noise-free to measure the policy.
        end: Why it ended; empty if it was sealed before its end.
        success: The task's verdict.
        metrics: Numbers about the episode, from the task.
        complete: Its end is in the file.
        task: Kind of the task (`reach`, …); empty if that is not known.
        origin: Where it comes from, if no robot lived it as it stands: imported, relabelled, cut.
    """

    run_id: str
    robot_id: str
    boot_id: str
    episode: int
    rows: int
    first_seq: int
    last_seq: int
    first_cursor: int
    last_cursor: int
    received_ns: int
    spec_hash: str
    policy_version: int
    evaluation: bool
    end: str
    success: bool
    metrics: dict[str, float]
    complete: bool
    task: str = ""
    origin: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode:
    """One episode with its rows: `transitions` [N], `seq` [N] and `cursor` [N]."""

    info: EpisodeInfo
    spec: SpaceSpec
    transitions: Transitions
    seq: npt.NDArray[np.int64]
    cursor: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where each dataset's bytes lie in a file (offset, length), and their `checksum`."""

    extents: dict[str, tuple[int, int]]
    crc32: int


def is_safe_id(text: str) -> bool:
    """Whether an id from the network may become part of a file name."""
    return _SAFE_ID.fullmatch(text) is not None


def episode_path(run_dir: Path, robot_id: str, boot_id: str, episode: int) -> Path:
    """Where an episode lies in its run folder.

    Raises:
        ValueError: An id could escape the folder.
    """
    for name, text in (("robot_id", robot_id), ("boot_id", boot_id)):
        if not is_safe_id(text):
            raise ValueError(f"{name} must be 1 to 64 of A-Z a-z 0-9 _ -, got {text[:80]!r}")
    if episode < 0:
        raise ValueError(f"episode must be ≥ 0, got {episode}")
    return run_dir / "episodes" / robot_id / f"{boot_id}-{episode:06d}.h5"


def write_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Call `write(temporary path)`, then make the result appear at `path`, whole and, unless not, durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A sealer whose server was killed may be at the same file still.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if durable:
            fsync_path(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(path.parent)


def write_episode(run_dir: Path, episode: Episode, *, durable: bool = True) -> Path:
    """Write one episode whole and return its path; an older version of it is replaced.

    Unless `durable`, a power cut may take it until the caller syncs.

    Raises:
        OSError: The disk is full, or not writable.
    """
    info = episode.info
    path = episode_path(run_dir, info.robot_id, info.boot_id, info.episode)
    arrays = {name: getattr(episode.transitions, name) for name in COLUMNS}
    arrays |= {"seq": episode.seq.astype("<i8"), "cursor": episode.cursor.astype("<i8")}

    # In memory: HDF5 may find a disk full only while it closes a file, and h5py does not pass that on.
    with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        for name, value in asdict(info).items():
            file.attrs[name] = json.dumps(value) if isinstance(value, dict) else value
        file.attrs["spec"] = json.dumps(episode.spec.to_json())
        file.attrs["crc32"] = checksum(arrays)
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, lambda temporary: temporary.write_bytes(image), durable=durable)
    return path


def checksum(arrays: Mapping[str, Array]) -> int:
    """CRC-32 over the bytes of `DATASETS`, in that order."""
    value = 0
    for name in DATASETS:
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, value)
    return value


def read_info(path: Path) -> EpisodeInfo:
    """The facts about an episode, without its rows.

    Raises:
        EpisodeFileError: The file is truncated or not an episode.
    """
    return _read(path, _info)


def read_spec(path: Path) -> SpaceSpec:
    """The spaces that an episode follows, without its rows.

    Raises:
        EpisodeFileError: The file is truncated or not an episode.
    """
    return _read(path, _spec)


def read_episode(path: Path) -> Episode:
    """One episode with all its rows, checked against its own spec.

    Raises:
        EpisodeFileError: The file is truncated or not an episode.
    """
    return _read(path, _episode)


def read_layout(path: Path) -> Layout:
    """Where the bytes of each dataset lie in the file, and their checksum.

    Raises:
        EpisodeFileError: The file is truncated or not an episode.
    """
    return _read(path, _layout)


def read_facts(path: Path) -> tuple[EpisodeInfo, Layout]:
    """`read_info` and `read_layout` in one.

    Raises:
        EpisodeFileError: The file is truncated or not an episode.
    """
    return _read(path, lambda file: (_info(file), _layout(file)))


def _layout(file: h5py.File) -> Layout:
    # Not file[name], which takes three times as long: there may be a hundred thousand files.
    places = {name: h5py.h5d.open(file.id, name.encode()) for name in DATASETS}
    extents = {name: (int(d.get_offset() or 0), int(d.get_storage_size())) for name, d in places.items()}
    return Layout(extents=extents, crc32=int(file.attrs["crc32"]))


def _read(path: Path, read: Callable[[h5py.File], _T]) -> _T:
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except FileNotFoundError as error:
        raise EpisodeFileError(f"{path}: no such file") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, SpaceError) as error:
        raise EpisodeFileError(f"{path}: not a whole episode file: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong with a file, in our words where HDF5's are for its programmers."""
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    if sizes := re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", text):
        return "it is cut short: {} of {} bytes are there".format(*sizes.groups())
    return "it is no HDF5 file" if "file signature not found" in text else text


def _info(file: h5py.File) -> EpisodeInfo:
    if "schema_version" not in file.attrs:
        raise ValueError("it has no schema_version: some other program wrote it")
    version = int(file.attrs["schema_version"])
    if not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(
            f"schema_version is {version}, of a newer parallel-naf: this one reads 1 to {SCHEMA_VERSION}"
        )
    values: dict[str, Any] = {}
    attributes = dict(file.attrs)
    for older in range(version, SCHEMA_VERSION):
        attributes = _UPGRADES[older] | attributes
    for f in fields(EpisodeInfo):
        if f.name not in attributes:
            raise ValueError(f"the attribute {f.name!r} is missing")
        value = attributes[f.name]
        values[f.name] = (
            json.loads(value) if f.name == "metrics" else getattr(value, "item", lambda v=value: v)()
        )
    return EpisodeInfo(**values)


_UPGRADES: dict[int, dict[str, Any]] = {1: {"task": "", "origin": ""}}
"""What each version lacks of the next one's attributes."""


def _spec(file: h5py.File) -> SpaceSpec:
    return SpaceSpec.from_json(json.loads(file.attrs["spec"]))


def _episode(file: h5py.File) -> Episode:
    info = _info(file)
    spec = _spec(file)
    for name in DATASETS:
        if name not in file:
            raise ValueError(f"the dataset {name!r} is missing")
    arrays = {name: file[name][()] for name in DATASETS}
    if "crc32" in file.attrs and int(file.attrs["crc32"]) != checksum(arrays):
        raise ValueError("its rows do not have the checksum in its attribute crc32: the file is damaged")
    transitions = Transitions(**{name: arrays[name] for name in COLUMNS})
    if error := shape_error(transitions, spec.observation.size, spec.action.size):
        raise ValueError(error)
    seq, cursor = arrays["seq"], arrays["cursor"]
    if not info.rows == transitions.rows == len(seq) == len(cursor):
        raise ValueError(
            f"{info.rows} rows declared, {transitions.rows} here, {len(seq)} seq, {len(cursor)} cursor"
        )
    return Episode(info=info, spec=spec, transitions=transitions, seq=seq, cursor=cursor)
