"""A robot's URDF for gz sim: what gz_ros2_control needs is added, the arm itself stays as it is.

    <link name="world"/>, <joint type="fixed">     the arm stands on the ground of the simulated world
    <ros2_control type="system">                   joints: command and state interfaces, where they start
    <gazebo><plugin name="…ROS2ControlPlugin">     a controller manager in the robot's namespace

Tags and names are those of gz_ros2_control for ROS 2 Jazzy and later (its doc/index.rst).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from fleet.config import RobotEntry
from fleet.robot_config import RobotConfig
from robot_nodes.gazebo import sdf
from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.gz_controllers import command_interface
from robot_nodes.gazebo.model_sdf import check_inertia
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

HARDWARE = "gz_ros2_control/GazeboSimSystem"
PLUGIN_FILE, PLUGIN_NAME = "gz_ros2_control-system", "gz_ros2_control::GazeboSimROS2ControlPlugin"

_WORLD = "world"  # this link is the world, for gz sim as for others that read URDF
_FIXED_TO_WORLD = "gz_world_joint"


def gz_urdf(entry: RobotEntry, controllers: Path, tip_radius_m: float | None) -> str:
    """The XML of one robot, to be published as its robot_description.

    Args:
        entry: The robot.
        controllers: Absolute path of its controllers' parameters, which gz sim will read.
        tip_radius_m: Of a ball at the tool that touches the scene; none: there is none.

    Raises:
        GazeboError: The URDF has not what gz sim needs.
        ValueError: A joint or link of the config is not in it, or a moving link has no mass or inertia.
    """
    robot = entry.robot
    assert isinstance(robot.urdf, Path), "fleet.config sees to it for simulated robots"
    urdf = load_urdf(robot.urdf)
    model = Kinematics(urdf, robot.joints, robot.tool_link).model  # also says which name is not in it
    root = ElementTree.fromstring(urdf.text)
    children = {joint.get("name"): joint.find("child") for joint in root.findall("joint")}
    for i in range(1, model.njoints):
        child = children[model.names[i]]
        assert child is not None, "Pinocchio has read it"
        check_inertia(model, i, child.get("link", ""), urdf.name)
    _drop_other_control(root)
    _stand_on_world(root)
    if tip_radius_m is not None:
        _add_fingertip(root, robot.tool_link, tip_radius_m)
    root.append(_ros2_control(root, robot, urdf.name))
    root.append(_plugin(entry.id, controllers))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _drop_other_control(root: Element) -> None:
    """Without the hardware that a real arm's description names: it would be looked for here."""
    for control in root.findall("ros2_control"):
        root.remove(control)
    for extension in root.findall("gazebo"):
        for plugin in extension.findall("plugin"):
            if "ros2_control" in plugin.get("filename", ""):
                extension.remove(plugin)


def _stand_on_world(root: Element) -> None:
    children = {child.get("link") for child in root.findall("joint/child")}
    names = [link.get("name", "") for link in root.findall("link")]
    base = next(name for name in names if name not in children)
    if base == _WORLD:
        return
    if _WORLD in names:
        raise GazeboError(f"link {_WORLD!r} of the URDF must be its root, but that is {base!r}: rename it")
    sdf.add(root, "link", name=_WORLD)
    joint = sdf.add(root, "joint", name=_FIXED_TO_WORLD, type="fixed")
    sdf.add(joint, "parent", link=_WORLD)
    sdf.add(joint, "child", link=base)


def _add_fingertip(root: Element, tool_link: str, radius_m: float) -> None:
    tool = next(link for link in root.findall("link") if link.get("name") == tool_link)
    for kind in ("visual", "collision"):
        shape = sdf.add(tool, kind, name=f"fingertip_{kind}")
        sdf.add(sdf.add(shape, "geometry"), "sphere", radius=f"{radius_m:.10g}")


def _ros2_control(root: Element, robot: RobotConfig, source: str) -> Element:
    """Each joint's limits, interfaces and first position."""
    system = Element("ros2_control", name="GazeboSimSystem", type="system")
    sdf.add(sdf.add(system, "hardware"), "plugin", HARDWARE)
    interface = command_interface(robot)
    highest = (
        robot.limits.max_joint_velocity_rad_s if interface == "velocity" else _efforts(root, robot, source)
    )
    for name, limit, home_rad in zip(robot.joints, highest, robot.reset.home_rad, strict=True):
        joint = sdf.add(system, "joint", name=name)
        command = sdf.add(joint, "command_interface", name=interface)
        sdf.add(command, "param", -limit, name="min")
        sdf.add(command, "param", limit, name="max")
        sdf.add(sdf.add(joint, "state_interface", name="position"), "param", home_rad, name="initial_value")
        sdf.add(joint, "state_interface", name="velocity")
        sdf.add(joint, "state_interface", name="effort")
    return system


def _efforts(root: Element, robot: RobotConfig, source: str) -> list[float]:
    """The URDF's limit of each joint of the config (N m)."""
    limits = {joint.get("name"): joint.find("limit") for joint in root.findall("joint")}
    efforts = [
        0.0 if (limit := limits[name]) is None else float(limit.get("effort", 0)) for name in robot.joints
    ]
    for name, effort in zip(robot.joints, efforts, strict=True):
        if effort <= 0:
            raise GazeboError(f"{source}: joint {name!r} needs <limit effort=…> for commands of effort")
    return efforts


def _plugin(robot_id: str, controllers: Path) -> Element:
    extension = Element("gazebo")
    plugin = sdf.add(extension, "plugin", filename=PLUGIN_FILE, name=PLUGIN_NAME)
    sdf.add(plugin, "parameters", str(controllers))
    sdf.add(sdf.add(plugin, "ros"), "namespace", f"/{robot_id}")
    return extension
