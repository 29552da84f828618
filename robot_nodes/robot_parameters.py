"""A robot's config as ROS parameters: every leaf readable with its description, one of them settable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from fleet.robot_config import RobotConfig

_EXPLORATION = "exploration_scale"
_MOST_EXPLORATION = 10.0


@dataclass(frozen=True, slots=True)
class ConfigLeaf:
    """One value of a config.

    Attributes:
        name: Its keys, joined by dots.
        value: As ROS parameters can hold it: what they cannot is written as JSON.
        description: Of the field.
    """

    name: str
    value: bool | int | float | str | list[Any]
    description: str


def config_leaves(config: BaseModel, prefix: str = "") -> Iterator[ConfigLeaf]:
    """Every value of a config model, group by group."""
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if isinstance(value, BaseModel):
            yield from config_leaves(value, f"{prefix}{key}.")
        else:
            yield ConfigLeaf(f"{prefix}{key}", _parameter_value(value), field.description or "")


def _parameter_value(value: Any) -> bool | int | float | str | list[Any]:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and value:
        kinds = {type(item) for item in value}
        if kinds <= {int, float}:
            return [float(item) for item in value]
        if kinds == {str}:
            return list(value)
    return json.dumps(
        value, default=lambda v: v.model_dump(mode="json") if hasattr(v, "model_dump") else str(v)
    )


class RobotParameters:
    """Declares them; those of the config cannot be changed, not at the start either.

    parameters = RobotParameters(node, robot, exploration_scale=1.0, on_exploration=set_it)
    """

    def __init__(
        self,
        node: Node,
        robot: RobotConfig,
        exploration_scale: float,
        on_exploration: Callable[[float], None],
    ) -> None:
        """Declare; `on_exploration` is called with each new scale."""
        self.exploration_scale = exploration_scale
        self._on_exploration = on_exploration
        for leaf in config_leaves(robot):
            descriptor = ParameterDescriptor(description=leaf.description, read_only=True)
            # The config file is what counts: a `-p` on the command line would only look as if it did.
            node.declare_parameter(leaf.name, leaf.value, descriptor, ignore_override=True)
        most = max(_MOST_EXPLORATION, exploration_scale)
        node.declare_parameter(
            _EXPLORATION,
            exploration_scale,
            ParameterDescriptor(
                description="Multiplies the policy's exploration_std; 0: no noise. Effective at once.",
                floating_point_range=[FloatingPointRange(from_value=0.0, to_value=most)],
            ),
        )
        self.exploration_scale = float(node.get_parameter(_EXPLORATION).value)
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == _EXPLORATION:
                self.exploration_scale = float(parameter.value)
                self._on_exploration(self.exploration_scale)
        return SetParametersResult(successful=True)
