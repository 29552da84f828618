"""Reach: bring the tool to a random point and be there when the episode ends.

The paper's random-target reaching (arXiv:1610.00633, section VI-A): the 20 numbers are joint
positions and velocities, tool position and target; actions are joint velocities. The reward

    r = −w_d d + w_p exp(−c d²) − w_a mean(u²),        d = |tool − target|

is the distance with a peak that makes the last centimetres worth while.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fleet.config import ConfigError, ReachTaskConfig
from fleet.spaces import Space, SpaceSpec
from robot_nodes.tasks.shared_arm import SharedArm
from robot_nodes.tasks.task import ArmState, Vector

_AXES = ("x", "y", "z")
_MOST_TRIES = 10_000


def reach_reward(distance_m: float, action: Vector, config: ReachTaskConfig) -> float:
    """Reward of being `distance_m` from the target after the executed action [nu]."""
    precision = math.exp(-config.precision_scale_per_m2 * distance_m**2)
    effort = float(np.mean(np.square(action)))
    return (
        -config.distance_weight * distance_m
        + config.precision_weight * precision
        - config.action_weight * effort
    )


class ReachTask:
    """Random end-effector targets in a spherical shell in front of the robot."""

    def __init__(self, config: ReachTaskConfig, arm: SharedArm) -> None:
        self._config = config
        self._center = np.array(config.target_center_m)
        self.episode_s = config.episode_s
        self.spec = _spec(config, arm)
        self.sample_goal(np.random.default_rng(0))  # now, not in the middle of a run

    def sample_goal(self, rng: np.random.Generator) -> Vector:
        """A target [3] (m), uniform in the volume of the shell beyond the lowest z and the lowest x.

        Raises:
            ConfigError: There is next to no such volume.
        """
        inner, outer = self._config.target_radius_m
        for _ in range(_MOST_TRIES):
            offset = rng.uniform(-outer, outer, 3)
            target: Vector = self._center + offset
            if (
                inner <= np.linalg.norm(offset) <= outer
                and target[2] >= self._config.target_min_z_m
                and target[0] >= self._config.target_min_x_m
            ):
                return target
        raise ConfigError(
            f"task: no target found {inner} to {outer} m (target_radius_m) around {self._center.tolist()}"
            f" with z >= target_min_z_m {self._config.target_min_z_m} and x >= target_min_x_m"
            f" {self._config.target_min_x_m}: let the planes leave more of the shell"
        )

    def observe(self, state: ArmState, goal: Vector) -> npt.NDArray[np.float32]:
        """q, q̇, tool, target [2 nq + 6]."""
        return np.concatenate((state.q, state.qd, state.tool_position, goal)).astype(np.float32)

    def reward(self, next_state: ArmState, goal: Vector, action: Vector) -> float:
        """See the module's docstring."""
        return reach_reward(self._distance(next_state, goal), action, self._config)

    def terminated(self, next_state: ArmState, goal: Vector) -> bool:
        """Never: an episode ends by its time limit, which does not stop bootstrapping."""
        return False

    def success(self, last_state: ArmState, goal: Vector) -> bool:
        """Whether the tool is within the success radius of the target."""
        return self._distance(last_state, goal) <= self._config.success_radius_m

    def metrics(self, last_state: ArmState, goal: Vector) -> dict[str, float]:
        """The distance left (m) and the target."""
        metrics = {"final_distance_m": self._distance(last_state, goal)}
        metrics.update({f"target_{axis}_m": float(goal[i]) for i, axis in enumerate(_AXES)})
        return metrics

    def goal_of(self, numbers: Mapping[str, float]) -> Vector:
        """The target [3] (m)."""
        return np.array([numbers[f"target/{axis}"] for axis in _AXES])

    def achieved_goal(self, state: ArmState) -> Vector:
        """Where the tool is [3] (m)."""
        return state.tool_position.copy()

    @staticmethod
    def _distance(state: ArmState, goal: Vector) -> float:
        return float(np.linalg.norm(state.tool_position - goal))


def _spec(config: ReachTaskConfig, arm: SharedArm) -> SpaceSpec:
    state, reach = arm.state, config.target_radius_m[1]
    observation = Space(
        names=(*state.names, *(f"target/{axis}" for axis in _AXES)),
        units=(*state.units, "m", "m", "m"),
        low=(*state.low, *(c - reach for c in config.target_center_m)),
        high=(*state.high, *(c + reach for c in config.target_center_m)),
    )
    return SpaceSpec(observation=observation, action=arm.action)
