"""A ROS node that only listens, and keeps what it hears."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

from robot_nodes.findings import Heard
from robot_nodes.ros_graph import RosGraph

LISTENING = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Matches every publisher."""


class Ears:
    """Subscriptions without a publisher.

    ears = Ears("ur1", context)
    ears.listen_to("joint_states", JointState, LISTENING)
    ears.spin(3.0, lambda: False)
    ears.messages("joint_states", "sensor_msgs/JointState")
    """

    def __init__(self, namespace: str, context: Context, *, use_sim_time: bool = False) -> None:
        self._node = Node(
            "pnaf_doctor",
            namespace=namespace,
            context=context,
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)],
        )
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self.graph = RosGraph(self._node)
        self._heard: dict[tuple[str, str], list[Heard]] = {}

    def listen_to(self, topic: str, message_class: Any, qos: QoSProfile) -> None:
        """Keep the messages of a topic from now on."""
        key = self.graph.full(topic), message_class.__name__
        if key in self._heard:
            return  # a sensor may be on the arm's own topic
        heard = self._heard[key] = []

        def keep(message: Any) -> None:
            heard.append(Heard(message, self._node.get_clock().now().nanoseconds, time.monotonic()))

        self._node.create_subscription(message_class, topic, keep, qos)

    def messages(self, topic: str, kind: str) -> list[Heard]:
        """What was heard on a topic; `kind` as in sensor_msgs/JointState."""
        return self._heard[self.graph.full(topic), kind.rpartition("/")[2]]

    def spin(self, seconds: float, done: Callable[[], bool]) -> None:
        """Listen until `done`, at most so long."""
        deadline = time.monotonic() + seconds
        while not done() and (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(0.05, left))
