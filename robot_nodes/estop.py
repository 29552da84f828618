"""Everything that e-stops one robot, and the latch that keeps it so, as ROS sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from fleet.robot_config import ExternalEstop
from robot_nodes.estop_latch import EstopLatch
from robot_nodes.quiet_topics import QUIET_PUBLISHER, QUIET_SUBSCRIPTION

logger = logging.getLogger(__name__)

KEPT = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""For states: a late subscriber hears the newest one."""


class Estop:
    """Services ~/estop and ~/reset_estop, topics ~/estop (in) and ~/estopped (out), the external input.

    estop = Estop(node, config.external_estop, latch, stop, go_on)
    every 0.1 s: estop.watch(time.monotonic())       # the external input's silence
    estop.trip("e-stop by the operator")             # from elsewhere

    Attributes:
        missing: What has not been heard yet of the external input; empty when it has.
    """

    def __init__(
        self,
        node: Node,
        external: ExternalEstop | None,
        latch: EstopLatch | None,
        stop: Callable[[str], None],
        go_on: Callable[[], str],
    ) -> None:
        """Make the topics and services; what the latch remembers stops the robot at once.

        Args:
            node: Whose executor calls back.
            external: The input from outside, if there is one.
            latch: What remembers it; None: a dry run.
            stop: Commands zeros and stops the robot, for this reason.
            go_on: Ends the stop; returns what the robot does then.
        """
        self._node, self._external, self._latch = node, external, latch
        self._stop, self._go_on = stop, go_on
        self._says_stop = False
        self._heard_s: float | None = None
        self._state = node.create_publisher(Bool, "~/estopped", KEPT, event_callbacks=QUIET_PUBLISHER)
        self._services = [
            node.create_service(Trigger, "~/estop", self._on_estop),
            node.create_service(Trigger, "~/reset_estop", self._on_reset),
        ]
        self._subscriptions = self._hear("~/estop", self._on_topic)
        self.missing = ""
        if external is not None:
            self._subscriptions += self._hear(external.topic, self._on_external)
            if external.max_age_s is not None:
                topic = self._subscriptions[-1].topic_name
                self.missing = f"no message yet on {topic}, the e-stop input from outside"
        remembered = latch.reason if latch is not None else ""
        self.stopped = bool(remembered)
        if remembered:
            stop(remembered)
        self._publish()

    def _hear(self, topic: str, callback: Callable[[Bool], None]) -> list[Subscription[Any]]:
        # Reliable, so that one message is enough; best effort, for publishers that are no better.
        return [
            self._node.create_subscription(
                Bool,
                topic,
                callback,
                QoSProfile(depth=10, reliability=policy),
                event_callbacks=QUIET_SUBSCRIPTION,
            )
            for policy in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
        ]

    def trip(self, reason: str) -> None:
        """E-stop: zero first, then what keeps it so."""
        self._stop(reason)
        if self.stopped:
            return
        self.stopped = True
        self._publish()
        if self._latch is not None:
            try:
                self._latch.set(reason)
            except OSError as error:
                logger.error(
                    "the e-stop holds, but a restart would forget it: %s cannot be written (%s)",
                    self._latch.path,
                    error.strerror,
                )

    def watch(self, steady_s: float) -> None:
        """Take a silent external input for an e-stop; `steady_s` is the steady wall time (s)."""
        if not self.stopped and (silent := self._silent(steady_s)):
            self.trip(silent)

    def _silent(self, steady_s: float) -> str:
        """How long the external input has been silent, if that is too long."""
        limit_s = self._external.max_age_s if self._external is not None else None
        if limit_s is None or self._heard_s is None or steady_s - self._heard_s <= limit_s:
            return ""
        silence_s = steady_s - self._heard_s
        return f"the e-stop input from outside is silent for {silence_s:.1f} s (limit {limit_s:g} s)"

    def close(self) -> None:
        """Give the topics and services back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_publisher(self._state)

    def _publish(self) -> None:
        self._state.publish(Bool(data=self.stopped))

    def _on_topic(self, message: Bool) -> None:
        if message.data:
            self.trip("e-stop by topic ~/estop")

    def _on_external(self, message: Bool) -> None:
        assert self._external is not None
        self._heard_s, self.missing = time.monotonic(), ""
        self._says_stop = message.data == self._external.stop_when
        if self._says_stop:
            self.trip(f"e-stop from outside ({self._external.topic})")

    def _on_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.trip("e-stop by ROS service")
        response.success, response.message = True, "latched; clear it with ~/reset_estop, then resume"
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._reset()
        return response

    def _reset(self) -> tuple[bool, str]:
        if not self.stopped:
            return True, "not e-stopped"
        if self._says_stop and self._external is not None:
            return False, f"refused: the e-stop input from outside ({self._external.topic}) still says stop"
        if silent := self._silent(time.monotonic()):
            return False, f"refused: {silent}"
        if self._latch is not None:
            try:
                self._latch.clear()
            except OSError as error:
                return False, f"refused: {self._latch.path} cannot be removed ({error.strerror})"
        self.stopped = False
        self._publish()
        return True, self._go_on()
