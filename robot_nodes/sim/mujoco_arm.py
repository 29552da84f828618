"""A robot arm in MuJoCo whose joints follow velocity commands, as an industrial arm's controller does."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig
from robot_nodes.sim.mujoco_contacts import STIFF
from robot_nodes.sim.mujoco_scene import add_scene, scene_part

Array = NDArray[np.float64]

# The servo: torque = gain (command - velocity). The arm has about 2.5 kg m² at the shoulder, so it answers
# within 3 ms and sags by 0.1 % under Coriolis forces. The URDF's effort limits are not applied: a gain
# this stiff would chatter against them, and the guard's acceleration limit keeps below them on average.
# Only an arm that can touch something has them, or it would press with tons; its gain reaches them at
# FULL_EFFORT_RAD_S, which does not chatter with any inertia above effort × timestep / (2 FULL_EFFORT_RAD_S).
# A weak joint, such as a gripper's, has a small rotor and little friction, or it would lag behind.
FULL_EFFORT_RAD_S = 1.0
WEAK_NM = 60.0
SERVO_GAIN_NMS_RAD = 1000.0
ARMATURE_KGM2 = 0.1  # the motors' rotors, seen through their gears
DAMPING_NMS_RAD = 1.0


class MujocoArm:
    """The physics of one arm and its scene: a `SimulatedArm`, which says how it is used.

    Gravity is compensated, and nothing collides but the robot with its scene: only what reaches the topics
    of a real arm is modelled.
    """

    def __init__(
        self,
        config: RobotConfig,
        rng: np.random.Generator | None = None,
        scene: SceneConfig | None = None,
    ) -> None:
        """Load the arm at its home position.

        Args:
            config: Robot with a `sim` group.
            rng: Where `reset()` without a position, and the scene, draw offsets; none: no offsets.
            scene: What stands around it; none: nothing.

        Raises:
            ValueError: The config has no `sim`, or the URDF cannot be loaded or lacks a joint or link.
        """
        if config.sim is None:
            raise ValueError(f"robot {config.name!r} has no sim group in its config: it is real hardware")
        self._config = config
        self._rng = rng
        self._timestep_ns = round(config.sim.timestep_s * 1e9)
        self.model = _compile(config, self._timestep_ns * 1e-9, scene)
        self.data = mujoco.MjData(self.model)
        ids = [self.model.joint(name).id for name in config.joints]
        self._position_index = self.model.jnt_qposadr[ids]
        self._velocity_index = self.model.jnt_dofadr[ids]
        self._tool = self.model.body(config.tool_link).id
        self._scene = scene_part(scene, self.model, self.data, rng)
        self.scene_joints: tuple[str, ...] = self._scene.joints if self._scene is not None else ()
        self._steps = 0
        self.reset(config.reset.home_rad)

    @property
    def q(self) -> Array:
        """Joint positions [nq] (rad)."""
        return self.data.qpos[self._position_index]  # type: ignore[no-any-return]

    @property
    def qd(self) -> Array:
        """Joint velocities [nq] (rad/s)."""
        return self.data.qvel[self._velocity_index]  # type: ignore[no-any-return]

    @property
    def effort(self) -> Array:
        """Torque of each servo, gravity compensation aside [nq] (N m)."""
        return self.data.qfrc_actuator[self._velocity_index]  # type: ignore[no-any-return]

    @property
    def scene_q(self) -> Array:
        """Positions of the scene's joints [ns] (rad, or m where they slide)."""
        return np.zeros(0) if self._scene is None else self.data.qpos[self._scene.position_index]

    @property
    def scene_qd(self) -> Array:
        """Velocities of the scene's joints [ns] (rad/s, or m/s where they slide)."""
        return np.zeros(0) if self._scene is None else self.data.qvel[self._scene.velocity_index]

    @property
    def time_ns(self) -> int:
        """Simulated time since construction (ns); a reset does not turn it back."""
        return self._steps * self._timestep_ns

    @property
    def tool_position(self) -> Array:
        """Position of the tool [3] (m) in the frame of the base, by MuJoCo's own kinematics."""
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.xpos[self._tool].copy()  # type: ignore[no-any-return]

    def command(self, velocity: ArrayLike) -> None:
        """Ask for joint velocities [nq] (rad/s) until the next command."""
        self.data.ctrl[:] = velocity

    def step(self, seconds: float) -> None:
        """Advance by a whole number of physics steps, the nearest to `seconds`.

        Raises:
            ValueError: That is less than one step.
        """
        steps = round(seconds * 1e9 / self._timestep_ns)
        if steps < 1:
            raise ValueError(f"step of {seconds} s is shorter than the timestep {self._timestep_ns * 1e-9} s")
        if self._scene is None:
            mujoco.mj_step(self.model, self.data, nstep=steps)
        else:
            self._scene.step(steps)
        self._steps += steps

    def reset(self, q: ArrayLike | None = None) -> None:
        """Put the arm at rest at q [nq] (rad), or at home offset by `randomise_rad`; the scene as at first.

        An extra of simulation, for tests and in-process training: a fleet resets by motion.
        """
        if q is None:
            reset = self._config.reset
            q = np.array(reset.home_rad)
            if self._rng is not None:
                q = q + self._rng.uniform(-reset.randomise_rad, reset.randomise_rad, len(q))
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._position_index] = q
        self._place_followers()
        self.reset_scene()

    def reset_scene(self) -> None:
        """Close the door, hang up the object anew. The arm stays where it is."""
        if self._scene is not None:
            self._scene.reset()
        mujoco.mj_forward(self.model, self.data)

    def _place_followers(self) -> None:
        """Put joints that mimic another (URDF) where that one says: MuJoCo would make them snap there."""
        for follower, leader, (offset, factor) in zip(
            self.model.eq_obj1id, self.model.eq_obj2id, self.model.eq_data[:, :2], strict=True
        ):
            start = self.data.qpos[self.model.jnt_qposadr[leader]]
            self.data.qpos[self.model.jnt_qposadr[follower]] = offset + factor * start

    def close(self) -> None:
        """Nothing to free: the physics are in this process."""


def _compile(config: RobotConfig, timestep_s: float, scene: SceneConfig | None) -> mujoco.MjModel:
    """The URDF with a velocity servo on each joint, in its scene."""
    if not isinstance(config.urdf, Path):
        raise ValueError(f"{config.name}: simulation needs a URDF file, not topic {config.urdf.topic}")
    touches = scene is not None and scene.is_solid
    try:
        spec = mujoco.MjSpec.from_string(_primitives(config.urdf, collisions=touches))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"{config.urdf}: cannot be loaded as a URDF: {error}") from error
    joints = {joint.name: joint for joint in spec.joints}
    for name in config.joints:
        if name not in joints:
            raise ValueError(f"{config.urdf}: no moving joint {name!r}; it has: {', '.join(joints)}")
        gain, effort, weakness = SERVO_GAIN_NMS_RAD, joints[name].actfrcrange[1], 1.0
        if touches and effort > 0.0:
            gain = min(gain, effort / FULL_EFFORT_RAD_S)
            weakness = min(1.0, effort / WEAK_NM)
        else:
            joints[name].actfrclimited = mujoco.mjtLimited.mjLIMITED_FALSE
        joints[name].armature = weakness * ARMATURE_KGM2
        joints[name].damping[0] = weakness * DAMPING_NMS_RAD
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_velocity(kv=gain)
    bodies = {body.name: body for body in spec.bodies}
    if config.tool_link not in bodies:
        raise ValueError(f"{config.urdf}: no link {config.tool_link!r}; it has: {', '.join(bodies)}")
    for body in spec.bodies:
        body.gravcomp = 1.0
    for mimic in spec.equalities:
        mimic.solref = STIFF
    spec.option.timestep = timestep_s
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST  # a stiff servo stays stable
    if scene is not None:
        add_scene(spec, scene, config.tool_link)
    if not touches:
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    return spec.compile()


def _primitives(urdf: Path, *, collisions: bool) -> str:
    """The URDF's text with primitive visuals and, if wanted, collisions only, every link kept as a body."""
    root = ElementTree.fromstring(urdf.read_text())
    for link in root.iter("link"):
        for shape in [*link.findall("collision"), *link.findall("visual")]:
            meshed = shape.find("geometry/mesh") is not None  # their files need ROS packages to be found
            if meshed or (shape.tag == "collision" and not collisions):
                link.remove(shape)
    extension = ElementTree.SubElement(root, "mujoco")
    ElementTree.SubElement(extension, "compiler", discardvisual="false", fusestatic="false")
    return ElementTree.tostring(root, encoding="unicode")
