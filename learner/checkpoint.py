"""Everything a run needs to go on from where it was, bit for bit; one sealed folder per checkpoint.

    checkpoints/0000000320-0000000012/     320 updates done, policy version 12
        state.npz       network, target, optimiser, normaliser, generator; no pickle
        policy.pnaf     the PolicyMessage frame, for robot_nodes/policy_file.py
        manifest.json   run id, cursor, counters; size and checksum of the two others
    checkpoints/damaged-0000000310-…/      could not be read at a resume: kept aside

Versions only rise, so no two checkpoints have one name; `state.npz` depends on nothing but the
training: two runs on the same rows write the same bytes.
"""

from __future__ import annotations

import io
import json
import logging
import re
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fleet.codec import encode
from fleet.config import ConfigError
from fleet.messages import PolicyMessage
from fleet.run_folder import POLICY_FILE
from fleet.spaces import SpaceError, SpaceSpec
from learner.sealed_folder import DamagedFolderError, read_sealed, remove_sealed, sweep, write_sealed
from learner.trainer import Trainer

log = logging.getLogger(__name__)

FORMAT = 3
STATE_FILE = "state.npz"
_NAME = re.compile(r"(?P<damaged>damaged-)?\d{10}-(?P<version>\d{10})")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or it is damaged; the text names the file and the reason."""


class WrongCheckpointError(ConfigError):
    """A checkpoint is whole, but of another run, spec, network or program; the text says which."""


@dataclass(frozen=True)
class Progress:
    """What is to be kept of a run besides the trainer.

    Attributes:
        run_id: The run, as the replay server named it.
        policy_version: Version of the newest policy that was published.
        policies_published: How many were, versions sent again not counted.
        cursor: The replay log's cursor up to which the normaliser has seen the rows.
    """

    run_id: str
    policy_version: int
    policies_published: int
    cursor: int


def save_checkpoint(
    folder: Path, trainer: Trainer, progress: Progress, policy: PolicyMessage, keep: int
) -> Path:
    """Write a checkpoint and remove all but the newest `keep`; returns its folder.

    One of the same update and policy version says the same, so it stays if it is whole.

    Raises:
        CheckpointError: The disk refuses; no half checkpoint is left.
    """
    final = folder / f"{trainer.updates:010d}-{progress.policy_version:010d}"
    facts = {
        "format": FORMAT,
        "written": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "updates": trainer.updates,
        **asdict(progress),
    }
    try:
        sweep(folder)
        if final.exists():
            try:
                read_sealed(final)
            except DamagedFolderError as error:
                log.error("%s; writing it again", error)
                remove_sealed(final)
            else:
                return final
        write_sealed(final, {STATE_FILE: _pack_state(trainer), POLICY_FILE: encode(policy)}, facts)
    except OSError as error:
        raise CheckpointError(f"{final}: cannot write the checkpoint: {error}") from error
    for old in list_checkpoints(folder)[:-keep]:
        remove_sealed(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    return sorted(path for path, match in _matches(folder) if not match["damaged"])


def highest_version(folder: Path) -> int:
    """The highest policy version of any checkpoint here, damaged ones too; -1 without one."""
    return max((int(match["version"]) for _, match in _matches(folder)), default=-1)


def resume(folder: Path, trainer: Trainer, run_id: str) -> Progress | None:
    """Take up the newest checkpoint that is whole; damaged ones are reported and put aside.

    Returns: What it holds besides the trainer; none if there is no checkpoint.

    Raises:
        WrongCheckpointError: It belongs to something else; it stays where it is.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            progress = load_checkpoint(path, trainer, run_id)
        except CheckpointError as error:
            log.error("cannot resume from this checkpoint, looking for an older one: %s", error)
            try:
                path.rename(path.with_name(f"damaged-{path.name}"))
            except OSError as refusal:
                log.error("%s: cannot be put aside: %s", path, refusal)
            continue
        log.info("resumed from %s: %d updates done", path, trainer.updates)
        return progress
    return None


def begin_with(path: Path, trainer: Trainer) -> Progress:
    """Begin a new run with the network, optimiser and statistics of another run's checkpoint.

    Updates are counted from 0 again, as the rows of the new run are, and minibatches drawn as in any new run.

    Raises:
        CheckpointError: It is missing or damaged.
        WrongCheckpointError: It is of another spec, network or program.
    """
    generator_state = trainer.generator.get_state()
    progress = load_checkpoint(path, trainer, None)
    log.info("begins with %s: run %s after %d updates", path, progress.run_id, trainer.updates)
    trainer.updates = 0
    trainer.generator.set_state(generator_state)
    return progress


def load_checkpoint(path: Path, trainer: Trainer, run_id: str | None) -> Progress:
    """Put a checkpoint's state into a trainer; unless all of it fits, the trainer stays as it was.

    Args:
        path: The checkpoint.
        trainer: Takes it up.
        run_id: The run that it must be of; None: of any.

    Raises:
        CheckpointError: It is missing or damaged.
        WrongCheckpointError: It is of another run, spec, network or program.
    """
    try:
        facts, files = read_sealed(path)
    except DamagedFolderError as error:
        raise CheckpointError(str(error)) from error
    if facts.get("format") != FORMAT:
        raise WrongCheckpointError(
            f"{path}: has checkpoint format {facts.get('format')}, this program reads {FORMAT}"
        )
    if run_id is not None and facts["run_id"] != run_id:
        raise WrongCheckpointError(
            f"{path}: is of run {facts['run_id']!r}, the replay server serves run {run_id!r}: "
            "start both with the same run folder, or move these checkpoints away to begin anew"
        )
    state = _read_state(path, files)
    _check_fit(path, trainer, state)
    _unpack_state(trainer, state)
    return Progress(**{name: facts[name] for name in Progress.__dataclass_fields__})


def _pack_state(trainer: Trainer) -> bytes:
    facts = {
        "spec": trainer.spec.to_json(),
        "architecture": _architecture(trainer),
        "device": trainer.device.type,
        "normalise_observations": trainer.config.normalise_observations,
        **trainer.facts(),
    }
    arrays = {name: tensor.cpu().numpy() for name, tensor in trainer.tensors().items()}
    arrays["generator"] = trainer.generator.get_state().cpu().numpy()
    file = io.BytesIO()
    np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _read_state(path: Path, files: dict[str, bytes]) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(files[STATE_FILE]), allow_pickle=False) as arrays:
            state: dict[str, Any] = dict(arrays)
        state |= json.loads(str(state.pop("facts")))
    except (KeyError, ValueError, OSError) as error:  # its checksum is right: nobody damaged it
        raise WrongCheckpointError(f"{path / STATE_FILE}: is not of this program: {error!r}") from error
    return state


def _check_fit(path: Path, trainer: Trainer, state: dict[str, Any]) -> None:
    try:
        difference = trainer.spec.difference(SpaceSpec.from_json(state["spec"]))
    except SpaceError as error:
        difference = str(error)
    if difference:
        raise WrongCheckpointError(f"{path}: was trained in other spaces: {difference}")
    mine, theirs = _architecture(trainer), state["architecture"]
    other = [
        f"{key} is {theirs.get(key)} there, {mine.get(key)} in this config"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    ]
    if other:
        raise WrongCheckpointError(f"{path}: is of another network: {'; '.join(other)}")
    normalised = trainer.config.normalise_observations
    if state.get("normalise_observations", normalised) != normalised:
        raise WrongCheckpointError(
            f"{path}: learned with learner.normalise_observations = {json.dumps(not normalised)}, this "
            f"config says {json.dumps(normalised)}, and its network is for observations of that kind: set it "
            "back, or begin another run"
        )


def _architecture(trainer: Trainer) -> dict[str, Any]:
    """What has to be equal for parameters to fit, as JSON gives it back."""
    sizes = asdict(trainer.network)
    kind = "ddpg" if trainer.config.algorithm == "ddpg" else "naf"
    return {"kind": kind, **sizes, "hidden_sizes": list(trainer.network.hidden_sizes)}


def _unpack_state(trainer: Trainer, state: dict[str, Any]) -> None:
    trainer.load(state, state)
    if state["device"] == trainer.device.type:
        trainer.generator.set_state(torch.from_numpy(state["generator"]))
    else:
        log.warning(
            "the checkpoint was made on %s, this learner uses %s: minibatches are drawn anew",
            state["device"],
            trainer.device.type,
        )
        trainer.generator.manual_seed(trainer.generator.initial_seed() + trainer.updates)


def _matches(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    if not folder.is_dir():
        return []
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return [(path, match) for path, match in found if match]
