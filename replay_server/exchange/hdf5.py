"""Small datasets to HDF5 and back: fast on the way out, with clear errors on the way in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5s, h5t

from fleet.messages import Array
from replay_server.exchange.source import EpisodeError
from replay_server.logs import LogsError

_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError)


def write_array(group: h5py.Group, name: str, array: Array) -> None:
    """Make a dataset; as `group.create_dataset(name, data=array)`, in half the time.

    Raises:
        OSError: The disk is full, or not writable.
    """
    kind = h5t.py_create(array.dtype, logical=True)
    dataset = h5d.create(group.id, name.encode(), kind, h5s.create_simple(array.shape))
    dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(array))


def read_array(group: h5py.Group, name: str) -> Array:
    """All of a dataset.

    Raises:
        EpisodeError: It is missing, or no dataset of numbers.
    """
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise EpisodeError(f"the dataset {name!r} is missing")
    if dataset.dtype.kind not in "biuf":
        raise EpisodeError(f"{name} has no numbers but {dataset.dtype}")
    return np.asarray(dataset[()])


def read_joined(group: h5py.Group, names: Iterable[str]) -> Array:
    """Datasets of the same N rows side by side [N, sum of their numbers per row].

    Raises:
        EpisodeError: One is missing, or no dataset of numbers.
    """
    arrays = [read_array(group, name) for name in names]
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def in_order(group: h5py.Group, prefix: str) -> list[str]:
    """The names in a group that are `prefix` and a number, by that number."""
    names = [name for name in group if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


@contextmanager
def clear_episode_errors() -> Iterator[None]:
    """What h5py raises while it reads one episode, as EpisodeError."""
    try:
        yield
    except EpisodeError:
        raise
    except _ERRORS as error:
        raise EpisodeError(f"cannot be read: {_text(error)}") from error


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file to look around in it.

    Raises:
        LogsError: It is missing, truncated, no HDF5 at all, or what is looked for is not there.
    """
    if path.is_dir():
        raise LogsError(f"{path} is a folder, where one HDF5 file is needed")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError as error:
        raise LogsError(f"{path}: no such file") from error
    except LogsError:
        raise
    except _ERRORS as error:
        raise LogsError(f"{path}: truncated, or not an HDF5 file: {_text(error)}") from error


def _text(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return " ".join(text.split())[:300]
