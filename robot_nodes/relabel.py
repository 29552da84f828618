"""Logged episodes told anew, as if the robot had been given another task or another goal.

What the arm did stays: joints, tool and sensors are read out of the logged observations by their names.
What the task makes of it is computed again, as `robot_nodes/episode.py` does it: observations, rewards,
ends, verdicts and metrics. With the goal "final" an episode is told as if what it achieved had been the goal
from the start (hindsight experience replay, Andrychowicz et al. 2017, arXiv:1707.01495).

Logs hold float32, and the robot computed with float64: rewards may differ in the last digits from those that
the robot would have got. An observation's number that comes out as it was logged, but for that, stays as it
was logged, bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fleet.config import FleetConfig
from fleet.messages import COLUMNS, GUARD_METRICS, Transitions
from fleet.spaces import SpaceSpec
from robot_nodes.logged_states import LoggedStates, RelabelError
from robot_nodes.tasks.shared_arm import SharedArm, shared_sensors
from robot_nodes.tasks.task import ArmState, Task, Vector, make_task

if TYPE_CHECKING:
    from replay_server.episode_file import EpisodeInfo

GoalSource = Literal["keep", "final", "sample"]
GOAL_SOURCES: tuple[GoalSource, ...] = get_args(GoalSource)
"""keep: the logged one; final: what the episode achieved at its end; sample: a random one of the new task."""

_SAME = 1e-6  # SI units; float32 of a few metres or radians is finer than half of it
_VERDICTS = ("success", "failure")


class Relabel:
    """The edit that tells episodes for another task.

    relabel = Relabel(fleet, logs.spec, "reach", "final", seed=0)
    info, transitions = relabel(info, transitions)

    Attributes:
        task: The new one.
        goals: Where goals come from.
        shortened: Episodes that end earlier than they did, as the new task ends there.
        rows_cut: Rows that lay behind these ends.
        verdicts_dropped: Episodes whose end a person had judged, of another task or goal.
    """

    def __init__(
        self, fleet: FleetConfig, spec: SpaceSpec, kind: str, goals: GoalSource | None = None, seed: int = 0
    ) -> None:
        """Find the arm's state in the logs' observations.

        Args:
            fleet: The robots of the logs, with the new task.
            spec: The logs'.
            kind: Kind of the task in the logs; empty if that is not known.
            goals: Where goals come from; None: the logged ones, if the task is of the same kind.
            seed: Of random goals; an episode's goal does not depend on which others are told.

        Raises:
            RelabelError: The logs lack something that the task needs.
            ConfigError: The robots do, or the task cannot be done.
        """
        self.task: Task = make_task(fleet, fleet.robots[0].id)
        self.shortened = self.rows_cut = self.verdicts_dropped = 0
        robots = [entry.robot for entry in fleet.robots]
        sensors = shared_sensors(robots)
        self._columns = LoggedStates(spec, SharedArm.of(robots), sensors.names if sensors else ())
        if difference := replace(self.task.spec, observation=spec.observation).difference(spec):
            raise RelabelError(
                f"the logs are of robots with other actions: {difference} (there: in the logs)"
            )
        self.goals = _goal_source(goals, self.task, spec, kind, fleet.task.kind)
        self._same_kind = kind == fleet.task.kind
        self._kind, self._seed, self._spec = fleet.task.kind, seed, spec
        self._steps = max(1, round(self.task.episode_s * robots[0].control_rate_hz))
        self._labels = {entry.id: entry.robot.labels for entry in fleet.robots}
        here, there = self.task.spec.observation.names, spec.observation.names
        shared = [name for name in here if name in there]
        self._new_shared = [here.index(name) for name in shared]
        self._old_shared = [there.index(name) for name in shared]

    def __call__(self, info: EpisodeInfo, rows: Transitions) -> tuple[EpisodeInfo, Transitions]:
        """The episode as it would have been; its rows end where the new task ends it."""
        next_states = self._columns.states(rows.next_observation)[: self._steps]
        goal = self._goal(info, rows, next_states)
        rewards, over = self._rewards(next_states, goal, rows.action)
        count = len(rewards)
        next_states = next_states[:count]
        ending = self._ending(info, rows, count, over, next_states[-1], goal)
        if ending.verdict is not None and (labels := self._labels.get(info.robot_id)):
            rewards[-1] += labels.success_reward if ending.verdict else labels.failure_reward

        columns: dict[str, Any] = {name: getattr(rows, name)[:count].copy() for name in COLUMNS}
        complete = bool(ending.end)
        columns["terminated"][:] = False
        if complete:
            columns["terminated"][-1], columns["truncated"][-1] = ending.terminated, not ending.terminated
        columns["reward"] = np.array(rewards, "<f4")
        self._observe(columns, next_states, goal)

        metrics = {key: float(value) for key, value in ending.metrics.items()}
        if complete:
            metrics["return"] = float(np.sum(rewards))
        if count == rows.rows:
            metrics |= {key: value for key, value in info.metrics.items() if key.startswith(GUARD_METRICS)}
        self.shortened += count < rows.rows
        self.rows_cut += rows.rows - count
        origin = f"relabelled for {self._kind} with {_TOLD[self.goals]}"
        told = replace(
            info,
            end=ending.end,
            success=ending.success,
            metrics=metrics,
            complete=complete,
            task=self._kind,
            origin=f"{info.origin}; {origin}" if info.origin else origin,
        )
        return told, Transitions(**columns)

    def _ending(
        self, info: EpisodeInfo, rows: Transitions, count: int, over: bool, last: ArmState, goal: Vector
    ) -> _Ending:
        """How an episode ends of which `count` rows are left; `over`: the task terminated there."""
        metrics = self.task.metrics(last, goal)
        if over:
            success = bool(self.task.success(last, goal))
            return _Ending("success" if success else "failure", success, metrics, terminated=True)
        if count < rows.rows or info.end == "time_limit":
            return _Ending("time_limit", bool(self.task.success(last, goal)), metrics)
        if info.end not in _VERDICTS:
            return _Ending(info.end)  # it was broken off: the task has no say
        if not (self._same_kind and self.goals == "keep"):
            self.verdicts_dropped += 1
            return _Ending("intervention")
        if rows.terminated[-1]:
            return _Ending(info.end, info.success, metrics, terminated=True, verdict=info.success)
        return _Ending(
            info.end, info.success
        )  # the step that a person judged was not finished: it has no row

    def _goal(self, info: EpisodeInfo, rows: Transitions, next_states: list[ArmState]) -> Vector:
        if self.goals == "keep":
            numbers = map(float, rows.observation[0])
            return self.task.goal_of(dict(zip(self._spec.observation.names, numbers, strict=True)))
        if self.goals == "final":
            return self.task.achieved_goal(next_states[-1])
        name = f"{info.robot_id}/{info.boot_id}/{info.episode}"
        return self.task.sample_goal(np.random.default_rng([self._seed, zlib.crc32(name.encode())]))

    def _rewards(
        self, next_states: list[ArmState], goal: Vector, actions: npt.NDArray[np.float32]
    ) -> tuple[list[float], bool]:
        """Rewards up to the end [N], and whether the task terminated there."""
        rewards: list[float] = []
        for state, action in zip(next_states, actions.astype(np.float64), strict=False):
            rewards.append(float(self.task.reward(state, goal, action)))
            if self.task.terminated(state, goal):
                return rewards, True
        return rewards, False

    def _observe(self, columns: dict[str, Any], next_states: list[ArmState], goal: Vector) -> None:
        """Put the new observations in the place of the logged ones, where they differ."""
        followed = np.array_equal(columns["observation"][1:], columns["next_observation"][:-1])
        logged = columns["observation"][:1] if followed else columns["observation"]
        states = self._columns.states(logged)
        before = self._observed(states, goal, logged)
        after = self._observed(next_states, goal, columns["next_observation"])
        columns["observation"] = np.concatenate([before, after[:-1]]) if followed else before
        columns["next_observation"] = after

    def _observed(
        self, states: list[ArmState], goal: Vector, logged: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Observations [N, nx] of states that were logged as `logged` [N, nx of the logs]."""
        made = np.stack([self.task.observe(state, goal) for state in states]).astype("<f4")
        new, old = made[:, self._new_shared], logged[:, self._old_shared]
        made[:, self._new_shared] = np.where(np.abs(new - old) <= _SAME, old, new)
        return made


@dataclass(frozen=True)
class _Ending:
    """How an episode ends: what it holds of that, and a person's verdict on its last row."""

    end: str
    success: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    terminated: bool = False
    verdict: bool | None = None


_TOLD: dict[GoalSource, str] = {
    "keep": "the logged goal",
    "final": "the goal it achieved",
    "sample": "a random goal",
}


def _goal_source(
    goals: GoalSource | None, task: Task, spec: SpaceSpec, kind: str, new_kind: str
) -> GoalSource:
    """Where goals come from, if that is possible.

    Raises:
        RelabelError: The logged goals are wanted, and there are none of this task.
    """
    if goals in ("final", "sample"):
        return goals
    if len(task.sample_goal(np.random.default_rng(0))) == 0:
        return "keep"  # nothing is to be known
    why = f"the logs are of the task {kind}, which has other goals than {new_kind}"
    if kind in ("", new_kind):
        try:
            task.goal_of(dict.fromkeys(spec.observation.names, 0.0))
        except KeyError as error:
            why = f"the logs' observations have no {error.args[0]}, where the goal of {new_kind} would be"
        else:
            return "keep"
    raise RelabelError(
        f"{why}: say where goals come from, --goal final (what each episode achieved in the end) or "
        "--goal sample (random ones)"
    )
