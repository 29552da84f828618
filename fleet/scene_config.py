"""Config model of a scene, `hardware_configs/worlds/*.yaml`: what stands around each simulated robot.

MuJoCo and Gazebo build the same scene from it, but for hanging objects, which only MuJoCo has. Tasks compute
from it where things are. All positions are in the frame of the robot's root link: x forward, z up. Things of
the scene touch the robot and its fingertip, never each other. `robot_nodes/tasks/door_geometry.py` has the
door's vectors and axes in numbers.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from fleet.config_model import Model, Name, NonNegative, Positive, Topic, Vector3

HINGE_JOINT, HANDLE_JOINT = "door_hinge", "door_handle"
"""Names of the door's joints in its joint states."""

LATCHED_BELOW_RAD = 0.01
"""A door this little open is closed: it stays so, unless its handle is pressed."""

OBJECT_JOINTS = ("object_x", "object_y", "object_z")
"""Names of the joints that are the position of a hanging object (m)."""

NO_OBJECT_IN_GAZEBO = (
    "the task's scene has a hanging object, which only MuJoCo simulates: leave sim.simulator at mujoco, or "
    "choose a task without an object, such as reach or door"
)


class SceneBox(Model):
    """A fixed box, such as a table or a wall."""

    name: Name = Field(description="Unique in the scene.")
    center_m: Vector3 = Field(description="Its middle (m).")
    size_m: tuple[Positive, Positive, Positive] = Field(description="Lengths along x, y and z (m).")
    yaw_rad: float = Field(0.0, description="Turned about z (rad).")
    solid: bool = Field(True, description="Touches the robot; otherwise it is only to be seen.")


class DoorHandle(Model):
    """A lever that is pressed down, on the robot's side of the door.

    Its axis stands perpendicularly on the panel. The lever, a round bar, points from the axis towards the
    hinge, level at angle 0; pressing turns its free end down. It is balanced: gravity does not turn it.
    """

    from_hinge_m: Positive = Field(description="Distance of the lever's axis from the hinge (m).")
    height_m: float = Field(description="Height of the lever's axis, z (m).")
    standoff_m: Positive = Field(
        description="Gap between the panel's surface and the lever's (m); one narrower than the fingertip "
        "keeps that on top of the lever, where it can press, push and pull."
    )
    lever_m: Positive = Field(description="Length of the lever, from its axis towards the hinge (m).")
    radius_m: Positive = Field(description="Of the lever and its axis (m).")
    mass_kg: Positive = Field(description="Of the lever (kg).")
    max_angle_rad: Positive = Field(description="How far it can be pressed down (rad).")
    spring_nm_rad: NonNegative = Field(description="Brings it back up to angle 0 (N m/rad).")
    damping_nms_rad: NonNegative = Field(description="Of its axis (N m s/rad).")
    latch_angle_rad: Positive | None = Field(
        description="The closed door opens only while the lever is pressed at least this far (rad); "
        "null: it is not latched."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.latch_angle_rad is not None and self.latch_angle_rad >= self.max_angle_rad:
            raise ValueError(
                f"latch_angle_rad {self.latch_angle_rad} must be below max_angle_rad {self.max_angle_rad}"
            )
        return self


class Door(Model):
    """A hinged door with a lever handle on the robot's side: the side of the origin, when it is closed.

    The hinge's axis lies in the middle of the panel's thickness; the panel's lower edge is at its foot.
    """

    hinge_m: Vector3 = Field(description="Foot of the hinge's vertical axis (m).")
    yaw_rad: float = Field(description="Direction from the hinge along the closed door, about z (rad).")
    width_m: Positive = Field(description="From the hinge's axis to the free edge (m).")
    height_m: Positive = Field(description="Of the panel (m).")
    thickness_m: Positive = Field(description="Of the panel (m).")
    mass_kg: Positive = Field(description="Of the panel (kg).")
    opens: Literal["push", "pull"] = Field(description="Away from the robot, or towards it.")
    max_angle_rad: Positive = Field(description="How far it opens (rad).")
    damping_nms_rad: NonNegative = Field(description="Of the hinge (N m s/rad).")
    friction_nm: NonNegative = Field(description="Dry friction of the hinge (N m).")
    handle: DoorHandle = Field(description="Its lever.")
    joint_states: Topic = Field(
        "door/joint_states",
        description=f"sensor_msgs/JointState of {HINGE_JOINT} and {HANDLE_JOINT}, positive when opened and "
        "pressed down; in the robot's namespace.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        handle = self.handle
        if not handle.lever_m < handle.from_hinge_m < self.width_m:
            raise ValueError(
                f"handle.lever_m {handle.lever_m} must be below handle.from_hinge_m {handle.from_hinge_m}, "
                f"and that below width_m {self.width_m}: the lever lies within the panel"
            )
        x, y, _ = self.hinge_m
        if abs(x * math.sin(self.yaw_rad) - y * math.cos(self.yaw_rad)) < 0.5 * self.thickness_m:
            raise ValueError(
                "the closed door lies across the robot's root link: move hinge_m or turn yaw_rad"
            )
        return self


class HangingObject(Model):
    """A slender object on a string: an upright rod with round ends, which moves but never turns.

    The string holds it from above: all that is lower, or otherwise beyond its length, is out of reach.
    """

    start_m: Vector3 = Field(description="Its middle, as it hangs in the middle of where it may start (m).")
    randomise_m: tuple[NonNegative, NonNegative, NonNegative] = Field(
        description="Uniform offset of start and string along x, y and z, anew at each reset (m)."
    )
    string_m: Positive = Field(description="From the object's middle straight up to where it hangs (m).")
    string_stiffness_n_m: Positive = Field(
        description="Of the string, an elastic one: what an arm feels that has caught it (N/m)."
    )
    length_m: Positive = Field(description="Of the rod, from end to end (m).")
    radius_m: Positive = Field(description="Of the rod (m).")
    mass_kg: Positive = Field(description="Of the rod (kg).")
    damping_ns_m: NonNegative = Field(description="Of its motion: it stops swinging (N s/m).")
    pose: Topic = Field(
        "object/pose",
        description="geometry_msgs/PoseStamped of its middle, in the frame of the robot's root link; in the "
        "robot's namespace.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.length_m < 2.0 * self.radius_m:
            raise ValueError(f"length_m {self.length_m} must be at least twice radius_m {self.radius_m}")
        return self


class SceneConfig(Model):
    """A scene: `hardware_configs/worlds/*.yaml`."""

    name: Name = Field(description="Kind of scene.")
    boxes: list[SceneBox] = Field([], description="Fixed boxes.")
    door: Door | None = Field(None, description="A door; null: none.")
    object: HangingObject | None = Field(
        None, description="Something that can be picked up, in MuJoCo only; null: nothing."
    )
    fingertip_radius_m: Positive | None = Field(
        None,
        description="Of a ball around the origin of the robot's tool_link that touches the scene (m); "
        "null: only its links do.",
    )
    friction: NonNegative = Field(0.5, description="Coulomb's coefficient between robot and scene.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [box.name for box in self.boxes]
        if len(set(names)) != len(names):
            raise ValueError(f"names of boxes must be unique, got {names}")
        if self.door is not None and self.object is not None:
            raise ValueError("a scene has a door or an object, not both: make two scenes")
        return self

    @property
    def is_solid(self) -> bool:
        """Whether anything in it can be touched."""
        return self.door is not None or self.object is not None or any(box.solid for box in self.boxes)

    @property
    def topics(self) -> dict[str, str]:
        """Message types of what the scene's own sensors publish, by topic."""
        topics = {}
        if self.door is not None:
            topics[self.door.joint_states] = "sensor_msgs/JointState"
        if self.object is not None:
            topics[self.object.pose] = "geometry_msgs/PoseStamped"
        return topics
