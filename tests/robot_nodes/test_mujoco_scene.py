"""A scene in MuJoCo: the door obeys its config, and touches the robot alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import mujoco
import numpy as np
import pytest

from fleet.config_file import load_fleet
from fleet.robot_config import RobotConfig
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, SceneConfig
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.tasks.door_geometry import DoorGeometry
from robot_nodes.urdf_source import load_urdf

MakeArm = Callable[..., MujocoArm]


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_fleet("fleets/door2.yaml").robots[0].robot


@pytest.fixture(scope="module")
def scene() -> SceneConfig:
    scene = load_fleet("fleets/door2.yaml").task.scene
    assert scene is not None
    return scene


@pytest.fixture
def arm(robot: RobotConfig, scene: SceneConfig) -> MujocoArm:
    return MujocoArm(robot, scene=scene)


def turn(arm: MujocoArm, hinge_nm: float, handle_nm: float, seconds: float) -> None:
    """Somebody turns hinge and handle with these torques."""
    arm.data.joint(HINGE_JOINT).qfrc_applied[0] = hinge_nm
    arm.data.joint(HANDLE_JOINT).qfrc_applied[0] = handle_nm
    arm.step(seconds)


def test_the_door_is_closed_and_stays_so(arm: MujocoArm) -> None:
    assert arm.scene_joints == (HINGE_JOINT, HANDLE_JOINT)
    arm.step(2.0)
    np.testing.assert_allclose(arm.scene_q, [0, 0], atol=1e-6)  # nor does its weight turn the lever
    np.testing.assert_allclose(arm.scene_qd, [0, 0], atol=1e-6)


def test_it_opens_only_while_its_handle_is_pressed(arm: MujocoArm) -> None:
    turn(arm, 60.0, 0.0, 1.0)  # 150 N at the handle
    assert 0 <= arm.scene_q[0] < 0.005, "latched"
    turn(arm, 0.0, 0.38 * 3.0, 1.0)  # the spring's 3 N m/rad: 0.38 rad, once it has swung in
    turn(arm, 60.0, 0.38 * 3.0, 1.0)
    assert arm.scene_q == pytest.approx([0, 0.38], abs=0.01)
    turn(arm, 60.0, 0.42 * 3.0, 0.3)
    assert arm.scene_q[0] > 0.1, "pressed beyond 0.4 rad"
    turn(arm, 60.0, 0.0, 1.0)
    assert arm.scene_q == pytest.approx([1.2, 0], abs=0.01)  # open, it needs no handle; the stop holds it
    turn(arm, -20.0, 0.0, 2.0)
    assert arm.scene_q[0] == pytest.approx(0, abs=0.005)
    turn(arm, 60.0, 0.0, 0.5)
    assert arm.scene_q[0] < 0.005, "fallen shut it is latched again"


def test_without_a_latch_it_opens_at_once(robot: RobotConfig, scene: SceneConfig) -> None:
    data = scene.model_dump()
    data["door"]["handle"]["latch_angle_rad"] = None
    arm = MujocoArm(robot, scene=SceneConfig.model_validate(data))
    turn(arm, 60.0, 0.0, 0.3)
    assert arm.scene_q[0] > 0.1


def test_its_speed_and_friction_are_those_of_the_config(arm: MujocoArm) -> None:
    arm.data.joint(HINGE_JOINT).qpos[0] = 0.1  # open
    turn(arm, 0.4, 0.0, 1.0)
    assert arm.scene_q[0] == pytest.approx(0.1, abs=0.002), "friction_nm 0.5 holds it"
    turn(arm, 0.8, 0.0, 2.5)  # inertia 6 · 0.52² / 3 = 0.54 kg m²: time constant 0.54 s
    assert arm.scene_qd[0] == pytest.approx(0.3, rel=0.02), "(0.8 − 0.5) N m / 1 N m s/rad"


def test_parts_are_where_the_geometry_says(arm: MujocoArm, scene: SceneConfig) -> None:
    assert scene.door is not None
    geometry, data = DoorGeometry(scene.door, 0.0), arm.data
    for hinge, handle in [(0.0, 0.0), (0.4, 0.0), (0.3, 0.6)]:
        data.joint(HINGE_JOINT).qpos[0], data.joint(HANDLE_JOINT).qpos[0] = hinge, handle
        mujoco.mj_kinematics(arm.model, data)
        np.testing.assert_allclose(
            data.geom("door_panel").xpos, geometry.turned(geometry.panel_center, hinge)
        )
        lever = data.geom("door_lever").xpos + 0.25 * scene.door.handle.lever_m * _axis(data)
        press = DoorGeometry(scene.door, -scene.door.handle.radius_m).press_point(hinge, handle)
        np.testing.assert_allclose(lever, press, atol=1e-9)  # three quarters of the lever, on its middle line


def _axis(data: mujoco.MjData) -> np.ndarray:
    """Of the lever's capsule, towards its free end."""
    axis = data.geom("door_lever").xmat.reshape(3, 3)[:, 2]
    return axis if axis @ (data.geom("door_lever").xpos - data.body("door_lever").xpos) > 0 else -axis


def test_things_touch_the_robot_and_nothing_else(arm: MujocoArm, robot: RobotConfig) -> None:
    arm.reset([0, 0, 0, 2.5, 0, 2.0, 0])  # folded onto itself
    arm.step(0.1)
    assert arm.data.ncon == 0
    names = {arm.model.body(arm.model.geom_bodyid[i]).name for i in range(arm.model.ngeom)}
    assert {robot.tool_link, "link_7", "door", "door_lever", "world"} <= names
    for first in range(arm.model.ngeom):
        for second in range(arm.model.ngeom):
            touch = arm.model.geom_contype[first] & arm.model.geom_conaffinity[second]
            bodies = [arm.model.geom_bodyid[i] for i in (first, second)]
            scenery = [arm.model.body(i).name in ("world", "door", "door_lever") for i in bodies]
            assert not touch or scenery == [False, True]


@pytest.mark.parametrize(
    ("part", "start"),
    [
        ("door_panel", [-0.1, -0.3, 0.0, 2.0, 0.0, 1.1, 0.0]),  # above the lever
        ("wall_left", [1.4, 0.3, 0.0, 1.7, 0.0, 1.0, 0.0]),
    ],
)
def test_the_arm_pushes_against_it_and_does_not_come_through(
    arm: MujocoArm, robot: RobotConfig, part: str, start: list[float]
) -> None:
    kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
    arm.reset(start)
    height_m = arm.tool_position[2]
    touched, deepest_m, hardest_nm = set(), 0.0, 0.0
    for _ in range(60):
        velocity = [0.3, 0.0, height_m - arm.tool_position[2]]
        arm.command(np.linalg.pinv(kinematics.jacobian(arm.q)) @ velocity)
        arm.step(0.05)
        hardest_nm = max(hardest_nm, float(np.abs(arm.effort).max()))
        for contact in arm.data.contact[: arm.data.ncon]:
            touched |= {arm.model.geom(geom).name for geom in contact.geom}
            deepest_m = max(deepest_m, -contact.dist)
    assert part in touched
    assert deepest_m < 0.003
    assert arm.scene_q[0] < 0.005
    assert 50.0 < hardest_nm <= 300.0, "it pushes, as hard as the URDF allows and no harder"


def test_its_servos_do_not_chatter(arm: MujocoArm) -> None:
    arm.command([0, 0, 0, 0, 0, 0.7, 0])
    arm.step(0.05)
    arm.command(np.zeros(7))
    speeds = []
    for _ in range(20):
        arm.step(0.002)
        speeds.append(arm.qd[5])
    assert min(speeds) > -0.01 and abs(speeds[-1]) < 0.01


def test_the_door_can_be_closed_while_the_arm_stays(arm: MujocoArm) -> None:
    arm.data.joint(HINGE_JOINT).qpos[0] = 0.7
    turn(arm, 0.0, 1.0, 0.2)
    arm.command([0.3, 0, 0, 0, 0, 0, 0])
    arm.step(0.1)
    q, time_ns = arm.q, arm.time_ns
    arm.reset_scene()
    np.testing.assert_array_equal(arm.scene_q, [0, 0])
    np.testing.assert_array_equal(arm.q, q)
    assert arm.time_ns == time_ns
    arm.data.joint(HINGE_JOINT).qpos[0] = 0.7
    arm.reset()
    np.testing.assert_array_equal(arm.scene_q, [0, 0])


def test_a_scene_that_nothing_can_touch_leaves_the_arm_as_it_was(robot: RobotConfig) -> None:
    box = {"name": "ghost", "center_m": [0.4, 0, 0.5], "size_m": [0.3, 0.3, 0.3], "solid": False}
    ghost = SceneConfig.model_validate({"name": "ghosts", "boxes": [box], "fingertip_radius_m": 0.02})
    bare, haunted = MujocoArm(robot), MujocoArm(robot, scene=ghost)
    rng = np.random.default_rng(0)
    for _ in range(20):
        command = rng.uniform(-1.5, 1.5, 7)
        for each in (bare, haunted):
            each.command(command)
            each.step(0.05)
        np.testing.assert_allclose(haunted.q, bare.q, rtol=1e-12)
    assert haunted.scene_joints == () and haunted.scene_q.shape == haunted.scene_qd.shape == (0,)
    haunted.reset_scene()
    haunted.close()


@pytest.mark.parametrize("solid", [False, True])
def test_only_what_is_solid_is_touched(robot: RobotConfig, solid: bool) -> None:
    around_the_tool = {"name": "near", "center_m": [0.3, 0, 0.5], "size_m": [0.1, 0.1, 0.1], "solid": solid}
    far = {"name": "far", "center_m": [5, 0, 0.5], "size_m": [1, 1, 1]}
    boxes = {"name": "boxes", "boxes": [around_the_tool, far], "fingertip_radius_m": 0.02}
    arm = MujocoArm(robot, scene=SceneConfig.model_validate(boxes))
    arm.step(0.002)
    assert (arm.data.ncon > 0) == solid


def test_the_door_runs_at_more_than_ten_times_real_time(arm: MujocoArm) -> None:
    best = np.inf
    for _ in range(10):  # the best of many: other processes share these cores
        started = time.process_time()
        for _ in range(10):
            arm.step(0.05)
        best = min(best, (time.process_time() - started) / 10)
    assert best < 0.005  # measured 0.25 ms
