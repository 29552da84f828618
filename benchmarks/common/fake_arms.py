"""Arms that do what they are told, behind the topics of ros2_control: one process for all of a fleet.

python -m benchmarks.common.fake_arms CONFIG RATE_HZ
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from fleet.config import RobotEntry
from fleet.config_file import load_fleet
from fleet.ready import notify_ready, stop_on_signals

_BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class FakeArm:
    """One arm that follows velocity commands exactly."""

    def __init__(self, node: Node, entry: RobotEntry) -> None:
        """Start at home."""
        robot = entry.robot
        self._q = list(robot.reset.home_rad)
        self._qd = [0.0] * len(self._q)
        self._message = JointState(name=robot.joints, effort=self._qd)
        self._publisher = node.create_publisher(JointState, f"/{entry.id}/{robot.topics.joint_states}", 1)
        node.create_subscription(
            Float64MultiArray, f"/{entry.id}/{robot.topics.command}", self._on_command, _BEST_EFFORT
        )

    def _on_command(self, message: Float64MultiArray) -> None:
        self._qd = list(message.data)

    def step(self, dt_s: float) -> None:
        """Move for so long and say where it is."""
        self._q = [q + qd * dt_s for q, qd in zip(self._q, self._qd, strict=True)]
        self._message.position, self._message.velocity = self._q, self._qd
        stamp = self._message.header.stamp
        stamp.sec, stamp.nanosec = divmod(time.time_ns(), 10**9)
        self._publisher.publish(self._message)


def main() -> None:
    """Publish joint states at a fixed rate until SIGTERM."""
    fleet, period_s = load_fleet(Path(sys.argv[1])), 1.0 / float(sys.argv[2])
    stop = stop_on_signals()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("fake_arms")
    arms = [FakeArm(node, entry) for entry in fleet.robots]
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    notify_ready()
    last_s = next_s = time.monotonic()
    while not stop.is_set():
        while (left_s := next_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)
        now_s = time.monotonic()
        for arm in arms:
            arm.step(now_s - last_s)
        last_s, next_s = now_s, max(next_s + period_s, now_s)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
