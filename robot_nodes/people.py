"""People in the loop, as ROS sees them: verdicts and wishes by service, teleop by topic."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.service import Service
from rclpy.subscription import Subscription
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from fleet.robot_config import TeleopConfig
from robot_nodes.control_loop import ControlLoop, ControlLoopError
from robot_nodes.quiet_topics import QUIET_SUBSCRIPTION
from robot_nodes.teleop import TeleopError

_BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_LOG_PERIOD_S = 5.0


class People:
    """Services ~/label_success, ~/label_failure, ~/next_episode and ~/ready, and the teleop topics."""

    def __init__(self, node: Node, loop: ControlLoop, teleop: TeleopConfig | None) -> None:
        """Make the services, and the topics that the config names."""
        self._node, self._loop = node, loop
        self._services = [
            self._offer("label_success", lambda: loop.label(True), "the episode ends as a success"),
            self._offer("label_failure", lambda: loop.label(False), "the episode ends as a failure"),
            self._offer("next_episode", loop.next_episode, "the episode ends, the next one follows"),
            self._offer("ready", loop.ready, "the next episode follows"),
        ]
        self._subscriptions: list[Subscription[Any]] = []
        if teleop is not None and teleop.twist_topic is not None:
            self._hear(TwistStamped, teleop.twist_topic, self._on_twist)
        if teleop is not None and teleop.joint_velocity_topic is not None:
            self._hear(Float64MultiArray, teleop.joint_velocity_topic, self._on_joint_velocity)

    def _hear(self, message_type: Any, topic: str, callback: Callable[[Any], None]) -> None:
        self._subscriptions.append(
            self._node.create_subscription(
                message_type, topic, callback, _BEST_EFFORT, event_callbacks=QUIET_SUBSCRIPTION
            )
        )

    def _offer(self, name: str, act: Callable[[], None], done: str) -> Service[Any, Any]:
        def answer(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                act()
            except ControlLoopError as error:
                response.success, response.message = False, str(error)
            else:
                response.success, response.message = True, done
            self._node.get_logger().info(f"~/{name}: {response.message}")
            return response

        return self._node.create_service(Trigger, f"~/{name}", answer)

    def _on_twist(self, message: TwistStamped) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        self._teleop(
            lambda teleop: teleop.twist(
                (linear.x, linear.y, linear.z),
                (angular.x, angular.y, angular.z),
                message.header.frame_id,
                time.monotonic(),
            )
        )

    def _on_joint_velocity(self, message: Float64MultiArray) -> None:
        self._teleop(lambda teleop: teleop.joint_velocity(message.data, time.monotonic()))

    def _teleop(self, command: Callable[..., None]) -> None:
        try:
            command(self._loop.teleop)
        except TeleopError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=_LOG_PERIOD_S)

    def close(self) -> None:
        """Give the topics and services back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for service in self._services:
            self._node.destroy_service(service)
