from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from fleet.robot_config import RobotConfig
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.urdf_source import load_urdf

ROBOT = Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml"


def load_robot(**changes: object) -> RobotConfig:
    data = yaml.safe_load(ROBOT.read_text())
    data["urdf"] = str((ROBOT.parent / data["urdf"]).resolve())
    return RobotConfig.model_validate(data | changes)


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot()


@pytest.fixture
def arm(robot: RobotConfig) -> MujocoArm:
    return MujocoArm(robot)


def test_it_starts_at_rest_at_home(arm: MujocoArm, robot: RobotConfig) -> None:
    np.testing.assert_array_equal(arm.q, robot.reset.home_rad)
    np.testing.assert_array_equal(arm.qd, np.zeros(7))
    assert arm.time_ns == 0


def test_its_tool_is_where_pinocchio_says(arm: MujocoArm, robot: RobotConfig) -> None:
    kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = rng.uniform(robot.limits.position_low_rad, robot.limits.position_high_rad)
        arm.reset(q)
        np.testing.assert_allclose(arm.tool_position, kinematics.tool_position(q), atol=1e-6)


def test_gravity_does_not_move_it(arm: MujocoArm, robot: RobotConfig) -> None:
    arm.step(5.0)
    np.testing.assert_allclose(arm.q, robot.reset.home_rad, atol=1e-4)


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("velocity", [0.75, -1.5])
def test_a_joint_reaches_its_velocity_within_30_ms_and_the_others_stay(
    arm: MujocoArm, joint: int, velocity: float
) -> None:
    command = np.zeros(7)
    command[joint] = velocity
    arm.command(command)
    arm.step(0.03)
    np.testing.assert_allclose(arm.qd, command, atol=0.02 * abs(velocity))
    before = arm.q
    arm.step(0.2)
    travelled = (arm.q - before)[joint]
    assert travelled == pytest.approx(0.2 * velocity, rel=0.005)


def test_random_commands_are_followed(arm: MujocoArm, robot: RobotConfig) -> None:
    rng = np.random.default_rng(1)
    low, high = np.array(robot.limits.position_low_rad), np.array(robot.limits.position_high_rad)
    errors = []
    for _ in range(200):
        arm.reset(rng.uniform(low + 0.1, high - 0.1))
        command = rng.uniform(-1.5, 1.5, 7)
        arm.command(command)
        arm.step(0.05)
        errors.append(np.abs(arm.qd - command).max())
    assert np.median(errors) < 0.005 * 1.5
    assert np.max(errors) < 0.02 * 1.5


def test_the_last_command_stays_in_force(arm: MujocoArm) -> None:
    arm.command([0.1, 0, 0, 0, 0, 0, 0])
    for _ in range(20):
        arm.step(0.05)
    assert arm.q[0] == pytest.approx(0.1, rel=0.01)


def test_it_passes_through_itself_because_nothing_collides(arm: MujocoArm) -> None:
    arm.reset([0, 0, 0, 2.5, 0, 2.0, 0])  # folded onto itself
    arm.step(0.5)
    assert arm.data.ncon == 0
    np.testing.assert_allclose(arm.q, [0, 0, 0, 2.5, 0, 2.0, 0], atol=1e-3)


def test_time_is_in_whole_steps_and_survives_a_reset(arm: MujocoArm) -> None:
    for _ in range(3):
        arm.step(0.05)
    assert arm.time_ns == 150_000_000
    arm.reset()
    arm.step(0.002)
    assert arm.time_ns == 152_000_000
    with pytest.raises(ValueError, match=r"0\.0005 s is shorter"):
        arm.step(0.0005)


def test_a_reset_forgets_command_and_speed(arm: MujocoArm, robot: RobotConfig) -> None:
    arm.command(np.full(7, 1.0))
    arm.step(0.1)
    arm.reset()
    arm.step(0.1)
    np.testing.assert_allclose(arm.q, robot.reset.home_rad, atol=1e-4)


def test_resets_draw_from_around_home_repeatably(robot: RobotConfig) -> None:
    places = []
    for _ in range(2):
        arm = MujocoArm(robot, np.random.default_rng(3))
        arm.reset()
        places.append(arm.q)
    np.testing.assert_array_equal(places[0], places[1])
    offset = np.abs(places[0] - robot.reset.home_rad)
    assert 0 < offset.max() <= robot.reset.randomise_rad


def test_arrays_are_in_the_order_of_the_config(robot: RobotConfig) -> None:
    backwards = robot.model_copy(update={"joints": robot.joints[::-1]})
    arm = MujocoArm(backwards)
    arm.reset([7, 6, 5, 4, 3, 2, 1])
    assert [arm.data.joint(f"joint_{i}").qpos[0] for i in range(1, 8)] == [1, 2, 3, 4, 5, 6, 7]
    arm.reset(robot.reset.home_rad[::-1])
    arm.command([0, 0, 0, 0, 0, 0, 0.5])
    arm.step(0.1)
    assert arm.data.joint("joint_1").qvel[0] == pytest.approx(0.5, rel=0.01)
    assert arm.qd[6] == pytest.approx(0.5, rel=0.01)
    assert np.abs(arm.effort[6]) > np.abs(arm.effort[0])


def test_what_the_urdf_lacks_is_named(robot: RobotConfig) -> None:
    with pytest.raises(ValueError, match="no moving joint 'wrist'"):
        MujocoArm(robot.model_copy(update={"joints": [*robot.joints[:6], "wrist"]}))
    with pytest.raises(ValueError, match="no link 'gripper'"):
        MujocoArm(robot.model_copy(update={"tool_link": "gripper"}))
    with pytest.raises(ValueError, match="no sim group"):
        MujocoArm(robot.model_copy(update={"sim": None}))


def test_a_control_period_is_cheap(arm: MujocoArm) -> None:
    arm.command([0.2, -0.1, 0.3, 0.1, -0.2, 0.1, 0.4])
    best = np.inf
    for _ in range(20):  # the best of many: other processes share these cores
        started = time.process_time()
        for _ in range(10):
            arm.step(0.05)
        best = min(best, (time.process_time() - started) / 10)
        arm.reset()
        arm.command([0.2, -0.1, 0.3, 0.1, -0.2, 0.1, 0.4])
    assert best < 1e-3  # measured 0.13 ms
