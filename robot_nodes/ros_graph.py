"""Who publishes and hears what on the ROS network, as findings in plain words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rclpy.duration import Infinite
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible

from fleet.doctor import Finding
from robot_nodes.findings import good, wrong
from robot_nodes.node_names import full_name, node_name

_OWN_TOPICS = ("/rosout", "/parameter_events")


def ros_type(short: str) -> str:
    """sensor_msgs/JointState as the graph has it: sensor_msgs/msg/JointState."""
    package, _, name = short.partition("/")
    return f"{package}/msg/{name}"


class RosGraph:
    """What the node can see of the network around it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def namespace(self) -> str:
        """Where relative names are."""
        return self._node.get_namespace()

    def full(self, topic: str) -> str:
        """The topic with its namespace."""
        return self._node.resolve_topic_name(topic)

    def publishers(self, topic: str) -> list[Any]:
        """Endpoints that publish on a topic."""
        return list(self._node.get_publishers_info_by_topic(self.full(topic)))

    def hearers(self, topic: str) -> list[Any]:
        """Endpoints of others that subscribe to a topic."""
        infos = self._node.get_subscriptions_info_by_topic(self.full(topic))
        return [info for info in infos if node_name(info) != self._own_name]

    def contents(self) -> set[tuple[str, int, int]]:
        """Every topic with its numbers of publishers and subscribers: changes while more is found."""
        node = self._node
        topics = [name for name, _ in node.get_topic_names_and_types() if name not in _OWN_TOPICS]
        return {(t, node.count_publishers(t), node.count_subscribers(t)) for t in topics}

    @property
    def _own_name(self) -> str:
        return self._node.get_fully_qualified_name()

    def others(self) -> list[str]:
        """Full names of all other nodes that are visible."""
        seen = {full_name(ns, name) for name, ns in self._node.get_node_names_and_namespaces()}
        return sorted(seen - {self._own_name})

    def surroundings(self) -> Finding:
        """Whether any other node is there at all."""
        others = self.others()
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
        found = f"domain {domain}, range {reach}, namespace {self.namespace}: "
        if not others:
            advice = (
                "start the robot's driver; if it runs: give both the same ROS_DOMAIN_ID and discovery range, "
                "and look for a firewall or a container in between"
            )
            return wrong("ROS", f"{found}no other node is visible", advice)
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        return good("ROS", f"{found}{', '.join(others[:5])}{more}")

    def similar(self, topic: str, type_name: str, *, heard: bool = False) -> list[str]:
        """Other topics of this type that somebody publishes (or hears); those of the same name first."""
        full = self.full(topic)
        count = self._node.count_subscribers if heard else self._node.count_publishers
        found = [
            name
            for name, types in self._node.get_topic_names_and_types()
            if name != full and name not in _OWN_TOPICS and type_name in types and count(name)
        ]
        last = full.rpartition("/")[2]
        return sorted(found, key=lambda name: (name.rpartition("/")[2] != last, name))

    def incoming(self, name: str, key: str, topic: str, type_name: str, ours: QoSProfile) -> Finding:
        """Whether somebody publishes on a topic that this robot listens to, and it can be heard."""
        infos, full = self.publishers(topic), self.full(topic)
        if not infos:
            return wrong(
                name, *self._absent(key, topic, type_name, "publishes on", self.similar(topic, type_name))
            )
        if bad := self._wrong_type(full, infos, type_name):
            return wrong(name, *bad)
        for info in infos:
            verdict, why = qos_check_compatible(info.qos_profile, _unlimited(ours))
            if verdict == QoSCompatibility.ERROR:
                found = f"{full}: the QoS of {node_name(info)} does not fit: {why}"
                return wrong(name, found, "change the publisher's QoS")
        found = f"{full} from {names(infos)} ({qos_words(infos[0].qos_profile)})"
        if len(infos) > 1:
            found += f": {len(infos)} publishers"
        return good(name, found)

    def outgoing(self, name: str, key: str, topic: str, type_name: str, ours: QoSProfile) -> Finding:
        """Whether a topic that the robot node will publish on is heard, with the right type and QoS."""
        infos, full = self.hearers(topic), self.full(topic)
        if not infos:
            similar = self.similar(topic, type_name, heard=True)
            found, advice = self._absent(key, topic, type_name, "hears", similar)
            advice += "; is the controller loaded? `ros2 control list_controllers`"
            return wrong(name, found, advice)
        if bad := self._wrong_type(full, infos, type_name):
            return wrong(name, *bad)
        for info in infos:
            verdict, why = qos_check_compatible(_unlimited(ours), info.qos_profile)
            if verdict == QoSCompatibility.ERROR:
                found = f"{full}: the QoS of {node_name(info)} does not fit: {why}"
                return wrong(
                    name, found, f"the robot node publishes {qos_words(ours)}: change the other side"
                )
        return good(name, f"{full} is heard by {names(infos)}")

    def service(self, name: str, service: str, type_name: str) -> Finding:
        """Whether a service is there, of the right type."""
        full = self._node.resolve_service_name(service)
        services = dict(self._node.get_service_names_and_types())
        if full not in services:
            alike = [s for s, types in services.items() if type_name in types]
            found = f"nobody offers {full}" + (f"; found {', '.join(sorted(alike)[:5])}" if alike else "")
            return wrong(name, found, "start it, or correct the name in the robot's YAML")
        if type_name not in services[full]:
            return wrong(name, f"{full} is of type {services[full][0]}", f"it must be {type_name}")
        return good(name, full)

    def _absent(
        self, key: str, topic: str, type_name: str, verb: str, similar: Sequence[str]
    ) -> tuple[str, str]:
        full = self.full(topic)
        if not similar:
            return f"nobody {verb} {full} ({type_name})", f"start the driver, or correct {key}"
        found = f"nobody {verb} {full}; found {', '.join(similar[:5])}"
        namespace = similar[0].removesuffix(topic).rstrip("/") if not topic.startswith("/") else ""
        advice = f"write {key}: {similar[0]}, or start the driver in the namespace {self.namespace}"
        if similar[0].endswith(f"/{topic}") and namespace:
            advice = (
                f"give --namespace {namespace} (the robot's id in the fleet), or write {key}: {similar[0]}"
            )
        return found, advice

    @staticmethod
    def _wrong_type(full: str, infos: Sequence[Any], type_name: str) -> tuple[str, str] | None:
        others = [info for info in infos if info.topic_type != type_name]
        if not others:
            return None
        advice = f"it must be {type_name}: correct the topic's name in the robot's YAML, or the other side"
        return f"{full} is {others[0].topic_type} at {names(others)}", advice


def _unlimited(profile: QoSProfile) -> QoSProfile:
    """The profile with "no deadline" written out, as endpoints of the graph have it."""
    return QoSProfile(
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
        deadline=Infinite,
        liveliness_lease_duration=Infinite,
    )


def names(infos: Sequence[Any]) -> str:
    """The nodes at some endpoints."""
    return ", ".join(sorted({node_name(info) for info in infos}))


def qos_words(profile: QoSProfile) -> str:
    """The part of a QoS that must match."""
    reliable = profile.reliability == ReliabilityPolicy.RELIABLE
    kept = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return f"{'reliable' if reliable else 'best effort'}, {'transient local' if kept else 'volatile'}"
