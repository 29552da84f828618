"""The files for gz sim: read back, compared with the config, and given to what reads such files here."""

from __future__ import annotations

import ast
import math
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import mujoco
import numpy as np
import pytest
import yaml

from fleet.config import FleetConfig, RobotEntry
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from fleet.node_specs import node_specs
from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.gz_controllers import controller_parameters, full_topic, remappings, update_rate_hz
from robot_nodes.gazebo.gz_sim import GzFiles, bridge, export, gz_world
from robot_nodes.gazebo.installation import GazeboInstallation
from robot_nodes.gazebo.world import world_sdf
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

FLEETS = PACKAGED_CONFIGS / "fleets"
ARMS = sorted(path.name for path in (PACKAGED_CONFIGS / "robots").glob("*.yaml"))
GOLDEN = Path(__file__).with_name("gz_sim_golden")
GAZEBO = "override={sim: {simulator: gazebo}}"
# Its resets call a service of our own simulated arms, which gz sim does not have.
DOOR = ("override.reset.steps=[velocity]", "override.reset.service=null")


def fleet_of(*overrides: str, name: str = "sim2") -> FleetConfig:
    return load_fleet(FLEETS / f"{name}.yaml", overrides)


def one(robot: str | Path, *more: str) -> FleetConfig:
    """A fleet of one arm of this kind."""
    return fleet_of(f"robot={robot}", "robots=[arm1]", GAZEBO, *more)


def parse(file: Path) -> Element:
    return ElementTree.fromstring(file.read_text())


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


# What ros2_control is told -------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_tags_and_parameters_say_what_the_config_says(arm: str, tmp_path: Path) -> None:
    fleet = one(f"../robots/{arm}")
    robot = fleet.robots[0].robot
    (files,) = export(fleet, tmp_path).robots
    root = parse(files.urdf)
    joints = root.findall("ros2_control/joint")
    assert [joint.get("name") for joint in joints] == robot.joints
    assert {joint.get("name") for joint in root.findall("joint")} >= set(robot.joints)
    for joint, limit, home in zip(
        joints, robot.limits.max_joint_velocity_rad_s, robot.reset.home_rad, strict=True
    ):
        (command,) = joint.findall("command_interface")
        assert command.get("name") == "velocity"
        bounds = {param.get("name"): float(param.text or "") for param in command}
        assert bounds == {"min": -limit, "max": limit}
        states = {state.get("name"): state for state in joint.findall("state_interface")}
        assert list(states) == ["position", "velocity", "effort"]
        (initial,) = states["position"]
        assert (initial.get("name"), float(initial.text or "")) == ("initial_value", home)
    assert root.findtext("ros2_control/hardware/plugin") == "gz_ros2_control/GazeboSimSystem"

    (plugin,) = root.findall("gazebo/plugin")
    assert plugin.get("filename") == "gz_ros2_control-system"
    assert plugin.get("name") == "gz_ros2_control::GazeboSimROS2ControlPlugin"
    assert plugin.findtext("ros/namespace") == "/arm1"
    parameters = read_yaml(Path(plugin.findtext("parameters") or ""))
    broadcaster, forward = files.controller_names
    manager = parameters["/arm1/controller_manager"]["ros__parameters"]
    assert manager[broadcaster]["type"] == "joint_state_broadcaster/JointStateBroadcaster"
    assert manager[forward]["type"] == "forward_command_controller/ForwardCommandController"
    mine = parameters[f"/arm1/{forward}"]["ros__parameters"]
    assert mine == {"joints": robot.joints, "interface_name": "velocity"}

    # Where a controller of this name listens, once its topics are renamed by the rules.
    rules = files.remappings
    commands, states_topic = f"/arm1/{forward}/commands", "/arm1/joint_states"
    assert rules.get(commands, commands) == full_topic("arm1", robot.topics.command)
    assert rules.get(states_topic, states_topic) == full_topic("arm1", robot.topics.joint_states)


@pytest.mark.parametrize("arm", ARMS)
def test_exported_urdf_is_still_the_same_arm(arm: str, tmp_path: Path) -> None:
    fleet = one(f"../robots/{arm}")
    robot = fleet.robots[0].robot
    (files,) = export(fleet, tmp_path).robots
    assert isinstance(robot.urdf, Path)
    before, after = (
        Kinematics(urdf, robot.joints, robot.tool_link)
        for urdf in (load_urdf(robot.urdf), load_urdf(files.urdf))
    )
    home = np.array(robot.reset.home_rad)
    np.testing.assert_allclose(after.tool_position(home), before.tool_position(home), atol=1e-12)
    assert after.model.nq == before.model.nq
    model = mujoco.MjModel.from_xml_path(str(files.urdf))
    assert model.nq == before.model.nq


@pytest.mark.parametrize(
    ("topic", "name", "rules"),
    [
        ("forward_velocity_controller/commands", "forward_velocity_controller", {}),
        ("my_arm/vel/commands", "vel", {"/arm1/vel/commands": "/arm1/my_arm/vel/commands"}),
        ("/vel/commands", "vel", {"/arm1/vel/commands": "/vel/commands"}),
        ("/arm1/vel/commands", "vel", {}),
        (
            "velocities",
            "forward_velocity_controller",
            {"/arm1/forward_velocity_controller/commands": "/arm1/velocities"},
        ),
    ],
)
def test_controller_is_named_after_the_topic(
    topic: str, name: str, rules: dict[str, str], tmp_path: Path
) -> None:
    fleet = one("../robots/generic7_sim.yaml", f"robots.0.robot.topics.command={topic}")
    (files,) = export(fleet, tmp_path).robots
    assert files.controller_names[1] == name
    assert files.remappings == rules


def test_effort_controller_has_its_own_topic_and_the_urdfs_limits(tmp_path: Path) -> None:
    fleet = one("../robots/generic7_sim.yaml", "robots.0.robot.sim.command_interface=effort")
    (files,) = export(fleet, tmp_path).robots
    assert files.controller_names[1] == "forward_effort_controller"
    assert files.remappings == {}
    commands = parse(files.urdf).findall("ros2_control/joint/command_interface")
    assert {command.get("name") for command in commands} == {"effort"}
    assert commands[0].findtext("param[@name='max']") == "300"  # of joint_1 in generic7.urdf
    parameters = read_yaml(files.controllers)["/arm1/forward_effort_controller"]
    assert parameters["ros__parameters"]["interface_name"] == "effort"


@pytest.mark.parametrize(
    ("rate_hz", "timestep_s", "expected"), [(20, 0.002, 100), (250, 0.002, 250), (500, 0.004, 250)]
)
def test_controllers_update_often_enough_and_not_more_than_physics(
    rate_hz: float, timestep_s: float, expected: int
) -> None:
    sim = f"override={{sim: {{joint_state_rate_hz: {rate_hz}, timestep_s: {timestep_s}}}}}"
    assert update_rate_hz(fleet_of(sim).robots[0].robot) == expected


# The world and the bridge --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "lockstep_s", "expected"), [(1.0, 0.0, "1"), (0.0, 0.0, "0"), (10.0, 0.5, "1")]
)
def test_lock_step_becomes_real_time(speed: float, lockstep_s: float, expected: str) -> None:
    fleet = fleet_of(f"override={{sim: {{speed: {speed}, lockstep_timeout_s: {lockstep_s}}}}}")
    root = ElementTree.fromstring(gz_world(fleet))
    assert root.findtext("world/physics/real_time_factor") == expected
    assert root.findtext("world/physics/max_step_size") == "0.002"


def test_clock_is_bridged_to_where_each_robot_node_listens() -> None:
    fleet = fleet_of()
    clocks = {entry["ros_topic_name"]: entry for entry in bridge(fleet)}
    assert list(clocks) == ["/clock", "/robot1/clock", "/robot2/clock"]
    world = ElementTree.fromstring(gz_world(fleet)).find("world")
    assert world is not None
    for entry in clocks.values():
        assert entry["gz_topic_name"] == f"/world/{world.get('name')}/clock"
        assert entry["direction"] == "GZ_TO_ROS"


def test_each_robot_has_a_door_whose_joints_come_on_its_topic(tmp_path: Path) -> None:
    fleet = fleet_of(*DOOR, name="door2")
    files = export(fleet, tmp_path)
    door = fleet.task.scene
    assert door is not None and door.door is not None
    world = parse(files.world)
    bridged = {
        entry["gz_topic_name"]: entry["ros_topic_name"]
        for entry in read_yaml(files.bridge)
        if entry["gz_type_name"] == "gz.msgs.Model"
    }
    assert len(bridged) == 2
    for robot in fleet.robots:
        (model,) = world.findall(f"world/model[@name='{robot.id}_door']")
        topic = model.findtext("plugin/topic")
        assert topic == f"/{robot.id}/door/joint_states"
        assert bridged[topic] == full_topic(robot.id, robot.robot.sensors[0].topic)
        published = [joint.text for joint in model.findall("plugin/joint_name")]
        assert {joint.get("name") for joint in model.findall("joint")} >= set(published)
        assert published == ["door_hinge", "door_handle"]
    assert parse(files.robots[0].urdf).find("link[@name='tool']/collision/geometry/sphere") is not None


def test_scene_stands_where_the_arm_is_spawned(tmp_path: Path) -> None:
    files = export(fleet_of(*DOOR, "robots=[a, b, c, d, e]", name="door2"), tmp_path)
    world = parse(files.world)
    for robot in files.robots:
        pose = world.findtext(f"world/model[@name='{robot.id}_door']/pose") or ""
        assert tuple(map(float, pose.split()))[:2] == robot.place
    assert len({robot.place for robot in files.robots}) == 5


# More than one robot -------------------------------------------------------------------------


def names_of(files: GzFiles, index: int) -> set[str]:
    """Everything that a robot adds to names that all share: nodes, files, namespaces, topics."""
    robot = files.robots[index]
    namespace = parse(robot.urdf).findtext("gazebo/plugin/ros/namespace") or ""
    return {robot.id, namespace, str(robot.urdf), str(robot.controllers), *read_yaml(robot.controllers)}


@pytest.mark.parametrize("name", ["sim2", "gazebo4", "gazebo_lab"])
def test_robots_share_no_name(name: str, tmp_path: Path) -> None:
    files = export(fleet_of(name=name), tmp_path)
    for i in range(len(files.robots)):
        for j in range(i):
            assert not names_of(files, i) & names_of(files, j)
    ros = [entry["ros_topic_name"] for entry in read_yaml(files.bridge)]
    assert len(set(ros)) == len(ros)
    models = [model.get("name") for model in parse(files.world).iter("model")]
    assert len(set(models)) == len(models)


def test_parameters_have_no_wildcard_that_would_reach_other_robots() -> None:
    entry: RobotEntry = fleet_of().robots[1]
    assert all(key.startswith("/robot2/") for key in controller_parameters(entry))
    assert remappings(entry) == {}


def test_nothing_else_simulates_the_arms(tmp_path: Path) -> None:
    specs = node_specs(fleet_of(name="gazebo4"), tmp_path / "config.yaml", tmp_path, simulators=False)
    assert [spec.name for spec in specs] == ["replay_server", "learner", *(f"robot{i}" for i in range(1, 5))]


# What cannot be simulated --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("override={sim: null}",), "robot1 has no group `sim`.*override: {sim: {simulator: gazebo}}"),
        (("override={reset: {steps: [trajectory]}}",), r"robot1: reset.steps has `trajectory`.*\[velocity\]"),
        (("robots.1.robot.sim.timestep_s=0.001",), "the same sim.timestep_s"),
        (("override={joints: [a, b, c, d, e, f, g]}",), "joint"),
    ],
)
def test_error_says_what_to_change(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(fleet_of(*overrides), tmp_path)


def test_service_that_nobody_has_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export(fleet_of(name="door2"), tmp_path)
    assert "/robot1/reset_scene, which nothing in gz sim answers" in caplog.text


# URDFs that others have written --------------------------------------------------------------

TWO_JOINTS = """<robot name="two &amp; &lt;a half&gt;">
  <link name="foot"/>
  <link name="upper"><inertial><mass value="2"/>
    <inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial></link>
  <link name="lower"><inertial><mass value="1"/>
    <inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial></link>
  <link name="tip"/>
  <joint name="shoulder &quot;1&quot; &amp; co" type="revolute"><parent link="foot"/><child link="upper"/>
    <axis xyz="0 1 0"/><limit lower="-1" upper="1" effort="10" velocity="2"/></joint>
  <joint name="élan: [2]" type="revolute"><parent link="upper"/><child link="lower"/>
    <origin xyz="0 0 0.5"/><axis xyz="0 1 0"/><limit lower="-1" upper="1" effort="10" velocity="2"/></joint>
  <joint name="mount" type="fixed"><parent link="lower"/><child link="tip"/><origin xyz="0 0 0.5"/></joint>
  {extra}
</robot>
"""
NAMES = ['shoulder "1" & co', "élan: [2]"]


def two_joints(folder: Path, extra: str = "", *more: str) -> FleetConfig:
    """A fleet of one small arm with names that XML and YAML have to escape."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arm.urdf").write_text(TWO_JOINTS.format(extra=extra))
    config = read_yaml(PACKAGED_CONFIGS / "robots" / "generic7_sim.yaml")
    config |= {"urdf": "arm.urdf", "joints": NAMES, "tool_link": "tip"}
    for key, value in config["limits"].items():
        config["limits"][key] = value[:2] if isinstance(value, list) else value
    config["limits"] |= {"position_low_rad": [-0.9, -0.8], "position_high_rad": [0.9, 0.8]}
    config["reset"]["home_rad"] = [0.25, -0.5]
    (folder / "arm.yaml").write_text(yaml.safe_dump(config))
    return one(folder / "arm.yaml", *more)


def test_small_arm_is_exported_as_reviewed(tmp_path: Path) -> None:
    """After a change that is meant: read the difference, then copy the new files over the golden ones."""
    files = export(two_joints(tmp_path), tmp_path / "out")
    for file in (files.bridge, files.robots[0].urdf, files.robots[0].controllers):
        found = file.read_text().replace(str(tmp_path / "out"), "/golden")
        assert found == (GOLDEN / file.name).read_text(), file.name


def test_names_and_paths_survive_escaping(tmp_path: Path) -> None:
    folder = tmp_path / 'Ada\'s <arms> & "more"'
    (files,) = export(two_joints(folder), folder / "out").robots
    root = parse(files.urdf)
    assert root.get("name") == "two & <a half>"
    assert [joint.get("name") for joint in root.findall("ros2_control/joint")] == NAMES
    controllers = Path(root.findtext("gazebo/plugin/parameters") or "")
    parameters = read_yaml(controllers)["/arm1/forward_velocity_controller"]["ros__parameters"]
    assert parameters["joints"] == NAMES
    assert Kinematics(load_urdf(files.urdf), NAMES, "tip").tool_position(np.zeros(2))[2] == pytest.approx(1.0)


def test_a_drivers_own_hardware_is_taken_out(tmp_path: Path) -> None:
    extra = """<ros2_control name="real" type="system"><hardware><plugin>maker/Driver</plugin></hardware>
    </ros2_control>
    <gazebo><plugin filename="libgazebo_ros2_control.so" name="old"/><static>false</static></gazebo>"""
    (files,) = export(two_joints(tmp_path, extra), tmp_path / "out").robots
    root = parse(files.urdf)
    assert [control.get("name") for control in root.findall("ros2_control")] == ["GazeboSimSystem"]
    assert len(root.findall("gazebo/plugin")) == 1
    assert root.findtext("gazebo/static") == "false"  # what else is said stays


def test_arm_that_stands_on_a_link_named_world_keeps_it(tmp_path: Path) -> None:
    extra = """<link name="world"/><joint name="stand" type="fixed"><parent link="world"/><child link="foot"/>
    <origin xyz="0 0 0.8"/></joint>"""
    (files,) = export(two_joints(tmp_path, extra), tmp_path / "out").robots
    root = parse(files.urdf)
    assert len(root.findall("link[@name='world']")) == 1
    assert [joint.get("name") for joint in root.findall("joint[@type='fixed']")] == ["mount", "stand"]


def test_link_named_world_must_be_the_root(tmp_path: Path) -> None:
    extra = """<link name="world"/><joint name="odd" type="fixed"><parent link="tip"/><child link="world"/>
    </joint>"""
    with pytest.raises(GazeboError, match="'world' of the URDF must be its root, but that is 'foot'"):
        export(two_joints(tmp_path, extra), tmp_path / "out")


def test_commands_of_effort_need_its_limit(tmp_path: Path) -> None:
    fleet = two_joints(tmp_path, "", "robots.0.robot.sim.command_interface=effort")
    text = (tmp_path / "arm.urdf").read_text().replace('effort="10"', 'effort="0"')
    (tmp_path / "arm.urdf").write_text(text)
    with pytest.raises(GazeboError, match=r'joint .shoulder "1" & co. needs <limit effort'):
        export(fleet, tmp_path / "out")


def test_a_moving_link_needs_an_inertial_in_the_words_of_gazebo_11(tmp_path: Path) -> None:
    text = (PACKAGED_CONFIGS / "urdf" / "generic7.urdf").read_text()
    link = r"(<link name=.link_5.>.*?)<inertial>.*?</inertial>"
    (tmp_path / "arm.urdf").write_text(re.sub(link, r"\1", text, count=1, flags=re.DOTALL))
    fleet = one("../robots/generic7_sim.yaml", f"override.urdf={tmp_path / 'arm.urdf'}")
    message = r"joint 'joint_5' moves has mass 0 kg .* give link 'link_5' an <inertial>"
    with pytest.raises(ValueError, match=message) as gazebo_11:
        world_sdf(fleet, "world", "plugin.so")
    with pytest.raises(ValueError, match=message) as gz_sim:
        export(fleet, tmp_path / "out")
    assert str(gz_sim.value) == str(gazebo_11.value)


# Read by the SDF library of a real Gazebo: 11's, the ancestor of that in gz sim ----------------


def sdf_tool(gazebo: GazeboInstallation, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [gazebo.usr / "bin" / "gz", "sdf", *arguments],
        env=gazebo.environment(home),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_sdf_library_reads_the_world_and_turns_the_urdf_into_the_arm(
    gazebo: GazeboInstallation, tmp_path: Path
) -> None:
    fleet = fleet_of(*DOOR, "robots=[robot1]", name="door2")
    files = export(fleet, tmp_path)
    assert sdf_tool(gazebo, tmp_path, "--check", str(files.world)).strip() == "Check complete"
    text = sdf_tool(gazebo, tmp_path, "--print", str(files.robots[0].urdf))
    model = ElementTree.fromstring(text).find("model")
    assert model is not None
    joints = {joint.get("name"): joint for joint in model.findall("joint")}
    assert list(joints) == ["gz_world_joint", *fleet.robots[0].robot.joints]
    assert joints["gz_world_joint"].findtext("parent") == "world"
    assert float(joints["joint_1"].findtext("axis/limit/effort") or math.nan) == 300
    assert any("fingertip" in (shape.get("name") or "") for shape in model.iter("collision"))
    (plugin,) = model.findall("plugin")
    assert plugin.get("filename") == "gz_ros2_control-system"
    assert plugin.findtext("parameters") == str(files.robots[0].controllers)
    assert plugin.findtext("ros/namespace") == "/robot1"


# The page about it ---------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gz_sim.md").read_text()


def chunks_of_page() -> list[list[str]]:
    """The lines of each XML and YAML block of the page, without indentation, cut where it says `…`."""
    blocks = re.findall(r"^```(?:xml|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    chunks = (chunk for block in blocks for chunk in block.split("…\n") if chunk)
    return [[line.strip() for line in chunk.splitlines()] for chunk in chunks]


def test_page_shows_what_is_generated(tmp_path: Path) -> None:
    files = export(fleet_of(name="gazebo4"), tmp_path)
    robot = files.robots[0]
    generated = []
    for file in (files.world, files.bridge, robot.urdf, robot.controllers):
        text = file.read_text().replace(str(tmp_path), "/tmp/gz")
        generated.append([line.strip() for line in text.splitlines()])
    chunks = chunks_of_page()
    assert len(chunks) == 5
    for chunk in chunks:
        assert any(lines[i : i + len(chunk)] == chunk for lines in generated for i in range(len(lines))), (
            "\n".join(chunk)
        )
    for lines in (generated[1], generated[3]):  # of these the page shows the beginning
        assert any(lines[: len(chunk)] == chunk for chunk in chunks), lines[0]


def test_page_installs_what_the_launch_file_asks_for() -> None:
    source = (Path(__file__).resolve().parents[2] / "launch" / "gz_sim_fleet.launch.py").read_text()
    (packages,) = re.findall(r"^PACKAGES = (\(.*?\n\))", source, re.DOTALL | re.MULTILINE)
    for name in ast.literal_eval(packages):
        assert f"ros-jazzy-{name.replace('_', '-')}" in PAGE
