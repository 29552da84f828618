"""A scene in MuJoCo, as `fleet/scene_config.py` has it: boxes, a door or an object, the robot's fingertip."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, LATCHED_BELOW_RAD, Door, SceneConfig
from robot_nodes.sim.mujoco_contacts import STIFF, touch
from robot_nodes.sim.mujoco_object import MujocoObject, add_object
from robot_nodes.tasks.door_geometry import DoorGeometry

Array = NDArray[np.float64]

_BOX_RGBA, _DOOR_RGBA, _LEVER_RGBA = (0.80, 0.80, 0.78, 1.0), (0.62, 0.46, 0.32, 1.0), (0.2, 0.2, 0.2, 1.0)


def add_scene(spec: Any, scene: SceneConfig, tool_link: str) -> None:
    """Put the scene around a robot.

    The robot's collision shapes and its fingertip touch what is solid in the scene; nothing else touches.

    Args:
        spec: `mujoco.MjSpec` of the robot alone, whose root link is at the origin.
        scene: What to add.
        tool_link: The robot's body that has the fingertip.
    """
    for geom in spec.geoms:
        geom.conaffinity = 0  # no part of the robot touches another
    if scene.fingertip_radius_m is not None:
        spec.body(tool_link).add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[scene.fingertip_radius_m, 0, 0],
            mass=0.0,
            contype=1,
            conaffinity=0,
            rgba=_LEVER_RGBA,
        )
    for box in scene.boxes:
        spec.worldbody.add_geom(
            name=box.name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=box.center_m,
            quat=_yaw(box.yaw_rad),
            size=[0.5 * length for length in box.size_m],
            rgba=_BOX_RGBA,
            **touch(scene, box.solid),
        )
    if scene.door is not None:
        _add_door(spec, scene, scene.door)
    if scene.object is not None:
        add_object(spec, scene, scene.object)


def scene_part(
    scene: SceneConfig | None, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator | None
) -> MujocoDoor | MujocoObject | None:
    """What moves in a scene, found in the compiled model; None: nothing does.

    Args:
        scene: What has been added.
        model: With it.
        data: Its state.
        rng: Where starts are drawn from; None: the middle of where they may be.
    """
    if scene is None:
        return None
    if scene.object is not None:
        return MujocoObject(scene.object, model, data, rng)
    return MujocoDoor(scene.door, model, data) if scene.door is not None else None


def _add_door(spec: Any, scene: SceneConfig, door: Door) -> None:
    handle, geometry = door.handle, DoorGeometry(door, 0.0)
    panel = spec.worldbody.add_body(name="door", pos=geometry.foot)
    panel.add_joint(
        name=HINGE_JOINT,
        axis=geometry.hinge_axis,
        damping=[door.damping_nms_rad, 0, 0],
        frictionloss=door.friction_nm,
        **_stops(door.max_angle_rad),
    )
    panel.add_geom(
        name="door_panel",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=geometry.panel_center - geometry.foot,
        quat=_yaw(door.yaw_rad),
        size=0.5 * geometry.panel_size,
        mass=door.mass_kg,
        rgba=_DOOR_RGBA,
        **touch(scene, True),
    )
    lever = panel.add_body(name="door_lever", pos=geometry.lever_start - geometry.foot, gravcomp=1.0)
    lever.add_joint(
        name=HANDLE_JOINT,
        axis=geometry.handle_axis,
        stiffness=[handle.spring_nm_rad, 0, 0],
        damping=[handle.damping_nms_rad, 0, 0],
        **_stops(handle.max_angle_rad),
    )
    ends = {"door_lever": geometry.lever_end, "door_lever_axis": geometry.rosette}
    for name, end in ends.items():
        lever.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[0.0, 0.0, 0.0, *(end - geometry.lever_start)],
            size=[handle.radius_m, 0, 0],
            mass=handle.mass_kg if name == "door_lever" else 0.0,
            rgba=_LEVER_RGBA,
            **touch(scene, True),
        )


def _stops(max_angle_rad: float) -> dict[str, Any]:
    return {
        "type": mujoco.mjtJoint.mjJNT_HINGE,
        "limited": mujoco.mjtLimited.mjLIMITED_TRUE,
        "range": [0.0, max_angle_rad],
        "solref_limit": STIFF,
    }


def _yaw(angle_rad: float) -> list[float]:
    return [math.cos(angle_rad / 2), 0.0, 0.0, math.sin(angle_rad / 2)]


class MujocoDoor:
    """The door's part of a compiled model.

    Attributes:
        joints: Names of hinge and handle.
        position_index: Where hinge and handle are in qpos [2].
        velocity_index: Where they are in qvel [2].
    """

    joints = (HINGE_JOINT, HANDLE_JOINT)

    def __init__(self, door: Door, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        ids = [model.joint(name).id for name in self.joints]
        self.position_index, self.velocity_index = model.jnt_qposadr[ids], model.jnt_dofadr[ids]
        self._hinge, self._handle = (int(i) for i in self.position_index)
        self._upper_stop = model.jnt_range[ids[0], 1:]  # a view: writing moves the hinge's stop
        self._latch_angle, self._max_angle = door.handle.latch_angle_rad, door.max_angle_rad

    def step(self, steps: int) -> None:
        """Physics steps, each with the latch as hinge and handle then are."""
        if self._latch_angle is None:
            mujoco.mj_step(self._model, self._data, nstep=steps)
            return
        qpos, stop = self._data.qpos, self._upper_stop
        for _ in range(steps):
            latched = qpos[self._hinge] < LATCHED_BELOW_RAD and qpos[self._handle] < self._latch_angle
            stop[0] = 0.0 if latched else self._max_angle
            mujoco.mj_step(self._model, self._data)

    def reset(self) -> None:
        """Shut the door and let go of its lever, at rest."""
        self._data.qpos[self.position_index] = 0.0
        self._data.qvel[self.velocity_index] = 0.0
