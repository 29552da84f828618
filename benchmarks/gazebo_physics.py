"""How true Gazebo's arms are: against MuJoCo, against their commands, and at a door they press on.

Arms: the same smooth velocity commands at 20 Hz, nearly as fast as the limits allow, for 5 s from home, in
both simulators; the largest differences of three runs. Solvers: the generic arm against the integral of its
commands, and the wall time of a tick. Door: exploring episodes with random policies; the largest move of a
joint in one tick, and how many ticks had one above 0.1 rad, where the velocity limit allows 0.075.

    python benchmarks/gazebo_physics.py --episodes 40
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not this script's neighbour, however the script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.table import machine, show
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, policy_checksum
from fleet.sim_config import Simulator
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy
from robot_nodes.sim.rollout import Rollout, RolloutError
from robot_nodes.sim.simulated_arm import SimulatedArm
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import make_task
from robot_nodes.urdf_source import load_urdf

ARMS = ("generic7_sim", "ur5e", "franka_fr3", "kinova_gen3", "xarm7")
SOLVERS = ((0, 0.002), (0, 0.001), (100, 0.002), (50, 0.002), (50, 0.001), (20, 0.002))
TICK_S, RUN_S, SEEDS = 0.05, 5.0, 3
FAST = 0.9  # of the velocity limits


def fleet_of(robot: str, *overrides: str) -> FleetConfig:
    """One arm, simulated, without a scene."""
    sim = [f"robot=../robots/{robot}.yaml", "robots=[robot1]", "task.scene=null", "robots.0.robot.sim={}"]
    return load_fleet("fleets/gazebo4.yaml", [*sim, "override={}", *overrides])


def follow(
    fleet: FleetConfig, simulator: Simulator, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Joint positions and velocities, the integral of the commands [ticks, nq], and seconds per tick."""
    robot = fleet.entry("robot1").robot
    n, rng = len(robot.joints), np.random.default_rng(seed)
    hertz, phase = rng.uniform(0.8, 1.4, n), rng.uniform(0.0, 2 * np.pi, n)
    fastest = FAST * np.array(robot.limits.max_joint_velocity_rad_s)
    q, qd, asked = [], [], []
    with simulated_arm(fleet, "robot1", seed, simulator) as arm:
        arm.reset(robot.reset.home_rad)
        goal = arm.q.copy()
        began_s = time.monotonic()
        for tick in range(round(RUN_S / TICK_S)):
            u = fastest * np.sin(2 * np.pi * hertz * tick * TICK_S + phase) * min(1.0, tick / 10)
            arm.command(u)
            arm.step(TICK_S)
            goal = goal + u * TICK_S
            q.append(arm.q.copy()), qd.append(arm.qd.copy()), asked.append(goal)
        took_s = (time.monotonic() - began_s) / len(q)
    return np.array(q), np.array(qd), np.array(asked), took_s


def arm_row(name: str) -> dict[str, Any]:
    """The largest differences of the two simulators."""
    fleet = fleet_of(name)
    robot = fleet.entry("robot1").robot
    kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
    worst = np.zeros(3)
    for seed in range(SEEDS):
        (q, qd, *_), (p, pd, *_) = (follow(fleet, s, seed) for s in ("gazebo", "mujoco"))
        tools = [np.array([kinematics.tool_position(x) for x in run]) for run in (q, p)]
        tool = np.linalg.norm(tools[0] - tools[1], axis=1)
        worst = np.maximum(worst, [np.abs(q - p).max(), np.abs(qd - pd).max(), tool.max()])
    names = ("position mrad", "velocity mrad/s", "tool mm")
    return {"arm": name} | dict(zip(names, map(float, 1000 * worst), strict=True))


def solver_row(iterations: int, timestep_s: float) -> dict[str, Any]:
    """The generic arm against its own commands."""
    options = (f"gazebo.solver_iterations={iterations}", f"robots.0.robot.sim.timestep_s={timestep_s}")
    q, _, asked, took_s = follow(fleet_of("generic7_sim", *options), "gazebo", 0)
    return {
        "solver": f"{iterations} iterations" if iterations else "direct",
        "time step ms": 1000 * timestep_s,
        "error mrad": 1000 * float(np.abs(q - asked).max()),
        "ms per tick": 1000 * took_s,
    }


class Watched:
    """An arm whose largest move in each tick is noted."""

    def __init__(self, arm: SimulatedArm) -> None:
        self._arm = arm
        self.moves: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arm, name)

    def step(self, seconds: float) -> None:
        """As the arm's."""
        before = self._arm.q.copy()
        self._arm.step(seconds)
        self.moves.append(float(np.abs(self._arm.q - before).max()))


def door_row(simulator: Simulator, seed: int, episodes: int) -> dict[str, Any]:
    """Random policies that press on a door."""
    fleet = load_fleet("fleets/gazebo_door2.yaml")
    spec = make_task(fleet, "robot1").spec
    nx, nu = spec.observation.size, spec.action.size
    rng, faults = np.random.default_rng(seed), 0

    def policy(version: int) -> PolicyMessage:
        weights = 0.3 * rng.standard_normal((nx + 1) * nu)
        arrays = weights.astype("<f4"), np.zeros(nx, "<f4"), np.ones(nx, "<f4")
        return PolicyMessage(
            run_id="run", version=version, learner_step=0, spec_hash=spec.hash, layer_sizes=[nx, nu],
            exploration_std=0.7, exploration_correlation=0.85, published_ns=0,
            checksum=policy_checksum(*arrays), parameters=arrays[0], observation_mean=arrays[1],
            observation_scale=arrays[2],
        )  # fmt: skip

    with simulated_arm(fleet, "robot1", seed, simulator) as arm:
        watched: Any = Watched(arm)
        rollout = Rollout(fleet, "robot1", policy(0), seed, watched, explore=True)
        for episode in range(1, episodes + 1):
            try:
                rollout.episode()
            except RolloutError:
                faults += 1
                arm.reset()
                rollout = Rollout(fleet, "robot1", policy(episode), seed + episode, watched, explore=True)
            rollout.set_policy(NumpyPolicy.from_message(policy(episode), spec))
    moves = np.array(watched.moves)
    return {
        "simulator": simulator, "seed": seed, "episodes": episodes, "ticks": len(moves), "faults": faults,
        "largest rad": float(moves.max()), "above 0.1": int((moves > 0.1).sum()),
    }  # fmt: skip


def main() -> None:
    """Measure and print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--episodes", type=int, default=40, help="at the door, for each seed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables = {
        "arms": [arm_row(name) for name in ARMS],
        "solvers": [solver_row(*solver) for solver in SOLVERS],
        "door": [door_row(s, seed, options.episodes) for s in ("gazebo", "mujoco") for seed in range(SEEDS)],
    }
    for title, rows in tables.items():
        show(title, rows, None)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
