"""A fleet's worlds as SDF files for Gazebo.

The robots of a shared world stand in rows, `gazebo.spacing_m` apart, robot and scene in the frame of the
robot's root link. Shapes touch when their bit masks share a bit. Each robot has two of the 16 bits: its
arm has both, its fixed boxes the first, its door the second, so that the door does not rub against the
wall it is in. Arms never touch themselves or each other. From the ninth robot on the bits are used again,
by robots that are far apart. An arm whose scene has nothing to touch has no shapes: those cost most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from fleet.config import ConfigError, FleetConfig, RobotEntry
from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig
from fleet.sim_config import SimConfig
from robot_nodes.gazebo import sdf
from robot_nodes.gazebo.model_sdf import add_fixed, arm_models
from robot_nodes.gazebo.scene_sdf import latches, lowest_m, scene_models, touches
from robot_nodes.urdf_source import load_urdf

PLUGIN_NAME = "pnaf_world"

_WORLD, _FLOOR = "World", "Floor"  # no robot's id, so no name of its models, has capitals
_BITS_EACH, _BITS = 2, 16
_GROUND_SIZE_M = 100.0
_LOOK_FROM = np.array([0.75, -0.5, 0.45])  # direction of the camera from the middle of the robots
_SEEN_AROUND_M = 2.0
_CONTACT_CFM = 1e-6  # ODE's constraint force mixing (rad/s per N m)


def world_sdf(fleet: FleetConfig, world: str, plugin: str) -> str:
    """The world as an SDF file.

    Args:
        fleet: The loaded config.
        world: One of `fleet.gazebo_worlds`.
        plugin: File name of the world plugin.

    Raises:
        ConfigError: The fleet has no such world.
        ValueError: A robot's URDF cannot be used.
    """
    worlds = fleet.gazebo_worlds
    if world not in worlds:
        known = ", ".join(worlds) or "none: no robot has sim.simulator: gazebo"
        raise ConfigError(f"no Gazebo world {world!r} in fleet {fleet.name!r}; it has: {known}")
    entries = [fleet.entry(robot_id) for robot_id in worlds[world]]
    places = places_of(len(entries), fleet.gazebo.spacing_m)
    root = Element("sdf", version=sdf.VERSION)
    element = sdf.add(root, "world", name=_WORLD)
    sdf.add(element, "gravity", (0.0, 0.0, -9.81))
    scene = fleet.task.scene
    _add_physics(element, sim_of(entries[0].robot), fleet.gazebo.solver_iterations, touches(scene))
    add_surroundings(element, places, scene)
    plugin_element = Element("plugin", name=PLUGIN_NAME, filename=plugin)
    for i, (entry, place) in enumerate(zip(entries, places, strict=True)):
        fixed = 1 << (_BITS_EACH * i % _BITS)
        moving = fixed << 1
        base = sdf.placement((*place, 0.0))
        bits = fixed | moving if touches(scene) else 0
        tip_radius_m = None if scene is None else scene.fingertip_radius_m
        urdf = load_urdf(entry.robot.urdf, entry.id)
        element.extend(arm_models(entry.robot, urdf, entry.id, base, bits, tip_radius_m))
        if scene is not None:
            element.extend(scene_models(scene, entry.id, base, fixed, moving))
            plugin_element.extend(latches(scene, entry.id))
        plugin_element.extend(_brakes(entry))
    element.append(plugin_element)
    names = [model.get("name", "") for model in element.iter("model")]
    if taken := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(taken)}: model names of two robots in world {world!r}: rename one")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _brakes(entry: RobotEntry) -> Iterator[Element]:
    """For the world plugin: where each joint is held until a driver comes."""
    for joint, home_rad in zip(entry.robot.joints, entry.robot.reset.home_rad, strict=True):
        brake = Element("brake")
        sdf.add(brake, "joint", f"{entry.id}::{joint}")
        sdf.add(brake, "position", home_rad)
        yield brake


def sim_of(config: RobotConfig) -> SimConfig:
    """The `sim` group of a robot that is to be simulated.

    Raises:
        ValueError: It has none.
    """
    if config.sim is None:
        raise ValueError(f"robot {config.name!r} has no sim group in its config: it is real hardware")
    return config.sim


def places_of(count: int, spacing_m: float) -> list[tuple[float, float]]:
    """Where the robots' root links are, x and y (m): rows along y, in a square as near as can be."""
    columns = math.ceil(math.sqrt(count))
    return [(i // columns * spacing_m, i % columns * spacing_m) for i in range(count)]


def _add_physics(world: Element, sim: SimConfig, iterations: int, contacts: bool) -> None:
    physics = sdf.add(world, "physics", name="ode", type="ode")
    sdf.add(physics, "max_step_size", sim.timestep_s)
    sdf.add(physics, "real_time_factor", sim.speed or 1.0)
    sdf.add(physics, "real_time_update_rate", sim.speed / sim.timestep_s)  # 0: as fast as it can
    ode = sdf.add(physics, "ode")
    solver = sdf.add(ode, "solver")
    sdf.add(solver, "type", "quick" if iterations else "world")
    if iterations:
        sdf.add(solver, "iters", float(iterations))
    if contacts:  # too little to see in the tracking, enough for redundant constraints to be solved
        sdf.add(sdf.add(ode, "constraints"), "cfm", _CONTACT_CFM)


def add_surroundings(world: Element, places: list[tuple[float, float]], scene: SceneConfig | None) -> None:
    """Light, a floor below the scene that nothing touches, and a camera that sees all robots."""
    look = sdf.add(world, "scene")
    sdf.add(look, "ambient", (0.45, 0.45, 0.45, 1.0))
    sdf.add(look, "background", (0.75, 0.82, 0.9, 1.0))
    sdf.add(look, "shadows", "false")
    sun = sdf.add(world, "light", name="sun", type="directional")
    sdf.add_pose(sun, sdf.placement((0.0, 0.0, 10.0)))
    sdf.add(sun, "cast_shadows", "false")
    sdf.add(sun, "diffuse", (0.8, 0.8, 0.8, 1.0))
    sdf.add(sun, "specular", (0.1, 0.1, 0.1, 1.0))
    sdf.add(sun, "direction", (-0.5, 0.3, -0.9))
    floor = sdf.add(world, "model", name=_FLOOR)
    add_fixed(floor, sdf.placement((0.0, 0.0, lowest_m(scene) - 0.005)))
    size = (_GROUND_SIZE_M, _GROUND_SIZE_M, 0.01)
    link = sdf.add(floor, "link", name="floor")
    sdf.add_visual(link, "floor_visual", sdf.placement((0.0, 0.0, 0.0)), sdf.box(size), (0.5, 0.5, 0.5, 1.0))

    low, high = np.min(places, axis=0), np.max(places, axis=0)
    middle = np.array([*(low + high) / 2, 0.4])
    from_middle = (_SEEN_AROUND_M + np.linalg.norm(high - low)) * _LOOK_FROM
    x, y, z = -from_middle
    turn = (0.0, math.atan2(-z, math.hypot(x, y)), math.atan2(y, x))
    camera = sdf.add(sdf.add(world, "gui"), "camera", name="user")
    sdf.add_pose(camera, sdf.placement(middle + from_middle, turn))
