"""Config models: what may stand in a fleet's YAML and in those of its robots and its task.

Every key is checked and an unknown one is an error. `fleet/robot_config.py` has the models of a robot,
`fleet/config_file.py` reads the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator
from typing_extensions import Self

from fleet.algorithm_config import AlgorithmConfig
from fleet.config_model import Fraction, Model, Name, NonNegative, Positive, Vector3
from fleet.pick_place_config import PickPlaceTaskConfig
from fleet.robot_config import RobotConfig
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, NO_OBJECT_IN_GAZEBO, SceneConfig
from fleet.sim_config import SHARED_WORLD, GazeboConfig

DEFAULT_KEYS = Path("~/.config/parallel-naf/keys")


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


_SCENE = (
    "What stands around a simulated robot: a file of hardware_configs/worlds, relative to the task's file"
)


class ReachTaskConfig(Model):
    """Bring the tool to a random point: targets fill a spherical shell above the table."""

    kind: Literal["reach"] = Field(description="Which task: random-target reaching.")
    scene: SceneConfig | None = Field(None, description=f"{_SCENE}; null: nothing.")
    episode_s: Positive = Field(description="Length of an episode in robot time (s).")
    success_radius_m: Positive = Field(
        description="Success is the tool this near to the target when the episode ends (m)."
    )
    target_center_m: Vector3 = Field(description="Centre of the shell, in the frame of the root link (m).")
    target_radius_m: tuple[Positive, Positive] = Field(description="Inner and outer radius of the shell (m).")
    target_min_z_m: float = Field(description="Targets lie above the table: z at least this (m).")
    target_min_x_m: float = Field(description="Targets lie in front of the robot: x at least this (m).")
    distance_weight: NonNegative = Field(1.0, description="Reward taken per metre from the target (1/m).")
    precision_weight: NonNegative = Field(0.5, description="Reward of being at the target.")
    precision_scale_per_m2: Positive = Field(
        100.0, description="c: that reward falls off as exp(−c d²) with the distance d (1/m²)."
    )
    action_weight: NonNegative = Field(0.01, description="Reward taken for the mean of the squared actions.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        inner, outer = self.target_radius_m
        if not inner < outer:
            raise ValueError(
                f"target_radius_m must be [inner, outer] with inner < outer, got [{inner}, {outer}]"
            )
        return self


class DoorTaskConfig(Model):
    """Open a door: bring the tool to its handle, press that down, and push or pull the door."""

    kind: Literal["door"] = Field(description="Which task: opening a door.")
    scene: SceneConfig = Field(description=f"{_SCENE}. On a real robot the task reads its measures, too.")
    hinge: str = Field(
        f"door/{HINGE_JOINT}", description="The sensors' number that is the angle of the hinge (rad)."
    )
    handle: str = Field(
        f"door/{HANDLE_JOINT}", description="The sensors' number that is the angle of the handle (rad)."
    )
    episode_s: Positive = Field(description="Length of an episode in robot time (s).")
    success_angle_rad: Positive = Field(
        description="Success is a door at least this far open when the episode ends (rad)."
    )
    distance_weight: NonNegative = Field(
        1.0, description="Reward taken per metre between tool and handle (1/m)."
    )
    handle_weight: NonNegative = Field(1.0, description="Reward of a handle that is pressed far enough.")
    angle_weight: NonNegative = Field(1.0, description="Reward of a door that is open far enough.")
    action_weight: NonNegative = Field(0.01, description="Reward taken for the mean of the squared actions.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        door = self.scene.door
        if door is None:
            raise ValueError("scene has no door: the task door needs one")
        if self.success_angle_rad > door.max_angle_rad:
            raise ValueError(
                f"success_angle_rad {self.success_angle_rad} is more than the door's max_angle_rad "
                f"{door.max_angle_rad}"
            )
        return self


def _kind(value: Any) -> str:
    return f"kind: {value.get('kind') if isinstance(value, dict) else getattr(value, 'kind', None)}"


TaskConfig = Annotated[  # tags that are no identifiers: `explain` leaves them out of the keys
    Annotated[ReachTaskConfig, Tag("kind: reach")]
    | Annotated[DoorTaskConfig, Tag("kind: door")]
    | Annotated[PickPlaceTaskConfig, Tag("kind: pick_place")],
    Discriminator(_kind),
]


class RobotEntry(Model):
    """One robot of the fleet."""

    id: Name = Field(description="Unique in the fleet; also the robot's ROS namespace.")
    robot: RobotConfig = Field(
        description="Its kind: a file of hardware_configs/robots, relative to the fleet's YAML file."
    )
    exploration_scale: NonNegative = Field(
        1.0, description="Multiplies the policy's exploration_std, beside learner.exploration_ladder."
    )


class ReplayServerConfig(Model):
    """The replay server."""

    endpoint: Endpoint = Field(
        "tcp://127.0.0.1:5710", description="Where robots, learner and operators connect."
    )
    capacity_rows: int = Field(
        1_000_000, gt=0, description="Transitions that can be sampled; older ones stay on the disk only."
    )
    fsync: bool = Field(
        True, description="Wait for the disk before rows are acknowledged; without, a power cut loses rows."
    )
    sample_min_rows: int = Field(1000, ge=1, description="Samples are refused below this many rows.")
    samples_per_insert: float | None = Field(
        None, gt=0, description="Rows sampled per row inserted; none: no limit."
    )


class LearnerConfig(AlgorithmConfig):
    """The learner's process, and how it learns."""

    seed: int = Field(0, description="Of the network's first weights and of the minibatches.")
    policy_endpoint: Endpoint = Field("tcp://127.0.0.1:5711", description="Where robots hear the policy.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="Where the network is trained.")
    threads: int = Field(1, ge=1, description="Of PyTorch, on the CPU.")
    synchronous: bool = Field(
        False,
        description="Robots wait after each episode until every robot's has ended and been learned from, and "
        "the learner waits for them: the classic loop, for comparisons. Otherwise nobody waits.",
    )
    round_timeout_s: Positive = Field(
        10.0, description="With synchronous: silence after which the learner goes on without late robots (s)."
    )
    engine: Literal["auto", "eager"] = Field(
        "auto",
        description="auto: compiled updates (C++ on the CPU, one graph on CUDA) where the network and this "
        "machine allow them; eager: PyTorch's operations one by one.",
    )
    publish_period_s: Positive = Field(0.5, description="Between two policies (s).")
    checkpoint_period_s: Positive = Field(60.0, description="Between two checkpoints (s).")
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints that are kept.")
    log_period_s: Positive = Field(2.0, description="Between two points of the curves (s).")


class SpoolConfig(Model):
    """Each robot's own disk, where its experience waits until the replay server has it."""

    max_mb: int = Field(1024, ge=1, description="Of one robot (10^6 bytes).")
    on_full: Literal["stop", "drop_oldest"] = Field(
        "stop", description="stop: the robot holds still until there is room; drop_oldest: rows are lost."
    )


class RosConfig(Model):
    """ROS 2 settings of the fleet's processes; one whose shell has something else refuses to start."""

    domain_id: int = Field(0, ge=0, le=232, description="ROS_DOMAIN_ID: only nodes of one domain meet.")
    discovery_range: Literal["LOCALHOST", "SUBNET", "OFF", "SYSTEM_DEFAULT"] = Field(
        "SUBNET", description="ROS_AUTOMATIC_DISCOVERY_RANGE: how far away nodes may be."
    )


class GoalConfig(Model):
    """When `pnaf fleet up` ends by itself."""

    success_rate: Fraction = Field(0.9, description="Share of successful episodes that is enough.")
    over_episodes: int = Field(20, ge=1, description="Newest noise-free episodes that count.")
    confirm_episodes: int = Field(
        50,
        ge=0,
        description="Fresh simulated episodes in which the newest policy alone must reach it, too; "
        "left out where no robot is simulated without extra sensors.",
    )
    time_budget_s: Positive = Field(1500.0, description="Wall time after which the run has failed (s).")


class SecurityConfig(Model):
    """Keys for every socket; `docs/security.md` shows how to set them up."""

    keys: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        DEFAULT_KEYS,
        validate_default=True,
        description="This machine's keys and those it lets in; relative to the fleet's YAML file.",
    )


def _policy_difference(a: RobotEntry, b: RobotEntry) -> str:
    """Why two robots cannot act by the same policy, as the first half of a sentence; empty if they can."""
    n, m = len(a.robot.joints), len(b.robot.joints)
    if n != m:
        return f"{a.id} has {n} joints and {b.id} has {m}: arms with different numbers of joints"
    mine, theirs = (
        [f"{sensor.name} [{', '.join(sensor.units)}]" for sensor in entry.robot.sensors] for entry in (a, b)
    )
    if mine != theirs:
        return (
            f"{a.id} has sensors {'; '.join(mine) or 'none'} and {b.id} has {'; '.join(theirs) or 'none'}: "
            "arms with different sensors"
        )
    mine_hz, theirs_hz = a.robot.control_rate_hz, b.robot.control_rate_hz
    if mine_hz != theirs_hz:  # a step, its reward and gamma would not mean the same
        return f"{a.id} has control_rate_hz {mine_hz:g} and {b.id} {theirs_hz:g}: arms with different rates"
    return ""


class FleetConfig(Model):
    """A whole fleet: `hardware_configs/fleets/*.yaml`."""

    name: Name = Field(description="Run folders are named after it.")
    seed: int = Field(0, description="Of targets, starts and exploration.")
    task: TaskConfig = Field(
        description="What is learned: a file of hardware_configs/tasks, relative to this one."
    )
    robots: list[RobotEntry] = Field(
        min_length=1,
        description="Each {id, robot, …}, or just an id; `robot: FILE` beside it is the kind of such.",
    )
    gazebo: GazeboConfig = Field(GazeboConfig(), description="Worlds of robots simulated in Gazebo.")
    evaluate_every: int = Field(5, ge=2, description="Each k-th episode of a robot is noise-free.")
    replay_server: ReplayServerConfig = Field(
        ReplayServerConfig(), description="Stores and serves the experience."
    )
    learner: LearnerConfig = Field(LearnerConfig(), description="Trains NAF and broadcasts the policy.")
    spool: SpoolConfig = Field(SpoolConfig(), description="Each robot's own disk.")
    ros: RosConfig = Field(RosConfig(), description="Absent: those of the shell; `fleet up`: the defaults.")
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

    @model_validator(mode="after")
    def _check_one_policy(self) -> Self:
        first = self.robots[0]
        for entry in self.robots[1:]:
            if difference := _policy_difference(first, entry):
                raise ValueError(
                    f"{difference} cannot share one policy: make two fleets, each with a replay server, a "
                    "learner and endpoints of its own"
                )
        return self

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        used: dict[str, str] = {}
        for entry in self.robots:
            for topic in (entry.robot.topics.joint_states, entry.robot.topics.command):
                if entry.robot.sim is None or not topic.startswith("/"):
                    continue  # a driver's, or in the robot's own namespace
                if (other := used.setdefault(topic, entry.id)) != entry.id:
                    raise ValueError(
                        f"{other} and {entry.id} are simulated and both use {topic}: give them topics "
                        "without /, in each robot's namespace: override: {topics: {command: …, …}}"
                    )
        return self

    @model_validator(mode="after")
    def _check_objects(self) -> Self:
        if self.in_gazebo and self.task.scene is not None and self.task.scene.object is not None:
            raise ValueError(f"{self.in_gazebo[0]} is simulated in Gazebo, but {NO_OBJECT_IN_GAZEBO}")
        return self

    @model_validator(mode="after")
    def _check_shared_world(self) -> Self:
        in_gazebo = [entry for entry in self.robots if entry.id in self.in_gazebo]
        if self.gazebo.worlds == "own" or not in_gazebo:
            return self
        first = in_gazebo[0]
        for entry in in_gazebo[1:]:
            assert first.robot.sim is not None and entry.robot.sim is not None
            for key in ("timestep_s", "speed"):
                mine, theirs = getattr(first.robot.sim, key), getattr(entry.robot.sim, key)
                if mine != theirs:
                    raise ValueError(
                        f"{first.id} has sim.{key} {mine:g} and {entry.id} {theirs:g}: robots in one Gazebo "
                        "world share it; make them equal or set gazebo.worlds: own"
                    )
            if (first.robot.sim.lockstep_timeout_s > 0) != (entry.robot.sim.lockstep_timeout_s > 0):
                raise ValueError(
                    f"one of {first.id} and {entry.id} is in lock-step (sim.lockstep_timeout_s): in one "
                    "Gazebo world all are or none; make them alike or set gazebo.worlds: own"
                )
        return self

    @property
    def in_gazebo(self) -> list[str]:
        """Ids of the robots that are simulated in Gazebo."""
        return [e.id for e in self.robots if e.robot.sim is not None and e.robot.sim.simulator == "gazebo"]

    @property
    def gazebo_worlds(self) -> dict[str, list[str]]:
        """Ids of the robots in each Gazebo world, by the world's name."""
        if self.gazebo.worlds == "own":
            return {robot_id: [robot_id] for robot_id in self.in_gazebo}
        return {SHARED_WORLD: self.in_gazebo} if self.in_gazebo else {}

    @property
    def evaluable(self) -> list[str]:
        """Ids of the robots that a policy can be evaluated on without ROS.

        Simulated, with no sensors but those of the scene.
        """
        topics = self.task.scene.topics.keys() if self.task.scene is not None else set[str]()
        return [
            entry.id
            for entry in self.robots
            if entry.robot.sim is not None and {sensor.topic for sensor in entry.robot.sensors} <= topics
        ]

    def exploration_scale(self, robot_id: str) -> float:
        """What this robot multiplies the policy's exploration_std by: its own scale and its ladder's.

        Raises:
            ConfigError: The fleet has no such robot.
        """
        entry = self.entry(robot_id)
        factor = self.learner.ladder_factor(self.robots.index(entry), len(self.robots))
        return entry.exploration_scale * factor

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
