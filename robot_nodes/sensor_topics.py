"""The newest reading of each extra sensor, from ROS topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

from fleet.robot_config import SensorConfig
from robot_nodes.quiet_topics import QUIET_SUBSCRIPTION
from robot_nodes.sensors import SensorError, sensor_values
from robot_nodes.tasks.task import Vector

_TYPES: dict[str, type] = {
    "sensor_msgs/JointState": JointState,
    "sensor_msgs/Imu": Imu,
    "geometry_msgs/PoseStamped": PoseStamped,
    "std_msgs/Float64MultiArray": Float64MultiArray,
}
# Matches every publisher. Not depth 1: on joint_states another publisher's message would push out ours.
_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


class SensorTopics:
    """Subscriptions to all extra sensors of one robot.

    sensors = SensorTopics(node, robot.sensors)
    values, problem = sensors.read(time.monotonic())    # at each tick; problem is "" if all is well

    A reading is as old as its arrival here, in wall time: no clock has to agree with the sensor's. One
    without a usable reading (see `sensors.py`) does not count, so a sensor that goes bad becomes too old.
    """

    def __init__(
        self, node: Node, sensors: Sequence[SensorConfig], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Subscribe.

        Args:
            node: Whose executor calls back; its namespace is that of relative topics.
            sensors: From the robot's config.
            clock: Steady time (s) that messages arrive at, as given to `read`.
        """
        self._node, self._clock = node, clock
        self._streams = [_Stream(node, sensor, clock) for sensor in sensors]

    @property
    def heard(self) -> bool:
        """Whether every sensor has given a usable reading since the start."""
        return all(stream.values is not None for stream in self._streams)

    def read(self, steady_s: float) -> tuple[Vector, str]:
        """The newest values of all sensors in order [ns], and what is wrong with the first bad one.

        Numbers that were never heard are zero.
        """
        problems = [problem for stream in self._streams if (problem := stream.problem(steady_s))]
        values = [stream.latest for stream in self._streams]
        return np.concatenate(values) if values else np.zeros(0), problems[0] if problems else ""

    def close(self) -> None:
        """Unsubscribe."""
        for stream in self._streams:
            self._node.destroy_subscription(stream.subscription)
        self._streams = []


class _Stream:
    """One sensor."""

    def __init__(self, node: Node, sensor: SensorConfig, clock: Callable[[], float]) -> None:
        self._sensor, self._clock = sensor, clock
        self._arrived_s = clock()  # what was never heard is as old as this
        self._error = ""
        self.values: Vector | None = None
        self.subscription = node.create_subscription(
            _TYPES[sensor.type],
            sensor.topic,
            self._on_message,
            _QOS,
            event_callbacks=QUIET_SUBSCRIPTION,
        )

    @property
    def latest(self) -> Vector:
        return np.zeros(len(self._sensor.components)) if self.values is None else self.values

    def _on_message(self, message: Any) -> None:
        try:
            self.values = sensor_values(self._sensor, message)
        except SensorError as error:
            self._error = str(error)
            return
        self._arrived_s, self._error = self._clock(), ""

    def problem(self, steady_s: float) -> str:
        age_s = steady_s - self._arrived_s
        if self.values is not None and age_s <= self._sensor.max_age_s:
            return ""
        if self._error:
            return self._error
        what = f"sensor {self._sensor.name}: nothing heard on {self.subscription.topic_name}"
        if self.values is None:
            return f"{what} yet ({self._sensor.type})"
        return f"{what} for {age_s:.2f} s (max_age_s: {self._sensor.max_age_s:g})"
