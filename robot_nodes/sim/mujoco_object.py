"""A hanging object in MuJoCo: a rod that slides along three axes, held from above by a string."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from fleet.scene_config import OBJECT_JOINTS, HangingObject, SceneConfig
from robot_nodes.sim.mujoco_contacts import touch

Array = NDArray[np.float64]

_STRING, _HOOK = "object_string", "object_hook"
_RGBA, _STRING_RGBA = (0.85, 0.20, 0.15, 1.0), (0.3, 0.3, 0.3, 1.0)
_GRAVITY_M_S2 = 9.81
_GRIP = 10.0  # stiffness of friction to that of normal forces: what is held does not creep out of the fingers


def add_object(spec: Any, scene: SceneConfig, thing: HangingObject) -> None:
    """Hang the object into the world; only the robot touches it."""
    body = spec.worldbody.add_body(name="object")
    for name, axis in zip(OBJECT_JOINTS, np.eye(3), strict=True):
        body.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, damping=[thing.damping_ns_m, 0, 0]
        )
    body.add_geom(
        name="object",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        size=[thing.radius_m, 0.5 * thing.length_m - thing.radius_m, 0],
        mass=thing.mass_kg,
        rgba=_RGBA,
        **touch(scene, True),
    )
    body.add_site(name=_STRING)
    # Away from the origin, or the compiler takes it for fixed there.
    spec.worldbody.add_site(name=_HOOK, pos=_hook_of(thing, np.array(thing.start_m)))
    string = spec.add_tendon(
        name=_STRING,
        stiffness=[thing.string_stiffness_n_m, 0, 0],
        springlength=[0.0, thing.string_m - thing.mass_kg * _GRAVITY_M_S2 / thing.string_stiffness_n_m],
        rgba=_STRING_RGBA,
        width=0.002,
    )
    string.wrap_site(_HOOK)
    string.wrap_site(_STRING)
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = _GRIP


def _hook_of(thing: HangingObject, start: Array) -> Array:
    hook: Array = start + np.array([0.0, 0.0, thing.string_m])
    return hook


class MujocoObject:
    """The object's part of a compiled model.

    Attributes:
        joints: Names of the joints that are its position.
        position_index: Where its x, y and z are in qpos [3].
        velocity_index: Where their derivatives are in qvel [3].
    """

    joints = OBJECT_JOINTS

    def __init__(
        self,
        thing: HangingObject,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        rng: np.random.Generator | None,
    ) -> None:
        self._thing, self._model, self._data, self._rng = thing, model, data, rng
        ids = [model.joint(name).id for name in self.joints]
        self.position_index, self.velocity_index = model.jnt_qposadr[ids], model.jnt_dofadr[ids]
        self._hook = model.site(_HOOK).id

    def step(self, steps: int) -> None:
        """Physics steps."""
        mujoco.mj_step(self._model, self._data, nstep=steps)

    def reset(self) -> None:
        """Hang it up somewhere else, at rest."""
        start = np.array(self._thing.start_m)
        if self._rng is not None:
            start += self._rng.uniform(-1.0, 1.0, 3) * self._thing.randomise_m
        self._model.site_pos[self._hook] = _hook_of(self._thing, start)
        self._data.qpos[self.position_index] = start
        self._data.qvel[self.velocity_index] = 0.0
