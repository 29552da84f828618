"""Hostile policies against the guard on simulated arms: how far beyond its limits does any get?

Each arm of hardware_configs/robots that has a file for its URDF is driven in MuJoCo by each policy of
robot_nodes/sim/guard_trial.py; so is generic_arm7, with all its limits, at the speed of the demo.
Columns are the worst of all ticks:
    position        beyond a joint's limit (mrad)
    sphere, box, table, self
                    tool beyond the workspace sphere; beyond box or half-space; a link sphere beyond the table
                    or a wall; two of them too near to each other (mm); negative: never that near
    braking         hardest braking, as a multiple of the acceleration limit; all else was within it
    hard            ticks that braked harder than the limit: stopping won
    p50, p99, max   CPU time of the guard with its geometry (µs)

    python benchmarks/guard.py --ticks 1000000 --json guard.json
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not this script's neighbour, however the script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.table import show
from fleet.robot_config import RobotConfig
from robot_nodes.sim.guard_trial import POLICIES, GuardTrial

ROBOTS = ROOT / "hardware_configs/robots"
FAST = "generic_arm7 at the demo's speed"
SHARE_OF_FAST = 0.5  # of the ticks: it is the one whose errors are largest


def load_robot(path: Path) -> RobotConfig | None:
    """The robot with a simulator behind it; None: its URDF comes from a topic."""
    data = yaml.safe_load(path.read_text())
    if not isinstance(data["urdf"], str):
        return None
    data |= {"urdf": str((path.parent / data["urdf"]).resolve()), "sim": {"timestep_s": 0.005}}
    return RobotConfig.model_validate(data)


def fast_robot() -> RobotConfig:
    """Every limit of generic_arm7.yaml, but four times as fast and with stops in two ticks."""
    robot = load_robot(ROBOTS / "generic_arm7.yaml")
    assert robot is not None
    limits = robot.limits.model_dump(mode="json") | {
        "max_joint_velocity_rad_s": [1.5] * 7,
        "max_joint_acceleration_rad_s2": [15.0] * 7,
        "max_joint_jerk_rad_s3": [200.0] * 7,
    }
    return RobotConfig.model_validate(robot.model_dump(mode="json") | {"limits": limits, "rated": None})


def robots() -> dict[str, RobotConfig]:
    """What is tried, by name."""
    found = {FAST: fast_robot()}
    for path in sorted(ROBOTS.glob("*.yaml")):
        if (robot := load_robot(path)) is not None:
            found[path.stem] = robot
    return found


def trial(name: str, robot: RobotConfig, policy: str, ticks: int, seed: int) -> dict[str, Any]:
    """The row of one arm and policy."""
    worst = GuardTrial(robot, np.random.default_rng(seed)).run(POLICIES[policy], ticks)
    columns = {"sphere": "sphere", "workspace": "box", "link_planes": "table", "self_collision": "self"}
    times = np.array(worst.guard_s) * 1e6
    return {
        "arm": name,
        "policy": policy,
        "ticks": ticks,
        "position": 1e3 * worst.position,
        **{column: 1e3 * worst.distances.get(limit, np.nan) for limit, column in columns.items()},
        "braking": worst.braking,
        "hard": worst.hard_stops,
        "changed": max(worst.acted.values()),
        **{f"p{share}": float(np.percentile(times, share)) for share in (50, 99)},
        "max": float(times.max()),
        "_times": times,
    }


def summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The worst of all policies for one arm."""
    mine = [row for row in rows if row["arm"] == name]
    times = np.concatenate([row["_times"] for row in mine])
    total = {"arm": name, "policy": "all", "ticks": sum(row["ticks"] for row in mine)}
    for column in ("position", "sphere", "box", "table", "self", "braking"):
        total[column] = float(np.nanmax([row[column] for row in mine] + [-np.inf]))
    total["hard"] = sum(row["hard"] for row in mine)
    total["changed"] = sum(row["changed"] for row in mine)
    for share in (50, 99):
        total[f"p{share}"] = float(np.percentile(times, share))
    return total | {"max": float(times.max())}


def main() -> None:
    """Parse the command line, try everything, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=1_000_000, help="of all trials together")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--details", action="store_true", help="a row for each policy")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args()

    found = robots()
    names = list(found)
    shares = {name: (1 - SHARE_OF_FAST) / (len(names) - 1) for name in names} | {FAST: SHARE_OF_FAST}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        running = [
            pool.submit(
                trial,
                name,
                found[name],
                policy,
                max(1, round(arguments.ticks * shares[name] / len(POLICIES))),
                arguments.seed + i * len(POLICIES) + j,
            )
            for i, name in enumerate(names)
            for j, policy in enumerate(POLICIES)
        ]
        rows = [future.result() for future in running]
    totals = [summary(rows, name) for name in names]
    for row in rows:
        del row["_times"]
    total = sum(row["ticks"] for row in rows)
    title = f"Guard against {len(POLICIES)} hostile policies, {total:,} ticks"
    show(title, (rows if arguments.details else []) + totals, arguments.json)


if __name__ == "__main__":
    main()
