"""One bag as the robot would have heard it: message by message, into steps and episodes."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fleet.config import ConfigError, FleetConfig
from fleet.messages import MAX_ROWS, EndReason
from fleet.robot_config import RobotConfig, UrdfTopic
from robot_nodes.bag_episodes import BagEpisode, EpisodeMaker
from robot_nodes.bag_goals import Goals
from robot_nodes.bag_options import BagOptions
from robot_nodes.bag_reader import Bag, BagError
from robot_nodes.bag_report import BagReport
from robot_nodes.bag_sensors import BagSensors
from robot_nodes.bag_steps import MISSING, StepCutter
from robot_nodes.bag_topics import COMMAND, GOAL, JOINT_STATES, MARKER, URDF, BagTopics, sensor_key
from robot_nodes.joint_states import JointStateError, JointStateReader, OtherJointsError
from robot_nodes.kinematics import Kinematics
from robot_nodes.tasks.task import Task
from robot_nodes.urdf_source import Urdf, load_urdf

_PROGRESS_EVERY = 2000  # messages
_MUCH_CLIPPED = 0.2  # of the rows: these are hardly joint velocities of this robot


class BagListener:
    """Listens to one bag.

    with Bag(path) as bag:
        BagListener(fleet, "robot1", task, options, bag, report, on_episode).listen(on_progress)
    """

    def __init__(
        self,
        fleet: FleetConfig,
        robot_id: str,
        task: Task,
        options: BagOptions,
        bag: Bag,
        report: BagReport,
        on_episode: Callable[[BagEpisode], None],
    ) -> None:
        """Compare the bag with the robot's config.

        Raises:
            BagError: It lacks a topic.
            ConfigError: An option does not fit the robot or the task.
            UrdfError: The robot's URDF cannot be read.
        """
        robot = fleet.entry(robot_id).robot
        self._bag, self._report, self._on_episode = bag, report, on_episode
        self._rate_hz, self._nq = robot.control_rate_hz, len(robot.joints)
        self._commanded = options.action == "command"
        rng = np.random.default_rng(zlib.crc32(bag.fingerprint.encode()))  # the same at every import
        self._goals = Goals(options.goal, task, rng)
        topics = BagTopics.of(
            robot,
            robot_id,
            options.topics,
            commanded=self._commanded,
            goal=self._goals.topic,
            marker=options.marker,
        )
        topics.check(bag.topics)
        self._names = topics.names
        self._toggled = MARKER in self._names and bag.topics[self._names[MARKER]].type == "std_msgs/Bool"
        self._episodes = EpisodeMaker(
            task,
            _kinematics(robot, bag, self._names),
            np.array(robot.limits.max_joint_velocity_rad_s),
            self._goals,
            1.0 / self._rate_hz,
            max(1, round(min((options.episode_s or task.episode_s) * self._rate_hz, MAX_ROWS))),
            self._hand_over,
            demonstrated=options.demonstrations,
            keep_rest=self._toggled,  # whoever set the markers knew what to keep
        )
        self._cutter = StepCutter(1.0 / self._rate_hz, self._commanded, self._episodes.step, self._cut)
        self._sensors = BagSensors(robot.sensors, [self._names[sensor_key(s.name)] for s in robot.sensors])
        self._joint_states = JointStateReader(robot.joints)
        self._unread: Counter[str] = Counter()  # what was wrong with joint states
        self._unused: Counter[str] = Counter()  # what was wrong with the sensors at joint states
        self._problem = ""  # with the newest joint state
        self._on = not self._toggled  # by the markers
        self._span = 0, 0, 0  # of joint states: stamps of the first and the newest (ns), and how many
        self._unstamped = self._unusable = 0  # joint states
        self._notes: dict[str, None] = {}

    def listen(self, on_progress: Callable[[int, int], None]) -> None:
        """Read the bag to its end.

        Raises:
            BagError: It is damaged, does not fit the robot, or nothing came of it.
        """
        bag, report = self._bag, self._report
        topics = {name for key, name in self._names.items() if key != URDF}
        total = sum(bag.topics[name].messages for name in topics)
        first_ns = -1
        end: EndReason = "fault"
        try:
            for topic, arrival_ns, message in bag.messages(topics):
                first_ns = arrival_ns if first_ns < 0 else first_ns
                report.messages += 1
                report.seconds = (arrival_ns - first_ns) * 1e-9
                if report.messages % _PROGRESS_EVERY == 0:
                    on_progress(report.messages, total)
                self._hear(topic, arrival_ns, message)
            end = "time_limit"
        finally:
            self._end_episode(end)
            self._tell()
            on_progress(report.messages, total)
        if not report.rows:
            raise BagError(self._why_nothing())

    # What is heard --------------------------------------------------------------------------

    def _hear(self, topic: str, arrival_ns: int, message: Any) -> None:
        names = self._names
        if topic == names.get(MARKER):
            self._end_episode("time_limit")
            if self._toggled:
                self._on = bool(message.data)
        if topic == names.get(GOAL):
            self._hear_goal(message)
        if self._sensors.hear(topic, arrival_ns, message) and not self._sensors.problem(arrival_ns):
            self._cutter.sensors(self._sensors.values, _stamp_ns(message))
        if topic == names[JOINT_STATES]:
            self._hear_joints(arrival_ns, message)
        if topic == names.get(COMMAND):
            self._hear_command(arrival_ns, message)

    def _hear_joints(self, arrival_ns: int, message: Any) -> None:
        stamp = message.header.stamp
        if stamp.sec == stamp.nanosec == 0:
            self._unstamped += 1
            stamp.sec, stamp.nanosec = divmod(arrival_ns, 1_000_000_000)
        try:
            reading = self._joint_states.read(message)
        except JointStateError as error:  # the robot's watchdogs bear some of these, too
            self._unread[str(error)] += 1
            self._unusable += not isinstance(error, OtherJointsError)
            return
        if len(message.velocity) == 0 or np.isnan(message.velocity).all():
            self._notes["joint states have no velocities: differences of positions are used"] = None
        first_ns, _, count = self._span
        self._span = first_ns if count else reading.stamp_ns, reading.stamp_ns, count + 1
        self._problem = self._sensors.problem(arrival_ns)
        if self._problem:
            self._unused[self._problem] += 1
            self._cutter.cut(self._problem)
        elif self._commanded or self._recorded:
            self._cutter.reading(reading, arrival_ns)

    def _hear_command(self, arrival_ns: int, message: Any) -> None:
        velocity = np.asarray(message.data, np.float64)
        if len(velocity) != self._nq:
            raise BagError(
                f"{self._names[COMMAND]} has {len(velocity)} numbers and the robot {self._nq} joints: name "
                f"its own with --topic {COMMAND}=/…"
            )
        if self._recorded:
            self._cutter.command(velocity, arrival_ns)

    def _hear_goal(self, message: Any) -> None:
        position = message.pose.position
        goal = np.array([position.x, position.y, position.z])
        if not np.isfinite(goal).all():
            return
        if self._goals.heard is None or (goal != self._goals.heard).any():
            self._end_episode("time_limit")
            self._goals.heard = goal

    @property
    def _recorded(self) -> bool:
        """Whether steps may begin."""
        return self._on and not self._problem and (not self._goals.topic or self._goals.heard is not None)

    # What comes of it -----------------------------------------------------------------------

    def _end_episode(self, reason: EndReason) -> None:
        self._cutter.finish()
        self._episodes.end(reason)

    def _cut(self, reason: str) -> None:
        self._report.cuts[reason] += 1
        self._episodes.end("fault")

    def _hand_over(self, episode: BagEpisode) -> None:
        self._on_episode(episode)
        self._report.episodes += 1
        self._report.rows += episode.transitions.rows
        self._report.clipped += int(episode.transitions.clipped.sum())

    def _tell(self) -> None:
        report = self._report
        report.idle_s = self._episodes.idle_steps / self._rate_hz
        if self._unstamped > 1:  # one may be the very first of a simulation
            self._notes["joint states have no stamps: their times of arrival are used"] = None
        if self._unusable:
            self._notes[f"{self._unusable} joint states could not be used: {next(iter(self._unread))}"] = None
        if report.clipped > _MUCH_CLIPPED * report.rows:
            self._notes[
                f"{report.clipped / report.rows:.0%} of the actions are beyond max_joint_velocity_rad_s: are "
                "the commands joint velocities (rad/s), in the order of the config's joints?"
            ] = None
        report.notes += [note for note in (self._bag.warning, *self._notes) if note]

    def _why_nothing(self) -> str:
        if not self._span[2]:
            errors = self._unread.most_common(1)
            return errors[0][0] if errors else f"nothing was recorded on {self._names[JOINT_STATES]}"
        if self._goals.topic and self._goals.heard is None:
            return f"nothing was recorded on {self._goals.topic}"
        if reasons := self._unused + self._report.cuts:
            reason, times = reasons.most_common(1)[0]
            text = f"not one step came of it: {reason} ({times} times)"
            if reason == MISSING:
                text += f"; they come at {self._joint_state_hz:.3g} Hz, control_rate_hz is {self._rate_hz:g}"
            return text
        if self._episodes.idle_steps:
            return "the robot was at rest all the time"
        return "not one step came of it: no command, or no marker, where joint states are"

    @property
    def _joint_state_hz(self) -> float:
        first_ns, last_ns, count = self._span
        return (count - 1) / max((last_ns - first_ns) * 1e-9, 1e-9)


def _stamp_ns(message: Any) -> int:
    """Of its header (ns); 0: it has none."""
    header = getattr(message, "header", None)
    return 0 if header is None else header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def _kinematics(robot: RobotConfig, bag: Bag, names: Mapping[str, str]) -> Kinematics:
    published = isinstance(robot.urdf, UrdfTopic)
    if isinstance(robot.urdf, UrdfTopic):
        message = next((content for _, _, content in bag.messages({names[URDF]})), None)
        if message is None:
            raise BagError(f"nothing was recorded on {names[URDF]}, where the robot's URDF is published")
        urdf = Urdf(message.data, f"topic {names[URDF]}")
    else:
        urdf = load_urdf(robot.urdf)
    try:
        return Kinematics(urdf, robot.joints, robot.tool_link)
    except ValueError as error:
        raise (BagError if published else ConfigError)(str(error)) from error
