"""The way home: all joints at once, one after the other where the guard lets that alone through."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.config_file import load_fleet
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits
from robot_nodes.guarded_commands import GuardedCommands
from robot_nodes.home_servo import HomeServo
from robot_nodes.kinematics import Kinematics
from robot_nodes.trajectory import TrajectoryPlan
from robot_nodes.urdf_source import load_urdf

DOOR = load_fleet("hardware_configs/fleets/door2.yaml").robots[0].robot
HOME = np.array(DOOR.reset.home_rad)
DT = 1.0 / DOOR.control_rate_hz
FASTEST = DOOR.reset.speed * np.array(DOOR.limits.max_joint_velocity_rad_s)


def guarded(dt: float) -> GuardedCommands:
    kinematics = Kinematics(load_urdf(DOOR.urdf), DOOR.joints, DOOR.tool_link)
    return GuardedCommands(GuardLimits.from_config(DOOR.limits), GuardGeometry(DOOR, kinematics), dt)


CORNERS = [  # the tool in an edge of its box, some joints at their limits
    [-0.417, 1.197, 0.897, 2.47, 0.901, 1.062, -1.501],
    [0.0921, 0.8918, 0.7062, 2.5, -0.9, -1.2, -1.4826],
]


def stays(q: np.ndarray) -> bool:
    """Whether the plain servo is held back at q."""
    commands, start = guarded(DT), q
    for _ in range(40):
        commands.next(np.clip(DOOR.reset.gain_per_s * (HOME - q), -FASTEST, FASTEST), q, commands.last)
        q = q + commands.last * DT
    return bool(np.abs(q - start).max() < 0.005)


@pytest.mark.parametrize("corner", CORNERS)
def test_out_of_a_corner_in_which_all_joints_together_are_held_back(corner: list[float]) -> None:
    assert stays(np.array(corner)), "the guard lets all joints go at once: this test needs another corner"
    servo, commands, q = HomeServo(DOOR, HOME), guarded(DT), np.array(corner)
    for tick in range(round(DOOR.reset.timeout_s / DT)):
        commands.next(servo.velocity(q, tick * DT), q, commands.last)
        q = q + commands.last * DT
    assert np.abs(HOME - q).max() < DOOR.reset.tolerance_rad


@pytest.mark.parametrize("corner", CORNERS)
def test_a_trajectory_out_of_a_corner(corner: list[float]) -> None:
    plan = TrajectoryPlan(np.array(corner), HOME, DOOR, guarded)
    while (trajectory := plan.advance(50)) is None:
        pass
    assert np.abs(HOME - trajectory.positions[-1]).max() < DOOR.reset.tolerance_rad


def test_joints_are_tried_alone_farthest_from_home_first() -> None:
    """An arm that nothing moves."""
    servo, q = HomeServo(DOOR, HOME), HOME + np.array([0.1, -0.3, 0.2, 0.0, 0.0, 0.0, 0.0])
    ticks = [servo.velocity(q, tick * DT) for tick in range(45)]
    moving = [tuple(np.flatnonzero(wish).tolist()) for wish in ticks]
    assert set(moving[:11]) == {(0, 1, 2)}
    assert [moving[15], moving[25], moving[35]] == [(1,), (2,), (0,)]
    assert ticks[15][1] == ticks[0][1] > 0.0


def test_an_arm_that_moves_again_goes_with_all_joints() -> None:
    servo, q = HomeServo(DOOR, HOME), HOME + np.array([0.1, -0.3, 0.2, 0.0, 0.0, 0.0, 0.0])
    for tick in range(12):
        wish = servo.velocity(q, tick * DT)
    assert np.count_nonzero(wish) == 1
    q = q + wish * 0.1
    wishes = [servo.velocity(q, (12 + tick) * DT) for tick in range(12)]
    assert np.count_nonzero(wishes[0]) == 1, "for half a second"
    assert np.count_nonzero(wishes[-1]) == 3
