"""Full names of ROS nodes, and those of our own."""

from __future__ import annotations

from typing import Any

ROBOT_NODE = "robot_node"
ZERO_SENDER_SUFFIX = "_zero_sender"
"""What the name of a node's zero sender adds to its own."""
OWN_NODES = (ROBOT_NODE, ROBOT_NODE + ZERO_SENDER_SUFFIX)
"""Names of the nodes that `pnaf robot` starts in the robot's namespace."""


def full_name(namespace: str, name: str) -> str:
    """A node's name with its namespace."""
    return f"{namespace.rstrip('/')}/{name}"


def node_name(info: Any) -> str:
    """The full name of the node at an endpoint."""
    return full_name(info.node_namespace, info.node_name)
