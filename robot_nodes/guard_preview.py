"""What the guard would have done to other actions at logged moments: a policy against it, without a robot.

Each moment stands alone: the arm is where the log says, the command before is the logged one. So a policy is
asked what it would do there, not where it would have gone. Not known from logs and left out: measured
efforts, and what was commanded before an episode's first step, which counts as standing still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.messages import Transitions
from fleet.robot_config import RobotConfig
from fleet.spaces import JOINT_COMMAND, SpaceSpec
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits, guard
from robot_nodes.intervention_counts import InterventionCounts
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

Array = npt.NDArray[np.float64]


class GuardPreviewError(ValueError):
    """The logs do not say where the arm was, or it is not this robot; the text says what is missing."""


@dataclass(frozen=True, eq=False)
class Moments:
    """N logged moments of one robot.

    Attributes:
        q: Joint positions [N, nq] (rad).
        qd: Joint velocities [N, nq] (rad/s).
        previous_command: Executed one step before; zeros at an episode's start [N, nq] (rad/s).
        previous_acceleration: Of that command from the one before [N, nq] (rad/s²).
    """

    q: Array
    qd: Array
    previous_command: Array
    previous_acceleration: Array

    @classmethod
    def of(
        cls, transitions: Transitions, places: npt.NDArray[np.int64], spec: SpaceSpec, robot: RobotConfig
    ) -> Moments:
        """Those of some rows of one whole episode.

        Args:
            transitions: The episode.
            places: Which of its rows [n].
            spec: What its columns mean.
            robot: Whose episode it is.

        Raises:
            GuardPreviewError: Its observation lacks joint positions or velocities, or it is another robot's.
        """
        joints = [name.removesuffix(JOINT_COMMAND) for name in spec.action.names]
        if spec.joints != len(joints) or len(joints) != len(robot.joints):
            raise GuardPreviewError(
                f"robot {robot.name!r} has {len(robot.joints)} joints, the logs' actions move {spec.joints} "
                f"with {len(joints)} numbers"
            )
        columns = {name: i for i, name in enumerate(spec.observation.names)}
        wanted = [f"{joint}/{what}" for what in ("position", "velocity") for joint in joints]
        if missing := [name for name in wanted if name not in columns]:
            raise GuardPreviewError(f"the logs' observation has no {missing[0]!r}, which the guard needs")
        state = transitions.observation[places][:, [columns[name] for name in wanted]].astype(np.float64)
        commands = np.zeros((transitions.rows + 2, len(joints)))
        commands[2:] = transitions.action * np.array(robot.limits.max_joint_velocity_rad_s)
        before, previous = commands[places], commands[places + 1]
        acceleration = (previous - before) * robot.control_rate_hz
        return cls(state[:, : len(joints)], state[:, len(joints) :], previous, acceleration)

    @classmethod
    def joined(cls, parts: Sequence[Moments]) -> Moments:
        """All of them, one after the other; at least one part."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def __len__(self) -> int:
        """How many moments."""
        return len(self.q)


def preview_guard(robot: RobotConfig, moments: Moments, actions: npt.ArrayLike) -> InterventionCounts:
    """Put one action per moment through the robot's guard and count what it does.

    Args:
        robot: With its limits.
        moments: Where it was.
        actions: In [-1, 1] [N, nq].

    Raises:
        ValueError: The robot's limits do not fit its URDF; the text says how.
        ConfigError: Its URDF cannot be loaded.
    """
    geometry = GuardGeometry(robot, Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link))
    limits, dt = GuardLimits.from_config(robot.limits), 1.0 / robot.control_rate_hz
    wishes = np.asarray(actions, np.float64) * np.array(robot.limits.max_joint_velocity_rad_s)
    counts = InterventionCounts()
    places = zip(
        moments.q, moments.qd, moments.previous_command, moments.previous_acceleration, wishes, strict=True
    )
    for q, qd, command, acceleration, wish in places:
        counts.add(guard(wish, geometry.state(q, qd, command, acceleration), limits, dt)[1])
    return counts
