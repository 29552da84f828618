"""Extra sensors over real topics: every type, both reliabilities, and what becomes of a sensor that stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from fleet.robot_config import SensorConfig

rclpy = pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Imu, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

from robot_nodes.sensor_topics import SensorTopics  # noqa: E402

SENSORS = TypeAdapter(list[SensorConfig]).validate_python(
    [
        {
            "type": "sensor_msgs/JointState",
            "name": "hinge",
            "topic": "door/joint_states",
            "field": "position",
            "joints": ["hinge"],
            "low": 0.0,
            "high": 2.0,
            "max_age_s": 0.5,
        },
        {
            "type": "sensor_msgs/Imu",
            "name": "imu",
            "topic": "/lab/imu",
            "field": "linear_acceleration",
            "low": -20.0,
            "high": 20.0,
            "max_age_s": 0.1,
        },
        {
            "type": "geometry_msgs/PoseStamped",
            "name": "handle",
            "topic": "handle",
            "field": "position",
            "low": -2.0,
            "high": 2.0,
            "max_age_s": 1.0,
        },
        {
            "type": "std_msgs/Float64MultiArray",
            "name": "wrench",
            "topic": "wrench",
            "size": 2,
            "unit": "N",
            "low": -50.0,
            "high": 50.0,
            "max_age_s": 1.0,
        },
    ]
)


class Lab:
    """A node with the subscriptions, one with the publishers, and a clock that a test turns."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot_node", namespace="robot1", context=self.context)
        self.other = rclpy.create_node("lab", namespace="robot1", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.steady_s = 100.0

    def topics(self, sensors: list[SensorConfig] = SENSORS) -> SensorTopics:
        return SensorTopics(self.node, sensors, lambda: self.steady_s)

    def publisher(self, kind: type, topic: str, reliability: ReliabilityPolicy) -> Any:
        return self.other.create_publisher(kind, topic, QoSProfile(depth=1, reliability=reliability))

    def publish(self, publisher: Any, message: Any, heard: Callable[[], object], wait_until: Any) -> None:
        """Again and again, until it was heard: the first ones go before the two have found each other."""

        def there() -> bool:
            publisher.publish(message)
            self.executor.spin_once(timeout_sec=0.02)
            return bool(heard())

        wait_until(there, timeout_s=20, what=f"a message on {publisher.topic_name}")

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.other.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def lab(ros_domain_id: int) -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
def test_every_type_is_heard_from_every_publisher_until_it_stops(lab: Lab, wait_until, reliability) -> None:
    topics = lab.topics()
    values, problem = topics.read(lab.steady_s)
    assert values.tolist() == [0.0] * 9 and not topics.heard
    assert problem == "sensor hinge: nothing heard on /robot1/door/joint_states yet (sensor_msgs/JointState)"

    imu, pose = Imu(), PoseStamped()
    imu.linear_acceleration.z = 9.81
    pose.pose.position.x = 0.7
    for i, (topic, message) in enumerate(
        [
            ("door/joint_states", JointState(name=["latch", "hinge"], position=[9.0, 0.4])),
            ("/lab/imu", imu),
            ("handle", pose),
            ("wrench", Float64MultiArray(data=[3.0, 4.0])),
        ]
    ):
        publisher = lab.publisher(type(message), topic, reliability)
        names = ["hinge", "imu", "handle", "wrench", ""]
        expected = names[i + 1]
        lab.publish(
            publisher,
            message,
            lambda expected=expected: (
                topics.read(lab.steady_s)[1].startswith(f"sensor {expected}:")
                or (not expected and topics.heard)
            ),
            wait_until,
        )
    values, problem = topics.read(lab.steady_s)
    assert problem == "" and topics.heard
    assert values.tolist() == [0.4, 0.0, 0.0, 9.81, 0.7, 0.0, 0.0, 3.0, 4.0]

    assert topics.read(lab.steady_s + 0.09)[1] == ""
    values, problem = topics.read(lab.steady_s + 0.11)
    assert problem == "sensor imu: nothing heard on /lab/imu for 0.11 s (max_age_s: 0.1)"
    assert values[3] == 9.81, "the last known numbers"
    assert topics.read(lab.steady_s + 0.51)[1].startswith("sensor hinge: ")
    topics.close()
    assert not list(lab.node.subscriptions)


def test_a_sensor_that_goes_bad_becomes_too_old_and_comes_back(lab: Lab, wait_until) -> None:
    topics = lab.topics([SENSORS[3]])
    publisher = lab.publisher(Float64MultiArray, "wrench", ReliabilityPolicy.RELIABLE)
    bad, good = Float64MultiArray(data=[1.0, float("nan")]), Float64MultiArray(data=[3.0, 4.0])
    complaint = "sensor wrench: 1 is not a finite number"

    lab.publish(publisher, bad, lambda: topics.read(lab.steady_s)[1] == complaint, wait_until)
    assert not topics.heard
    lab.publish(publisher, good, lambda: topics.heard, wait_until)
    lab.steady_s += 0.9
    before = topics.read(lab.steady_s)
    assert before[1] == ""
    lab.publish(publisher, bad, lambda: topics.read(lab.steady_s + 0.2)[1] == complaint, wait_until)
    values, problem = topics.read(lab.steady_s)
    assert (values.tolist(), problem) == ([3.0, 4.0], ""), "one bad message is no reason to stop"
    lab.steady_s += 0.2
    assert topics.read(lab.steady_s)[1] == complaint
    lab.publish(publisher, good, lambda: topics.read(lab.steady_s)[1] == "", wait_until)


def test_without_sensors_there_is_nothing_to_read(lab: Lab) -> None:
    topics = lab.topics([])
    values, problem = topics.read(lab.steady_s)
    assert values.shape == (0,) and values.dtype == np.float64 and problem == "" and topics.heard
