"""Which ROS 2 network a process joins: the one that `ros` of its fleet names, else the shell's."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from fleet.config import ConfigError, FleetConfig
from fleet.node_specs import ros_environment

_VARIABLES = {"domain_id": "ROS_DOMAIN_ID", "discovery_range": "ROS_AUTOMATIC_DISCOVERY_RANGE"}


def join_ros_network(fleet: FleetConfig, environment: MutableMapping[str, str]) -> None:
    """Set the variables of ROS 2 to what the fleet's config says about them; before rclpy is imported.

    A key that the config leaves out stays with the shell.

    Raises:
        ConfigError: The shell says something else: one of the two would reach arms it does not mean.
    """
    wanted = ros_environment(fleet)
    written = fleet.ros.model_fields_set if "ros" in fleet.model_fields_set else set()
    ours = {key: (variable, wanted[variable]) for key, variable in _VARIABLES.items() if key in written}
    problems = [
        f"{variable} is {shell} in this shell, but ros.{key} of fleet {fleet.name} is {value}: "
        f"unset {variable}, or give --set ros.{key}={shell}"
        for key, (variable, value) in ours.items()
        if (shell := environment.get(variable, "")) not in ("", value)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    environment.update(ours.values())


def ros_network(environment: Mapping[str, str]) -> str:
    """The network that these variables stand for, in words."""
    domain, reach = (environment.get(variable) for variable in _VARIABLES.values())
    return f"ROS domain {domain or '0'}, discovery range {reach or 'SUBNET'}"
