"""A topic that waits to be asked: no message wakes the executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from robot_nodes.polled_topic import PolledTopic  # noqa: E402

WaitUntil = Callable[..., None]


class Arm:
    """A topic and its publisher, each on a node of its own; messages are numbered by their stamp."""

    def __init__(self, reliability: ReliabilityPolicy) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot_node", namespace="robot1", context=self.context)
        self.driver = rclpy.create_node("driver", namespace="robot1", context=self.context)
        self.topic = PolledTopic(self.node, JointState, "joint_states")
        qos = QoSProfile(depth=50, reliability=reliability)
        self.publisher = self.driver.create_publisher(JointState, "joint_states", qos)
        self.sent = 0

    def publish(self, messages: int) -> None:
        for _ in range(messages):
            self.sent += 1
            message = JointState(name=["joint_1"], position=[0.5 * self.sent])
            message.header.stamp.sec = self.sent
            self.publisher.publish(message)

    def take(self) -> list[int]:
        return [message.header.stamp.sec for message in self.topic.newest_first()]

    def wait_for(self, wait_until: WaitUntil) -> list[int]:
        """What is there once the newest message has arrived; older ones may have been taken before."""
        taken: list[int] = []

        def arrived() -> bool:
            taken[:0] = self.take()
            return self.sent in taken

        wait_until(arrived, what=f"message {self.sent}")
        return taken


@pytest.fixture(params=[ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def arm(ros_domain_id: int, request: Any, wait_until: WaitUntil) -> Iterator[Arm]:
    arm = Arm(request.param)
    wait_until(lambda: arm.publisher.get_subscription_count() == 1, what="the subscription")
    yield arm
    arm.topic.close()
    rclpy.shutdown(context=arm.context)


def test_the_newest_comes_first_and_each_once(arm: Arm, wait_until: WaitUntil) -> None:
    assert arm.topic.name == "/robot1/joint_states"
    assert arm.take() == []
    arm.publish(3)
    assert sorted(arm.wait_for(wait_until)) == [1, 2, 3]
    assert arm.take() == []
    arm.publish(40)
    executor = SingleThreadedExecutor(context=arm.context)
    executor.add_node(arm.node)
    begun_s, cpu_s = time.monotonic(), time.thread_time()
    executor.spin_once(timeout_sec=0.4)
    assert time.monotonic() - begun_s > 0.35, "something was executed"
    assert time.thread_time() - cpu_s < 0.03, "it woke up, again and again"
    executor.remove_node(arm.node)
    assert arm.take() == list(range(43, 33, -1)), "the newest ten, of which the last is the first"


def test_a_message_that_nobody_gets_to_is_gone_at_the_next_look(arm: Arm, wait_until: WaitUntil) -> None:
    arm.publish(5)
    newest: list[Any] = []

    def look() -> bool:
        for message in arm.topic.newest_first():
            newest[:] = [message]
            break
        return bool(newest) and newest[0].header.stamp.sec == 5

    wait_until(look, what="message 5")
    assert newest[0].position.tolist() == [2.5]
    assert arm.take() == []
