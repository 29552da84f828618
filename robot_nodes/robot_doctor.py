"""`pnaf doctor --robot`: listens to a robot's driver for a moment and says what is wrong, in plain words.

It subscribes and looks at the ROS graph. It has no publisher and calls no service: nothing reaches the robot.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidNamespaceException
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String

from fleet.config import ConfigError
from fleet.doctor import Finding
from fleet.robot_config import RobotConfig, SensorConfig, UrdfTopic
from robot_nodes.ears import LISTENING, Ears
from robot_nodes.estop import KEPT
from robot_nodes.findings import Heard, good, note, pick, wrong
from robot_nodes.model_checks import pose_findings, published_urdf_finding, urdf_findings
from robot_nodes.node_names import OWN_NODES, node_name
from robot_nodes.robot_checks import joint_state_findings
from robot_nodes.ros_graph import names, ros_type
from robot_nodes.sensors import SensorError, sensor_values
from robot_nodes.timing_checks import watchdog_findings
from robot_nodes.urdf_source import Urdf, UrdfError, load_urdf

_DISCOVERY_S = 10.0  # for ROS to find what is there; mostly 0.2 s
_SETTLE_S = 2.0  # nothing more was found for so long: what is missing is not there
_COMMANDS = QoSProfile(depth=1)  # as command_channel.py publishes them


def examine_robot(robot: RobotConfig, namespace: str = "", seconds: float = 3.0) -> list[Finding]:
    """Listen to a robot and compare it with its config.

    Args:
        robot: The config.
        namespace: Where its topics are: the robot's id in a fleet.
        seconds: How long to listen once it is there.

    Raises:
        ConfigError: The namespace is no namespace.
    """
    context = Context()
    clock = ["--ros-args", "-r", f"/clock:=/{namespace.strip('/')}/clock"] if robot.sim else []
    rclpy.init(args=clock, context=context)
    try:
        doctor = RobotDoctor(robot, namespace, context)
        doctor.listen(seconds)
        return doctor.findings()
    except InvalidNamespaceException as error:
        raise ConfigError(f"--namespace {namespace!r}: {error}") from error
    finally:
        rclpy.try_shutdown(context=context)


class RobotDoctor:
    """Ears for one robot, and what they make of it."""

    def __init__(self, robot: RobotConfig, namespace: str, context: Context) -> None:
        self._robot = robot
        self._ears = Ears(namespace, context, use_sim_time=robot.sim is not None)
        self._graph = self._ears.graph
        self._ears.listen_to(robot.topics.joint_states, JointState, LISTENING)
        self._descriptions = self._description_topics()
        for topic in self._descriptions:
            self._ears.listen_to(topic, String, KEPT)
        for sensor in robot.sensors:
            self._ears.listen_to(sensor.topic, _message_class(sensor.type), LISTENING)
        if robot.external_estop:
            self._ears.listen_to(robot.external_estop.topic, Bool, LISTENING)

    def _description_topics(self) -> list[str]:
        if isinstance(self._robot.urdf, UrdfTopic):
            return [self._robot.urdf.topic]
        beside = self._graph.full(self._robot.topics.joint_states).rpartition("/")[0]
        return list(dict.fromkeys([self._graph.full("robot_description"), f"{beside}/robot_description"]))

    def listen(self, seconds: float) -> None:
        """Wait until everything is discovered, or nothing more is, then hear what it says."""
        seen, changed_s = self._graph.contents(), time.monotonic()

        def discovered() -> bool:
            nonlocal seen, changed_s
            now = self._graph.contents()
            if now != seen:
                seen, changed_s = now, time.monotonic()
            settled = time.monotonic() - changed_s > _SETTLE_S
            return self._all_there() or (settled and bool(self._graph.others()))

        self._ears.spin(_DISCOVERY_S, discovered)
        if self._graph.publishers(self._robot.topics.joint_states):
            self._ears.spin(_SETTLE_S, lambda: bool(self._joint_state_messages()))
        self._ears.spin(seconds, lambda: False)

    def _inputs(self) -> list[str]:
        estop = self._robot.external_estop
        sensors = [sensor.topic for sensor in self._robot.sensors]
        return [self._robot.topics.joint_states, *sensors, *([estop.topic] if estop else [])]

    def _all_there(self) -> bool:
        topics, graph = self._robot.topics, self._graph
        outputs = [topics.command]
        outputs += [topics.joint_trajectory] if "trajectory" in self._robot.reset.steps else []
        return all(map(graph.publishers, self._inputs())) and all(map(graph.hearers, outputs))

    def _joint_state_messages(self) -> list[Heard]:
        return self._ears.messages(self._robot.topics.joint_states, "JointState")

    # Findings -------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """Everything that was looked at, in the order in which to mend it."""
        robot, graph = self._robot, self._graph
        findings = [graph.surroundings()]
        findings += self._joint_states()
        findings += self._commands()
        findings += self._model()
        findings += watchdog_findings(robot)
        for sensor in robot.sensors:
            findings.append(self._sensor(sensor))
        findings += self._estop()
        if robot.reset.service is not None:
            findings.append(graph.service("reset service", robot.reset.service, "std_srvs/srv/Trigger"))
        return findings

    def _joint_states(self) -> list[Finding]:
        robot = self._robot
        topic = robot.topics.joint_states
        found = self._graph.incoming(
            "joint_states topic", "topics.joint_states", topic, ros_type("sensor_msgs/JointState"), LISTENING
        )
        heard = self._joint_state_messages()
        if not found.ok:
            return [found]
        if not heard:
            advice = "its publisher is there but says nothing: is joint_state_broadcaster active?"
            return [found, wrong("joint names", "no message came", advice)]
        return [found, *joint_state_findings(heard, robot)]

    def _commands(self) -> list[Finding]:
        topics, graph = self._robot.topics, self._graph
        array = ros_type("std_msgs/Float64MultiArray")
        findings = [graph.outgoing("command topic", "topics.command", topics.command, array, _COMMANDS)]
        if "position" in topics.command or "effort" in topics.command:
            advice = "commands are joint VELOCITIES (rad/s): the controller must be a velocity controller"
            findings.append(note("command topic", f"is named {topics.command}", advice))
        infos = graph.publishers(topics.command)
        ours = [f"{self._graph.namespace.rstrip('/')}/{name}" for name in OWN_NODES]
        others = [info for info in infos if node_name(info) not in ours]
        if others:
            advice = "DANGEROUS: two sources of commands fight over the arm; stop that node first"
            findings.append(wrong("other commanders", f"{names(others)} publishes commands, too", advice))
        elif infos:
            findings.append(good("other commanders", f"none; `pnaf robot` is running ({names(infos)})"))
        else:
            findings.append(good("other commanders", "none"))
        if "trajectory" in self._robot.reset.steps:
            kind = ros_type("trajectory_msgs/JointTrajectory")
            topic = topics.joint_trajectory
            findings.append(
                graph.outgoing("trajectory topic", "topics.joint_trajectory", topic, kind, _COMMANDS)
            )
        return findings

    def _model(self) -> list[Finding]:
        robot = self._robot
        try:
            urdf = self._urdf()
        except UrdfError as error:
            return [wrong("URDF", str(error), "see robot_state_publisher, or name a file")]
        findings, kinematics = urdf_findings(robot, urdf)
        if kinematics is None:
            return findings
        if not isinstance(robot.urdf, UrdfTopic) and (published := self._published()) is not None:
            rng = np.random.default_rng(0)
            findings.append(published_urdf_finding(robot, kinematics, published, rng))
        return [*findings, *pose_findings(robot, kinematics, self._pose())]

    def _urdf(self) -> Urdf:
        if not isinstance(self._robot.urdf, UrdfTopic):
            return load_urdf(self._robot.urdf)
        published = self._published()
        if published is None:
            raise UrdfError(f"nothing was heard on {self._graph.full(self._robot.urdf.topic)}")
        return published

    def _published(self) -> Urdf | None:
        for topic in self._descriptions:
            if heard := self._ears.messages(topic, "String"):
                return Urdf(heard[-1].message.data, f"topic {self._graph.full(topic)}")
        return None

    def _pose(self) -> Any:
        heard = self._joint_state_messages()
        if not heard or not set(self._robot.joints) <= set(heard[-1].message.name):
            return None
        q = pick(heard[-1].message, "position", self._robot.joints)
        return q if len(q) and np.isfinite(q).all() else None

    def _sensor(self, sensor: SensorConfig) -> Finding:
        name = f"sensor {sensor.name}"
        there = self._graph.incoming(
            name, f"the topic of {name}", sensor.topic, ros_type(sensor.type), LISTENING
        )
        if not there.ok:
            return there
        heard = self._ears.messages(sensor.topic, sensor.type)
        if not heard:
            return wrong(name, f"{there.found}: no message came", "see its driver")
        try:
            values = sensor_values(sensor, heard[-1].message)
        except SensorError as error:
            return wrong(name, str(error), "correct the sensor's group in the robot's YAML, or its driver")
        shown = ", ".join(f"{part} {v:.4g}" for part, v in zip(sensor.components, values, strict=True))
        gaps = np.diff([h.steady_s for h in heard])
        if not len(gaps) or gaps.max() > sensor.max_age_s:
            found = f"longest gap {gaps.max():.2f} s" if len(gaps) else "only one message came"
            return wrong(name, found, f"gaps above its max_age_s ({sensor.max_age_s:g} s) stop the robot")
        low, high = sensor.bounds(sensor.low), sensor.bounds(sensor.high)
        if not all(a <= v <= b for a, v, b in zip(low, values, high, strict=True)):
            return note(
                name, shown, f"outside its bounds low {low}, high {high}: widen them if this is right"
            )
        return good(name, f"{there.found}: {1 / gaps.mean():.1f} Hz; {shown}")

    def _estop(self) -> list[Finding]:
        estop, name = self._robot.external_estop, "external e-stop"
        if estop is None:
            return []
        there = self._graph.incoming(
            name, "external_estop.topic", estop.topic, ros_type("std_msgs/Bool"), LISTENING
        )
        heard = self._ears.messages(estop.topic, "Bool")
        if not there.ok:
            return [there]
        if not heard:
            found = f"{there.found}: no message came"
            if estop.max_age_s is None:
                return [note(name, found, "press and release it once while `pnaf doctor` listens")]
            return [wrong(name, found, f"silence above max_age_s ({estop.max_age_s:g} s) is an e-stop")]
        if heard[-1].message.data == estop.stop_when:
            return [wrong(name, f"says stop ({estop.stop_when})", "release it, or correct stop_when")]
        return [good(name, f"{there.found}: says go")]


def _message_class(short: str) -> Any:
    package, _, name = short.partition("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)
