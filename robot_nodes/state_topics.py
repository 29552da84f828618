"""How a robot is, for everybody on ROS: ~/state when it changes, /diagnostics once a second.

What a robot that stands still waits for is in its log, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import String

from robot_nodes.diagnostics import Diagnosis
from robot_nodes.estop import KEPT
from robot_nodes.quiet_topics import QUIET_PUBLISHER

_LOG_PERIOD_S = 10.0  # notes count seconds, so they change at every tick


class StateTopics:
    """Publishers of one robot's state; there from the node's first to its last moment."""

    def __init__(self, node: Node, robot_id: str) -> None:
        self._node, self._robot_id = node, robot_id
        self._state = node.create_publisher(String, "~/state", KEPT, event_callbacks=QUIET_PUBLISHER)
        self._diagnostics = node.create_publisher(
            DiagnosticArray, "/diagnostics", 1, event_callbacks=QUIET_PUBLISHER
        )
        self._told = ""

    def tell(self, phase: str, note: str) -> None:
        """Publish phase and note if they have changed; log now and then why the robot stands still."""
        text = f"{phase}: {note}" if note else phase
        if text == self._told:
            return
        self._told = text
        self._state.publish(String(data=text))
        if phase == "waiting" and note:  # faults have a line of their own
            self._node.get_logger().info(text, throttle_duration_sec=_LOG_PERIOD_S)

    def diagnose(self, diagnoses: Iterable[Diagnosis]) -> None:
        """Publish diagnostic statuses, under the robot's name."""
        message = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=diagnosis.level.value,
                    name=f"{self._robot_id}: {diagnosis.name}",
                    message=diagnosis.message,
                    hardware_id=self._robot_id,
                    values=[KeyValue(key=key, value=value) for key, value in diagnosis.values.items()],
                )
                for diagnosis in diagnoses
            ]
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(message)
