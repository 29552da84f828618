"""Which topics of a bag an import listens to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleet.config import ConfigError
from fleet.robot_config import RobotConfig, UrdfTopic
from robot_nodes.bag_reader import BagError, BagTopic

JOINT_STATES, COMMAND, URDF, GOAL, MARKER = "joint_states", "command", "urdf", "goal", "marker"
_SHOWN = 12


def sensor_key(name: str) -> str:
    """Key of an extra sensor's topic."""
    return f"sensors.{name}"


@dataclass(frozen=True)
class BagTopics:
    """What is listened to: the full name of each topic, by its key, and the type it must have; "": any."""

    names: dict[str, str]
    types: dict[str, str]

    @classmethod
    def of(
        cls,
        robot: RobotConfig,
        robot_id: str,
        overrides: Mapping[str, str],
        *,
        commanded: bool = True,
        goal: str = "",
        marker: str = "",
    ) -> BagTopics:
        """The topics of a robot's config; relative names are in the robot's namespace.

        Args:
            robot: Its config.
            robot_id: Its namespace.
            overrides: Other names, by key.
            commanded: Commands are needed.
            goal: Topic of goals; empty: none.
            marker: Topic whose messages part episodes; empty: none.

        Raises:
            ConfigError: An override has an unknown key.
        """
        wanted = {JOINT_STATES: (robot.topics.joint_states, "sensor_msgs/JointState")}
        if commanded:
            wanted[COMMAND] = (robot.topics.command, "std_msgs/Float64MultiArray")
        wanted |= {sensor_key(sensor.name): (sensor.topic, sensor.type) for sensor in robot.sensors}
        if isinstance(robot.urdf, UrdfTopic):
            wanted[URDF] = (robot.urdf.topic, "std_msgs/String")
        if unknown := [key for key in overrides if key not in wanted]:
            raise ConfigError(f"--topic {unknown[0]}=…: nothing is called so; there are: {', '.join(wanted)}")
        if goal:
            wanted[GOAL] = (goal, "geometry_msgs/PoseStamped")
        if marker:
            wanted[MARKER] = (marker, "")
        names = {key: overrides.get(key, name) for key, (name, _) in wanted.items()}
        return cls(
            {key: name if name.startswith("/") else f"/{robot_id}/{name}" for key, name in names.items()},
            {key: kind for key, (_, kind) in wanted.items()},
        )

    def check(self, there: Mapping[str, BagTopic]) -> None:
        """Compare with the topics of a bag.

        Raises:
            BagError: It lacks one, or has it with another type; says what it has and what to do.
        """
        for key, name in self.names.items():
            kind, topic = self.types[key], there.get(name)
            if topic is not None and kind in ("", topic.type):
                continue
            if topic is not None:
                wrong = f"its {name} is {topic.type}, not {kind}"
            else:
                wrong = f"it has no {name}" + f" ({kind})" * bool(kind)
            option = f"--{key} /…" if key in (GOAL, MARKER) else f"--topic {key}=/…"
            advice = f"name the right one with {option}"
            if key == COMMAND:
                advice += ", or take measured velocities for actions: --action measured"
            raise BagError(f"{wrong}; {_describe(there, kind)}: {advice}")


def _describe(there: Mapping[str, BagTopic], kind: str) -> str:
    alike = [name for name, topic in there.items() if topic.type == kind]
    if alike:
        return f"of that type it has {', '.join(alike)}"
    names = [f"{name} ({topic.type})" for name, topic in there.items()]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"it has {', '.join(names[:_SHOWN]) or 'no topics'}{more}"
