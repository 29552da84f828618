"""robomimic datasets to be imported, ours and foreign ones.

A foreign one comes as robomimic itself understands it: `dones` are ends of the task, actions lie in [-1, 1],
an episode has succeeded if a step of it is done. Images are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fleet.messages import Array, Transitions
from replay_server.exchange.facts import KEY, EpisodeFacts, read_dataset_facts
from replay_server.exchange.hdf5 import clear_episode_errors, in_order, open_hdf5, read_array, read_joined
from replay_server.exchange.robomimic import EXTRA_COLUMNS, observation_keys
from replay_server.exchange.source import (
    Box,
    EpisodeError,
    ForeignEpisode,
    ForeignSource,
    OwnSource,
    numbered,
)
from replay_server.logs import LogsError


def open_robomimic(path: Path, observations: Sequence[str] = ()) -> OwnSource | ForeignSource:
    """Look into a robomimic file.

    Args:
        path: The HDF5 file.
        observations: Keys to take of a foreign one, in this order; by default all but images.

    Raises:
        LogsError: It is none.
    """
    with open_hdf5(path) as file:
        data = file.get("data")
        demos = in_order(data, "demo_") if isinstance(data, h5py.Group) else []
        if not demos:
            raise LogsError(f"{path}: not a robomimic file: it has no group data/demo_0{_other_format(file)}")
        if KEY in file:
            spec, facts = read_dataset_facts(file[KEY][()], str(path))
            keys = facts.get("observation_keys")
            if keys != observation_keys(spec):
                raise LogsError(
                    f"{path}: {KEY} names other observation keys than its spec has: {keys!r:.200}"
                )
            return _OwnRobomimic(path, spec, demos)
        return _foreign(path, data, demos, list(observations))


def _other_format(file: h5py.File) -> str:
    if "schema_version" in file.attrs:
        return "; it is an episode of our own logs, which need no import"
    if "episode_0" in file:
        return "; it looks like Minari's: try --format minari"
    return ""


class _OwnRobomimic(OwnSource):
    def facts(self, key: str) -> EpisodeFacts:
        with clear_episode_errors(), h5py.File(self.path, "r") as file:
            return EpisodeFacts.from_text(file["data"][key].attrs[KEY])

    def read(self, key: str) -> Transitions:
        with clear_episode_errors(), h5py.File(self.path, "r") as file:
            demo = file["data"][key]
            columns = {name: read_array(demo, name) for name in EXTRA_COLUMNS}
            return Transitions(
                observation=self._joined(demo["obs"]),
                action=read_array(demo, "actions"),
                reward=read_array(demo, "rewards"),
                next_observation=self._joined(demo["next_obs"]),
                **columns,
            )

    def _joined(self, group: h5py.Group) -> Array:
        keys = observation_keys(self.spec)
        parts = {key: read_array(group, key) for key in keys}
        joined = np.empty((len(next(iter(parts.values()))), self.spec.observation.size), "<f4")
        for key, dimensions in keys.items():
            joined[:, dimensions] = parts[key]
        return joined


def _foreign(path: Path, data: h5py.Group, demos: list[str], wanted: list[str]) -> ForeignSource:
    first = data[demos[0]]
    shapes = _shapes(first.get("obs"))
    if not shapes:
        raise LogsError(
            f"{path}: {demos[0]} has no observations (obs/…): "
            "robomimic's dataset_states_to_obs.py makes them out of states"
        )
    for key in wanted:
        if key not in shapes:
            raise LogsError(f"{path}: no observation {key!r}; there are {', '.join(shapes)}")
    flat = [key for key, shape in shapes.items() if len(shape) <= 1]
    parts = wanted or flat
    if images := [key for key in parts if key not in flat]:
        raise LogsError(f"{path}: the observation {images[0]!r} has shape {shapes[images[0]]}, not a vector")
    if not parts:
        raise LogsError(f"{path}: no observation is a vector; there are {', '.join(shapes)}")
    names = [
        name
        for key in parts
        for name in (numbered(key, shapes[key][0]) if shapes[key] and shapes[key][0] > 1 else [key])
    ]
    if not isinstance(actions := first.get("actions"), h5py.Dataset):
        raise LogsError(f"{path}: {demos[0]} has no actions")
    environment = _environment(data)
    return _ForeignRobomimic(
        path,
        "robomimic",
        demos,
        Box.unbounded(names),
        Box.unbounded(numbered("action", int(np.prod(actions.shape[1:])))),
        task=str(environment.get("env_name", "")),
        rate_hz=_rate_hz(environment),
        parts=parts,
        ordered=bool(wanted),
        skipped=[f"{key} {shapes[key]}" for key in shapes if key not in parts and not wanted],
    )


def _shapes(group: object) -> dict[str, tuple[int, ...]]:
    """Shapes of one step of each observation."""
    if not isinstance(group, h5py.Group):
        return {}
    return {key: item.shape[1:] for key, item in group.items() if isinstance(item, h5py.Dataset)}


def _environment(data: h5py.Group) -> dict[str, Any]:
    try:
        found = json.loads(data.attrs["env_args"])
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _rate_hz(environment: dict[str, Any]) -> float | None:
    """Steps per second, of environments that say so: those of robosuite."""
    arguments = environment.get("env_kwargs")
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    return float(rate) if isinstance(rate, int | float) and 1e-3 <= rate <= 1e9 else None


class _ForeignRobomimic(ForeignSource):
    def read(self, key: str) -> ForeignEpisode:
        with clear_episode_errors(), h5py.File(self.path, "r") as file:
            demo = file["data"][key]
            for name in ("rewards", "dones"):
                if name not in demo:
                    raise EpisodeError(
                        f"it has no {name}: robomimic itself would silently read zeros; "
                        "its dataset_states_to_obs.py writes them"
                    )
            for name in ("obs", "next_obs"):
                if name not in demo:
                    raise EpisodeError(f"it has no {name}; robomimic's dataset_states_to_obs.py writes them")
            done = read_array(demo, "dones").reshape(-1) != 0
            return ForeignEpisode(
                observation=read_joined(demo["obs"], self.parts),
                action=read_array(demo, "actions"),
                reward=read_array(demo, "rewards"),
                next_observation=read_joined(demo["next_obs"], self.parts),
                terminated=done,
                truncated=np.zeros_like(done),
                success=bool(done.any()),
            )
