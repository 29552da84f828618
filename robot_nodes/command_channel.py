"""The only way by which velocity commands leave the robot node."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from fleet.robot_config import RobotConfig
from robot_nodes.node_names import ZERO_SENDER_SUFFIX
from robot_nodes.zero_guardian import ZeroGuardian

_MATCH_S = 5.0
_ACKNOWLEDGE_S = 0.2


class CommandChannel:
    """The command publisher, and the process that commands zeros when this one cannot.

    channel = CommandChannel(node, robot)
    channel.renew(); channel.await_match()         # before the robot may move
    channel.feed(on_duty=True)                     # every channel.feed_period_s, from the executor
    channel.send(velocity)                         # each tick
    channel.stop(); channel.close()                # on every way out
    """

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        self._node = node
        self._zero: npt.NDArray[np.float64] = np.zeros(len(robot.joints))
        self._message = Float64MultiArray(data=self._zero.tolist())
        self._publisher = node.create_publisher(Float64MultiArray, robot.topics.command, 1)
        self.topic = self._publisher.topic_name
        self._guardian = ZeroGuardian(
            self.topic,
            len(robot.joints),
            robot.control_rate_hz,
            robot.watchdogs.loop_hang_s,
            node.context.get_domain_id(),
            node.get_name() + ZERO_SENDER_SUFFIX,
            node.get_namespace(),
        )
        self.feed_period_s = self._guardian.period_s

    @property
    def subscribers(self) -> int:
        """How many hear the commands."""
        return self._publisher.get_subscription_count()

    @property
    def problem(self) -> str:
        """Why nothing but zeros leaves, until `renew`; empty when all is well."""
        self._guardian.look()
        return self._guardian.problem

    @property
    def ready(self) -> bool:
        """A controller hears the process that commands zeros in an emergency."""
        return self._guardian.ready

    @property
    def zero_sender_pid(self) -> int:
        """Process id of that process."""
        return self._guardian.pid

    def feed(self, *, on_duty: bool) -> None:
        """Show that this process's loop runs."""
        self._guardian.feed(on_duty=on_duty)

    def send(self, velocity: npt.NDArray[np.float64]) -> None:
        """Command joint velocities [nq] (rad/s): zeros if something is wrong with our own loop."""
        problem = self.problem
        self._message.data = (self._zero if problem else velocity).tolist()
        self._publisher.publish(self._message)
        if problem:
            self._guardian.acknowledge()

    def zero(self) -> None:
        """Command zeros."""
        self.send(self._zero)

    def stop(self) -> None:
        """Command zeros, wait a little until they have arrived, and be off duty."""
        self.zero()
        self._publisher.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGE_S))
        self._guardian.feed(on_duty=False)

    def renew(self) -> None:
        """A person lets the robot go on: forget the problem."""
        self._guardian.renew()

    def await_match(self) -> bool:
        """Wait until the controller that hears us hears the zero sender, too; for some seconds."""
        deadline_s = time.monotonic() + _MATCH_S
        while self.subscribers > 0 and not self.ready and not self.problem:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """Give the topic back, after `stop`."""
        self._guardian.close()
        self._node.destroy_publisher(self._publisher)


class DryCommandChannel:
    """Of a dry run: nothing leaves, and no process is started; it only counts who would hear it."""

    feed_period_s = 0.1
    problem = ""
    ready = True

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        self._node = node
        self.topic = node.resolve_topic_name(robot.topics.command)

    @property
    def subscribers(self) -> int:
        """How many would hear the commands."""
        return self._node.count_subscribers(self.topic)

    def feed(self, *, on_duty: bool) -> None:
        """Nobody watches."""

    def send(self, velocity: npt.NDArray[np.float64]) -> None:
        """Send nothing."""

    def zero(self) -> None:
        """Send nothing."""

    def stop(self) -> None:
        """Send nothing."""

    def renew(self) -> None:
        """Nothing went wrong."""

    def await_match(self) -> bool:
        """Nothing to wait for."""
        return True

    def close(self) -> None:
        """Nothing to give back."""
