"""Hostile policies on the simulated arm, 10,000 ticks; `benchmarks/guard.py` does 100 times as many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import CLEARANCE_MARGIN_M, POSITION_MARGIN_RAD, GuardLimits, guard
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.guard_trial import POLICIES, GuardTrial
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.urdf_source import load_urdf

ROBOT = Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml"
DT = 0.05
BALLS = [  # link, place along its z axis, radius
    ("base_link", 0.08, 0.10),
    ("link_1", 0.09, 0.09),
    ("link_1", 0.18, 0.10),
    ("link_2", 0.10, 0.09),
    ("link_3", 0.05, 0.08),
    ("link_3", 0.20, 0.09),
    ("link_4", 0.08, 0.07),
    ("link_5", 0.05, 0.06),
    ("link_5", 0.17, 0.07),
    ("link_6", 0.03, 0.06),
    ("link_7", 0.03, 0.05),
    ("tool", 0.00, 0.04),
]


def plain() -> RobotConfig:
    """The demo's arm: position limits and a sphere."""
    data = yaml.safe_load(ROBOT.read_text())
    data["urdf"] = str((ROBOT.parent / data["urdf"]).resolve())
    data["sim"]["timestep_s"] = 0.005
    return RobotConfig.model_validate(data)


def guarded(acceleration: float = 15.0, jerk: float = 200.0) -> RobotConfig:
    """The same arm with every limit there is."""
    data = plain().model_dump(mode="json")
    data["limits"] |= {
        "max_joint_acceleration_rad_s2": [acceleration] * 7,
        "max_joint_jerk_rad_s3": [jerk] * 7,
        "max_effort": [1000.0] * 7,
        "workspace_box": {"low_m": [-0.2, -0.45, 0.06], "high_m": [0.8, 0.45, 1.05]},
        "workspace_planes": [{"name": "corner", "normal": [-1, -1, 0], "offset_m": -0.75}],
        "link_planes": [{"name": "table", "normal": [0, 0, 1], "offset_m": 0.0}],
        "link_spheres": [{"link": link, "center_m": [0, 0, z], "radius_m": r} for link, z, r in BALLS],
        "link_margin_m": 0.01,
        "self_collision": True,
        "self_collision_ignore": [["link_5", "link_7"], ["link_5", "tool"]],
    }
    return RobotConfig.model_validate(data)


def check(trial: GuardTrial, policy: str, ticks: int, least_moved_rad: float) -> set[str]:
    """Run a trial; the limits that acted in it."""
    worst = trial.run(POLICIES[policy], ticks)
    assert worst.position <= POSITION_MARGIN_RAD
    for limit, distance in worst.distances.items():
        assert distance <= CLEARANCE_MARGIN_M, limit
    assert worst.velocity <= 0.0
    assert worst.acceleration <= 1.0 + 1e-6
    assert sum(worst.acted.values()) > ticks / 10  # or it was not hostile
    assert worst.moved > least_moved_rad  # standing still is safe, too
    return set(worst.acted)


def test_no_policy_gets_an_arm_with_every_limit_beyond_one() -> None:
    trial = GuardTrial(guarded(), np.random.default_rng(0))
    acted: set[str] = set()
    for policy in POLICIES:
        acted |= check(trial, policy, 600, 40.0)
    assert acted == {
        *("non_finite", "velocity", "acceleration", "jerk", "position"),
        *("workspace", "link_planes", "self_collision"),
    }


@pytest.mark.parametrize("policy", ["held", "outward", "sliding"])
def test_nor_one_that_takes_long_to_brake(policy: str) -> None:
    """2 rad/s²: from full speed to rest in 15 ticks."""
    check(GuardTrial(guarded(acceleration=2.0, jerk=40.0), np.random.default_rng(1)), policy, 600, 20.0)


@pytest.mark.parametrize("policy", ["saturated", "outward", "greedy"])
def test_nor_the_arm_of_the_demo(policy: str) -> None:
    check(GuardTrial(plain(), np.random.default_rng(2)), policy, 400, 40.0)


def test_a_joint_that_works_too_hard_stops_the_arm() -> None:
    """The simulated servos say what they give; the limit is a tenth of what a start takes."""
    robot = guarded()
    limits = GuardLimits.from_config(robot.limits.model_copy(update={"max_effort": [30.0] * 7}))
    geometry = GuardGeometry(robot, Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link))
    arm, zeros = MujocoArm(robot), np.zeros(7)
    arm.command(np.full(7, 0.5))
    arm.step(0.005)
    state = geometry.state(arm.q.copy(), arm.qd.copy(), np.full(7, 0.5), zeros, arm.effort)
    assert np.abs(arm.effort).max() > 30.0
    safe, interventions = guard(np.full(7, 0.5), state, limits, DT)
    np.testing.assert_array_equal(safe, zeros)
    assert interventions.values == {"effort": 0.5}


BEYOND = {
    # Stretched backwards; the elbow on the table; folded onto itself.
    "sphere": [0.0, -0.8, 0.0, 0.15, 0.0, 0.0, 0.0],
    "link_planes": [0.0, 1.85, 0.0, 0.9, 0.0, 0.0, 0.0],
    "self_collision": [0.0, 0.0, 0.0, 2.45, 0.0, 1.9, 0.0],
}


@pytest.mark.parametrize("limit", BEYOND)
def test_an_arm_that_starts_beyond_a_limit_gets_no_farther(limit: str) -> None:
    trial = GuardTrial(guarded(), np.random.default_rng(3))
    trial.start = lambda: np.array(BEYOND[limit])  # type: ignore[method-assign]
    start = trial.measured.clearances(np.array(BEYOND[limit]))[limit]
    assert start < -0.01
    for policy in ("saturated", "nearest", "sliding", "greedy"):
        worst = trial.run(POLICIES[policy], 50)
        assert worst.distances[limit] <= -start + CLEARANCE_MARGIN_M


def test_the_guard_does_not_keep_the_arm_from_going_home() -> None:
    """The servo of a reset arrives from nearly anywhere inside all limits; where it is stuck, it stands."""
    for robot, most_stuck in ((plain(), 0), (guarded(), 3)):
        trial = GuardTrial(robot, np.random.default_rng(2))
        stuck = 0
        for _ in range(20):
            trial.arm.reset(trial.start())
            home = robot.reset.home_rad + trial.rng.uniform(-0.3, 0.3, 7)
            previous = acceleration = np.zeros(7)
            for _ in range(round(robot.reset.timeout_s / DT)):
                q = trial.arm.q.copy()
                if np.abs(home - q).max() < robot.reset.tolerance_rad:
                    break
                state = trial.geometry.state(q, trial.arm.qd.copy(), previous, acceleration)
                command, _ = guard(robot.reset.gain_per_s * (home - q), state, trial.limits, DT)
                acceleration, previous = (command - previous) / DT, command
                trial.arm.command(command)
                trial.arm.step(DT)
            else:
                stuck += 1
        assert stuck <= most_stuck
