"""Steps out of a bag to the transitions of episodes, as the task would have recorded them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fleet.messages import EndReason, Transitions
from robot_nodes.bag_goals import Goals
from robot_nodes.bag_steps import Step, Tick
from robot_nodes.kinematics import Kinematics
from robot_nodes.tasks.task import ArmState, Task, Vector

_STILL = 1e-3  # largest action of a robot at rest
_IDLE_S = 2.0  # so long, and an episode is over
_TOLERANCE = 1e-6  # of an action beyond [-1, 1]: rounding


@dataclass(frozen=True, eq=False)
class BagEpisode:
    """One episode: its rows and the facts that `EpisodeInfo` wants."""

    transitions: Transitions
    end: EndReason
    success: bool
    metrics: dict[str, float]
    received_ns: int


class EpisodeMaker:
    """Collects steps and hands over whole episodes.

    maker = EpisodeMaker(task, kinematics, max_velocity, goals, period_s, steps, on_episode)
    maker.step(step)                 # each
    maker.end("fault")               # where the next one does not follow

    Attributes:
        idle_steps: How many were left out, as the robot was at rest.
    """

    def __init__(
        self,
        task: Task,
        kinematics: Kinematics,
        max_velocity: Vector,
        goals: Goals,
        period_s: float,
        steps: int,
        on_episode: Callable[[BagEpisode], None],
        *,
        demonstrated: bool = False,
        keep_rest: bool = False,
    ) -> None:
        """Begin.

        Args:
            task: Whose observations and rewards.
            kinematics: Where the tool is.
            max_velocity: What an action of 1 commands [nq] (rad/s).
            goals: Of the episodes.
            period_s: The control period (s).
            steps: Of the longest episode.
            on_episode: Gets each episode.
            demonstrated: A person moved the robot.
            keep_rest: Long rests are part of the episodes.
        """
        self._task, self._kinematics, self._max_velocity, self._goals = task, kinematics, max_velocity, goals
        self._idle_after = max(1, round(_IDLE_S / period_s))
        self._longest, self._demonstrated, self._on_episode = steps, demonstrated, on_episode
        self._keep_rest = keep_rest
        self._steps: list[Step] = []
        self._still = 0  # newest steps in a row at rest
        self.idle_steps = 0

    def step(self, step: Step) -> None:
        """One more; an episode that is as long as it may be ends by its time limit.

        It does not begin at rest, and two seconds of that end it.
        """
        moves = self._keep_rest or bool((np.abs(step.velocity) > _STILL * self._max_velocity).any())
        self._still = 0 if moves else self._still + 1
        if not moves and (not self._steps or self._still > self._idle_after):
            self.end("time_limit")
            self.idle_steps += 1
            return
        self._steps.append(step)
        if len(self._steps) >= self._longest:
            self.end("time_limit")

    def end(self, reason: EndReason) -> None:
        """What was collected is an episode; unless it ended by a fault, the task says whether a success."""
        steps, self._steps = self._steps, []
        while steps:
            steps = steps[self._make(steps, reason) :]

    def _make(self, steps: list[Step], reason: EndReason) -> int:
        """Make the first episode of `steps`: where the task terminates, it ends earlier; returns its rows."""
        task = self._task
        states = [self._state(tick) for tick in (steps[0].before, *(step.after for step in steps))]
        goal = self._goals.of_episode(states[-1])
        asked = np.array([step.velocity for step in steps]) / self._max_velocity
        action = np.clip(asked, -1.0, 1.0)
        rows = next((i for i, s in enumerate(states[1:], 1) if task.terminated(s, goal)), 0)
        terminated = rows > 0
        rows = rows or len(steps)
        states, action, asked = states[: rows + 1], action[:rows], asked[:rows]
        observation = np.stack([task.observe(state, goal) for state in states])
        reward = [float(task.reward(s, goal, a)) for s, a in zip(states[1:], action, strict=True)]
        last = np.arange(rows) == rows - 1
        transitions = Transitions(
            observation=observation[:-1],
            action=action.astype(np.float32),
            policy_action=action.astype(np.float32),
            reward=np.array(reward, np.float32),
            next_observation=observation[1:],
            terminated=last & terminated,
            truncated=last & np.bool_(not terminated),
            intervened=np.full(rows, self._demonstrated),
            clipped=np.any(np.abs(asked) > 1.0 + _TOLERANCE, axis=1, keepdims=False),
            policy_version=np.full(rows, -1, np.int64),
            stamp_ns=np.array([state.stamp_ns for state in states[:-1]], np.int64),
        )
        success = (terminated or reason != "fault") and bool(task.success(states[-1], goal))
        if terminated:
            reason = "success" if success else "failure"
        metrics = {name: float(value) for name, value in task.metrics(states[-1], goal).items()}
        self._on_episode(
            BagEpisode(
                transitions=transitions,
                end=reason,
                success=success,
                metrics=metrics | {"return": float(sum(reward))},
                received_ns=steps[rows - 1].after.arrival_ns,
            )
        )
        return rows

    def _state(self, tick: Tick) -> ArmState:
        reading = tick.reading
        return ArmState(
            reading.q,
            reading.qd,
            self._kinematics.tool_position(reading.q),
            reading.stamp_ns,
            tick.sensors,
        )
