"""The door task against numbers computed by hand, and a script that opens the door in every simulator."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.config import ConfigError, DoorTaskConfig, FleetConfig
from fleet.config_file import load_fleet
from fleet.scene_config import LATCHED_BELOW_RAD
from fleet.sim_config import Simulator
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.simulated_arm import SimulatedArm
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.door import door_reward
from robot_nodes.tasks.door_geometry import DoorGeometry
from robot_nodes.tasks.task import ArmState, Task, make_task
from robot_nodes.urdf_source import load_urdf

NO_GOAL = np.zeros(0)


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    return load_fleet("fleets/door2.yaml")


@pytest.fixture(scope="module")
def config(fleet: FleetConfig) -> DoorTaskConfig:
    assert isinstance(fleet.task, DoorTaskConfig)
    weights = {"distance_weight": 2.0, "handle_weight": 3.0, "angle_weight": 5.0, "action_weight": 0.07}
    return fleet.task.model_copy(update=weights | {"success_angle_rad": 0.5})


@pytest.fixture(scope="module")
def task(fleet: FleetConfig) -> Task:
    return make_task(fleet, "robot1")


def geometry_of(fleet: FleetConfig) -> DoorGeometry:
    scene = fleet.task.scene
    assert scene is not None and scene.door is not None and scene.fingertip_radius_m is not None
    return DoorGeometry(scene.door, scene.fingertip_radius_m)


def state(tool: list[float], hinge: float, handle: float) -> ArmState:
    return ArmState(np.arange(7.0), np.arange(7.0) + 10, np.array(tool), 0, np.array([hinge, handle]))


# The task ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "hinge", "handle", "expected"),
    [
        (0.1, 0.0, 0.0, -0.2 - 0.02),
        (0.1, 0.0, 0.1, -0.2 + 3 * 0.25 - 0.02),  # a quarter of latch_angle_rad 0.4
        (0.0, 0.0, 0.6, 3.0 - 0.02),  # pressed further than needed
        (0.0, 0.2, 0.6, 3.0 + 5 * 0.4 - 0.02),
        (0.0, 0.2, 0.0, 3.0 + 5 * 0.4 - 0.02),  # let go once it is open
        (0.3, 0.9, 0.0, -0.6 + 3.0 + 5.0 - 0.02),  # open further than needed
    ],
)
def test_reward_by_hand(
    config: DoorTaskConfig, distance: float, hinge: float, handle: float, expected: float
) -> None:
    action = np.array([1.0, 0, 0, 0, 0, 0, -1.0])  # mean square 2/7; 0.07 · 2/7 = 0.02
    assert door_reward(distance, hinge, handle, action, config) == pytest.approx(expected)


def test_an_unlatched_door_gives_nothing_for_its_handle(config: DoorTaskConfig) -> None:
    data = config.model_dump()
    data["scene"]["door"]["handle"]["latch_angle_rad"] = None
    unlatched = DoorTaskConfig.model_validate(data)
    assert door_reward(0.1, 0.2, 0.4, np.zeros(7), unlatched) == pytest.approx(-0.2 + 5 * 0.4)


def test_the_distance_is_that_from_where_the_handle_is_pressed(fleet: FleetConfig, task: Task) -> None:
    press = geometry_of(fleet).press_point(0.3, 0.2)
    near, far = state([*press], 0.3, 0.2), state([*np.add(press, [0.03, 0.0, -0.04])], 0.3, 0.2)
    metrics = task.metrics(far, NO_GOAL)
    assert metrics == pytest.approx(
        {"door_angle_rad": 0.3, "handle_angle_rad": 0.2, "final_distance_m": 0.05}
    )
    rewards = [task.reward(each, NO_GOAL, np.zeros(7)) for each in (near, far)]
    assert rewards[0] - rewards[1] == pytest.approx(0.05)  # distance_weight 1


def test_observation_is_arm_handle_and_the_doors_sensors(fleet: FleetConfig, task: Task) -> None:
    assert task.spec.observation.size == 14 + 3 + 3 + 2 and task.spec.action.size == 7
    assert task.spec.observation.names[-5:] == (
        "handle/x",
        "handle/y",
        "handle/z",
        "door/door_hinge",
        "door/door_handle",
    )
    assert task.sample_goal(np.random.default_rng(0)).shape == (0,)
    x = task.observe(state([0.1, 0.2, 0.3], 0.4, 0.1), NO_GOAL)
    assert x.dtype == np.float32
    handle = geometry_of(fleet).press_point(0.4, 0.1)
    assert x.tolist() == pytest.approx([*range(7), *range(10, 17), 0.1, 0.2, 0.3, *handle, 0.4, 0.1])


def test_the_handle_stays_within_its_bounds(fleet: FleetConfig, task: Task) -> None:
    low, high = (np.array(bound)[17:20] for bound in (task.spec.observation.low, task.spec.observation.high))
    geometry = geometry_of(fleet)
    for hinge in np.linspace(0, 1.2, 13):
        for handle in np.linspace(0, 0.8, 9):
            point = geometry.press_point(hinge, handle)
            assert (low <= point).all() and (point <= high).all()


def test_success_is_an_open_door_wherever_the_arm_is(task: Task) -> None:
    assert task.success(state([0, 0, 0], 0.51, 0.0), NO_GOAL)
    assert not task.success(state([0, 0, 0], 0.49, 0.8), NO_GOAL)
    assert not task.terminated(state([0, 0, 0], 0.51, 0.0), NO_GOAL)


def test_robots_without_the_doors_sensor_are_told_what_to_add() -> None:
    overrides = [f"robots.{i}.robot.sensors=[]" for i in range(2)]
    with pytest.raises(ConfigError, match=r"task\.hinge: .*door/door_hinge.*have: none\. Give every robot"):
        make_task(load_fleet("fleets/door2.yaml", overrides), "robot1")
    with pytest.raises(
        ConfigError, match=r"task\.handle: .*lever/angle.*have: door/door_hinge, door/door_ha"
    ):
        make_task(load_fleet("fleets/door2.yaml", ["task.handle=lever/angle"]), "robot1")


# A script that opens it --------------------------------------------------------------------------


class Opener:
    """Joint velocities that take the fingertip over the lever, press it and move with the door."""

    speed_m_s = 0.35

    def __init__(self, fleet: FleetConfig, angle_rad: float) -> None:
        robot, door = fleet.entry("robot1").robot, fleet.task.scene.door  # type: ignore[union-attr]
        assert door is not None and door.handle.latch_angle_rad is not None
        self._kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
        geometry, pressed_rad = geometry_of(fleet), door.handle.latch_angle_rad + 0.25
        # In the groove between lever and panel, where the fingertip pulls as well as it pushes.
        groove = -0.012 * geometry.outwards
        pressed = geometry.press_point(0.0, pressed_rad) + groove
        opened = [geometry.turned(pressed, angle) for angle in np.arange(0.05, angle_rad + 0.1, 0.05)]
        self._points = [geometry.press_point(0.0, 0.0) + groove + [0.0, 0.0, 0.03], pressed, *opened]
        self._limits = robot.limits

    def __call__(self, q: np.ndarray) -> np.ndarray:
        tool = self._kinematics.tool_position(q)
        box = self._limits.workspace_box
        assert box is not None and (tool >= box.low_m).all() and (tool <= box.high_m).all()
        if np.linalg.norm(self._points[0] - tool) < 0.015 and len(self._points) > 1:
            del self._points[0]
        velocity = 5.0 * (self._points[0] - tool)
        velocity *= min(1.0, self.speed_m_s / float(np.linalg.norm(velocity)))
        jacobian = self._kinematics.jacobian(q)
        command: np.ndarray = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-3 * np.eye(3), velocity)
        assert (np.abs(command) < self._limits.max_joint_velocity_rad_s).all()
        return command


def angles_of_an_episode(arm: SimulatedArm, fleet: FleetConfig) -> np.ndarray:
    """Hinge and handle [ticks, 2] (rad) while the script opens the door."""
    assert isinstance(fleet.task, DoorTaskConfig)
    opener = Opener(fleet, fleet.task.success_angle_rad + 0.1)
    arm.reset()
    angles = []
    for _ in range(round(fleet.task.episode_s * 20)):
        arm.command(opener(arm.q))
        arm.step(0.05)
        angles.append(arm.scene_q)
    return np.array(angles)


@pytest.mark.parametrize("simulator", ["mujoco", "gazebo"])
def test_the_script_opens_the_door(
    fleet: FleetConfig, simulator: Simulator, request: pytest.FixtureRequest
) -> None:
    """The same way-points in each simulator: the task can be done, and the simulators are alike."""
    if simulator == "gazebo":
        request.getfixturevalue("gazebo")
    assert isinstance(fleet.task, DoorTaskConfig)
    with simulated_arm(fleet, "robot1", 0, simulator) as arm:
        for _ in range(4):
            hinge, handle = angles_of_an_episode(arm, fleet).T
            opens = int(np.argmax(hinge > LATCHED_BELOW_RAD))
            assert handle[: opens + 1].max() >= 0.4, "not before the handle is pressed"
            assert 15 <= opens <= 35, "after about a second"
            assert hinge[-1] >= fleet.task.success_angle_rad
            assert hinge[-1] == pytest.approx(0.6, abs=0.06), "where the last way-point is"


def test_pulled_it_comes_towards_the_robot() -> None:
    fleet = load_fleet("fleets/door2.yaml", ["task.scene.door.opens=pull"])
    with simulated_arm(fleet, "robot1", 0, "mujoco") as arm:
        hinge, handle = angles_of_an_episode(arm, fleet).T  # until the fingertip slides off the lever
    assert handle[np.argmax(hinge > LATCHED_BELOW_RAD)] >= 0.4
    assert hinge.max() > 0.15
    assert geometry_of(fleet).press_point(hinge.max(), 0.0)[0] < geometry_of(fleet).press_point(0.0, 0.0)[0]
