"""A topic that is read when the control loop wants it, and wakes nobody when a message comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

# Matches every publisher. Not depth 1: another publisher's message would push out ours.
_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


class _Closed(CallbackGroup):
    """No executor waits for what is in it, nor for its events: with Fast DDS a message wakes those, too."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class PolledTopic:
    """The newest messages of one topic since the last look, ten at most.

        states = PolledTopic(node, JointState, "joint_states")
        each tick:  for message in states.newest_first():
                        if it is of use: break

    Arms tell their state up to a thousand times a second, and rclpy needs about as long to wake for a
    message as a control tick needs for all its work.
    """

    def __init__(self, node: Node, message_type: Any, topic: str) -> None:
        """Subscribe; a relative topic is in the node's namespace."""
        self._node, self._type = node, message_type
        self._subscription = node.create_subscription(
            message_type,
            topic,
            lambda message: None,
            _QOS,
            callback_group=_Closed(),
        )
        self.name: str = self._subscription.topic_name

    def newest_first(self) -> Iterator[Any]:
        """What came since the last look; a message costs its decoding only when the caller gets to it."""
        handle: Any = self._subscription.handle
        waiting = []
        with handle:
            while (taken := handle.take_message(self._type, True)) is not None:
                waiting.append(taken[0])
        for frame in reversed(waiting):
            yield deserialize_message(frame, self._type)

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)
