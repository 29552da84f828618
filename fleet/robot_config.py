"""Config model of one kind of robot: `hardware_configs/robots/*.yaml`.

Nothing that keeps a robot safe has a default. What a robot shall do without is written down as such: `null`
or `[]`. SI units throughout; lists per joint are in the order of `joints`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from typing_extensions import Self

from fleet.config_model import Model, Name, NonNegative, Positive, Topic, Vector3
from fleet.sim_config import SimConfig

Reaction = Literal["wait", "latch"]


class UrdfTopic(Model):
    """The URDF as the robot's own driver publishes it (std_msgs/String, kept for late subscribers)."""

    topic: Topic = Field(description="In the robot's namespace, unless it starts with /.")
    timeout_s: Positive = Field(10.0, description="How long to wait for it (s, wall time).")


def _urdf_kind(value: Any) -> str:
    return "{topic}" if isinstance(value, dict | UrdfTopic) else "a file"


UrdfSource = Annotated[
    Annotated[Path, Tag("a file")] | Annotated[UrdfTopic, Tag("{topic}")], Discriminator(_urdf_kind)
]


# What the guard enforces -------------------------------------------------------------------


class WorkspaceSphere(Model):
    """The tool stays inside this sphere (arXiv:1610.00633)."""

    center_m: Vector3 = Field(description="In the frame of the URDF's root link (m).")
    radius_m: Positive = Field(description="Radius of the sphere (m).")


class WorkspaceBox(Model):
    """The tool stays inside this box, whose sides are parallel to the axes of the root link."""

    low_m: Vector3 = Field(description="Corner with the lowest x, y and z (m).")
    high_m: Vector3 = Field(description="Corner with the highest x, y and z (m).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(low < high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise ValueError(f"low_m {self.low_m} must be below high_m {self.high_m} in x, y and z")
        return self


class HalfSpace(Model):
    """One side of a plane: all points p with normal · p ≥ offset_m."""

    name: Name = Field(description="Shown when it acts.")
    normal: Vector3 = Field(description="Points to the allowed side; its length does not matter.")
    offset_m: float = Field(description="Distance of the plane from the origin along the normal (m).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if math.hypot(*self.normal) < 1e-6:
            raise ValueError("normal must not be zero: [0, 0, 1] points up")
        return self


class LinkSphere(Model):
    """A ball around a part of the arm."""

    link: str = Field(description="Link of the URDF it moves with.")
    center_m: Vector3 = Field(description="In the frame of that link (m).")
    radius_m: Positive = Field(description="Large enough to cover its part of the arm (m).")


class SafetyLimits(Model):
    """What the guard enforces on every command. No limit has a default: a missing one is an error."""

    position_low_rad: list[float] = Field(description="Lowest joint positions (rad).")
    position_high_rad: list[float] = Field(description="Highest joint positions (rad).")
    max_joint_velocity_rad_s: list[Positive] = Field(description="An action of 1 commands this (rad/s).")
    max_joint_acceleration_rad_s2: list[Positive] = Field(description="Of commands, braking too (rad/s²).")
    max_joint_jerk_rad_s3: list[Positive] | None = Field(
        description="Change of acceleration (rad/s³); null: not limited. Stopping is not held back by it."
    )
    max_effort: list[Positive] | None = Field(
        description="Measured effort that stops the robot (N m); null: efforts are not looked at."
    )
    workspace_sphere: WorkspaceSphere = Field(description="The tool stays inside.")
    workspace_box: WorkspaceBox | None = Field(description="The tool stays inside; null: no box.")
    workspace_planes: list[HalfSpace] = Field(description="The tool stays on the allowed side of each.")
    link_planes: list[HalfSpace] = Field(
        description="Every link sphere stays on the allowed side of each: the table, walls."
    )
    link_spheres: list[LinkSphere] = Field(
        description="Balls that cover the arm, for link_planes and self_collision; []: guard only the tool."
    )
    link_margin_m: NonNegative = Field(
        description="Least distance of link spheres from planes and from each other (m)."
    )
    self_collision: bool = Field(description="Link spheres of different links keep clear of each other.")
    self_collision_ignore: list[tuple[str, str]] = Field(
        description="Pairs of links that may touch; links joined by one joint always may."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        lists = {
            "position_low_rad": self.position_low_rad,
            "position_high_rad": self.position_high_rad,
            "max_joint_velocity_rad_s": self.max_joint_velocity_rad_s,
            "max_joint_acceleration_rad_s2": self.max_joint_acceleration_rad_s2,
            "max_joint_jerk_rad_s3": self.max_joint_jerk_rad_s3,
            "max_effort": self.max_effort,
        }
        sizes = {name: len(values) for name, values in lists.items() if values is not None}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"all per-joint limits must be equally long, got lengths {sizes}")
        for i, (low, high) in enumerate(zip(self.position_low_rad, self.position_high_rad, strict=True)):
            if not low < high:
                raise ValueError(
                    f"position_low_rad[{i}] = {low} must be below position_high_rad[{i}] = {high}"
                )
        if not self.link_spheres and (self.link_planes or self.self_collision):
            raise ValueError("link_planes and self_collision need link_spheres that cover the arm")
        return self


class RatedLimits(Model):
    """What the maker of the arm publishes; `limits` must stay inside. For people and for `pnaf doctor`."""

    source: str = Field(description="Document the values are from.")
    position_low_rad: list[float] = Field(description="Lowest joint positions (rad).")
    position_high_rad: list[float] = Field(description="Highest joint positions (rad).")
    max_joint_velocity_rad_s: list[Positive] = Field(description="Highest joint velocities (rad/s).")
    max_joint_acceleration_rad_s2: list[Positive] | None = Field(
        None, description="Highest joint accelerations (rad/s²); null: not published."
    )
    max_joint_jerk_rad_s3: list[Positive] | None = Field(
        None, description="Highest joint jerks (rad/s³); null: not published."
    )
    max_effort: list[Positive] | None = Field(
        None, description="Highest joint torques (N m); null: not published."
    )

    def violations(self, limits: SafetyLimits) -> list[str]:
        """Where `limits` go beyond what the maker publishes, one line each."""
        found = []
        for name in type(self).model_fields:
            rated, used = getattr(self, name), getattr(limits, name, None)
            if name == "source" or rated is None or used is None:
                continue
            if len(rated) != len(used):
                found.append(f"rated.{name} has {len(rated)} values, limits.{name} {len(used)}")
                continue
            sign = -1.0 if name == "position_low_rad" else 1.0
            for i, (most, value) in enumerate(zip(rated, used, strict=True)):
                if sign * value > sign * most:
                    found.append(f"limits.{name}[{i}] = {value:g} is beyond the rated {most:g}")
        return found


# Watchdogs ---------------------------------------------------------------------------------


class TimeWatchdog(Model):
    """Trips when something has lasted too long."""

    limit_s: Positive = Field(description="Longest time that is still right (s).")
    action: Reaction = Field(
        description="wait: hold still until it is right again; latch: until a person resumes the robot."
    )


class CountWatchdog(Model):
    """Trips when something has happened too many times in a row."""

    limit: int = Field(ge=1, description="How many in a row trip it.")
    action: Reaction = Field(
        description="wait: hold still until it is right again; latch: until a person resumes the robot."
    )


class LateTicksWatchdog(CountWatchdog):
    """Trips when control ticks keep coming late."""

    late_s: Positive = Field(
        description="A tick is late when it comes this long after its time (s, ROS time)."
    )


class TrackingWatchdog(Model):
    """Trips when a joint does not go where its commands send it: it is stuck, or its state is frozen."""

    window_s: Positive = Field(description="Over which travel is compared (s).")
    limit_rad: Positive = Field(
        description="Largest difference between commanded and measured travel in the window (rad), and, in "
        "however long, in one direction, of a joint that hardly moves."
    )
    action: Reaction = Field(
        description="wait: hold still until it is right again; latch: until a person resumes the robot."
    )


class PolicyAgeWatchdog(Model):
    """What to do when nothing has been heard from the learner for long."""

    limit_s: Positive = Field(
        description="Wall-clock age of the newest policy past which the action is done."
    )
    action: Literal["keep_acting", "wait", "latch"] = Field(
        description="keep_acting: act with the old policy; wait: hold still until there is a newer one; "
        "latch: until a person resumes the robot."
    )


class Watchdogs(Model):
    """What stops the robot besides the guard. Each commands zero first; none has a default."""

    state_age: TimeWatchdog = Field(description="Age of the newest joint state (ROS time).")
    state_silence: TimeWatchdog = Field(description="Time without any joint state (wall time).")
    state_order: CountWatchdog = Field(description="Joint states in a row that are not newer than the last.")
    bad_states: CountWatchdog = Field(
        description="Joint states in a row that lack a joint or do not fit together."
    )
    non_finite: CountWatchdog = Field(description="Readings in a row with NaN or infinity.")
    tracking: TrackingWatchdog | None = Field(
        description="A joint that does not follow its commands; null: not looked at."
    )
    late_ticks: LateTicksWatchdog = Field(description="Control ticks in a row that come late.")
    command_subscriber: TimeWatchdog = Field(
        description="Time without a controller that hears the commands (wall time)."
    )
    loop_hang_s: Positive = Field(
        description="A process of its own commands zeros when the control loop has stood still this long "
        "(s, wall time) or the node has died. Always latches."
    )
    other_commander: Reaction | None = Field(
        description="What follows when somebody else publishes on the command topic; null: not looked at."
    )
    effort: Reaction = Field(description="What follows when limits.max_effort is exceeded.")
    sensor_age: Reaction = Field(description="What follows when a sensor is older than its max_age_s.")
    spool_full: Reaction = Field(
        description="What follows when the robot's spool is full and on_full is stop."
    )
    policy_age: PolicyAgeWatchdog = Field(description="Age of the newest policy (wall time).")


# Around the episodes -----------------------------------------------------------------------


class TopicsConfig(Model):
    """Names in the robot's namespace, as ros2_control has them; with a leading / they are absolute."""

    joint_states: Topic = Field("joint_states", description="sensor_msgs/JointState, in.")
    command: Topic = Field(
        "forward_velocity_controller/commands",
        description="std_msgs/Float64MultiArray, out: joint velocities for a ForwardCommandController.",
    )
    joint_trajectory: Topic = Field(
        "joint_trajectory_controller/joint_trajectory",
        description="trajectory_msgs/JointTrajectory, out: with the reset step `trajectory`.",
    )


ResetStep = Literal["velocity", "trajectory", "service", "person"]


class ResetConfig(Model):
    """What happens between two episodes, one step after the other; motion goes through the guard as well."""

    steps: list[ResetStep] = Field(
        ["velocity"],
        min_length=1,
        description="velocity: servo home; trajectory: send a JointTrajectory home; "
        "service: call one and wait; person: wait until somebody calls ~/ready.",
    )
    home_rad: list[float] = Field(description="Where episodes start (rad).")
    randomise_rad: NonNegative = Field(0.3, description="Uniform offset of each joint around home (rad).")
    gain_per_s: Positive = Field(4.0, description="Velocity per position error (1/s).")
    speed: float = Field(
        1.0, gt=0, le=1, description="Fraction of the velocity limits that a motion home uses."
    )
    tolerance_rad: Positive = Field(0.05, description="Close enough to start, per joint (rad).")
    timeout_s: Positive = Field(
        10.0, description="Robot time after which a motion or a service call is a fault (s)."
    )
    service: Topic | None = Field(None, description="std_srvs/Trigger that the step `service` calls.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ("service" in self.steps) != (self.service is not None):
            raise ValueError("reset.service names the service of the step `service`: give both or none")
        return self


class TeleopConfig(Model):
    """A person who takes over: while one of these streams is fresh, it moves the robot, through the guard."""

    twist_topic: Topic | None = Field(
        None, description="geometry_msgs/TwistStamped of the tool, in the frame its header names."
    )
    joint_velocity_topic: Topic | None = Field(
        None, description="std_msgs/Float64MultiArray: joint velocities (rad/s)."
    )
    max_age_s: Positive = Field(description="Older commands of the person do not count (s, wall time).")
    max_linear_m_s: Positive = Field(0.25, description="Faster twists are scaled down to this (m/s).")
    max_angular_rad_s: Positive = Field(1.0, description="Faster twists are scaled down to this (rad/s).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.twist_topic is None and self.joint_velocity_topic is None:
            raise ValueError("teleop needs twist_topic, joint_velocity_topic or both")
        return self


class LabelsConfig(Model):
    """What ~/label_success and ~/label_failure add to the reward of the step they end the episode with."""

    success_reward: float = Field(0.0, description="Added when a person calls the episode a success.")
    failure_reward: float = Field(0.0, description="Added when a person calls it a failure.")


class ExternalEstop(Model):
    """An e-stop input from outside, such as a button or a safety PLC."""

    topic: Topic = Field(description="std_msgs/Bool.")
    stop_when: bool = Field(True, description="The value that means stop.")
    max_age_s: Positive | None = Field(
        description="Silence for this long is an e-stop, too (s, wall time); null: only messages count."
    )


# Extra sensors -----------------------------------------------------------------------------

Bound = float | list[float]


class _Sensor(Model):
    name: Name = Field(description="Prefix of its numbers in the observation; unique on this robot.")
    topic: Topic = Field(description="In the robot's namespace, unless it starts with /.")
    low: Bound = Field(description="Lower bounds in the observation: one for all, or one per number.")
    high: Bound = Field(description="Upper bounds in the observation: one for all, or one per number.")
    max_age_s: Positive = Field(description="Older readings stop the robot (s, wall time).")

    @property
    def components(self) -> tuple[str, ...]:
        """Names of its numbers, in order."""
        raise NotImplementedError

    @property
    def units(self) -> tuple[str, ...]:
        """SI unit of each number."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _check(self) -> Self:
        n = len(self.components)
        lows, highs = self.bounds(self.low), self.bounds(self.high)
        if len(lows) != n or len(highs) != n:
            raise ValueError(f"low and high must be one number or {n}, got {len(lows)} and {len(highs)}")
        if not all(low < high for low, high in zip(lows, highs, strict=True)):
            raise ValueError(f"low {lows} must be below high {highs}")
        return self

    def bounds(self, bound: Bound) -> list[float]:
        """`low` or `high`, one value per number."""
        return list(bound) if isinstance(bound, list) else [bound] * len(self.components)


_XYZ, _XYZW = ("x", "y", "z"), ("x", "y", "z", "w")


class JointStateSensor(_Sensor):
    """Joints that are not the robot's own: a gripper, a door's hinge; or the robot's own efforts."""

    type: Literal["sensor_msgs/JointState"] = Field(description="Message type of the topic.")
    field: Literal["position", "velocity", "effort"] = Field(description="Which of the message's lists.")
    joints: list[str] = Field(min_length=1, description="Which joints, in this order.")

    @property
    def components(self) -> tuple[str, ...]:
        """The joints."""
        return tuple(self.joints)

    @property
    def units(self) -> tuple[str, ...]:
        """Of the field; joints are taken to be revolute."""
        return ({"position": "rad", "velocity": "rad/s", "effort": "N m"}[self.field],) * len(self.joints)


class ImuSensor(_Sensor):
    """An inertial measurement unit, as the paper has one on its door."""

    type: Literal["sensor_msgs/Imu"] = Field(description="Message type of the topic.")
    field: Literal["orientation", "angular_velocity", "linear_acceleration"] = Field(
        description="Which part of the message."
    )

    @property
    def components(self) -> tuple[str, ...]:
        """Three axes, or a quaternion."""
        return _XYZW if self.field == "orientation" else _XYZ

    @property
    def units(self) -> tuple[str, ...]:
        """Of the field."""
        unit = {"orientation": "1", "angular_velocity": "rad/s", "linear_acceleration": "m/s^2"}[self.field]
        return (unit,) * len(self.components)


class PoseSensor(_Sensor):
    """A pose, of an object or a handle that a tracker sees."""

    type: Literal["geometry_msgs/PoseStamped"] = Field(description="Message type of the topic.")
    field: Literal["position", "orientation", "pose"] = Field(description="Which part of the message.")

    @property
    def components(self) -> tuple[str, ...]:
        """Three axes, a quaternion, or both."""
        orientation = tuple(f"q{axis}" for axis in _XYZW)
        return {"position": _XYZ, "orientation": orientation, "pose": (*_XYZ, *orientation)}[self.field]

    @property
    def units(self) -> tuple[str, ...]:
        """Metres, and 1 for quaternions."""
        return tuple("m" if name in _XYZ else "1" for name in self.components)


class ArraySensor(_Sensor):
    """Any numbers, as std_msgs/Float64MultiArray."""

    type: Literal["std_msgs/Float64MultiArray"] = Field(description="Message type of the topic.")
    size: int = Field(ge=1, le=1024, description="How many numbers a message holds.")
    unit: str = Field("1", description="SI unit of all of them.")

    @property
    def components(self) -> tuple[str, ...]:
        """Their indices."""
        return tuple(map(str, range(self.size)))

    @property
    def units(self) -> tuple[str, ...]:
        """`unit` for each."""
        return (self.unit,) * self.size


SensorConfig = Annotated[JointStateSensor | ImuSensor | PoseSensor | ArraySensor, Field(discriminator="type")]


# The robot ---------------------------------------------------------------------------------


class RobotConfig(Model):
    """One kind of robot: `hardware_configs/robots/*.yaml`."""

    name: Name = Field(description="Kind of robot; robot ids are given by the fleet.")
    urdf: UrdfSource = Field(
        description="A file, relative to the robot's YAML file; or {topic: robot_description}."
    )
    joints: list[str] = Field(min_length=1, description="In the order of the command controller.")
    tool_link: str = Field(description="Link of the URDF that tasks and the workspace speak of.")
    control_rate_hz: Positive = Field(description="Ticks per second: observe, act, guard, command.")
    limits: SafetyLimits = Field(description="What the guard enforces.")
    rated: RatedLimits | None = Field(None, description="What the arm's maker publishes; limits stay inside.")
    watchdogs: Watchdogs = Field(description="What stops the robot besides the guard.")
    reset: ResetConfig = Field(description="What happens between two episodes.")
    topics: TopicsConfig = Field(TopicsConfig(), description="Where the arm is heard and told.")
    sensors: list[SensorConfig] = Field([], description="Appended to the task's observation, in this order.")
    teleop: TeleopConfig | None = Field(None, description="A person's stream that takes over; null: none.")
    labels: LabelsConfig = Field(LabelsConfig(), description="What a person's verdict adds to the reward.")
    external_estop: ExternalEstop | None = Field(None, description="E-stop input from outside; null: none.")
    sim: SimConfig | None = Field(None, description="Absent: real hardware, nothing is simulated.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        n = len(self.joints)
        if len(set(self.joints)) != n:
            raise ValueError(f"joints must be unique, got {self.joints}")
        if len(self.limits.position_low_rad) != n:
            raise ValueError(f"limits has {len(self.limits.position_low_rad)} joints but joints lists {n}")
        if len(self.reset.home_rad) != n:
            raise ValueError(f"reset.home_rad has {len(self.reset.home_rad)} values but joints lists {n}")
        for i, home in enumerate(self.reset.home_rad):
            if not self.limits.position_low_rad[i] <= home <= self.limits.position_high_rad[i]:
                raise ValueError(f"reset.home_rad[{i}] = {home} is outside the position limits")
        if self.rated is not None and (violations := self.rated.violations(self.limits)):
            raise ValueError("; ".join(violations))
        names = [sensor.name for sensor in self.sensors]
        if len(set(names)) != len(names):
            raise ValueError(f"names of sensors must be unique, got {names}")
        if self.sim is not None and not isinstance(self.urdf, Path):
            raise ValueError("a simulated robot needs a URDF file: nobody publishes one")
        return self
