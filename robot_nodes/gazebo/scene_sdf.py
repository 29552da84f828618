"""A scene as Gazebo wants it: fixed boxes are one static model, a door with its lever is another.

    <model name="robot1_scene">  static
    <model name="robot1_door">   door_hinge: world → panel, door_handle: panel → lever

Positive angles are an opened door and a lever pressed down, as in fleet/scene_config.py. The door hangs in
balance: its parts have no weight, only inertia. It touches the arm and nothing else.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np
import pinocchio as pin
from numpy.typing import ArrayLike, NDArray

from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, Door, SceneBox, SceneConfig
from robot_nodes.gazebo import sdf
from robot_nodes.gazebo.model_sdf import add_fixed
from robot_nodes.tasks.door_geometry import DoorGeometry

Array = NDArray[np.float64]

_BOX, _PANEL, _LEVER = (0.8, 0.8, 0.78, 1.0), (0.62, 0.46, 0.32, 1.0), (0.2, 0.2, 0.2, 1.0)


def scene_models(scene: SceneConfig, name: str, base: pin.SE3, fixed: int, moving: int) -> list[Element]:
    """The models of a scene, those which are not empty.

    Args:
        scene: What there is.
        name: Of the robot it is for.
        base: Where that robot's root link is in the world.
        fixed: Bits of the boxes (`sdf.add_collision`).
        moving: Bits of the door.
    """
    models = []
    if scene.boxes:
        model = Element("model", name=f"{name}_scene")
        add_fixed(model, base)
        link = sdf.add(model, "link", name="boxes")
        for box in scene.boxes:
            _add_box(link, box, fixed, scene.friction)
        models.append(model)
    if scene.door is not None:
        models.append(_door(scene.door, f"{name}_door", base, moving, scene.friction))
    return models


def touches(scene: SceneConfig | None) -> bool:
    """Whether anything in the scene can be touched."""
    return scene is not None and scene.is_solid


def lowest_m(scene: SceneConfig | None) -> float:
    """Height of the lowest thing around a robot, its root link among them (m)."""
    boxes = [] if scene is None else scene.boxes
    return min([0.0, *(box.center_m[2] - box.size_m[2] / 2 for box in boxes)])


def latches(scene: SceneConfig, name: str) -> list[Element]:
    """What the world plugin has to know of the scene of the robot of this name: the latch of its door."""
    if scene.door is None or scene.door.handle.latch_angle_rad is None:
        return []
    latch = Element("latch")
    sdf.add(latch, "hinge", f"{name}_door::{HINGE_JOINT}")
    sdf.add(latch, "handle", f"{name}_door::{HANDLE_JOINT}")
    sdf.add(latch, "angle", scene.door.handle.latch_angle_rad)
    return [latch]


def _add_box(link: Element, box: SceneBox, bits: int, mu: float) -> None:
    where = sdf.placement(box.center_m, (0.0, 0.0, box.yaw_rad))
    sdf.add_visual(link, f"{box.name}_visual", where, sdf.box(box.size_m), _BOX)
    if box.solid:
        sdf.add_collision(link, box.name, where, sdf.box(box.size_m), bits, mu)


def _door(door: Door, name: str, base: pin.SE3, bits: int, mu: float) -> Element:
    """All frames are turned like the root link; `geometry` tells where things are in it."""
    handle, geometry = door.handle, DoorGeometry(door, 0.0)
    model = Element("model", name=name)
    sdf.add_pose(model, base)

    panel = sdf.add(model, "link", name="panel")
    sdf.add(panel, "pose", relative_to=HINGE_JOINT)
    middle = sdf.placement(geometry.panel_center - geometry.foot, (0.0, 0.0, door.yaw_rad))
    inertia = _turned(_box_inertia(door.mass_kg, geometry.panel_size), middle)
    sdf.add_inertial(panel, door.mass_kg, middle.translation, inertia)
    sdf.add(panel, "gravity", "false")
    shape = sdf.box(geometry.panel_size)
    sdf.add_visual(panel, "panel_visual", middle, shape, _PANEL)
    sdf.add_collision(panel, "panel", middle, shape, bits, mu)
    axis = sdf.add_joint(
        model,
        HINGE_JOINT,
        "revolute",
        ("world", "panel"),
        (sdf.placement(geometry.foot), "__model__"),
        geometry.hinge_axis,
        (0.0, door.max_angle_rad),
    )
    dynamics = sdf.add(axis, "dynamics")
    sdf.add(dynamics, "damping", door.damping_nms_rad)
    sdf.add(dynamics, "friction", door.friction_nm)

    lever = sdf.add(model, "link", name="lever")
    sdf.add(lever, "pose", relative_to=HANDLE_JOINT)
    parts = {
        "bar": _rod(geometry.lever_end - geometry.lever_start),
        "stem": _rod(geometry.rosette - geometry.lever_start),
    }
    bar, length_m = parts["bar"]
    thick_m = 2 * handle.radius_m
    inertia = _turned(_box_inertia(handle.mass_kg, (thick_m, thick_m, length_m)), bar)
    sdf.add_inertial(lever, handle.mass_kg, bar.translation, inertia)
    sdf.add(lever, "gravity", "false")
    for part, (where, length_m) in parts.items():
        shape = sdf.cylinder(handle.radius_m, length_m)
        sdf.add_visual(lever, f"{part}_visual", where, shape, _LEVER)
        sdf.add_collision(lever, part, where, shape, bits, mu)
    axis = sdf.add_joint(
        model,
        HANDLE_JOINT,
        "revolute",
        ("panel", "lever"),
        (sdf.placement(geometry.lever_start - geometry.foot), "panel"),
        geometry.handle_axis,
        (0.0, handle.max_angle_rad),
    )
    dynamics = sdf.add(axis, "dynamics")
    sdf.add(dynamics, "damping", handle.damping_nms_rad)
    sdf.add(dynamics, "spring_reference", 0.0)
    sdf.add(dynamics, "spring_stiffness", handle.spring_nm_rad)
    return model


def _rod(to: Array) -> tuple[pin.SE3, float]:
    """A frame in the middle of a rod from the origin to a point [3] (m), with z along it; its length."""
    length_m = float(np.linalg.norm(to))
    turn = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), to).matrix()
    return pin.SE3(turn, to / 2), length_m


def _box_inertia(mass_kg: float, size_m: ArrayLike) -> Array:
    """Of a solid box about its middle [3, 3] (kg m²)."""
    squares = np.square(size_m)
    return np.diag(mass_kg / 12 * (squares.sum() - squares))


def _turned(inertia: Array, where: pin.SE3) -> Array:
    """An inertia [3, 3] in the axes of the frame that `where` is given in."""
    return where.rotation @ inertia @ where.rotation.T  # type: ignore[no-any-return]
