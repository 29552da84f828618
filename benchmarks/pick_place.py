"""How many transitions pick_place takes to learn, with and without somebody who shows how.

As benchmarks/reach_learning.py, but first a script teleoperates the arm for `--demonstrations` episodes,
with noise on what it does; their rows count as a person's, and a share of each minibatch is drawn from
them (`learner.demonstration_fraction`). Then the fleet explores by itself.

    python benchmarks/pick_place.py --demonstrations 80 --seeds 0 1
    python benchmarks/pick_place.py --demonstrations 0 --rows 120000
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.in_process_fleet import InProcessFleet
from benchmarks.common.pick_script import PickScript, script_message
from benchmarks.common.table import show
from benchmarks.reach_learning import run
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import TransitionBatch
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulators import simulated_arm

FLEET = "hardware_configs/fleets/pick2.yaml"
NOISE_STD = 0.4
_SCRIPT_SEED = 77


def demonstrate(fleet: FleetConfig, in_process: InProcessFleet, episodes: int, seed: int) -> None:
    """Fill the mirror with episodes of the script."""
    first = fleet.robots[0].id
    seed += _SCRIPT_SEED

    def take(batch: TransitionBatch) -> None:
        in_process.take(dataclasses.replace(batch, intervened=np.ones(batch.rows, bool)))

    message = script_message(fleet, NOISE_STD)
    with simulated_arm(fleet, first, seed) as arm:
        rollout = Rollout(fleet, first, message, seed, arm, on_batch=take, explore=True)
        rollout.set_policy(PickScript(fleet, message))
        successes = [rollout.episode().success for _ in range(episodes)]
    print(f"{episodes} demonstrations, {sum(successes)} of them successful", flush=True)


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--demonstrations", type=int, default=80, help="episodes; 0: none")
    parser.add_argument("--fraction", type=float, default=0.25, help="of each minibatch, drawn from them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=5_000)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    number = arguments.demonstrations
    fraction = [f"learner.demonstration_fraction={arguments.fraction}"] if number else []
    fleet = load_fleet(FLEET, [*fraction, *arguments.overrides])
    rows = []
    for seed in arguments.seeds:

        def prepare(in_process: InProcessFleet, seed: int = seed) -> None:
            if number:
                demonstrate(fleet, in_process, number, seed)

        rows.append(run(fleet, seed, arguments.rows, arguments.every, arguments.episodes, prepare))
    title = " ".join([f"{fleet.name}, {number} demonstrations, transitions to success", *arguments.overrides])
    show(title, rows, arguments.json)


if __name__ == "__main__":
    main()
