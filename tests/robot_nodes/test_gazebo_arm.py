"""The arm in lock-step in a real gzserver: MujocoArm's twin, with a door."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.robot_config import RobotConfig
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT
from robot_nodes.gazebo.connection import GazeboConnection, GazeboConnectionError
from robot_nodes.gazebo.gazebo_arm import GazeboArm
from robot_nodes.gazebo.private_gazebo import PrivateGazebo
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.sim.simulated_arm import SimulatedArm

pytestmark = pytest.mark.usefixtures("gazebo")

Take = Callable[..., GazeboArm]


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    return load_fleet("fleets/door2.yaml")


@pytest.fixture(scope="module")
def robot(fleet: FleetConfig) -> RobotConfig:
    return fleet.entry("robot1").robot


@pytest.fixture(scope="module")
def world(gazebo: object, fleet: FleetConfig) -> Iterator[PrivateGazebo]:
    """One gzserver for this file."""
    with PrivateGazebo(fleet, "robot1") as running:
        yield running


@pytest.fixture
def take(world: PrivateGazebo, fleet: FleetConfig, robot: RobotConfig) -> Iterator[Take]:
    """Takes the arm over, with another config if need be; it is let go of after the test."""
    arms: list[GazeboArm] = []

    def make(config: RobotConfig = robot, rng: np.random.Generator | None = None) -> GazeboArm:
        connection = GazeboConnection(int(world._state["port"]), "robot1")
        arms.append(GazeboArm(config, "robot1", fleet.task.scene, connection, rng))
        return arms[-1]

    yield make
    for arm in arms:
        arm.close()
        arm.close()


def test_taking_it_over_does_not_move_it(take: Take, robot: RobotConfig) -> None:
    arm = take()
    away = np.array(robot.reset.home_rad) + 0.2
    arm.reset(away)
    arm.close()
    np.testing.assert_allclose(take().q, away, atol=0.01)


def test_resets_are_those_of_mujoco(take: Take, robot: RobotConfig) -> None:
    mujoco, gazebo = MujocoArm(robot, np.random.default_rng(3)), take(rng=np.random.default_rng(3))
    home = np.array(robot.reset.home_rad)
    for _ in range(3):
        mujoco.reset(), gazebo.reset()
        assert 0 < np.abs(mujoco.q - home).max() <= robot.reset.randomise_rad
        np.testing.assert_allclose(gazebo.q, mujoco.q, rtol=0, atol=1e-12)
    gazebo.reset(home + 0.1)
    np.testing.assert_allclose(gazebo.q, home + 0.1, rtol=0, atol=1e-12)
    gazebo.close()
    exact = take()
    exact.reset()
    np.testing.assert_allclose(exact.q, home, rtol=0, atol=1e-12)


def test_commands_move_the_joints_they_name(take: Take, robot: RobotConfig) -> None:
    velocity = np.linspace(-0.3, 0.3, 7)
    moved = {}
    for joints in (robot.joints, robot.joints[::-1]):
        home = [robot.reset.home_rad[robot.joints.index(name)] for name in joints]
        arm: SimulatedArm = take(robot.model_copy(update={"joints": joints}))
        arm.reset(home)
        time_ns = arm.time_ns
        speeds = dict(zip(robot.joints, velocity, strict=True))
        arm.command([speeds[name] for name in joints])
        arm.step(0.1)
        arm.step(0.1)  # the command stays in force
        assert arm.time_ns == time_ns + 200_000_000
        np.testing.assert_allclose(arm.qd, [speeds[name] for name in joints], atol=1e-2)
        moved[tuple(joints)] = dict(zip(joints, arm.q - np.array(home), strict=True))
        assert arm.effort.shape == (7,) and np.abs(arm.effort).max() > 1.0  # holds its own weight
        arm.close()
    forwards, backwards = moved.values()
    assert forwards == pytest.approx({name: 0.2 * v for name, v in speeds.items()}, abs=3e-3)
    assert backwards == pytest.approx(forwards, abs=1e-6)


def test_a_reset_ends_the_command_but_does_not_turn_back_time(take: Take, robot: RobotConfig) -> None:
    arm = take()
    arm.command(np.full(7, 0.2))
    arm.step(0.1)
    time_ns = arm.time_ns
    arm.reset()
    assert arm.time_ns == time_ns
    np.testing.assert_array_equal(arm.qd, np.zeros(7))
    arm.step(0.2)
    np.testing.assert_allclose(arm.q, robot.reset.home_rad, atol=5e-3)


def test_the_same_rollout_twice_gives_the_same_bits(take: Take, world: PrivateGazebo) -> None:
    def rollout(arm: GazeboArm) -> list[np.ndarray]:
        rng = np.random.default_rng(1)
        arm.reset()
        states = []
        for _ in range(10):
            arm.command(rng.uniform(-0.5, 0.5, 7))
            arm.step(0.05)
            states.append(np.concatenate([arm.q, arm.qd, arm.effort, arm.scene_q, arm.scene_qd]))
        return states

    arm = take()
    first = rollout(arm)
    arm.close()
    np.testing.assert_array_equal(rollout(take()), first)


def test_torques_with_the_effort_interface(take: Take, robot: RobotConfig) -> None:
    assert robot.sim is not None
    sim = robot.sim.model_copy(update={"simulator": "gazebo", "command_interface": "effort"})
    arm = take(robot.model_copy(update={"sim": sim}))
    arm.reset()
    arm.step(0.05)
    assert np.abs(arm.qd).max() > 0.05, "without torque it falls"
    np.testing.assert_array_equal(arm.effort, np.zeros(7))
    arm.command([5.0, 0, 0, 0, 0, 0, 0])
    arm.step(0.01)
    assert arm.effort[0] == 5.0


def test_the_door_is_part_of_the_scene(take: Take, world: PrivateGazebo, robot: RobotConfig) -> None:
    arm = take()
    assert arm.scene_joints == (HINGE_JOINT, HANDLE_JOINT)
    arm.reset()
    np.testing.assert_allclose(arm.scene_q, [0, 0], atol=1e-12)
    with GazeboConnection(int(world._state["port"])) as opener:
        opener.bind([f"robot1_door::{HINGE_JOINT} passive"])
        opener.reset([0.5], [0.3])
        arm.command(np.full(7, 0.1))
        arm.step(0.1)
        assert arm.scene_q[0] > 0.5 and arm.scene_qd[0] > 0.0
    q = arm.q.copy()
    arm.reset_scene()
    np.testing.assert_allclose(arm.scene_q, [0, 0], atol=1e-12)
    np.testing.assert_allclose(arm.scene_qd, [0, 0], atol=1e-12)
    np.testing.assert_array_equal(arm.q, q)
    arm.step(0.1)
    np.testing.assert_allclose(arm.q - q, np.full(7, 0.01), atol=2e-3)  # its command is still in force
    arm.reset()
    np.testing.assert_allclose(arm.q, robot.reset.home_rad, rtol=0, atol=1e-12)


def test_what_cannot_be_done_is_said(take: Take, robot: RobotConfig, fleet: FleetConfig) -> None:
    arm = take()
    with pytest.raises(ValueError, match=r"step of 0\.0001 s is shorter than the timestep"):
        arm.step(0.0001)
    with pytest.raises(ValueError, match="shape"):
        arm.command([0.0, 0.0])
    with pytest.raises(GazeboConnectionError, match="driven by another client"):
        take()
    with pytest.raises(ValueError, match="'generic7_sim' has no sim group"):
        take(robot.model_copy(update={"sim": None}))
    with pytest.raises(GazeboConnectionError, match=r"'robot1': refused: RESET .*its limits are"):
        arm.reset(np.full(7, 9.0))


def test_a_command_that_is_not_finite_brakes_the_arm(take: Take) -> None:
    arm = take()
    arm.reset()
    arm.command([np.nan] * 7)
    with pytest.raises(GazeboConnectionError, match="command nan"):
        arm.step(0.05)
    arm = take()
    q = arm.q.copy()
    arm.step(0.05)
    np.testing.assert_allclose(arm.q, q, atol=5e-3)


def test_a_gzserver_that_is_killed_is_named(gazebo: object, fleet: FleetConfig) -> None:
    with PrivateGazebo(fleet, "robot2") as own:
        arm = own.arm()
        arm.reset()
        os.kill(own.pid, signal.SIGKILL)
        with pytest.raises(GazeboConnectionError, match=r"'robot2'.*gzserver has ended.*reconnect"):
            while True:
                arm.step(0.05)
