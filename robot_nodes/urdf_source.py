"""Where a robot's URDF comes from: a file, or the topic on which the robot's own driver publishes it.

ROS is imported only for a topic, so that a policy is evaluated in simulation without it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.robot_config import UrdfTopic


class UrdfError(ValueError):
    """There is no usable URDF; the text says where it was looked for and what to do."""


@dataclass(frozen=True, slots=True)
class Urdf:
    """A robot's description.

    Attributes:
        text: The XML.
        name: The file or topic it is from, for messages.
    """

    text: str
    name: str


def load_urdf(source: Path | UrdfTopic, namespace: str = "") -> Urdf:
    """The URDF from a file, or the first that is heard on a topic.

    A topic is waited for on a node of its own, so this may be called inside another node's callback;
    that callback's executor stands still meanwhile.

    Args:
        source: From the robot's config.
        namespace: The robot's: topics without a leading / are in it.

    Raises:
        UrdfError: The file cannot be read, or nothing was heard in time.
    """
    if isinstance(source, UrdfTopic):
        return _hear(source, namespace)
    try:
        return Urdf(source.read_text(), str(source))
    except (OSError, UnicodeDecodeError) as error:
        raise UrdfError(f"{source}: cannot be read: {error}") from error


def _hear(source: UrdfTopic, namespace: str) -> Urdf:
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from std_msgs.msg import String

    heard: list[str] = []
    # Published once, when the driver starts, and kept for those who come later.
    latched = QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
    )
    context = Context()
    rclpy.init(context=context)
    node = Node(
        "urdf_reader",
        namespace=namespace,
        context=context,
        use_global_arguments=False,
        enable_rosout=False,
        start_parameter_services=False,
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        subscription = node.create_subscription(
            String, source.topic, lambda message: heard.append(message.data), latched
        )
        deadline_s = time.monotonic() + source.timeout_s
        while not heard and (left_s := deadline_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)
        if not heard:
            publishers = node.get_publishers_info_by_topic(source.topic)
            raise UrdfError(_silence(subscription.topic_name, source.timeout_s, publishers))
        return Urdf(heard[0], f"topic {subscription.topic_name}")
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def _silence(topic: str, timeout_s: float, publishers: list[Any]) -> str:
    if publishers:
        names = ", ".join(sorted(info.node_name for info in publishers))
        return (
            f"urdf: no URDF was heard on {topic} within {timeout_s:g} s, though {names} publishes there: it "
            "must be std_msgs/String with transient local durability, as robot_state_publisher has it"
        )
    return (
        f"urdf: nobody has published a URDF on {topic} within {timeout_s:g} s: start the robot's driver (its "
        "launch file starts robot_state_publisher, which does), or correct urdf.topic, or name a file as urdf"
    )
