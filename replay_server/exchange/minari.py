"""Logs as a Minari dataset: a folder NAMESPACE/NAME-vN with `data/metadata.json` and `data/main_data.hdf5`.

    exported = export_minari(logs, Path("datasets/lab/reach-v0"))

Minari keeps N + 1 observations of N steps, so each step's next observation must be the next step's
observation, bit for bit. Where it is not (rows were cut out), the episode goes on as a dataset episode of its
own and its earlier part ends truncated: no transition is made up. The last step of each is terminated or
truncated, as Minari expects. What a step has beside that lies in `infos` [N], what an episode has in its
attributes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fleet.messages import COLUMNS, Transitions
from fleet.spaces import Space
from replay_server.episode_file import EpisodeInfo
from replay_server.exchange.exported import Exported, check_some, task_name
from replay_server.exchange.facts import KEY, EpisodeFacts, dataset_facts
from replay_server.exchange.hdf5 import write_array
from replay_server.exchange.whole_output import whole_output
from replay_server.logs import Logs, LogsError, Progress

EXTRA_COLUMNS = ("policy_action", "intervened", "clipped", "policy_version", "stamp_ns")
"""Columns that Minari has no name for: `infos` of the same names."""

METADATA, MAIN_DATA = "metadata.json", "main_data.hdf5"
_VERSION = "0.5.0"  # of its layout; Minari 0.5.x reads it
_NAME = re.compile(r"[-\w]+-v\d+")
_NAMESPACE = re.compile(r"[-\w]{2,}")


def dataset_id(out: Path, environment: Mapping[str, str] = os.environ) -> tuple[str, Path]:
    """What Minari calls the dataset in this folder, and the folder that it must be given to find it there.

    Raises:
        LogsError: The folder cannot be one of Minari's.
    """
    if not _NAME.fullmatch(out.name):
        raise LogsError(
            f"--out {out}: Minari's folders are called NAMESPACE/NAME-vN, as in datasets/lab/reach-v0"
        )
    full = Path(os.path.abspath(out))
    root = Path(environment.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").absolute()
    if root not in full.parents:
        root = full.parent.parent if _NAMESPACE.fullmatch(full.parent.name) else full.parent
    return full.relative_to(root).as_posix(), root


def export_minari(logs: Logs, out: Path, *, on_progress: Progress = lambda done, total: None) -> Exported:
    """Write all episodes; damaged ones are left out and noted in `logs.damaged`.

    Args:
        logs: Of one spec.
        out: The folder; it must not exist.
        on_progress: Called after each episode.

    Raises:
        LogsError: There is nothing to export, or `out` exists or has no name for a dataset.
        OSError: The disk is full, or not writable.
    """
    name, root = dataset_id(out)
    spec, task = logs.spec, task_name(logs)
    episodes = pieces = rows = 0
    with whole_output(out) as temporary:
        (temporary / "data").mkdir(parents=True)
        path = temporary / "data" / MAIN_DATA
        with h5py.File(path, "w") as file:
            for summary, transitions in logs.read(on_progress):
                for piece, part in enumerate(contiguous(transitions)):
                    _write_episode(file, pieces, piece, summary.info, part)
                    pieces += 1
                episodes, rows = episodes + 1, rows + transitions.rows
        check_some(episodes, logs)
        with h5py.File(path, "r") as file:  # h5py does not say when closing has failed
            assert len(file) == pieces
        metadata = {
            "dataset_id": name,
            "minari_version": _VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": pieces,
            "total_steps": rows,
            "dataset_size": round(path.stat().st_size / 1e6, 1),
            "observation_space": json.dumps(_box(spec.observation)),
            "action_space": json.dumps(_box(spec.action)),
            "description": f"Task {task}, lived by robots of parallel-naf; {KEY}.spec names all dimensions.",
            KEY: dataset_facts(spec),
        }
        (temporary / "data" / METADATA).write_text(json.dumps(metadata, indent=1))
    hint = f'MINARI_DATASETS_PATH={root}, then minari.load_dataset("{name}")'
    return Exported(out, episodes, rows, hint)


def contiguous(transitions: Transitions) -> Iterator[Transitions]:
    """The parts of an episode in which each next observation is the observation that follows."""
    following = np.ascontiguousarray(transitions.observation[1:]).view("<u4")
    expected = np.ascontiguousarray(transitions.next_observation[:-1]).view("<u4")
    holes = np.flatnonzero((following != expected).any(axis=1)) + 1
    for first, end in zip([0, *holes], [*holes, transitions.rows], strict=True):
        yield Transitions(**{name: getattr(transitions, name)[first:end] for name in COLUMNS})


def _write_episode(file: h5py.File, number: int, piece: int, info: EpisodeInfo, part: Transitions) -> None:
    group = file.create_group(f"episode_{number}")
    truncated = np.array(part.truncated)
    cut = not (truncated[-1] or part.terminated[-1])
    truncated[-1] |= cut
    write_array(group, "observations", np.concatenate([part.observation, part.next_observation[-1:]]))
    write_array(group, "actions", part.action)
    write_array(group, "rewards", part.reward)
    write_array(group, "terminations", part.terminated)
    write_array(group, "truncations", truncated)
    infos = group.create_group("infos")
    for name in EXTRA_COLUMNS:
        write_array(infos, name, getattr(part, name))
    facts = EpisodeFacts.of(info, part, piece, cut)
    attributes = {"id": number, "total_steps": part.rows, "success": info.success, KEY: facts.to_text()}
    for name, value in attributes.items():
        group.attrs[name] = value


def _box(space: Space) -> dict[str, Any]:
    low, high = list(space.low), list(space.high)
    return {"type": "Box", "dtype": "float32", "shape": [space.size], "low": low, "high": high}
