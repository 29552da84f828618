"""The controllers of one robot in gz sim: which, with what parameters, and on whose topics.

ros2_control names topics after controllers, a robot's config names them as its driver does. The controller
gets the name that the config's command topic implies; where names still differ, rules of remapping close
the gap: `topics.command` and `topics.joint_states` are exactly what gz sim hears and tells.
"""

from __future__ import annotations

from typing import Any

from fleet.config import RobotEntry
from fleet.robot_config import RobotConfig

BROADCASTER = "joint_state_broadcaster"
_BROADCASTER_TYPE = "joint_state_broadcaster/JointStateBroadcaster"
_FORWARD_TYPE = "forward_command_controller/ForwardCommandController"
_UPDATES_PER_TICK = 5  # a command waits for the next update, and a state is as old as the last


def full_topic(robot_id: str, topic: str) -> str:
    """The name of a robot's topic for everybody: those without a leading / are in its namespace."""
    return topic if topic.startswith("/") else f"/{robot_id}/{topic}"


def command_interface(robot: RobotConfig) -> str:
    """What each joint is commanded by: velocity or effort."""
    return "velocity" if robot.sim is None else robot.sim.command_interface


def command_topic(entry: RobotEntry) -> str:
    """The full name of the topic that moves the simulated arm."""
    robot = entry.robot
    if robot.sim is not None and robot.sim.command_interface == "effort":
        return full_topic(entry.id, robot.sim.effort_command)
    return full_topic(entry.id, robot.topics.command)


def forward_controller(entry: RobotEntry) -> str:
    """The name of the controller that hears the commands: NAME of a topic …/NAME/commands."""
    *_, name, last = command_topic(entry).split("/")
    if last == "commands" and name not in ("", entry.id):
        return name
    return f"forward_{command_interface(entry.robot)}_controller"


def remappings(entry: RobotEntry) -> dict[str, str]:
    """Topics whose names in ros2_control are not those of the config: from → to."""
    wanted = {
        f"/{entry.id}/joint_states": full_topic(entry.id, entry.robot.topics.joint_states),
        f"/{entry.id}/{forward_controller(entry)}/commands": command_topic(entry),
    }
    return {ours: theirs for ours, theirs in wanted.items() if ours != theirs}


def update_rate_hz(robot: RobotConfig) -> int:
    """Of the controller manager: at least the rate of joint states, at most one update per physics step."""
    assert robot.sim is not None
    rate = max(robot.sim.joint_state_rate_hz, _UPDATES_PER_TICK * robot.control_rate_hz)
    return max(1, int(min(rate, 1.0 / robot.sim.timestep_s)))


def controller_parameters(entry: RobotEntry) -> dict[str, Any]:
    """The ROS parameters of the controller manager and its controllers, by the full names of their nodes.

    A key without the namespace would not be theirs; one with a wildcard would be every robot's, since all
    controller managers live in one process.
    """
    forward = forward_controller(entry)
    manager = {
        "update_rate": update_rate_hz(entry.robot),
        BROADCASTER: {"type": _BROADCASTER_TYPE},
        forward: {"type": _FORWARD_TYPE},
    }
    parameters = {"joints": list(entry.robot.joints), "interface_name": command_interface(entry.robot)}
    return {
        f"/{entry.id}/controller_manager": {"ros__parameters": manager},
        f"/{entry.id}/{forward}": {"ros__parameters": parameters},
    }
