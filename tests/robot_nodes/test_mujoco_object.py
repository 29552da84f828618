"""A hanging object and a gripper in MuJoCo: they obey their configs; only grip and string hold the object."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from pydantic import ValidationError

from fleet.config_file import load_fleet
from fleet.robot_config import RobotConfig
from fleet.scene_config import OBJECT_JOINTS, SceneConfig
from robot_nodes.sim.mujoco_arm import MujocoArm

START = [0.56, 0.0, 0.45]
HOOK = [0.56, 0.0, 1.25]
AROUND = [0.0, 0.433, 0.0, 1.977, 0.0, -0.839, 0.0, 0.3]  # level, the open gripper around the object


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_fleet("fleets/pick2.yaml").robots[0].robot


@pytest.fixture(scope="module")
def scene() -> SceneConfig:
    scene = load_fleet("fleets/pick2.yaml").task.scene
    assert scene is not None
    return scene


@pytest.fixture
def arm(robot: RobotConfig, scene: SceneConfig) -> MujocoArm:
    return MujocoArm(robot, scene=scene)


def push(arm: MujocoArm, x_n: float, z_n: float, seconds: float) -> None:
    """Somebody pulls at the object with these forces."""
    for name, force in zip(OBJECT_JOINTS, (x_n, 0.0, z_n), strict=True):
        arm.data.joint(name).qfrc_applied[0] = force
    arm.step(seconds)


def close(arm: MujocoArm, seconds: float, turn_rad_s: float = 0.0) -> None:
    command = np.zeros(8)
    command[1], command[7] = turn_rad_s, -1.5
    arm.command(command)
    arm.step(seconds)


def test_it_hangs_where_it_starts(arm: MujocoArm) -> None:
    assert arm.scene_joints == OBJECT_JOINTS
    np.testing.assert_array_equal(arm.scene_q, START)
    arm.step(2.0)
    np.testing.assert_allclose(arm.scene_q, START, atol=0.001)
    np.testing.assert_allclose(arm.scene_qd, 0, atol=0.001)


def test_it_swings_on_its_string_and_comes_to_rest(arm: MujocoArm) -> None:
    push(arm, 0.1 * 9.81 * 0.75, 0.0, 10.0)  # tan α = 3/4: 3/5 and 4/5 of the string
    away = arm.scene_q - HOOK
    assert away[0] / away[2] == pytest.approx(-0.75, rel=0.02)
    assert np.linalg.norm(away) == pytest.approx(0.79019 + 0.1 * 9.81 * 1.25 / 100, abs=0.001)
    push(arm, 0.0, -3.0, 5.0)
    assert arm.scene_q[2] == pytest.approx(0.45 - 0.03, abs=0.003), "3 N more on 100 N/m"
    push(arm, 0.0, 0.0, 15.0)
    np.testing.assert_allclose(arm.scene_q, START, atol=0.01)


def test_lifted_it_has_its_weight_and_the_string_is_slack(arm: MujocoArm) -> None:
    push(arm, 0.0, 0.1 * 9.81 + 0.1, 2.5)  # time constant 0.1 kg / 0.2 N s/m
    assert arm.scene_qd == pytest.approx([0, 0, 0.5], abs=0.01), "0.1 N against 0.2 N s/m"
    push(arm, 0.0, 0.0, 6.0)
    np.testing.assert_allclose(arm.scene_q, START, atol=0.002)


def test_each_reset_hangs_it_up_elsewhere(robot: RobotConfig, scene: SceneConfig) -> None:
    assert scene.object is not None
    arm, starts = MujocoArm(robot, np.random.default_rng(3), scene), []
    for _ in range(200):
        arm.reset_scene()
        starts.append(arm.scene_q)
    offsets = np.array(starts) - START
    assert (np.abs(offsets) <= scene.object.randomise_m).all()
    np.testing.assert_allclose(np.ptp(offsets, axis=0), 2 * np.array(scene.object.randomise_m), rtol=0.05)
    q, start = arm.q, arm.scene_q
    arm.step(1.0)
    np.testing.assert_allclose(arm.scene_q, start, atol=0.001)  # its string has moved with it
    np.testing.assert_allclose(arm.q, q, atol=1e-6)


def test_the_right_finger_mimics_the_left(arm: MujocoArm) -> None:
    right = arm.data.joint("gripper_right").qpos
    assert arm.q[7] == pytest.approx(0.3) and right[0] == pytest.approx(0.3), "at once, after a reset"
    arm.command([0, 0, 0, 0, 0, 0, 0, -1.0])
    for _ in range(6):
        arm.step(0.05)
        assert right[0] == pytest.approx(arm.q[7], abs=0.005)
    assert arm.q[7] == pytest.approx(0.0, abs=0.02), "the servo follows: 1 rad/s for 0.3 s"


def test_closed_around_it_the_gripper_holds_and_lifts_it(arm: MujocoArm) -> None:
    arm.reset(AROUND)
    close(arm, 1.0)
    held_rad = arm.q[7]
    assert -0.1 < held_rad < 0.02, "stopped by the object"
    assert abs(arm.effort[7]) <= 2.0 + 1e-9, "no harder than the URDF allows"
    way = arm.scene_q - arm.tool_position
    close(arm, 0.6, turn_rad_s=-0.5)  # 0.3 rad upwards
    assert arm.scene_q[2] - START[2] > 0.1
    assert np.linalg.norm(arm.scene_q - arm.tool_position - way) < 0.03  # it never turns, the hand does
    arm.command([0, 0, 0, 0, 0, 0, 0, 1.0])
    arm.step(4.0)
    np.testing.assert_allclose(arm.scene_q, START, atol=0.03)  # let go of, it has swung back


def test_beside_it_the_gripper_closes_on_nothing(arm: MujocoArm) -> None:
    close(arm, 1.0)
    assert arm.q[7] < -0.12
    np.testing.assert_allclose(arm.scene_q, START, atol=0.001)


def test_it_touches_the_robot_alone(arm: MujocoArm) -> None:
    arm.data.qpos[arm.model.jnt_qposadr[arm.model.joint(OBJECT_JOINTS[2]).id]] = 0.0  # within the table
    mujoco.mj_forward(arm.model, arm.data)
    assert arm.data.ncon == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"length_m": 0.02}, "length_m 0.02 must be at least twice radius_m 0.0125"),
        ({"mass_kg": 0.0}, "mass_kg"),
    ],
)
def test_an_object_that_cannot_be_is_told(scene: SceneConfig, change: dict[str, float], text: str) -> None:
    data = scene.model_dump()
    data["object"] |= change
    with pytest.raises(ValidationError, match=text):
        SceneConfig.model_validate(data)


def test_a_scene_has_a_door_or_an_object(scene: SceneConfig) -> None:
    door = load_fleet("fleets/door2.yaml").task.scene
    assert door is not None
    with pytest.raises(ValidationError, match="a door or an object, not both"):
        SceneConfig.model_validate(scene.model_dump() | {"door": door.model_dump()["door"]})
    assert door.topics == {"door/joint_states": "sensor_msgs/JointState"}
    assert scene.topics == {"object/pose": "geometry_msgs/PoseStamped"}
