"""Config models: what may stand in a fleet's YAML and in those of its robots and its task.

Every key is checked and an unknown one is an error. `fleet/config_file.py` reads the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from typing_extensions import Self

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Vector3 = tuple[float, float, float]
DEFAULT_KEYS = Path("~/.config/parallel-naf/keys")
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


def _port_exists(endpoint: str) -> str:
    port = endpoint.rpartition(":")[2]
    if port != "*" and not 0 < int(port) < 2**16:
        raise ValueError(f"port {port} must be 1 to 65535")
    return endpoint


Endpoint = Annotated[
    str,
    Field(pattern=r"^tcp://(\[[0-9a-f:]+\]|[\w.\-*]+):(\d{1,5}|\*)$"),
    AfterValidator(_port_exists),
]


class ConfigError(ValueError):
    """A config file cannot be used; the text says which key of which file, and what to do."""


class Model(BaseModel):
    """Base of all configs: unknown keys, infinities and NaN are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WorkspaceSphere(Model):
    """The end effector stays inside this sphere."""

    center_m: Vector3
    radius_m: Positive


class SafetyLimits(Model):
    """What the guard enforces. No limit has a default: a missing one is an error."""

    position_low_rad: list[float]
    position_high_rad: list[float]
    max_joint_velocity_rad_s: list[Positive]
    max_joint_acceleration_rad_s2: list[Positive]
    workspace_sphere: WorkspaceSphere
    max_state_age_s: Positive = Field(description="Older joint states stop the robot (s, ROS time).")
    max_state_silence_s: Positive = Field(description="No joint state for this long stops it (s, wall time).")
    on_stale_state: Literal["latch", "wait"] = Field(
        description="latch: a person must clear the fault; wait: go on with a reset when states are back."
    )
    max_policy_age_s: Positive = Field(description="Past this wall-clock age on_old_policy is done.")
    on_old_policy: Literal["keep_acting", "hold"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = {
            len(self.position_low_rad),
            len(self.position_high_rad),
            len(self.max_joint_velocity_rad_s),
            len(self.max_joint_acceleration_rad_s2),
        }
        if len(sizes) != 1:
            raise ValueError(f"all per-joint limits must be equally long, got lengths {sorted(sizes)}")
        for i, (low, high) in enumerate(zip(self.position_low_rad, self.position_high_rad, strict=True)):
            if not low < high:
                raise ValueError(
                    f"position_low_rad[{i}] = {low} must be below position_high_rad[{i}] = {high}"
                )
        return self


class TopicsConfig(Model):
    """Names inside the robot's namespace, as ros2_control has them."""

    joint_states: str = "joint_states"
    command: str = "forward_velocity_controller/commands"


class ResetConfig(Model):
    """The motion between two episodes: a guarded joint-velocity servo to a randomised home."""

    home_rad: list[float]
    randomise_rad: NonNegative = Field(0.3, description="Uniform offset of each joint around home (rad).")
    gain_per_s: Positive = Field(4.0, description="Velocity per position error (1/s).")
    tolerance_rad: Positive = Field(0.05, description="Close enough to start, per joint (rad).")
    timeout_s: Positive = Field(10.0, description="Robot time after which the reset is a fault (s).")


class SimConfig(Model):
    """The simulated arm behind the topics."""

    timestep_s: Positive = 0.002
    joint_state_rate_hz: Positive = Field(100.0, description="Also the rate of /clock.")
    speed: NonNegative = Field(1.0, description="Simulated seconds per second; 0: as fast as it can.")
    lockstep_timeout_s: NonNegative = Field(
        0.0,
        description="At each control period wait up to this wall time for the next command, so that "
        "faster-than-real-time runs have the timing of real time; 0: never wait.",
    )
    shuffle_joint_order: bool = Field(True, description="Publish joints in another order than the URDF's.")


class RobotConfig(Model):
    """One kind of robot: `hardware_configs/robots/*.yaml`."""

    name: Name
    urdf: Path = Field(description="Relative to the robot's YAML file.")
    joints: list[str] = Field(min_length=1, description="In the order of the command controller.")
    tool_link: str
    control_rate_hz: Positive
    limits: SafetyLimits
    reset: ResetConfig
    topics: TopicsConfig = TopicsConfig()
    sim: SimConfig | None = Field(None, description="Absent: real hardware, nothing is simulated.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        n = len(self.joints)
        if len(self.limits.position_low_rad) != n:
            raise ValueError(f"limits has {len(self.limits.position_low_rad)} joints but joints lists {n}")
        if len(self.reset.home_rad) != n:
            raise ValueError(f"reset.home_rad has {len(self.reset.home_rad)} values but joints lists {n}")
        for i, home in enumerate(self.reset.home_rad):
            if not self.limits.position_low_rad[i] <= home <= self.limits.position_high_rad[i]:
                raise ValueError(f"reset.home_rad[{i}] = {home} is outside the position limits")
        return self


class ReachTaskConfig(Model):
    """Bring the tool to a random point: targets fill a spherical shell above the table."""

    kind: Literal["reach"]
    episode_s: Positive = Field(description="Length of an episode in robot time (s).")
    success_radius_m: Positive
    target_center_m: Vector3
    target_radius_m: tuple[Positive, Positive] = Field(description="Inner and outer radius of the shell (m).")
    target_min_z_m: float
    target_min_x_m: float = Field(description="Targets lie in front of the robot: x at least this (m).")
    distance_weight: NonNegative = 1.0
    precision_weight: NonNegative = 0.5
    precision_scale_per_m2: Positive = 100.0
    action_weight: NonNegative = 0.01

    @model_validator(mode="after")
    def _check(self) -> Self:
        inner, outer = self.target_radius_m
        if not inner < outer:
            raise ValueError(
                f"target_radius_m must be [inner, outer] with inner < outer, got [{inner}, {outer}]"
            )
        return self


TaskConfig = ReachTaskConfig  # a union, told apart by `kind`, once there are more


class RobotEntry(Model):
    """One robot of the fleet."""

    id: Name
    robot: RobotConfig
    exploration_scale: NonNegative = Field(1.0, description="Multiplies the policy's exploration_std.")


class ReplayServerConfig(Model):
    """The replay server."""

    endpoint: Endpoint = "tcp://127.0.0.1:5710"
    capacity_rows: int = Field(1_000_000, gt=0)
    fsync: bool = Field(
        True, description="Wait for the disk before rows are acknowledged; without, a power cut loses rows."
    )
    sample_min_rows: int = Field(1000, ge=1, description="Samples are refused below this many rows.")
    samples_per_insert: float | None = Field(
        None, gt=0, description="Rows sampled per row inserted; none: no limit."
    )


class LearnerConfig(Model):
    """The NAF learner; `learner/naf.py` gives the equations."""

    seed: int = 0
    policy_endpoint: Endpoint = "tcp://127.0.0.1:5711"
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    threads: int = Field(1, ge=1)
    hidden_sizes: list[int] = Field([100, 100], min_length=1)
    off_diagonal: bool = Field(False, description="P has off-diagonal entries; otherwise it is diagonal.")
    batch_size: int = Field(64, ge=1)
    learning_rate: Positive = 5e-4
    gamma: Fraction = 0.8
    polyak_tau: Fraction = 0.005
    reward_scale: Positive = Field(
        10.0, description="Q − V must fit the bounds of P: about −1 for bad actions."
    )
    updates_per_row: Positive = Field(4.0, description="Updates per transition inserted.")
    warmup_rows: int = Field(1000, ge=1, description="Rows before the first update; robots act at random.")
    normalise_observations: bool = True
    exploration_std: NonNegative = 0.4
    warmup_exploration_std: NonNegative = Field(1.0, description="exploration_std before the first update.")
    exploration_correlation: float = Field(0.0, ge=0, lt=1)
    publish_period_s: Positive = 0.5
    checkpoint_period_s: Positive = 60.0
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints that are kept.")
    log_period_s: Positive = 2.0


class SpoolConfig(Model):
    """Each robot's own disk, where its experience waits until the replay server has it."""

    max_mb: int = Field(1024, ge=1, description="Of one robot (10^6 bytes).")
    on_full: Literal["stop", "drop_oldest"] = Field(
        "stop", description="stop: the robot holds still until there is room; drop_oldest: rows are lost."
    )


class RosConfig(Model):
    """ROS 2 settings of every process this fleet starts."""

    domain_id: int = Field(0, ge=0, le=232)
    discovery_range: Literal["LOCALHOST", "SUBNET", "OFF", "SYSTEM_DEFAULT"] = "SUBNET"


class GoalConfig(Model):
    """When `pnaf fleet up` ends by itself."""

    success_rate: Fraction = 0.9
    over_episodes: int = Field(20, ge=1, description="Newest noise-free episodes that count.")
    confirm_episodes: int = Field(
        50,
        ge=0,
        description="Fresh simulated episodes in which the newest policy alone must reach it, too.",
    )
    time_budget_s: Positive = 1500.0


class SecurityConfig(Model):
    """Keys for every socket; `docs/security.md` shows how to set them up."""

    keys: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        DEFAULT_KEYS,
        validate_default=True,
        description="This machine's keys and those it lets in; relative to the fleet's YAML file.",
    )


class FleetConfig(Model):
    """A whole fleet: `hardware_configs/fleets/*.yaml`."""

    name: Name
    seed: int = 0
    task: TaskConfig
    robots: list[RobotEntry] = Field(min_length=1)
    evaluate_every: int = Field(5, ge=2, description="Each k-th episode of a robot is noise-free.")
    replay_server: ReplayServerConfig = ReplayServerConfig()
    learner: LearnerConfig = LearnerConfig()
    spool: SpoolConfig = SpoolConfig()
    ros: RosConfig = RosConfig()
    goal: GoalConfig | None = Field(None, description="Absent: run until stopped.")
    security: SecurityConfig | None = Field(None, description="Absent: no keys, every socket on loopback.")

    @field_validator("robots")
    @classmethod
    def _unique_ids(cls, robots: list[RobotEntry]) -> list[RobotEntry]:
        ids = [entry.id for entry in robots]
        if len(set(ids)) != len(ids):
            raise ValueError(f"robot ids must be unique, got {ids}")
        return robots

    @model_validator(mode="after")
    def _check_endpoints(self) -> Self:
        endpoints = (self.replay_server.endpoint, self.learner.policy_endpoint)
        if any("*" in endpoint for endpoint in endpoints):
            raise ValueError(f"endpoints need a host and a port that others can connect to, got {endpoints}")
        if endpoints[0] == endpoints[1]:
            raise ValueError(f"replay_server.endpoint and learner.policy_endpoint are both {endpoints[0]}")
        return self

    @property
    def simulated(self) -> list[str]:
        """Ids of the robots whose arm is simulated."""
        return [entry.id for entry in self.robots if entry.robot.sim is not None]

    def entry(self, robot_id: str) -> RobotEntry:
        """The robot with this id.

        Raises:
            ConfigError: The fleet has no such robot.
        """
        for entry in self.robots:
            if entry.id == robot_id:
                return entry
        known = ", ".join(entry.id for entry in self.robots)
        raise ConfigError(f"no robot {robot_id!r} in fleet {self.name!r}; it has: {known}")
