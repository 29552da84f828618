"""What can be learned from logs alone: careful NAF against plain NAF and behaviour cloning.

The logs are our own fleet's, made here: one training on the simulated robots gives three policies, whose
episodes are recorded by the robots' own control loop:

    random    the untrained network with the noise of the warm-up (standard deviation 1)
    medium    the first policy with a success rate of at least 40 %, with its exploration noise
    expert    the last policy, noise-free
    mixed     all of these

Each method then trains from each of them with each seed, as `pnaf offline train` does, and its policy is
measured in fresh noise-free episodes on the simulated robot. A row for each kind of logs: the success rate
and return of the logs' own episodes, then for each method the mean over the seeds of the success rate (with
the smallest and largest) and of the return.

    python benchmarks/offline_learning.py --tasks reach door --seeds 0 1 2 --json offline_learning.json
    python benchmarks/offline_learning.py --tasks reach --set learner.behaviour_weight=0.5
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.fleet_logs import record
from benchmarks.common.in_process_fleet import InProcessFleet
from benchmarks.common.table import show
from benchmarks.common.virtual_time import Asynchronous
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage
from fleet.offline_run import METHODS
from fleet.run_folder import create_run_folder
from learner.offline_training import OfflineTraining
from learner.publisher import policy_message
from learner.row_store import RowStore
from replay_server.logs import open_logs
from robot_nodes.sim.evaluation import evaluate_policy

TASKS = {
    "reach": ("hardware_configs/fleets/sim2.yaml", ["learner.gamma=0.8"]),
    "door": ("hardware_configs/fleets/door2.yaml", []),
}
MEDIUM_SUCCESS = 0.4
LEARNED_ROWS = 25_000
MEASURE_EVERY_ROWS = 1_000
QUALITIES = {
    "random": ["random"],
    "medium": ["medium"],
    "expert": ["expert"],
    "mixed": ["random", "medium", "expert"],
}


def make_policies(fleet: FleetConfig, seed: int) -> dict[str, PolicyMessage]:
    """A random, a medium and an expert policy of one training."""
    policies: dict[str, PolicyMessage] = {}
    with InProcessFleet(fleet, seed) as in_process:

        def newest() -> PolicyMessage:
            trainer = in_process.trainer
            std = fleet.learner.exploration_std if trainer.updates else fleet.learner.warmup_exploration_std
            return policy_message(trainer, "benchmark", trainer.updates, std, 0)

        policies["random"] = newest()
        time, measured = Asynchronous(in_process, updates_per_s=math.inf), 0
        while in_process.mirror.cursor < LEARNED_ROWS:
            time.advance()
            if in_process.mirror.cursor < measured + MEASURE_EVERY_ROWS or "medium" in policies:
                continue
            measured = in_process.mirror.cursor
            if in_process.measure(20).success >= MEDIUM_SUCCESS:
                policies["medium"] = newest()
        policies["expert"] = replace(newest(), exploration_std=0.0)
    return policies


def make_logs(task: str, folder: Path, rows: int, seed: int) -> FleetConfig:
    """Logs of each quality, about `rows` transitions each, in `folder`."""
    file, overrides = TASKS[task]
    fleet = load_fleet(ROOT / file, overrides)
    first = fleet.robots[0]
    episodes = math.ceil(rows / len(fleet.robots) / (fleet.task.episode_s * first.robot.control_rate_hz))
    for number, (name, policy) in enumerate(make_policies(fleet, seed).items()):
        record(fleet, folder / name, policy, episodes, seed + number, boot_id=name)
    return fleet


def learn(fleet: FleetConfig, store: RowStore, updates: int, episodes: int) -> dict[str, float]:
    """Train one policy from a store and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        run = create_run_folder(fleet, Path(folder), "run")
        training = OfflineTraining(fleet, run, store)
        training.train(updates, threading.Event())
        policy = training.policy()
        training.close()
    return evaluate_policy(fleet, policy, episodes, 1000, fleet.robots[0].id).summary


def measure(
    task: str, folder: Path, updates: int, episodes: int, seeds: list[int], overrides: list[str]
) -> list[dict[str, Any]]:
    """A row of the table for each kind of logs."""
    file, own = TASKS[task]
    table = []
    for quality, parts in QUALITIES.items():
        logs = open_logs([folder / part for part in parts])
        infos = [summary.info for summary in logs.episodes]
        with tempfile.TemporaryDirectory() as rows:
            store = RowStore.build(Path(rows) / "rows", logs)
            row: dict[str, Any] = {
                "task": task,
                "logs": quality,
                "rows": store.file.rows,
                "own %": 100 * float(np.mean([info.success for info in infos])),
                "own return": float(np.mean([info.metrics["return"] for info in infos])),
            }
            for method, settings in METHODS.items():
                results = []
                for seed in seeds:
                    settings_of_all = [*own, *settings, *overrides, f"learner.seed={seed}"]
                    fleet = load_fleet(ROOT / file, settings_of_all)
                    results.append(learn(fleet, store, updates, episodes))
                success = [100 * result["success_rate"] for result in results]
                row[f"{method} %"] = f"{np.mean(success):.0f} ({min(success):.0f}-{max(success):.0f})"
                row[f"{method} return"] = float(np.mean([result["mean_return"] for result in results]))
                print(f"{task}, {quality}, {method}: {row[f'{method} %']}", flush=True)
        table.append(row)
    return table


def main() -> None:
    """Make logs, train, measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", type=int, default=20_000, help="of each kind of logs")
    parser.add_argument("--updates", type=int, default=60_000)
    parser.add_argument("--episodes", type=int, default=50, help="that measure a policy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--logs", type=Path, help="keep the logs there; those that are there are used")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    with tempfile.TemporaryDirectory() as temporary:
        for task in arguments.tasks:
            folder = (arguments.logs or Path(temporary)) / task
            if not folder.is_dir():
                make_logs(task, folder, arguments.rows, 0)
            size = arguments.updates, arguments.episodes
            table += measure(task, folder, *size, arguments.seeds, arguments.overrides)
    title = " ".join([f"From logs alone, {arguments.updates:,} updates", *arguments.overrides])
    show(title, table, arguments.json)


if __name__ == "__main__":
    main()
