"""A task whose robots have extra sensors: their numbers follow those of the task in the observation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fleet.config import ConfigError
from fleet.spaces import Space, SpaceSpec
from robot_nodes.tasks.task import ArmState, Task, Vector


class SensedTask:
    """Around any task; all but the observation is the task's own."""

    def __init__(self, task: Task, sensors: Space) -> None:
        """Wrap `task`.

        Raises:
            ConfigError: A sensor's name is taken by the task.
        """
        plain = task.spec.observation
        if taken := sorted(set(plain.names) & set(sensors.names)):
            raise ConfigError(
                f"sensors: {taken[0]} is in the task's observation already: give sensor "
                f"{taken[0].partition('/')[0]!r} another name"
            )
        observation = Space(
            names=plain.names + sensors.names,
            units=plain.units + sensors.units,
            low=plain.low + sensors.low,
            high=plain.high + sensors.high,
        )
        self._task, self._size = task, sensors.size
        self.spec = SpaceSpec(observation=observation, action=task.spec.action)
        self.episode_s = task.episode_s

    def observe(self, state: ArmState, goal: Vector) -> npt.NDArray[np.float32]:
        """The task's observation, then `state.sensors` [nx + ns].

        Raises:
            ValueError: The state has other sensors.
        """
        if state.sensors.shape != (self._size,):
            raise ValueError(f"sensors must be [{self._size}], got {list(state.sensors.shape)}")
        return np.concatenate((self._task.observe(state, goal), state.sensors), dtype=np.float32)

    def sample_goal(self, rng: np.random.Generator) -> Vector:
        """The task's."""
        return self._task.sample_goal(rng)

    def reward(self, next_state: ArmState, goal: Vector, action: Vector) -> float:
        """The task's."""
        return self._task.reward(next_state, goal, action)

    def terminated(self, next_state: ArmState, goal: Vector) -> bool:
        """The task's."""
        return self._task.terminated(next_state, goal)

    def success(self, last_state: ArmState, goal: Vector) -> bool:
        """The task's."""
        return self._task.success(last_state, goal)

    def metrics(self, last_state: ArmState, goal: Vector) -> dict[str, float]:
        """The task's."""
        return self._task.metrics(last_state, goal)

    def goal_of(self, numbers: Mapping[str, float]) -> Vector:
        """The task's."""
        return self._task.goal_of(numbers)

    def achieved_goal(self, state: ArmState) -> Vector:
        """The task's."""
        return self._task.achieved_goal(state)
