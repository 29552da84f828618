"""What a reset asks of others, as ROS sees it: a trajectory for a controller, a call of a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from fleet.robot_config import RobotConfig
from robot_nodes.control_loop import ControlLoop
from robot_nodes.quiet_topics import QUIET_PUBLISHER
from robot_nodes.trajectory import Trajectory

_LOG_PERIOD_S = 5.0


class ResetTopics:
    """The trajectory publisher and the client of the reset service, those that the config asks for.

    topics = ResetTopics(node, robot, loop)
    topics.serve()       # after each tick, and whenever the loop was told something
    """

    def __init__(self, node: Node, robot: RobotConfig, loop: ControlLoop, *, dry_run: bool = False) -> None:
        """Make the topics; for a dry run none."""
        self._node, self._robot, self._loop = node, robot, loop
        steps = [] if dry_run else robot.reset.steps
        self._trajectories = (
            node.create_publisher(
                JointTrajectory, robot.topics.joint_trajectory, 1, event_callbacks=QUIET_PUBLISHER
            )
            if "trajectory" in steps
            else None
        )
        self._client: Client[Any, Any] | None = None
        if "service" in steps and robot.reset.service is not None:
            self._client = node.create_client(Trigger, robot.reset.service)
        self._call_due = False
        self._answer: Future[Any] | None = None

    def serve(self) -> None:
        """Pass on what the loop wants now; never waits."""
        trajectory = self._loop.take_trajectory()
        if trajectory is not None and self._trajectories is not None:
            self._trajectories.publish(_message(self._robot.joints, trajectory))
        if self._client is not None:
            self._call()

    def _call(self) -> None:
        assert self._client is not None
        self._call_due = self._loop.phase == "resetting" and (
            self._call_due or self._loop.take_service_call()
        )
        if not self._call_due:
            return
        if not self._client.service_is_ready():  # the loop knows how long it may take
            self._node.get_logger().warning(
                f"reset: there is no service {self._robot.reset.service} (std_srvs/Trigger) yet",
                throttle_duration_sec=_LOG_PERIOD_S,
            )
            return
        self._call_due = False
        if self._answer is not None:  # of a reset that was cut short: it answers nobody's question any more
            self._client.remove_pending_request(self._answer)
        self._answer = self._client.call_async(Trigger.Request())
        self._answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: Future[Any]) -> None:
        self._answer = None
        response = answer.result()
        if response is not None:
            self._loop.service_done(response.success, response.message)

    def close(self) -> None:
        """Give the topics back."""
        if self._trajectories is not None:
            self._node.destroy_publisher(self._trajectories)
        if self._client is not None:
            self._node.destroy_client(self._client)


def _message(joints: Sequence[str], trajectory: Trajectory) -> JointTrajectory:
    """A header stamp of zero means: begin at once."""
    message = JointTrajectory(joint_names=list(joints))
    for time_s, position, velocity in zip(
        trajectory.times_s, trajectory.positions, trajectory.velocities, strict=True
    ):
        point = JointTrajectoryPoint(positions=position.tolist(), velocities=velocity.tolist())
        seconds, nanoseconds = divmod(round(time_s * 1e9), 10**9)
        point.time_from_start.sec, point.time_from_start.nanosec = seconds, nanoseconds
        message.points.append(point)
    return message
