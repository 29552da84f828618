"""Logs as a robomimic dataset: one HDF5 file, one group `data/demo_N` per episode.

    exported = export_robomimic(logs, Path("reach.hdf5"))

Observations are split into keys as robomimic's own are, because a key is what its config selects and
normalises: numbers of joints by what they are (`joint_position`, `joint_velocity`), all others by what stands
before the slash in their names (`tool`, `target`). `dones` is `terminated` alone: robomimic's Q-learners stop
bootstrapping there and use it for nothing else; a time limit is not among them. Beside the datasets that
robomimic knows lie our other columns; an attribute of each episode has whatever else is known about it. There
are no `states`: they are a simulator's. Filter keys: `train` and `valid` (one episode in ten, drawn with a
seed), `success`, `success_train`, `success_valid`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np

from fleet.messages import Transitions
from fleet.spaces import JOINT_COMMAND, SpaceSpec
from replay_server.exchange.exported import Exported, check_some, task_name
from replay_server.exchange.facts import KEY, EpisodeFacts, dataset_facts
from replay_server.exchange.hdf5 import write_array
from replay_server.exchange.whole_output import whole_output
from replay_server.logs import Logs, Progress

EXTRA_COLUMNS = (
    "policy_action", "terminated", "truncated", "intervened", "clipped", "policy_version", "stamp_ns",
)  # fmt: skip
"""Columns that robomimic has no name for: datasets of the same names beside its own."""

_GYM_TYPE = 2  # robomimic's number for it; of its kinds of environments the one without demands on a file
_VALID_SHARE = 0.1
_KEY = re.compile(r"[A-Za-z0-9_-]+")


def observation_keys(spec: SpaceSpec) -> dict[str, list[int]]:
    """Which dimensions of an observation each key has, in their order."""
    joints = {name.removesuffix(JOINT_COMMAND) for name in spec.action.names if name.endswith(JOINT_COMMAND)}
    keys: dict[str, list[int]] = {}
    for i, name in enumerate(spec.observation.names):
        thing, slash, quantity = name.partition("/")
        key = f"joint_{quantity}" if thing in joints else thing
        if not slash or not _KEY.fullmatch(key):
            key = "observation"
        keys.setdefault(key, []).append(i)
    return keys


def export_robomimic(
    logs: Logs, out: Path, *, seed: int = 0, on_progress: Progress = lambda done, total: None
) -> Exported:
    """Write all episodes; damaged ones are left out and noted in `logs.damaged`.

    Args:
        logs: Of one spec.
        out: The file; it must not exist.
        seed: Of the choice of validation episodes.
        on_progress: Called after each episode.

    Raises:
        LogsError: There is nothing to export, or `out` exists.
        OSError: The disk is full, or not writable.
    """
    spec, task = logs.spec, task_name(logs)
    keys = observation_keys(spec)
    successes: list[bool] = []
    rows = 0
    with whole_output(out) as temporary:
        with h5py.File(temporary, "w") as file:
            file[KEY] = json.dumps(dataset_facts(spec, observation_keys=keys))
            data = file.create_group("data")
            for summary, transitions in logs.read(on_progress):
                demo = data.create_group(f"demo_{len(successes)}")
                _write_demo(demo, transitions, keys)
                demo.attrs["num_samples"] = transitions.rows
                demo.attrs[KEY] = EpisodeFacts.of(summary.info, transitions).to_text()
                successes.append(summary.info.success)
                rows += transitions.rows
            check_some(len(successes), logs)
            # Its documents say env_type, its code reads type.
            data.attrs["env_args"] = json.dumps(
                {"env_name": task, "env_type": _GYM_TYPE, "type": _GYM_TYPE, "env_kwargs": {}}
            )
            data.attrs["total"] = rows
            _write_masks(file, successes, seed)
        with h5py.File(temporary, "r") as file:  # h5py does not say when closing has failed
            assert file["data"].attrs["total"] == rows
    listed = ", ".join(f'"{key}"' for key in keys)
    hint = f"config.observation.modalities.obs.low_dim = [{listed}]"
    return Exported(out, len(successes), rows, hint)


def _write_demo(demo: h5py.Group, transitions: Transitions, keys: dict[str, list[int]]) -> None:
    write_array(demo, "actions", transitions.action)
    write_array(demo, "rewards", transitions.reward)
    write_array(demo, "dones", transitions.terminated.astype("<i4"))
    for name in EXTRA_COLUMNS:
        write_array(demo, name, getattr(transitions, name))
    for side, column in (("obs", transitions.observation), ("next_obs", transitions.next_observation)):
        group = demo.create_group(side)
        for key, dimensions in keys.items():
            write_array(group, key, column[:, dimensions])


def _write_masks(file: h5py.File, successes: list[bool], seed: int) -> None:
    """Filter keys; one without episodes would only make robomimic fail, so it is not there."""
    count = len(successes)
    order = np.random.default_rng(seed).permutation(count)
    valid = set(order[: max(1, round(_VALID_SHARE * count)) if count > 1 else 0].tolist())
    success = {i for i, ok in enumerate(successes) if ok}
    train = set(range(count)) - valid
    masks = {
        "train": train, "valid": valid, "success": success,
        "success_train": success & train, "success_valid": success & valid,
    }  # fmt: skip
    group = file.create_group("mask")
    for name, chosen in masks.items():
        if chosen:
            group[name] = np.array([f"demo_{i}" for i in sorted(chosen)], "S")
