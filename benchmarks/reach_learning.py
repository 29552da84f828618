"""How many transitions reach takes to learn, without ROS or sockets in the way.

The real control loop, guard, simulated arm, replay mirror and trainer in one process; after every
`--every` transitions the policy is measured in noise-free episodes. A row per seed:

    90 % at, 95 % at    transitions at the first of two measurements in a row that are as good
    last third          mean success rate of the last third of the measurements
    distance cm         mean final distance there
    updates/CPU-s       of the learner alone, one thread

    python benchmarks/reach_learning.py --seeds 0 1 2 --set learner.gamma=0.9 --json learning.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

import itertools
from contextlib import ExitStack

from benchmarks.common.table import show
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from learner.mirror import ReplayMirror
from learner.publisher import policy_message
from learner.trainer import Trainer
from replay_server.rate_limiter import RateLimiter
from robot_nodes.policy import NumpyPolicy
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulated_arm import SimulatedArm
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import make_task

FLEET = "hardware_configs/fleets/sim2.yaml"


class InProcessFleet:
    """The fleet's robots and learner, taking turns."""

    def __init__(self, fleet: FleetConfig, seed: int) -> None:
        """Draw a network and put the robots at their homes."""
        self.config = fleet.learner
        first = fleet.robots[0]
        self.spec = make_task(fleet, first.id).spec
        self.trainer = Trainer(self.config, self.spec, seed=seed)
        self.mirror = ReplayMirror(self.spec.observation.size, self.spec.action.size, 1_000_000)
        self.limiter = RateLimiter(self.config.updates_per_row, self.config.warmup_rows)
        self.train_cpu_s = 0.0
        start = self._message()
        self._arms = ExitStack()
        self.robots = [
            Rollout(
                fleet,
                entry.id,
                start,
                1000 * seed + i,
                self._arm(fleet, entry.id, 1000 * seed + i),
                on_batch=self._learn,
                explore=True,
            )
            for i, entry in enumerate(fleet.robots)
        ]
        self.judge = Rollout(fleet, first.id, start, 999, self._arm(fleet, first.id, 999))

    def _arm(self, fleet: FleetConfig, robot_id: str, seed: int) -> SimulatedArm:
        return self._arms.enter_context(simulated_arm(fleet, robot_id, seed + 1))

    def __enter__(self) -> InProcessFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._arms.close()

    def _message(self) -> Any:
        std = self.config.exploration_std if self.trainer.updates else self.config.warmup_exploration_std
        return policy_message(self.trainer, "benchmark", self.trainer.updates, std, 0)

    def policy(self) -> NumpyPolicy:
        """The newest policy, as a robot would receive it."""
        return NumpyPolicy.from_message(self._message(), self.spec)

    def _learn(self, batch: Any) -> None:
        self.mirror.extend(batch)
        self.trainer.observe(batch.observation)
        updates = self.limiter.allowed(self.mirror.cursor, self.trainer.updates)
        started = time.process_time()
        self.trainer.update_many(self.mirror, updates)
        self.train_cpu_s += time.process_time() - started
        policy = self.policy()
        for robot in self.robots:
            robot.set_policy(policy)

    def measure(self, episodes: int) -> tuple[float, float]:
        """Success rate and mean final distance (m) of the newest policy."""
        self.judge.set_policy(self.policy())
        results = [self.judge.episode() for _ in range(episodes)]
        success = float(np.mean([r.success for r in results]))
        return success, float(np.mean([r.metrics["final_distance_m"] for r in results]))


def first_two_in_a_row(history: list[tuple[int, float, float]], threshold: float) -> int | str:
    """Transitions at the first of two measurements in a row at or above the threshold."""
    for (rows, success, _), (_, following, _) in itertools.pairwise(history):
        if min(success, following) >= threshold:
            return rows
    return "never"


def run(fleet: FleetConfig, seed: int, rows: int, every: int, episodes: int) -> dict[str, Any]:
    """Learn for `rows` transitions and say how it went."""
    history: list[tuple[int, float, float]] = []
    with InProcessFleet(fleet, seed) as in_process:
        while in_process.mirror.inserted < rows:
            for robot in in_process.robots:
                robot.episode()
            if in_process.mirror.inserted >= (len(history) + 1) * every:
                history.append((in_process.mirror.inserted, *in_process.measure(episodes)))
                print(
                    f"seed {seed}: {history[-1][0]:6d} rows, success {100 * history[-1][1]:3.0f} %",
                    flush=True,
                )
    tail = history[2 * len(history) // 3 :]
    return {
        "seed": seed,
        "90 % at": first_two_in_a_row(history, 0.9),
        "95 % at": first_two_in_a_row(history, 0.95),
        "last third %": 100 * float(np.mean([success for _, success, _ in tail])),
        "distance cm": 100 * float(np.mean([distance for _, _, distance in tail])),
        "updates/CPU-s": in_process.trainer.updates / in_process.train_cpu_s,
    }


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=36_000)
    parser.add_argument("--every", type=int, default=3_000)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fleet = load_fleet(FLEET, arguments.overrides)
    size = arguments.rows, arguments.every, arguments.episodes
    rows = [run(fleet, seed, *size) for seed in arguments.seeds]
    title = " ".join(["Reach, transitions to success", *arguments.overrides])
    show(title, rows, arguments.json)


if __name__ == "__main__":
    main()
