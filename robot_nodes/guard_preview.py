"""What the guard would have done to other actions at logged moments: a policy against it, without a robot.

Each moment stands alone: the arm is where the log says, the command before is the logged one. So a policy is
asked what it would do there, not where it would have gone. Not known from logs and left out: measured
efforts, and what was commanded before an episode's first step, which counts as standing still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig, UrdfTopic
from fleet.spaces import JOINT_COMMAND, SpaceSpec
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits, guard
from robot_nodes.intervention_counts import InterventionCounts
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

Array = npt.NDArray[np.float64]


class GuardPreviewError(ValueError):
    """There is no guard to ask, or the logs do not say where the arm was; the text says what is missing."""


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
        cls, observation: npt.NDArray[Any], before: npt.NDArray[Any], spec: SpaceSpec, robot: RobotConfig
    ) -> Moments:
        """Those of some observations.

        Args:
            observation: What was observed [N, nx].
            before: The actions executed one and two steps before; zeros where none is known [2, N, nu].
            spec: What the numbers mean.
            robot: Whose they are.

        Raises:
            GuardPreviewError: The observation lacks joint positions or velocities, or it is another robot's.
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
        state = observation[:, [columns[name] for name in wanted]].astype(np.float64)
        newest, older = before * np.array(robot.limits.max_joint_velocity_rad_s)
        acceleration = (newest - older) * robot.control_rate_hz
        return cls(state[:, : len(joints)], state[:, len(joints) :], newest, acceleration)

    @classmethod
    def joined(cls, parts: Sequence[Moments]) -> Moments:
        """All of them, one after the other; at least one part."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def __len__(self) -> int:
        """How many moments."""
        return len(self.q)


class GuardPreview:
    """One robot's guard, outside its control loop.

    preview = GuardPreview(robot)
    executed = preview(moments, actions)     # [N, nq] in [-1, 1], as they would have been logged
    preview.counts                           # what it did so far
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Take the robot's limits.

        Raises:
            GuardPreviewError: It has no URDF file, or they do not fit it.
        """
        if isinstance(robot.urdf, UrdfTopic):
            raise GuardPreviewError(
                f"robot {robot.name!r} gets its URDF from the topic {robot.urdf.topic}, which nobody "
                "publishes here: name a file instead, in a config for --fleet"
            )
        try:
            kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
            self._geometry = GuardGeometry(robot, kinematics)
        except ValueError as error:
            raise GuardPreviewError(str(error)) from error
        self._limits = GuardLimits.from_config(robot.limits)
        self._dt = 1.0 / robot.control_rate_hz
        self._speed: Array = np.array(robot.limits.max_joint_velocity_rad_s)
        self.counts = InterventionCounts()

    def __call__(self, moments: Moments, actions: npt.ArrayLike) -> Array:
        """What would be executed of one action per moment [N, nq]."""
        commands: Array = np.asarray(actions, np.float64) * self._speed
        places = zip(
            moments.q, moments.qd, moments.previous_command, moments.previous_acceleration, strict=True
        )
        for (q, qd, previous, acceleration), command in zip(places, commands, strict=True):
            state = self._geometry.state(q, qd, previous, acceleration)
            _, interventions = guard(command, state, self._limits, self._dt, out=command)
            self.counts.add(interventions)
        return commands / self._speed
