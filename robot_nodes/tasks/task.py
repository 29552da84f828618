"""What a task is: pure functions of the arm's state and a goal, and their SpaceSpec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fleet.config import RobotConfig, TaskConfig
from fleet.spaces import SpaceSpec

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ArmState:
    """One reading of the arm, joints in the order of the config.

    Attributes:
        q: Joint positions [nq] (rad).
        qd: Joint velocities [nq] (rad/s).
        tool_position: Tool in the base frame [3] (m).
        stamp_ns: ROS time of the joint reading (ns).
    """

    q: Vector
    qd: Vector
    tool_position: Vector
    stamp_ns: int


class Task(Protocol):
    """The control loop's view of a task.

    goal = task.sample_goal(rng)                      # at the start of an episode
    x = task.observe(state, goal)                     # each tick
    r = task.reward(next_state, goal, action)         # one tick later
    done = task.terminated(next_state, goal)
    ok = task.success(last_state, goal)               # at the end
    """

    spec: SpaceSpec
    episode_s: float

    def sample_goal(self, rng: np.random.Generator) -> Vector:
        """A new goal, in whatever numbers the task wants."""

    def observe(self, state: ArmState, goal: Vector) -> npt.NDArray[np.float32]:
        """Observation [nx] in SI units."""

    def reward(self, next_state: ArmState, goal: Vector, action: Vector) -> float:
        """Reward of having arrived in `next_state` by the executed action [nu] in [-1, 1]."""

    def terminated(self, next_state: ArmState, goal: Vector) -> bool:
        """Whether the task itself ends here, so that nothing is left to bootstrap from."""

    def success(self, last_state: ArmState, goal: Vector) -> bool:
        """The verdict on an episode that ended in `last_state`."""

    def metrics(self, last_state: ArmState, goal: Vector) -> dict[str, float]:
        """Numbers about an episode that ended in `last_state`."""


def make_task(task: TaskConfig, robot: RobotConfig) -> Task:
    """The task that a config names. A new kind is one import here."""
    from robot_nodes.tasks.reach import ReachTask

    kinds: dict[str, Any] = {"reach": ReachTask}
    made: Task = kinds[task.kind](task, robot)
    return made
