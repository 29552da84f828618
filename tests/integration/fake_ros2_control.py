"""A ros2_control that is not ours: fake arms behind the topics of its controllers, each in a namespace.

    python fake_ros2_control.py SCENARIO.json RECORDING.jsonl

Written from what ros2_control publishes and hears, and importing nothing of this project:

    NAME/joint_states                             joint_state_broadcaster, sensor_msgs/JointState
    NAME/forward_velocity_controller/commands     ForwardCommandController: the last command stays in force
    NAME/robot_description                        robot_state_publisher, kept for late subscribers

SCENARIO maps each arm's name to its `Behaviour`. A line `{"arm": NAME, "set": {…}}` on standard input
changes it while it runs; the end of standard input ends the process. Each line of RECORDING is
`[arm, time, what, data]`, times being those of CLOCK_MONOTONIC, which all processes of a machine share:
what is "command" (values and publisher), "state" (stamp_ns, q and qd in controller order), "set" (the
change) or "controller" (a new one is there).
"""

from __future__ import annotations

import dataclasses
import json
import math
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray, String

COMMANDS = "forward_velocity_controller/commands"
PERIOD_S = 0.004  # of reading commands


@dataclass
class Behaviour:
    """What one arm does; everything but the first two is odd or broken."""

    joints: list[str]  # in the controller's order
    start_rad: list[float]
    rate_hz: float = 50.0
    published: list[str] = field(default_factory=list)  # names and order in joint_states; empty: `joints`
    best_effort: bool = False  # QoS of joint_states
    velocity: str = "measured"  # in joint_states; or "empty", or "nan" as for an interface that is missing
    jitter_s: float = 0.0  # messages come up to this late
    drop_every: int = 0  # each k-th message is lost
    swap_every: int = 0  # each k-th message arrives after the one behind it
    neighbours: list[str] = field(default_factory=list)  # joints of another publisher on the same topic
    urdf: str = ""  # file whose text robot_state_publisher publishes
    sensors: bool = False  # an IMU, a tracker and a force sensor next to the arm
    silent: bool = False  # the broadcaster sends nothing
    frozen: bool = False  # positions and velocities stay as they are, time goes on
    frozen_stamp: bool = False  # the same message again and again
    nan: str = ""  # field with one NaN: position, velocity
    missing: list[str] = field(default_factory=list)  # joints left out of joint_states
    stuck: list[str] = field(default_factory=list)  # joints that do not move whatever is commanded
    controller: bool = True  # somebody hears the commands


Recorder = queue.SimpleQueue[Any]
"""What is recorded, for a thread that writes: a busy disk must not hold up the arms."""


class FakeArm:
    """One arm: integrates its commands, publishes its joints, records both."""

    def __init__(self, node: Node, name: str, behaviour: Behaviour, recorder: Recorder) -> None:
        self.node, self.name, self.behaviour, self._recorder = node, name, behaviour, recorder
        self._random = random.Random(name)
        self.q = list(behaviour.start_rad)
        self.qd = [0.0] * len(self.q)
        self._integrated_s = self._heard_s = time.monotonic()
        self._sent = 0
        self._last: tuple[JointState, dict[str, Any]] | None = None
        self._held_back: tuple[JointState, dict[str, Any]] | None = None
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        states = best_effort if behaviour.best_effort else QoSProfile(depth=10)
        self._states = node.create_publisher(JointState, f"/{name}/joint_states", states)
        self._neighbours = (
            node.create_publisher(JointState, f"/{name}/joint_states", states)
            if behaviour.neighbours
            else None
        )
        if behaviour.urdf:
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._description = node.create_publisher(String, f"/{name}/robot_description", latched)
            self._description.publish(String(data=Path(behaviour.urdf).read_text()))
        if behaviour.sensors:
            self._imu = node.create_publisher(Imu, f"/{name}/imu", best_effort)
            self._tracker = node.create_publisher(PoseStamped, f"/{name}/object_pose", 10)
            self._force = node.create_publisher(Float64MultiArray, f"/{name}/force", 10)
        self._controller: Any = None
        self._switch_controller()
        self.due_s = time.monotonic()

    def _record(self, what: str, data: Any, time_s: float | None = None) -> None:
        self._recorder.put([self.name, time.monotonic() if time_s is None else time_s, what, data])

    def change(self, changes: dict[str, Any]) -> None:
        """Behave otherwise from now on."""
        self._move(time.monotonic())
        self.behaviour = dataclasses.replace(self.behaviour, **changes)
        self._switch_controller()
        self._record("set", changes)

    def _switch_controller(self) -> None:
        if self.behaviour.controller and self._controller is None:
            self._controller = self.node.create_subscription(
                Float64MultiArray, f"/{self.name}/{COMMANDS}", lambda _: None, QoSProfile(depth=200)
            )
            self._record("controller", None)
        elif not self.behaviour.controller and self._controller is not None:
            self.node.destroy_subscription(self._controller)
            self._controller = None
            self.qd = [0.0] * len(self.q)  # the hardware holds still when nobody writes to it

    def obey(self) -> None:
        """Take in all commands that have come: cheaper than an executor for many arms."""
        if self._controller is None:
            return
        handle = self._controller.handle
        while (taken := handle.take_message(Float64MultiArray, False)) is not None:
            message, info = taken
            age_s = (time.time_ns() - info["received_timestamp"]) * 1e-9  # a real controller is not late
            self._obey(message, info["publisher_gid"]["data"].hex(), time.monotonic() - max(age_s, 0.0))

    def _obey(self, message: Float64MultiArray, publisher: str, time_s: float) -> None:
        values, self._heard_s = list(message.data), max(self._heard_s, time_s)
        self._record("command", [values, publisher], self._heard_s)
        if len(values) == len(self.q):  # the real controller ignores others with an error
            self._move(self._heard_s)
            stuck = self.behaviour.stuck
            self.qd = [0.0 if j in stuck else v for j, v in zip(self.behaviour.joints, values, strict=True)]

    def _move(self, until_s: float) -> None:
        """With the velocities in force; a joint that got stuck stays where it is."""
        until_s = max(until_s, self._integrated_s)
        for i, joint in enumerate(self.behaviour.joints):
            if joint in self.behaviour.stuck:
                self.qd[i] = 0.0
            if math.isfinite(self.qd[i]):
                self.q[i] += self.qd[i] * (until_s - self._integrated_s)
        self._integrated_s = until_s

    def publish(self) -> None:
        """One joint state, when it is due, and when the next is due."""
        b = self.behaviour
        self._sent += 1
        late_s = self._random.uniform(0.0, b.jitter_s)
        self.due_s = max(self.due_s + 1.0 / b.rate_hz, time.monotonic() - 0.2) + late_s
        self._move(time.monotonic())
        if not b.silent:
            made = self._last if b.frozen_stamp and self._last is not None else self._message()
            if b.drop_every and self._sent % b.drop_every == 0:
                pass
            elif b.swap_every and self._sent % b.swap_every == 0 and self._held_back is None:
                self._held_back = made
            else:
                self._send(made)
                if self._held_back is not None:
                    self._send(self._held_back)
                    self._held_back = None
            self._last = made
        self.due_s -= late_s  # late, but no slower
        if self._neighbours is not None:
            stamp = self.node.get_clock().now().to_msg()
            names = self.behaviour.neighbours
            message = JointState(name=names, position=[9.0] * len(names), velocity=[9.0] * len(names))
            message.header.stamp = stamp
            self._neighbours.publish(message)
        if b.sensors:
            self._publish_sensors()

    def _message(self) -> tuple[JointState, dict[str, Any]]:
        b = self.behaviour
        q, qd = list(self.q), list(self.qd)
        if b.frozen and self._last is not None:
            q, qd = self._last[1]["q"], self._last[1]["qd"]
        names = [name for name in (b.published or b.joints) if name not in b.missing]
        place = {joint: i for i, joint in enumerate(b.joints)}
        # Joints that are not the arm's, such as fingers, are in the same message on many robots.
        position = [q[place[name]] if name in place else 0.04 for name in names]
        velocity = [qd[place[name]] if name in place else 0.0 for name in names]
        if b.velocity != "measured":
            velocity = [math.nan] * len(names) if b.velocity == "nan" else []
        if b.nan == "position":
            position[0] = math.nan
        elif b.nan == "velocity":
            velocity[0] = math.nan
        # What the broadcaster has no interface for it publishes as NaN: here, efforts.
        message = JointState(name=names, position=position, velocity=velocity, effort=[math.nan] * len(names))
        stamp_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return message, {"stamp_ns": stamp_ns, "q": q, "qd": qd}

    def _send(self, made: tuple[JointState, dict[str, Any]]) -> None:
        self._record("state", made[1])
        self._states.publish(made[0])

    def _publish_sensors(self) -> None:
        """Known numbers, so that a test finds them in the observation."""
        stamp = self.node.get_clock().now().to_msg()
        imu, pose = Imu(), PoseStamped()
        imu.header.stamp = pose.header.stamp = stamp
        imu.orientation.z, imu.orientation.w = 0.6, 0.8
        imu.angular_velocity.x = 0.25
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = 0.5, -0.125, 0.75
        pose.pose.orientation.w = 1.0
        self._imu.publish(imu)
        self._tracker.publish(pose)
        self._force.publish(Float64MultiArray(data=[1.5, -2.5]))


def main(scenario: Path, recording: Path) -> None:
    """Serve until the end of standard input."""
    changes: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    recorder: Recorder = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            changes.put(json.loads(line))
        changes.put(None)

    def write() -> None:
        with recording.open("w") as file:
            while (line := recorder.get()) is not None:
                print(json.dumps(line), file=file, flush=recorder.empty())

    rclpy.init()
    node = rclpy.create_node("controller_manager", start_parameter_services=False, enable_rosout=False)
    behaviours = json.loads(scenario.read_text())
    arms = {name: FakeArm(node, name, Behaviour(**b), recorder) for name, b in behaviours.items()}
    writer = threading.Thread(target=write)
    writer.start()
    threading.Thread(target=listen, daemon=True).start()
    while True:
        while not changes.empty():
            change = changes.get()
            if change is None:
                recorder.put(None)
                writer.join()
                return
            arms[change["arm"]].change(change["set"])
        for arm in arms.values():
            arm.obey()
            if arm.due_s <= time.monotonic():
                arm.publish()
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
