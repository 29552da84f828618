"""A fleet for gz sim, the Gazebo of today: the files that its own tools read, from the fleet's config.

    files = export(fleet, folder)
    folder/world.sdf              physics, light, each robot's scene: for `gz sim`
    folder/robot1.urdf            the arm with its ros2_control tags: for `ros_gz_sim create`
    folder/robot1_controllers.yaml  named by that URDF
    folder/bridge.yaml            each robot's clock and door: for `ros_gz_bridge`

`launch/gz_sim_fleet.launch.py` starts everything with them. Gazebo 11 gets its worlds from world.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import yaml

from fleet.config import FleetConfig, RobotEntry
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, NO_OBJECT_IN_GAZEBO
from fleet.sim_config import SimConfig
from robot_nodes.gazebo import sdf
from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.gz_controllers import (
    BROADCASTER,
    controller_parameters,
    forward_controller,
    full_topic,
    remappings,
)
from robot_nodes.gazebo.gz_urdf import gz_urdf
from robot_nodes.gazebo.scene_sdf import scene_models
from robot_nodes.gazebo.world import add_surroundings, places_of

logger = logging.getLogger(__name__)

WORLD = "fleet"  # "world" is a name that SDF keeps for itself
CLOCK = f"/world/{WORLD}/clock"  # the shorter /clock is another's when two gz sims run

# Named in the world, they are all that is loaded; `create` needs the second, the window the third.
_SYSTEMS = {
    "gz-sim-physics-system": "gz::sim::systems::Physics",
    "gz-sim-user-commands-system": "gz::sim::systems::UserCommands",
    "gz-sim-scene-broadcaster-system": "gz::sim::systems::SceneBroadcaster",
}
_JOINT_STATES = ("gz-sim-joint-state-publisher-system", "gz::sim::systems::JointStatePublisher")
# Boxes and door share no bit, so that the door does not rub against its wall; an arm touches both.
_BOX_BITS, _DOOR_BITS = 1, 2


@dataclass(frozen=True, slots=True)
class GzRobot:
    """One robot's files, and what has to be said to start it.

    Attributes:
        id: Of the robot; also its namespace and the name of its model.
        urdf: Its description.
        controllers: Parameters of its controllers.
        controller_names: Those which have to be spawned.
        remappings: Of topics, for the controllers: from → to.
        place: Where its root link stands, x and y (m).
    """

    id: str
    urdf: Path
    controllers: Path
    controller_names: tuple[str, ...]
    remappings: dict[str, str]
    place: tuple[float, float]


@dataclass(frozen=True, slots=True)
class GzFiles:
    """All that has been exported.

    Attributes:
        world: For `gz sim`.
        bridge: For `ros_gz_bridge`.
        robots: In the fleet's order.
    """

    world: Path
    bridge: Path
    robots: tuple[GzRobot, ...]


def export(fleet: FleetConfig, folder: Path) -> GzFiles:
    """Write the files into a folder, which is made if need be.

    Raises:
        GazeboError: This fleet cannot be simulated in gz sim; the text says why.
        ValueError: A robot's URDF cannot be used.
    """
    check(fleet)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    scene = fleet.task.scene
    tip_radius_m = None if scene is None else scene.fingertip_radius_m
    robots = []
    for entry, place in zip(fleet.robots, places_of(len(fleet.robots), fleet.gazebo.spacing_m), strict=True):
        urdf, controllers = folder / f"{entry.id}.urdf", folder / f"{entry.id}_controllers.yaml"
        urdf.write_text(gz_urdf(entry, controllers, tip_radius_m), encoding="utf-8")
        controllers.write_text(_yaml(controller_parameters(entry)), encoding="utf-8")
        names = (BROADCASTER, forward_controller(entry))
        robots.append(GzRobot(entry.id, urdf, controllers, names, remappings(entry), place))
    files = GzFiles(folder / "world.sdf", folder / "bridge.yaml", tuple(robots))
    files.world.write_text(gz_world(fleet), encoding="utf-8")
    files.bridge.write_text(_yaml(bridge(fleet)), encoding="utf-8")
    return files


def check(fleet: FleetConfig) -> None:
    """Make sure that the fleet can be simulated in one world of gz sim.

    Raises:
        GazeboError: With what to change.
    """
    if fleet.task.scene is not None and fleet.task.scene.object is not None:
        raise GazeboError(NO_OBJECT_IN_GAZEBO)
    first = _sim(fleet.robots[0])
    for entry in fleet.robots:
        sim = _sim(entry)
        for key in ("timestep_s", "speed", "lockstep_timeout_s"):
            if getattr(sim, key) != getattr(first, key):
                raise GazeboError(f"robots of one gz sim world must have the same sim.{key}")
        reset = entry.robot.reset
        if "trajectory" in reset.steps:
            raise GazeboError(
                f"robot {entry.id}: reset.steps has `trajectory`, but here only topics.command moves arms; "
                "let the fleet's `override: {reset: {steps: [velocity]}}` take its place"
            )
        if reset.service is not None:
            logger.warning(
                "robot %s: resets call the service %s, which nothing in gz sim answers: a node of yours must",
                entry.id,
                full_topic(entry.id, reset.service),
            )


def gz_world(fleet: FleetConfig) -> str:
    """The world without its arms, which are spawned: SDF as a text."""
    places = places_of(len(fleet.robots), fleet.gazebo.spacing_m)
    root = Element("sdf", version=sdf.VERSION)
    world = sdf.add(root, "world", name=WORLD)
    sdf.add(world, "gravity", (0.0, 0.0, -9.81))
    sim = _sim(fleet.robots[0])
    physics = sdf.add(world, "physics", name="fleet", type="ignored")
    sdf.add(physics, "max_step_size", sim.timestep_s)
    # 0: as fast as it can. Nobody waits for commands here, so that lock-step becomes real time.
    sdf.add(physics, "real_time_factor", 1.0 if sim.lockstep_timeout_s else sim.speed)
    for file, name in _SYSTEMS.items():
        sdf.add(world, "plugin", filename=file, name=name)
    add_surroundings(world, places, fleet.task.scene)
    if fleet.task.scene is not None:
        for entry, place in zip(fleet.robots, places, strict=True):
            base = sdf.placement((*place, 0.0))
            models = scene_models(fleet.task.scene, entry.id, base, _BOX_BITS, _DOOR_BITS)
            if (topic := _door_topic(fleet, entry.id)) is not None:
                _publish_joints(models[-1], topic)
            world.extend(models)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def bridge(fleet: FleetConfig) -> list[dict[str, Any]]:
    """What goes from gz sim's own transport to ROS 2: the clock under every name it is asked for, doors."""
    clocks = ["/clock", *(f"/{entry.id}/clock" for entry in fleet.robots)]
    clock_types = ("rosgraph_msgs/msg/Clock", "gz.msgs.Clock")
    # Old clocks are of no use: a queue of one.
    found = [_to_ros(CLOCK, topic, *clock_types) | {"publisher_queue": 1} for topic in clocks]
    for entry in fleet.robots:
        if (topic := _door_topic(fleet, entry.id)) is not None:
            found.append(_to_ros(topic, topic, "sensor_msgs/msg/JointState", "gz.msgs.Model"))
    return found


def _to_ros(gz_topic: str, ros_topic: str, ros_type: str, gz_type: str) -> dict[str, Any]:
    return {
        "ros_topic_name": ros_topic,
        "gz_topic_name": gz_topic,
        "ros_type_name": ros_type,
        "gz_type_name": gz_type,
        "direction": "GZ_TO_ROS",
    }


def _sim(entry: RobotEntry) -> SimConfig:
    if entry.robot.sim is None:
        raise GazeboError(
            f"robot {entry.id} has no group `sim`: it is a real arm. To simulate it, keep its own YAML as it "
            "is, and let the fleet's have `override: {sim: {simulator: gazebo}}`"
        )
    return entry.robot.sim


def _door_topic(fleet: FleetConfig, robot_id: str) -> str | None:
    """The full name of the topic of a robot's door, in ROS as in gz sim; none: it has none."""
    scene = fleet.task.scene
    if scene is None or scene.door is None:
        return None
    return full_topic(robot_id, scene.door.joint_states)


def _publish_joints(door: Element, topic: str) -> None:
    file, name = _JOINT_STATES
    plugin = sdf.add(door, "plugin", filename=file, name=name)
    sdf.add(plugin, "topic", topic)
    for joint in (HINGE_JOINT, HANDLE_JOINT):
        sdf.add(plugin, "joint_name", joint)


def _yaml(data: Any) -> str:
    return str(yaml.safe_dump(data, sort_keys=False))
