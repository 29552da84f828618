"""Minari datasets to be imported, ours and foreign ones.

Spaces that are a Box, or a Dict of such, are flattened; others (Discrete, images, text) are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fleet.messages import Array, Transitions
from replay_server.exchange.facts import KEY, EpisodeFacts, read_dataset_facts
from replay_server.exchange.hdf5 import clear_episode_errors, in_order, open_hdf5, read_array, read_joined
from replay_server.exchange.minari import EXTRA_COLUMNS, MAIN_DATA, METADATA
from replay_server.exchange.source import (
    Box,
    EpisodeError,
    ForeignEpisode,
    ForeignSource,
    OwnSource,
    numbered,
)
from replay_server.logs import LogsError


def open_minari(path: Path, observations: Sequence[str] = ()) -> OwnSource | ForeignSource:
    """Look into a Minari dataset.

    Args:
        path: Its folder NAME-vN, or the `data` in it.
        observations: Keys to take if it is a foreign one with a Dict, in this order; all by default.

    Raises:
        LogsError: It is none, or has spaces that are no vectors.
    """
    folder = path if (path / METADATA).is_file() else path / "data"
    if not (folder / METADATA).is_file():
        raise LogsError(
            f"{path}: not a Minari dataset: it has no data/{METADATA}; name the folder NAMESPACE/NAME-vN"
        )
    metadata = _metadata(folder / METADATA)
    if (kind := metadata.get("data_format", "hdf5")) != "hdf5":
        raise LogsError(f"{path}: its data_format is {kind!r}; only hdf5 is read: have Minari convert it")
    main = folder / MAIN_DATA
    with open_hdf5(main) as file:
        keys = in_order(file, "episode_")
    if not keys:
        raise LogsError(f"{main}: it has no episodes")
    if KEY in metadata:
        return _OwnMinari(main, read_dataset_facts(metadata[KEY], str(folder / METADATA))[0], keys)
    observed = _parts(metadata, "observation", path)
    skipped = [f"{part.key} ({part.problem})" for part in observed if part.problem]
    if observations:
        known = {part.key: part for part in observed}
        for key in observations:
            if key not in known:
                raise LogsError(f"{path}: no observation {key!r}; there are {', '.join(known)}")
        observed = [known[key] for key in observations]
    else:
        observed = [part for part in observed if not part.problem] or observed
    acted = _parts(metadata, "action", path)
    for side, part in [("observation", part) for part in observed] + [("action", part) for part in acted]:
        if part.problem:
            name = f"{side}_space{f' {part.key!r}' if part.key else ''}"
            raise LogsError(f"{path}: its {name} is {part.problem}; only vectors of numbers can be imported")
    return _ForeignMinari(
        main,
        "minari",
        keys,
        _joined_box(observed),
        _joined_box(acted),
        task=str(metadata.get("dataset_id", "")),
        parts=[part.key for part in observed],
        ordered=bool(observations),
        skipped=skipped,
        observed=observed,
        acted=acted,
    )


def _metadata(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise LogsError(f"{file}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise LogsError(f"{file}: not Minari's metadata: it is no JSON object")
    return found


class _OwnMinari(OwnSource):
    def facts(self, key: str) -> EpisodeFacts:
        with clear_episode_errors(), h5py.File(self.path, "r") as file:
            return EpisodeFacts.from_text(file[key].attrs[KEY])

    def read(self, key: str) -> Transitions:
        with clear_episode_errors(), h5py.File(self.path, "r") as file:
            group = file[key]
            observations = read_array(group, "observations")
            truncated = read_array(group, "truncations")
            if EpisodeFacts.from_text(group.attrs[KEY]).cut:
                truncated[-1] = False
            return Transitions(
                observation=observations[:-1],
                action=read_array(group, "actions"),
                reward=read_array(group, "rewards"),
                next_observation=observations[1:],
                terminated=read_array(group, "terminations"),
                truncated=truncated,
                **{name: read_array(group["infos"], name) for name in EXTRA_COLUMNS},
            )


@dataclass(frozen=True)
class _Part:
    """One leaf of a space: its place in the file's groups, as a path, and its bounds if it is a vector."""

    key: str
    box: Box
    problem: str = ""


def _parts(metadata: dict[str, Any], side: str, path: Path) -> list[_Part]:
    text = metadata.get(f"{side}_space")
    if text is None:
        raise LogsError(
            f"{path}: its metadata has no {side}_space (only its environment knows it): "
            "load and save the dataset with a newer Minari"
        )
    try:
        return list(_flatten(json.loads(text), side, ""))
    except LogsError as error:
        raise LogsError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise LogsError(f"{path}: its {side}_space is malformed: {repr(error)[:200]}") from error


def _flatten(space: dict[str, Any], side: str, key: str) -> Iterator[_Part]:
    if space["type"] == "Dict":
        for name, inner in space["subspaces"].items():
            yield from _flatten(inner, side, f"{key}/{name}" if key else name)
        return
    if space["type"] != "Box":
        yield _Part(key, Box.unbounded([]), f"a {space['type']}")
        return
    shape = space["shape"]
    if space["dtype"] == "uint8" and len(shape) > 1:
        yield _Part(key, Box.unbounded([]), f"an image {shape}")
        return
    size = int(np.prod(shape))
    low, high = (np.broadcast_to(np.asarray(space[end], float).reshape(-1), size) for end in ("low", "high"))
    yield _Part(key, Box(tuple(numbered(key or side, size)), low, high))


def _joined_box(parts: Sequence[_Part]) -> Box:
    boxes = [part.box for part in parts]
    names = tuple(name for box in boxes for name in box.names)
    return Box(names, np.concatenate([b.low for b in boxes]), np.concatenate([b.high for b in boxes]))


@dataclass
class _ForeignMinari(ForeignSource):
    observed: list[_Part] = field(default_factory=list)
    acted: list[_Part] = field(default_factory=list)

    def read(self, key: str) -> ForeignEpisode:
        with clear_episode_errors(), h5py.File(self.path, "r") as file:
            group = file[key]
            observations = _joined(group, "observations", self.observed)
            reward = read_array(group, "rewards")
            if len(observations) != len(reward) + 1:
                raise EpisodeError(
                    f"{len(observations)} observations of {len(reward)} steps: there must be one more"
                )
            return ForeignEpisode(
                observation=observations[:-1],
                action=_joined(group, "actions", self.acted),
                reward=reward,
                next_observation=observations[1:],
                terminated=read_array(group, "terminations") != 0,
                truncated=read_array(group, "truncations") != 0,
                success=_success(group),
            )


def _joined(group: h5py.Group, side: str, parts: Sequence[_Part]) -> Array:
    return read_joined(group, [f"{side}/{part.key}" if part.key else side for part in parts])


def _success(group: h5py.Group) -> bool:
    """What environments of manipulation tasks say with each step."""
    infos = group.get("infos")
    if not isinstance(infos, h5py.Group):
        return False
    for name in ("success", "is_success"):
        if isinstance(infos.get(name), h5py.Dataset):
            return bool(read_array(infos, name).any())
    return False
