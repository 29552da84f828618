"""Who else publishes on the command topic: two that command one arm tear at it."""

from __future__ import annotations

import math
from collections import Counter

from rclpy.node import Node

from robot_nodes.node_names import ZERO_SENDER_SUFFIX, node_name

_PERIOD_S = 1.0  # between two looks: each asks the middleware for a list


class OtherCommanders:
    """Looks for publishers that are neither ours nor our zero sender's.

    others = OtherCommanders(node, topic, ours=1)
    each tick: others.look(time.monotonic())       # "" or who it is
    """

    def __init__(self, node: Node, topic: str, *, ours: int) -> None:
        """`topic` as it is resolved; `ours`: how many publishers this node has on it."""
        self._node, self._topic, self._ours = node, topic, ours
        self._us = node.get_fully_qualified_name()
        self._looked_s, self._found = -math.inf, ""

    def look(self, steady_s: float) -> str:
        """Who else there is, at most a second ago; empty: nobody. `steady_s` is the steady wall time (s)."""
        if steady_s - self._looked_s >= _PERIOD_S:
            self._looked_s = steady_s
            self._found = self._others()
        return self._found

    def _others(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        count = Counter(map(node_name, publishers))
        twins = count.pop(self._us, 0) - self._ours
        # Of ours, and of a twin's; a killed one's is remembered, but commands nothing.
        del count[self._us + ZERO_SENDER_SUFFIX]
        names = sorted(count)
        if twins > 0:
            names.insert(0, f"another {self._us}")
        return ", ".join(names)
