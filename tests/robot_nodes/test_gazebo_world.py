"""Worlds as SDF: who stands where, what touches what, and arms that weigh what their URDF says."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from robot_nodes.gazebo.model_sdf import arm_models
from robot_nodes.gazebo.sdf import placement
from robot_nodes.gazebo.world import world_sdf
from robot_nodes.urdf_source import Urdf

IN_GAZEBO = (
    "override={sim: {simulator: gazebo, speed: 2.0}, topics: {joint_states: states, command: commands}}"
)


def world_of(fleet: FleetConfig, world: str = "world") -> Element:
    root = ElementTree.fromstring(world_sdf(fleet, world, "libplugin.so"))
    assert root.tag == "sdf" and root.get("version") == "1.7"
    element = root.find("world")
    assert element is not None
    return element


def models_of(world: Element) -> dict[str, Element]:
    return {model.get("name", ""): model for model in world.findall("model")}


def numbers(element: Element, path: str) -> list[float]:
    text = element.findtext(path)
    assert text is not None, path
    return [float(number) for number in text.split()]


def masks(model: Element) -> set[int]:
    return {int(float(mask.text or "")) for mask in model.iter("collide_bitmask")}


def find(element: Element, path: str) -> Element:
    found = element.find(path)
    assert found is not None, path
    return found


# Places ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "places"),
    [
        (1, [(0, 0)]),
        (2, [(0, 0), (0, 2.5)]),
        (4, [(0, 0), (0, 2.5), (2.5, 0), (2.5, 2.5)]),
        (5, [(0, 0), (0, 2.5), (0, 5), (2.5, 0), (2.5, 2.5)]),
    ],
)
def test_robots_of_a_shared_world_stand_apart(count: int, places: list[tuple[float, float]]) -> None:
    ids = [f"arm{i}" for i in range(count)]
    fleet = load_fleet("fleets/sim2.yaml", [f"robots={ids}", IN_GAZEBO, "gazebo={spacing_m: 2.5}"])
    models = models_of(world_of(fleet))
    for robot_id, place in zip(ids, places, strict=True):
        for name in (robot_id, f"{robot_id}_base", f"{robot_id}_scene"):
            assert numbers(models[name], "pose") == [*place, 0, 0, 0, 0], name


def test_a_world_of_ones_own_has_one_robot_at_its_middle() -> None:
    fleet = load_fleet("fleets/sim2.yaml", [IN_GAZEBO, "gazebo={worlds: own}"])
    models = models_of(world_of(fleet, "robot2"))
    assert set(models) == {"Floor", "robot2", "robot2_base", "robot2_scene"}
    assert numbers(models["robot2"], "pose") == [0] * 6


def test_only_robots_simulated_in_gazebo_are_in_it() -> None:
    fleet = load_fleet("fleets/sim2.yaml", ["robots.1.robot.sim.simulator=gazebo"])
    assert [name for name in models_of(world_of(fleet)) if name.startswith("robot1")] == []
    with pytest.raises(ConfigError, match=r"no Gazebo world 'robot2' in fleet 'sim2'; it has: world"):
        world_sdf(fleet, "robot2", "libplugin.so")
    with pytest.raises(ConfigError, match=r"it has: none: no robot has sim\.simulator: gazebo"):
        world_sdf(load_fleet("fleets/sim2.yaml"), "world", "libplugin.so")


def test_two_models_of_one_name_are_refused() -> None:
    fleet = load_fleet("fleets/sim2.yaml", ["robots=[arm, arm_base]", IN_GAZEBO])
    with pytest.raises(ValueError, match=r"arm_base: model names of two robots in world 'world': rename one"):
        world_sdf(fleet, "world", "libplugin.so")


def test_the_world_runs_as_the_config_says() -> None:
    physics = find(world_of(load_fleet("fleets/sim2.yaml", [IN_GAZEBO])), "physics")
    assert physics.findtext("max_step_size") == "0.002"
    assert physics.findtext("real_time_update_rate") == "1000"  # twice real time
    assert physics.findtext("ode/solver/type") == "world", "the direct one"
    overrides = [IN_GAZEBO, *(f"robots.{i}.robot.sim.speed=0" for i in (0, 1)), "gazebo.solver_iterations=70"]
    physics = find(world_of(load_fleet("fleets/sim2.yaml", overrides)), "physics")
    assert physics.findtext("real_time_update_rate") == "0", "as fast as it can"
    assert physics.findtext("ode/solver/type") == "quick" and physics.findtext("ode/solver/iters") == "70"


def test_the_plugin_holds_each_joint_at_home() -> None:
    fleet = load_fleet("fleets/sim2.yaml", [IN_GAZEBO])
    plugin = find(world_of(fleet), "plugin")
    assert plugin.get("filename") == "libplugin.so"
    brakes = {brake.findtext("joint"): float(brake.findtext("position") or "") for brake in plugin}
    assert len(brakes) == 14 and brakes["robot1::joint_4"] == brakes["robot2::joint_4"] == 1.7


# What touches what -------------------------------------------------------------------------------


def test_an_arm_with_nothing_to_touch_has_no_shapes() -> None:
    world = world_of(load_fleet("fleets/sim2.yaml", [IN_GAZEBO]))
    assert list(world.iter("collision")) == []
    assert len(list(models_of(world)["robot1"].iter("visual"))) > 7


def test_each_robot_touches_its_own_scene_only() -> None:
    ids = [f"arm{i}" for i in range(9)]
    fleet = load_fleet("fleets/door2.yaml", [f"robots={ids}", "override.sim={simulator: gazebo}"])
    models = models_of(world_of(fleet))
    for i, robot_id in enumerate(ids[:8]):
        arm, scene, door = (masks(models[robot_id + suffix]) for suffix in ("", "_scene", "_door"))
        assert arm == {0b11 << 2 * i}, "one for all its links"
        assert scene == {0b01 << 2 * i} and door == {0b10 << 2 * i}, "a door does not rub on its wall"
    assert masks(models["arm8"]) == masks(models["arm0"]), "16 bits: used again, four places away"
    assert not list(models["arm0_base"].iter("collision"))
    assert {e.text for e in models["arm0"].iter("self_collide")} == {"false"}


def test_boxes_that_are_not_solid_are_only_to_be_seen() -> None:
    size = "size_m: [1, 1, 0.2]"
    boxes = f"{{name: a, center_m: [0.5, 0, -0.2], {size}}}, {{name: b, center_m: [0.5, 0, 1], {size}}}"
    scene = f"task.scene={{name: table, boxes: [{boxes}]}}"
    overrides = [IN_GAZEBO, scene, "task.scene.boxes.1.solid=false"]
    models = models_of(world_of(load_fleet("fleets/sim2.yaml", overrides)))
    assert len(list(models["robot1_scene"].iter("visual"))) == 2
    (touched,) = models["robot1_scene"].iter("collision")
    assert touched.get("name") == "a" and numbers(touched, "pose") == [0.5, 0, -0.2, 0, 0, 0]
    assert numbers(models["Floor"], "pose")[2] == pytest.approx(-0.305), "its upper side is under the table"


# Arms --------------------------------------------------------------------------------------------

MOVING_KG = {"generic_arm7": 13.8, "ur5e": 17.7, "franka_fr3": 15.51, "kinova_gen3": 6.491, "xarm7": 11.0}
"""Sum of the URDF's masses without the root link and what is fixed to it."""


@pytest.mark.parametrize("name", MOVING_KG)
def test_every_arm_has_its_joints_and_its_weight(name: str) -> None:
    fleet = load_fleet("fleets/sim2.yaml", [f"robot=../robots/{name}.yaml", IN_GAZEBO])
    robot = fleet.robots[0].robot
    arm = models_of(world_of(fleet))["robot1"]
    joints = arm.findall("joint")
    assert [joint.get("name") for joint in joints] == robot.joints
    assert {joint.get("type") for joint in joints} == {"revolute"}
    assert len(arm.findall("link")) == len(joints), "one body for each"
    assert sum(float(mass.text or "") for mass in arm.iter("mass")) == pytest.approx(MOVING_KG[name])
    assert isinstance(robot.urdf, Path)
    given = {joint.get("name"): joint for joint in ElementTree.parse(robot.urdf).getroot().iter("joint")}
    for joint in joints:
        limit = find(given[joint.get("name")], "limit")
        for key in ("lower", "upper", "effort", "velocity"):
            assert numbers(joint, f"axis/limit/{key}") == [float(limit.get(key, ""))]


def test_parts_are_placed_by_their_joints() -> None:
    arm = models_of(world_of(load_fleet("fleets/sim2.yaml", [IN_GAZEBO])))["robot1"]
    first, second = arm.findall("joint")[:2]
    assert (first.findtext("parent"), first.findtext("child")) == ("world", "link_1")
    assert find(first, "pose").get("relative_to") == "__model__"
    assert numbers(first, "pose") == [0, 0, 0.16, 0, 0, 0]
    assert (second.findtext("parent"), second.findtext("child")) == ("link_1", "link_2")
    assert find(second, "pose").get("relative_to") == "link_1"
    assert numbers(second, "pose") == [0, 0, 0.18, 0, 0, 0]
    assert numbers(second, "axis/xyz") == [0, 1, 0]
    link = find(arm, "link[@name='link_2']")
    assert find(link, "pose").get("relative_to") == "joint_2"
    assert numbers(link, "inertial/pose")[:3] == [0, 0, 0.1]
    orange = find(arm, "link[@name='link_1']/visual[@name='link_1_visual_1']/material")
    assert numbers(orange, "diffuse") == [0.95, 0.45, 0.1, 1]


def test_the_fingertip_is_at_the_tool() -> None:
    arm = models_of(world_of(load_fleet("fleets/door2.yaml", [IN_GAZEBO, DOOR])))["robot1"]
    tip = find(arm, "link[@name='link_7']/collision[@name='fingertip']")
    assert numbers(tip, "pose")[:3] == pytest.approx([0, 0, 0.06])
    assert numbers(tip, "geometry/sphere/radius") == [0.025]


INERTIA = '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
ODD_URDF = f"""<robot name="odd">
  <link name="base"/>
  <link name="lift"><inertial><mass value="2"/>{INERTIA}</inertial>
    <visual><geometry><mesh filename="package://a/b.stl"/></geometry></visual>
    <visual><geometry><box size="1 2 3"/></geometry></visual></link>
  <link name="world"><inertial><mass value="1"/>{INERTIA}</inertial></link>
  <link name="finger"><inertial><origin xyz="0 0 0.3"/><mass value="1"/>{INERTIA}</inertial>
    <collision><origin xyz="0 0 0.5"/><geometry><sphere radius="0.1"/></geometry></collision></link>
  <link name="tool"/>
  <joint name="up" type="prismatic"><parent link="base"/><child link="lift"/><axis xyz="0 0 1"/>
    <limit lower="0" upper="0.5" effort="0" velocity="0.2"/><dynamics damping="3"/></joint>
  <joint name="turn" type="continuous"><parent link="lift"/><child link="world"/><axis xyz="0 0 1"/></joint>
  <joint name="grip" type="revolute"><origin xyz="0 0 0.1"/><parent link="world"/><child link="finger"/>
    <limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
  <joint name="tip" type="fixed"><origin xyz="0 0 0.2"/><parent link="finger"/><child link="tool"/></joint>
</robot>"""


def odd_arm(text: str = ODD_URDF, **update: Any) -> list[Element]:
    robot = load_fleet("fleets/sim2.yaml").robots[0].robot
    robot = robot.model_copy(update={"joints": ["up", "turn"], "tool_link": "tool", **update})
    return arm_models(robot, Urdf(text, "odd.urdf"), "odd", placement((0, 0, 0)), 3, 0.01)


def test_other_joints_are_held_and_become_one_body_with_their_parent() -> None:
    (arm,) = odd_arm()  # the base has nothing to be seen
    up, turn = arm.findall("joint")
    assert up.get("type") == "prismatic" and numbers(up, "axis/limit/upper") == [0.5]
    assert up.find("axis/limit/effort") is None and numbers(up, "axis/limit/velocity") == [0.2]
    assert numbers(up, "axis/dynamics/damping") == [3]
    assert turn.get("type") == "revolute" and numbers(turn, "axis/limit/upper") == [1e16]
    lift, hand = arm.findall("link")
    assert (lift.get("name"), hand.get("name")) == ("lift", "turn_link"), "`world` is SDF's own name"
    assert len(lift.findall("visual")) == 1, "a mesh is left out"
    assert numbers(hand, "inertial/mass") == [2]  # of the finger, too: 1 kg at 0 and 1 kg at 0.1 + 0.3
    assert numbers(hand, "inertial/pose")[:3] == pytest.approx([0, 0, 0.2])
    assert numbers(hand, "inertial/inertia/ixx") == pytest.approx([2 + 2 * 0.2**2])
    sphere = find(hand, "collision[@name='finger_collision_0']")
    assert numbers(sphere, "pose")[2] == pytest.approx(0.6)
    assert numbers(find(hand, "collision[@name='fingertip']"), "pose")[2] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            '<mass value="2"/>',
            '<mass value="0"/>',
            r"odd\.urdf: what joint 'up' moves has mass 0 kg.*link 'lift'",
        ),
        ('"turn"', '"turn it"', "without blanks.*got 'turn it'"),
        ('"turn"', '"odd::turn"', "got 'odd::turn'"),
        ("<robot", "<robt", r"odd\.urdf"),
    ],
)
def test_what_gazebo_could_not_simulate_is_named(old: str, new: str, error: str) -> None:
    text = ODD_URDF.replace(old, new)
    name = new.strip('"') if old == '"turn"' else "turn"
    with pytest.raises(ValueError, match=error):
        odd_arm(text, joints=["up", name])


# The door ----------------------------------------------------------------------------------------

DOOR = """task.scene={name: door, fingertip_radius_m: 0.025, door: {
    hinge_m: [0.6, 0.3, 0.1], yaw_rad: -1.5707963267948966, width_m: 0.6, height_m: 0.8, thickness_m: 0.04,
    mass_kg: 6.0, opens: push, max_angle_rad: 1.2, damping_nms_rad: 1.0, friction_nm: 0.5,
    handle: {from_hinge_m: 0.5, height_m: 0.45, standoff_m: 0.03, lever_m: 0.15, radius_m: 0.01, mass_kg: 0.3,
    max_angle_rad: 0.8, spring_nm_rad: 3.0, damping_nms_rad: 0.05, latch_angle_rad: 0.4}}}"""


@pytest.mark.parametrize(("opens", "sign"), [("push", 1), ("pull", -1)])
def test_the_door_turns_and_its_lever_goes_down_at_positive_angles(opens: str, sign: int) -> None:
    fleet = load_fleet("fleets/door2.yaml", [IN_GAZEBO, DOOR, f"task.scene.door.opens={opens}"])
    world = world_of(fleet)
    door = models_of(world)["robot2_door"]
    assert numbers(door, "pose")[:3] == [0, 3, 0]
    hinge, handle = door.findall("joint")
    assert (hinge.get("name"), handle.get("name")) == ("door_hinge", "door_handle")
    # Hinge on the left, door to the right (−y): turned to the left (+z), its edge goes away from the robot.
    assert numbers(hinge, "axis/xyz") == [0, 0, sign]
    assert numbers(hinge, "axis/limit/upper") == [1.2] and numbers(handle, "axis/limit/upper") == [0.8]
    # The lever points to the hinge (+y); turned about −x its end goes down.
    np.testing.assert_allclose(numbers(handle, "axis/xyz"), [-1, 0, 0], atol=1e-9)
    assert numbers(hinge, "pose")[:3] == [0.6, 0.3, 0.1]
    # 0.5 m along the door; half the panel, the gap and the lever's radius towards the robot.
    lever = np.add(numbers(hinge, "pose")[:3], numbers(handle, "pose")[:3])
    np.testing.assert_allclose(lever, [0.6 - 0.02 - 0.03 - 0.01, 0.3 - 0.5, 0.45], atol=1e-9)
    bar = find(door, "link[@name='lever']/collision[@name='bar']")
    np.testing.assert_allclose(numbers(bar, "pose")[:3], [0, 0.075, 0], atol=1e-9)
    assert numbers(bar, "geometry/cylinder/length") == pytest.approx([0.15])
    panel = find(door, "link[@name='panel']")
    np.testing.assert_allclose(numbers(panel, "inertial/pose")[:3], [0, -0.3, 0.4], atol=1e-9)
    # A plate of 0.6 m along y, 0.04 m along x, 0.8 m up: m (y² + z²) / 12, m (x² + z²) / 12.
    assert numbers(panel, "inertial/inertia/ixx") == pytest.approx([6 / 12 * (0.6**2 + 0.8**2)])
    assert numbers(panel, "inertial/inertia/iyy") == pytest.approx([6 / 12 * (0.04**2 + 0.8**2)])
    latch = world.findall("plugin/latch")[1]
    assert [latch.findtext(key) for key in ("hinge", "handle", "angle")] == [
        "robot2_door::door_hinge",
        "robot2_door::door_handle",
        "0.4",
    ]


def test_a_door_without_a_latch_is_free() -> None:
    overrides = [IN_GAZEBO, DOOR, "task.scene.door.handle.latch_angle_rad=null"]
    assert not list(world_of(load_fleet("fleets/door2.yaml", overrides)).iter("latch"))


def test_only_a_world_in_which_things_touch_is_softened() -> None:
    door = world_sdf(load_fleet("fleets/gazebo_door2.yaml"), "robot1", "plugin.so")
    free = world_sdf(load_fleet("fleets/gazebo4.yaml"), "world", "plugin.so")
    assert "<cfm>1e-06</cfm>" in door and "<kp>100000</kp>" in door
    assert "<cfm>" not in free and "<kp>" not in free
