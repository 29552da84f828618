"""What a task is: pure functions of the arm's state and a goal, and their SpaceSpec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fleet.config import DoorTaskConfig, FleetConfig, ReachTaskConfig
from fleet.pick_place_config import PickPlaceTaskConfig
from fleet.spaces import SpaceSpec
from robot_nodes.tasks.shared_arm import SharedArm, shared_sensors

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ArmState:
    """One reading of the arm, joints in the order of the config.

    Attributes:
        q: Joint positions [nq] (rad).
        qd: Joint velocities [nq] (rad/s).
        tool_position: Tool in the base frame [3] (m).
        stamp_ns: ROS time of the joint reading (ns).
        sensors: Values of all extra sensors [ns], in the order of the config.
    """

    q: Vector
    qd: Vector
    tool_position: Vector
    stamp_ns: int
    sensors: Vector = field(default_factory=lambda: np.zeros(0))


class Task(Protocol):
    """The control loop's view of a task.

    goal = task.sample_goal(rng)                      # at the start of an episode
    x = task.observe(state, goal)                     # each tick
    r = task.reward(next_state, goal, action)         # one tick later
    done = task.terminated(next_state, goal)
    ok = task.success(last_state, goal)               # at the end

    What is logged can be told anew for another goal: the one that an observation was made with, or one that
    the episode happened to achieve.
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

    def goal_of(self, numbers: Mapping[str, float]) -> Vector:
        """The goal that an observation of this task was made with.

        Args:
            numbers: The observation's, by their names in the spec.

        Raises:
            KeyError: One that is needed is not there.
        """

    def achieved_goal(self, state: ArmState) -> Vector:
        """The goal that this state is nearest to: in hindsight, what it achieves."""


def make_task(fleet: FleetConfig, robot_id: str) -> Task:
    """The fleet's task on one of its robots. A new kind is one line here.

    Its spec is the same for every robot of the fleet: they share one policy.

    Raises:
        ConfigError: The fleet has no such robot, or the task cannot be done.
    """
    from robot_nodes.tasks.door import DoorTask
    from robot_nodes.tasks.pick_place import PickPlaceTask
    from robot_nodes.tasks.reach import ReachTask
    from robot_nodes.tasks.sensed import SensedTask

    fleet.entry(robot_id)
    robots = [entry.robot for entry in fleet.robots]
    arm, sensors, config = SharedArm.of(robots), shared_sensors(robots), fleet.task
    task: Task
    match config:
        case ReachTaskConfig():
            task = ReachTask(config, arm)
        case DoorTaskConfig():
            task = DoorTask(config, arm, sensors)
        case PickPlaceTaskConfig():
            task = PickPlaceTask(config, arm, sensors)
    return SensedTask(task, sensors) if sensors else task
