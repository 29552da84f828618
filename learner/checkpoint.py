"""Everything a run needs to go on from where it was, as one folder per checkpoint.

    checkpoints/00000123/state.npz     arrays, and the rest as JSON in its `facts`; no pickle
    checkpoints/00000123/policy.pnaf   the PolicyMessage frame, for robot_nodes/policy_file.py

A checkpoint is written beside its place, fsynced and renamed: it is whole or absent.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from fleet.codec import encode
from fleet.messages import PolicyMessage
from fleet.run_folder import POLICY_FILE
from fleet.spaces import SpaceError, SpaceSpec
from learner.trainer import Trainer

FORMAT = 1
STATE_FILE = "state.npz"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the text names the file and the reason."""


@dataclass(frozen=True)
class Progress:
    """What is to be kept of a run besides the trainer.

    Attributes:
        run_id: The run, as the replay server named it.
        policy_version: Version of the newest policy that was published.
        policies_published: How many were, versions sent again not counted.
        cursor: The replay log's cursor of the next row.
        rows: Rows that the learner had seen.
    """

    run_id: str
    policy_version: int
    policies_published: int
    cursor: int
    rows: int


def save_checkpoint(
    folder: Path, trainer: Trainer, progress: Progress, policy: PolicyMessage, keep: int = 3
) -> Path:
    """Write a checkpoint and remove all but the newest `keep`; returns its folder.

    Raises:
        CheckpointError: The disk refuses.
    """
    facts = {
        "format": FORMAT,
        "spec": trainer.spec.to_json(),
        "hidden_sizes": list(trainer.shape.hidden_sizes),
        "off_diagonal": trainer.shape.off_diagonal,
        "updates": trainer.updates,
        "normaliser": trainer.normaliser.state(),
        "run_id": progress.run_id,
        "policy_version": progress.policy_version,
        "policies_published": progress.policies_published,
        "cursor": progress.cursor,
        "rows": progress.rows,
        "optimiser_steps": trainer.optimiser.steps,
    }
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(trainer).items()}
    arrays["generator"] = trainer.generator.get_state().cpu().numpy()
    final = folder / f"{trainer.updates:010d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with (temporary / STATE_FILE).open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
            _sync(file)
        with (temporary / POLICY_FILE).open("wb") as file:
            file.write(encode(policy))
            _sync(file)
        _sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync_folder(folder)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{final}: cannot write the checkpoint: {error}") from error
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and (path / STATE_FILE).is_file())


def load_checkpoint(path: Path, trainer: Trainer) -> Progress:
    """Put a checkpoint's state into a trainer of the same network and spec.

    Raises:
        CheckpointError: It is missing, damaged, of another spec or of another network.
    """
    state = _read_state(path)
    try:
        saved = SpaceSpec.from_json(state["spec"])
        if difference := trainer.spec.difference(saved):
            raise CheckpointError(f"{path}: was trained in other spaces: {difference}")
        mine = (list(trainer.shape.hidden_sizes), trainer.shape.off_diagonal)
        theirs = (state["hidden_sizes"], state["off_diagonal"])
        if mine != theirs:
            raise CheckpointError(
                f"{path}: (hidden_sizes, off_diagonal) is {theirs} there and {mine} in this config"
            )
        with torch.no_grad():
            for name, tensor in _tensors(trainer).items():
                tensor.copy_(torch.from_numpy(state[name]))
        trainer.optimiser.steps = int(state["optimiser_steps"])
        trainer.normaliser.load_state(state["normaliser"])
        trainer.refresh_normaliser()
        trainer.generator.set_state(torch.from_numpy(state["generator"]))
        trainer.updates = int(state["updates"])
        return Progress(
            run_id=str(state["run_id"]),
            policy_version=int(state["policy_version"]),
            policies_published=int(state["policies_published"]),
            cursor=int(state["cursor"]),
            rows=int(state["rows"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, SpaceError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is not a checkpoint of this program: {error!r}") from error


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The trainer's tensors, by the names they have in the file."""
    return {
        "network": trainer.network.flat,
        "target": trainer.target,
        "adam_first": trainer.optimiser.first,
        "adam_second": trainer.optimiser.second,
    }


def _read_state(path: Path) -> dict[str, Any]:
    file = path / STATE_FILE
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            state = dict(arrays)
        state |= json.loads(str(state.pop("facts")))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such checkpoint") from None
    except Exception as error:  # a damaged file raises many kinds
        raise CheckpointError(f"{file}: is damaged or not a checkpoint: {error}") from error
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: has checkpoint format {state.get('format')}, this program reads {FORMAT}"
        )
    return state


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
