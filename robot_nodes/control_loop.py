"""The control loop: one tick from a joint reading to a guarded velocity command.

    reset by motion ──▶ episode: observe → act → guard → command → record ──▶ reset …

No ROS, no sockets and no clock of its own: `robot_nodes/robot_node.py` feeds it from topics,
`robot_nodes/sim/rollout.py` straight from the simulated arm. Whatever happens, what `tick` returns
went through the guard or is zero.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fleet.config import RobotConfig
from fleet.messages import EndReason
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.exploration import GaussianExploration
from robot_nodes.guard import GuardLimits, GuardState, guard
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy
from robot_nodes.tasks.task import ArmState, Task, Vector

logger = logging.getLogger(__name__)

_LONGEST_STEP = 1.9  # control periods between two readings; joint states of 20 Hz and more stay below

Phase = Literal["waiting", "resetting", "episode", "paused", "fault", "estopped"]


@dataclass(frozen=True, slots=True)
class NewestPolicy:
    """What the policy receiver holds: swapped as a whole, so a tick sees one or the other.

    Attributes:
        policy: The network.
        received_s: Steady time at which the learner last said that it is its newest (s).
    """

    policy: NumpyPolicy
    received_s: float


@dataclass(slots=True)
class _Pending:
    """What was seen and done at the last tick, until its outcome is known."""

    observation: Any
    action: Vector
    policy_action: Vector
    clipped: bool
    policy_version: int
    stamp_ns: int


class ControlLoop:
    """One robot's behaviour, tick by tick.

    loop = ControlLoop(robot, task, kinematics, recorder, newest_policy, rng)
    every 1/control_rate_hz:  velocity = loop.tick(q, qd, stamp_ns, steady_s)

    Each `evaluate_every`-th episode is noise-free, with the policy that was newest at its start
    (0: none is, 1: all are).
    """

    def __init__(
        self,
        robot: RobotConfig,
        task: Task,
        kinematics: Kinematics,
        recorder: EpisodeRecorder,
        newest_policy: Callable[[], NewestPolicy | None],
        rng: np.random.Generator,
        *,
        evaluate_every: int = 0,
        exploration_scale: float = 1.0,
    ) -> None:
        self._robot, self._task, self._kinematics = robot, task, kinematics
        self._recorder, self._newest_policy, self._rng = recorder, newest_policy, rng
        self._evaluate_every, self._exploration_scale = evaluate_every, exploration_scale
        self._limits = GuardLimits.from_config(robot.limits)
        self._max_velocity = np.array(robot.limits.max_joint_velocity_rad_s)
        self._dt = 1.0 / robot.control_rate_hz
        self._episode_ticks = max(1, round(task.episode_s * robot.control_rate_hz))
        self._exploration = GaussianExploration(len(robot.joints), rng)
        self._zero: Vector = np.zeros(len(robot.joints))

        self.phase: Phase = "waiting"
        self.note = "for joint states"
        self.blocked = ""  # set from outside: why no new step may be taken (spool full, …)
        self._command: Vector = self._zero
        self._home: Vector = np.array(robot.reset.home_rad)
        self._reset_ticks = 0
        self._goal: Vector = self._zero
        self._step = 0
        self._return = 0.0
        self._evaluating = False
        self._policy: NewestPolicy | None = None
        self._pending: _Pending | None = None
        self._last_stamp_ns = 0

        self.ticks = 0
        self.late_ticks = 0
        self.episodes = 0
        self.stopped_commands = 0  # which the guard held back at a position limit, the workspace, or NaN
        self.smoothed_commands = 0  # of which it only limited velocity or acceleration
        self.interventions: dict[str, int] = {}
        self.training_outcomes: deque[bool] = deque(maxlen=20)
        self.evaluation_outcomes: deque[bool] = deque(maxlen=20)

    # What the robot is told -----------------------------------------------------------------

    def pause(self, note: str) -> None:
        """End the episode and hold still until `resume`."""
        if self.phase not in ("fault", "estopped"):
            self._stop_episode("stopped")
            self._enter("paused", note)

    def resume(self, note: str) -> None:
        """A person lets the robot go on, after a pause or a fault; never after an e-stop."""
        if self.phase in ("paused", "fault"):
            self._enter("waiting", note)

    def fault(self, note: str) -> None:
        """Something is wrong with the robot: hold still until a person resumes it."""
        if self.phase != "estopped":
            self._stop_episode("fault")
            self._enter("fault", note)

    def estop(self, note: str) -> None:
        """Latched: only `reset_estop` ends it."""
        self._stop_episode("fault")
        self._enter("estopped", note)

    def reset_estop(self, note: str) -> None:
        """A person at the robot clears the e-stop; it stays paused until resumed."""
        if self.phase == "estopped":
            self._enter("paused", note)

    def lose_state(self, note: str) -> None:
        """Joint states are stale: stop, then latch a fault or wait, as the config says."""
        if self.phase in ("resetting", "episode"):
            if self._robot.limits.on_stale_state == "latch":
                self.fault(note)
            else:
                self._stop_episode("fault")
                self._enter("waiting", note)
        self._command = self._zero

    # One tick -------------------------------------------------------------------------------

    def tick(self, q: Vector, qd: Vector, stamp_ns: int, steady_s: float) -> Vector:
        """Decide the next command from the newest joint reading.

        Args:
            q: Joint positions, in the order of the config [nq] (rad).
            qd: Joint velocities [nq] (rad/s).
            stamp_ns: ROS time of the reading (ns).
            steady_s: Steady wall time (s), for the age of the policy only.

        Returns:
            Joint velocities that passed the guard [nq] (rad/s).
        """
        self.ticks += 1
        if not (np.isfinite(q).all() and np.isfinite(qd).all()):
            self.fault("joint states are not finite: check the driver and its wiring")
        if self.phase in ("paused", "fault", "estopped"):
            self._command = self._zero
            return self._command
        interval_s = (stamp_ns - self._last_stamp_ns) * 1e-9
        if self.phase == "episode":
            if interval_s == 0.0:
                return self._command  # no new reading: the step is not over
            if not 0.0 < interval_s < _LONGEST_STEP * self._dt:
                # A step of another length is not what the policy learns from: drop it, start afresh.
                self.late_ticks += 1
                self._stop_episode("fault")
                self._begin_reset()
        self._last_stamp_ns = stamp_ns

        state = ArmState(q, qd, self._kinematics.tool_position(q), stamp_ns)
        if self.phase == "waiting":
            self._try_reset(steady_s)
        if self.phase == "resetting":
            return self._tick_reset(state, steady_s)
        if self.phase == "episode":
            return self._tick_episode(state, steady_s)
        self._command = self._zero
        return self._command

    def _tick_episode(self, state: ArmState, steady_s: float) -> Vector:
        observation = self._task.observe(state, self._goal)
        if self._pending is not None:
            self._record(self._pending, observation, state)
            self._pending = None
            if self.phase != "episode":
                return self._tick_reset(state, steady_s)
        hold = self.blocked or self._policy_is_too_old(steady_s)
        if hold:
            self._stop_episode("stopped")
            self._enter("waiting", hold)
            self._command = self._zero
            return self._command

        if not self._evaluating:
            self._policy = self._newest_policy()
        assert self._policy is not None  # an episode starts only with one
        policy = self._policy.policy
        policy_action = policy.mean_action(observation).astype(np.float64)
        if not self._evaluating:
            std = self._exploration_scale * policy.exploration_std
            noise = self._exploration.sample(std, policy.exploration_correlation)
            policy_action = np.clip(policy_action + noise, -1.0, 1.0)
        clipped = self._guarded(policy_action * self._max_velocity, state)
        self._pending = _Pending(
            observation=observation,
            action=self._command / self._max_velocity,
            policy_action=policy_action,
            clipped=clipped,
            policy_version=policy.version,
            stamp_ns=state.stamp_ns,
        )
        return self._command

    def _record(self, pending: _Pending, next_observation: Any, state: ArmState) -> None:
        """Complete the transition of the last tick and end the episode when it is over."""
        reward = float(self._task.reward(state, self._goal, pending.action))
        terminated = self._task.terminated(state, self._goal)
        self._step += 1
        self._return += reward
        self._recorder.add(
            observation=pending.observation,
            action=pending.action,
            policy_action=pending.policy_action,
            reward=reward,
            next_observation=next_observation,
            terminated=terminated,
            truncated=False,
            intervened=False,
            clipped=pending.clipped,
            policy_version=pending.policy_version,
            stamp_ns=pending.stamp_ns,
        )
        if not terminated and self._step < self._episode_ticks:
            return
        success = bool(self._task.success(state, self._goal))
        reason: EndReason = "time_limit" if not terminated else "success" if success else "failure"
        metrics = {key: float(value) for key, value in self._task.metrics(state, self._goal).items()}
        metrics["return"] = self._return
        self._recorder.end(reason, success=success, metrics=metrics)
        self.episodes += 1
        (self.evaluation_outcomes if self._evaluating else self.training_outcomes).append(success)
        self._begin_reset()

    def _tick_reset(self, state: ArmState, steady_s: float) -> Vector:
        """Servo to the randomised home; when there, the episode begins in the same tick."""
        error = self._home - state.q
        reset = self._robot.reset
        if (
            np.abs(error).max() < reset.tolerance_rad
            and np.abs(state.qd).max() < reset.gain_per_s * reset.tolerance_rad
        ):
            self._begin_episode()
            return self._tick_episode(state, steady_s)
        self._reset_ticks += 1
        if self._reset_ticks * self._dt > reset.timeout_s:
            worst = self._robot.joints[int(np.abs(error).argmax())]
            left_rad = np.abs(error).max()
            self.fault(f"reset took more than {reset.timeout_s:g} s: {worst} is {left_rad:.2f} rad from home")
            self._command = self._zero
            return self._command
        self._guarded(np.clip(reset.gain_per_s * error, -self._max_velocity, self._max_velocity), state)
        return self._command

    # Parts ----------------------------------------------------------------------------------

    def _guarded(self, velocity: Vector, state: ArmState) -> bool:
        """Guard a wish (rad/s), keep the result as the command, and say whether it was changed."""
        guard_state = GuardState(
            q=state.q,
            qd=state.qd,
            previous_command=self._command,
            tool_position=state.tool_position,
            jacobian=self._kinematics.jacobian(state.q),
        )
        self._command, interventions = guard(velocity, guard_state, self._limits, self._dt)
        stopped = interventions.position or interventions.workspace or interventions.non_finite
        self.stopped_commands += stopped
        self.smoothed_commands += interventions.any and not stopped
        for name in interventions.names:
            self.interventions[name] = self.interventions.get(name, 0) + 1
        return interventions.any

    def _try_reset(self, steady_s: float) -> None:
        if self.blocked:
            self.note = self.blocked
        elif self._newest_policy() is None:
            self.note = "for the first policy"
        elif old := self._policy_is_too_old(steady_s):
            self.note = old
        else:
            self._begin_reset()

    def _policy_is_too_old(self, steady_s: float) -> str:
        newest = self._newest_policy()
        limits = self._robot.limits
        if newest is None or limits.on_old_policy == "keep_acting":
            return ""
        age_s = steady_s - newest.received_s
        return f"policy is {age_s:.0f} s old" if age_s > limits.max_policy_age_s else ""

    def _begin_reset(self) -> None:
        reset = self._robot.reset
        offset = self._rng.uniform(-reset.randomise_rad, reset.randomise_rad, len(self._robot.joints))
        margin = 2 * reset.tolerance_rad
        self._home = np.clip(
            np.array(reset.home_rad) + offset,
            np.array(self._robot.limits.position_low_rad) + margin,
            np.array(self._robot.limits.position_high_rad) - margin,
        )
        self._reset_ticks = 0
        self._enter("resetting", "")

    def _begin_episode(self) -> None:
        self._goal = self._task.sample_goal(self._rng)
        self._exploration.reset()
        self._step, self._return = 0, 0.0
        every = self._evaluate_every
        self._evaluating = every > 0 and (self._recorder.episode + 2) % every == 0
        self._policy = self._newest_policy()
        self._recorder.begin(evaluation=self._evaluating)
        self._enter("episode", "evaluating" if self._evaluating else "")

    def _stop_episode(self, reason: EndReason) -> None:
        """End a running episode now; the step under way has no outcome and is not recorded."""
        if self.phase == "episode":
            self._recorder.end(reason, success=False, metrics={"return": self._return})
        self._pending = None

    def _enter(self, phase: Phase, note: str) -> None:
        if phase in ("fault", "estopped") and (phase, note) != (self.phase, self.note):
            logger.error("%s: %s", phase, note)
        elif phase in ("paused", "waiting") and phase != self.phase:
            logger.info("%s: %s", phase, note)
        self.phase, self.note = phase, note
        if phase not in ("resetting", "episode"):
            self._command = self._zero
