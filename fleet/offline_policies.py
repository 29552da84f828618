"""Policies that a person names on the command line: a run folder, one of its checkpoints, or a .pnaf file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.config import ConfigError, FleetConfig
from fleet.messages import PolicyMessage
from fleet.run_folder import POLICY_FILE, RunFolder
from fleet.spaces import SpaceError, SpaceSpec

if TYPE_CHECKING:
    from replay_server.logs import Logs


@dataclass(frozen=True, eq=False)
class NamedPolicy:
    """One policy and where it comes from.

    Attributes:
        name: For people: as given, or which checkpoint of which run.
        message: The policy.
        checkpoint: The sealed folder with its critic, if there is one.
        run: The run folder it is of, if that is known.
    """

    name: str
    message: PolicyMessage
    checkpoint: Path | None
    run: RunFolder | None


def find_policy(path: Path) -> NamedPolicy:
    """The policy that a path means: of a run folder the newest.

    Raises:
        ConfigError: There is none.
        PolicyError: It cannot be read.
    """
    from robot_nodes.policy_file import read_policy, run_policy_file

    if path.is_file():
        sealed = path.name == POLICY_FILE and (path.parent / "manifest.json").is_file()
        message, checkpoint = read_policy(path), path.parent if sealed else None
        return NamedPolicy(str(path), message, checkpoint, _run_of(path.parent if not sealed else checkpoint))
    if (path / "manifest.json").is_file():
        return NamedPolicy(str(path), read_policy(path / POLICY_FILE), path, _run_of(path))
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run folder, checkpoint or .pnaf file")
    run = RunFolder(path)
    if not run.policy.is_file() and not run.checkpoints.is_dir():
        raise ConfigError(
            f"{path}: neither a {POLICY_FILE} nor checkpoints/ is in it; name a run folder, one of its "
            "checkpoints or a .pnaf file"
        )
    message = read_policy(run_policy_file(run))
    return NamedPolicy(str(path), message, _checkpoint_of(run, message), run)


def find_checkpoints(path: Path) -> list[NamedPolicy]:
    """All checkpoints of a run folder, oldest first.

    Raises:
        ConfigError: There are none.
        PolicyError: A policy cannot be read.
    """
    from robot_nodes.policy_file import read_policy

    run = RunFolder(path)
    folders = _checkpoints(run)
    if not folders:
        raise ConfigError(f"{run.checkpoints}: no checkpoints are there")
    return [
        NamedPolicy(
            f"{path.name} after {int(folder.name.partition('-')[0])} updates",
            read_policy(folder / POLICY_FILE),
            folder,
            run,
        )
        for folder in folders
    ]


def choose_gamma(gamma: float | None, policies: Sequence[NamedPolicy], fleet: FleetConfig | None) -> float:
    """The discount asked for, or that of the first policy's run, or that of the logs' config.

    Raises:
        ConfigError: None of them has one, or it is 1.
    """
    run = policies[0].run
    if gamma is None:
        if run is not None:
            gamma = run.load().learner.gamma
        elif fleet is not None:
            gamma = fleet.learner.gamma
        else:
            raise ConfigError("no config.yaml beside the policy or the logs has a discount: give --gamma")
    if not 0.0 <= gamma < 1.0:
        raise ConfigError(
            f"gamma is {gamma:g}: fitted-Q evaluation needs it below 1, as time limits bootstrap for ever; "
            "give --gamma"
        )
    return gamma


def check_fits(policy: NamedPolicy, logs: Logs) -> None:
    """Make sure that a policy acts in the spaces of the logs.

    Raises:
        ConfigError: It does not; the text says where they differ, if that is known.
        PolicyError: It is damaged.
    """
    from robot_nodes.policy import check

    if policy.message.spec_hash != logs.spec.hash:
        difference = "another task or another kind of robot"
        try:
            if policy.run is not None:
                own = SpaceSpec.from_json(json.loads((policy.run.path / "spec.json").read_text()))
                difference = f"{own.difference(logs.spec) or difference} (here: the policy's)"
        except (OSError, ValueError, SpaceError):
            pass  # without its spec the two are still not the same
        raise ConfigError(f"{policy.name}: acts in other spaces than these logs: {difference}")
    check(policy.message, logs.spec)


def _checkpoints(run: RunFolder) -> list[Path]:
    return [file.parent for file in sorted(run.checkpoints.glob(f"[0-9]*/{POLICY_FILE}"))]


def _checkpoint_of(run: RunFolder, message: PolicyMessage) -> Path | None:
    """The checkpoint of the same policy, or else the newest: its critic is at most some updates away."""
    folders = _checkpoints(run)
    same = [folder for folder in folders if folder.name.endswith(f"-{message.version:010d}")]
    found = same or folders
    return found[-1] if found else None


def _run_of(place: Path | None) -> RunFolder | None:
    """The run folder that a checkpoint's or a policy's folder belongs to."""
    if place is None:
        return None
    for folder in (place, *place.absolute().parents[:2]):
        if RunFolder(folder).config.is_file():
            return RunFolder(folder)
    return None
