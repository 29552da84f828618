"""How many transitions a task takes to learn, without ROS or sockets in the way.

The real control loop, guard, simulated arm, replay mirror and trainer in one process, the trainer as fast
as the rows allow; after every `--every` transitions the policy is measured in noise-free episodes. A row
per seed:

    90 % at, 95 % at    transitions at the first of two measurements in a row that are as good
    robot min           of each robot until 95 %, resets included
    last third          mean success rate of the last third of the measurements
    distance cm         mean final distance there
    updates/CPU-s       of the learner alone, one thread

    python benchmarks/reach_learning.py --seeds 0 1 2 --set learner.gamma=0.9 --json learning.json
    python benchmarks/reach_learning.py --fleet hardware_configs/fleets/door2.yaml
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.in_process_fleet import InProcessFleet
from benchmarks.common.paper_cell import reached
from benchmarks.common.table import show
from benchmarks.common.virtual_time import Asynchronous
from fleet.config import FleetConfig
from fleet.config_file import load_fleet

FLEET = "hardware_configs/fleets/sim2.yaml"


def run(
    fleet: FleetConfig,
    seed: int,
    rows: int,
    every: int,
    episodes: int,
    prepare: Callable[[InProcessFleet], None] = lambda in_process: None,
) -> dict[str, Any]:
    """Learn for `rows` transitions, those of `prepare` included, and say how it went."""
    curve: list[dict[str, float]] = []
    with InProcessFleet(fleet, seed) as in_process:
        prepare(in_process)
        time = Asynchronous(in_process, updates_per_s=math.inf)
        while in_process.mirror.cursor < rows:
            time.advance()
            if in_process.mirror.cursor >= (len(curve) + 1) * every:
                measured = in_process.measure(episodes)
                curve.append(
                    {
                        "rows": in_process.mirror.cursor,
                        "time_s": time.now_s,
                        "success": measured.success,
                        "distance": measured.metrics["final_distance_m"],
                    }
                )
                print(
                    f"seed {seed}: {curve[-1]['rows']:6d} rows, success {100 * measured.success:3.0f} %",
                    flush=True,
                )
    tail = curve[2 * len(curve) // 3 :]
    at_90, at_95 = reached(curve, 0.9), reached(curve, 0.95)
    return {
        "seed": seed,
        "90 % at": at_90["rows"] if at_90 else "never",
        "95 % at": at_95["rows"] if at_95 else "never",
        "robot min": at_95["time_s"] / 60 if at_95 else "never",
        "last third %": 100 * float(np.mean([point["success"] for point in tail])),
        "distance cm": 100 * float(np.mean([point["distance"] for point in tail])),
        "updates/CPU-s": in_process.trainer.updates / in_process.train_cpu_s,
    }


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--fleet", default=FLEET, help="its YAML")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=36_000)
    parser.add_argument("--every", type=int, default=3_000)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fleet = load_fleet(arguments.fleet, arguments.overrides)
    size = arguments.rows, arguments.every, arguments.episodes
    rows = [run(fleet, seed, *size) for seed in arguments.seeds]
    title = " ".join([f"{fleet.name}, transitions to success", *arguments.overrides])
    show(title, rows, arguments.json)


if __name__ == "__main__":
    main()
