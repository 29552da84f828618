"""One running episode: what was decided, what came of it, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.messages import EndReason
from fleet.robot_config import LabelsConfig
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.intervention_counts import InterventionCounts
from robot_nodes.tasks.task import ArmState, Task, Vector


@dataclass(frozen=True, slots=True)
class Decision:
    """What was seen and done at a tick, until its outcome is known; see `Transitions` for the fields."""

    observation: Any
    action: Vector
    policy_action: Vector
    intervened: bool
    clipped: bool
    policy_version: int
    stamp_ns: int


class Episode:
    """From the first decision to the end.

    episode = Episode(task, goal, labels, recorder, steps, evaluating=False)
    each tick: success = episode.complete(state, observation)    # of the tick before; None: it goes on
               episode.counts.add(interventions)
               episode.pending = Decision(…)
    at a stop: episode.stop("stopped")

    Attributes:
        goal: The task's.
        evaluating: It is noise-free, to measure the policy.
        pending: The newest decision; its outcome is not known yet.
        helped: A person has moved the robot in it.
        verdict: A person's, on the step under way; None: the task's verdict counts.
        counts: What the guard did in it.
    """

    def __init__(
        self,
        task: Task,
        goal: Vector,
        labels: LabelsConfig,
        recorder: EpisodeRecorder,
        steps: int,
        *,
        evaluating: bool,
    ) -> None:
        """Begin; it lasts at most `steps` steps."""
        self._task, self._labels, self._recorder, self._steps = task, labels, recorder, steps
        self.goal, self.evaluating = goal, evaluating
        self.pending: Decision | None = None
        self.helped = False
        self.verdict: bool | None = None
        self.counts = InterventionCounts()
        self._step = 0
        self._return = 0.0
        recorder.begin(evaluation=evaluating)

    def complete(self, state: ArmState, observation: Any) -> bool | None:
        """Record the step that led to `state`, if one is under way, and end the episode when it is over.

        Returns:
            Whether the episode was a success; None while it goes on.
        """
        decision, self.pending = self.pending, None
        if decision is None:
            return None
        reward = float(self._task.reward(state, self.goal, decision.action))
        terminated = self._task.terminated(state, self.goal)
        if self.verdict is not None:
            terminated = True
            reward += self._labels.success_reward if self.verdict else self._labels.failure_reward
        self._step += 1
        self._return += reward
        self._recorder.add(
            observation=decision.observation,
            action=decision.action,
            policy_action=decision.policy_action,
            reward=reward,
            next_observation=observation,
            terminated=terminated,
            truncated=False,
            intervened=decision.intervened,
            clipped=decision.clipped,
            policy_version=decision.policy_version,
            stamp_ns=decision.stamp_ns,
        )
        if not terminated and self._step < self._steps:
            return None
        success = self.verdict
        if success is None:
            success = bool(self._task.success(state, self.goal))
        metrics = {key: float(value) for key, value in self._task.metrics(state, self.goal).items()}
        self._end("time_limit" if not terminated else "success" if success else "failure", success, metrics)
        return success

    def stop(self, reason: EndReason) -> None:
        """End it now; the step under way has no outcome and is not recorded.

        A verdict on that step stands all the same: whoever gave it was told that the episode ends with it.
        """
        if self.verdict is not None:
            reason = "success" if self.verdict else "failure"
        self._end(reason, bool(self.verdict), {})

    def _end(self, reason: EndReason, success: bool, metrics: dict[str, float]) -> None:
        metrics = metrics | {"return": self._return} | self.counts.metrics
        self._recorder.end(reason, success=success, metrics=metrics)
