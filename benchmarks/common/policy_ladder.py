"""Policies from useless to expert on one task, and logs of some of them, made in one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.common.fleet_logs import record
from benchmarks.common.in_process_fleet import InProcessFleet
from benchmarks.common.virtual_time import Asynchronous
from fleet.config import FleetConfig
from fleet.messages import PolicyMessage, policy_checksum
from learner.publisher import policy_message


@dataclass(frozen=True)
class Rung:
    """One policy of the ladder: its name and its message."""

    name: str
    message: PolicyMessage


def climb(
    fleet: FleetConfig,
    seed: int,
    rows: Sequence[int],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Rung]:
    """Learn once, and keep the policy at each of these numbers of transitions (ascending)."""
    rungs = []
    std = fleet.learner.exploration_std
    with InProcessFleet(fleet, seed) as in_process:
        time = Asynchronous(in_process, updates_per_s=math.inf)
        for version, wanted in enumerate(rows):
            while in_process.mirror.cursor < wanted:
                time.advance()
            message = policy_message(in_process.trainer, "ladder", version, std, 0)
            rungs.append(Rung(f"{wanted} rows", message))
            on_progress(version + 1, len(rows))
    return rungs


def disturbed(rung: Rung, share: float, seed: int) -> Rung:
    """The same policy with noise on its parameters: `share` of their own root mean square."""
    rng = np.random.default_rng(seed)
    message = rung.message
    size = float(np.sqrt(np.mean(np.square(message.parameters))))
    noise = share * size * rng.standard_normal(len(message.parameters))
    parameters = (message.parameters + noise).astype("<f4")
    checksum = policy_checksum(parameters, message.observation_mean, message.observation_scale)
    return Rung(f"{rung.name}, noise {share:g}", replace(message, parameters=parameters, checksum=checksum))


def record_mixed(
    fleet: FleetConfig, runs: Path, rungs: Sequence[Rung], episodes: int, seed: int
) -> list[Path]:
    """As many exploring episodes of each of these policies, shared evenly by the robots; a folder each."""
    folders = []
    for number, rung in enumerate(rungs):
        folder = runs / f"logs{number}"
        record(fleet, folder, rung.message, episodes // len(fleet.robots), seed + number)
        folders.append(folder)
    return folders
