"""A person's hand, as a script: takes the open gripper around the object, closes it and carries that away."""

from __future__ import annotations

import numpy as np

from fleet.config import FleetConfig
from fleet.messages import PolicyMessage, policy_checksum
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy, Vector
from robot_nodes.tasks.task import make_task
from robot_nodes.urdf_source import load_urdf

_AROUND_M = 0.02
_HELD_RAD = 0.02


class PickScript(NumpyPolicy):
    """Picks and places by the pseudo-inverse of the Jacobian; knows nothing but observations.

    rollout = Rollout(fleet, "robot1", script_message(fleet, noise_std=0.4), …, explore=True)
    rollout.set_policy(PickScript(fleet, message))
    """

    def __init__(self, fleet: FleetConfig, message: PolicyMessage, *, closes: bool = True) -> None:
        """Act like the fleet's first robot; noise is the message's."""
        super().__init__(message)
        robot = fleet.robots[0].robot
        self._kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
        self._home, self._closes = np.array(robot.reset.home_rad), closes
        self._fastest = np.array(robot.limits.max_joint_velocity_rad_s)

    def mean_action(self, observation: np.ndarray) -> Vector:  # type: ignore[override]
        """An action in [-1, 1] [nu] for one observation [nx] of the task pick_place."""
        q, to_object, to_target = observation[:8], observation[19:22], observation[22:25]
        around = np.linalg.norm(to_object) < _AROUND_M
        held = around and q[7] < _HELD_RAD
        way = to_target + to_object if held else to_object
        velocity = 4.0 * way * min(1.0, 0.1 / float(np.linalg.norm(way)))  # 0.4 m/s at most
        jacobian = self._kinematics.jacobian(q)
        inverse = np.linalg.pinv(jacobian)
        home = 2.0 * (self._home - q)  # in what is left to choose: so the hand stays level
        command = inverse @ velocity + home - inverse @ (jacobian @ home)
        command[7] = -1.5 if around and self._closes else 4.0 * (0.4 - q[7])
        return np.clip(command / self._fastest, -1.0, 1.0).astype(np.float32)


def script_message(fleet: FleetConfig, noise_std: float = 0.0) -> PolicyMessage:
    """What a robot hears in place of a learned policy: all zeros, with noise on the script's actions."""
    spec = make_task(fleet, fleet.robots[0].id).spec
    nx, nu = spec.observation.size, spec.action.size
    arrays = np.zeros(nx * nu + nu, "<f4"), np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    return PolicyMessage(
        run_id="script",
        version=0,
        learner_step=0,
        spec_hash=spec.hash,
        layer_sizes=[nx, nu],
        exploration_std=noise_std,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(*arrays),
        parameters=arrays[0],
        observation_mean=arrays[1],
        observation_scale=arrays[2],
    )
