"""The control loop: one tick from a joint reading to a guarded velocity command.

    reset ──▶ episode: observe → act (or obey a person) → guard → command → record ──▶ reset …

No ROS, no sockets and no clock of its own: `robot_nodes/robot.py` feeds it from topics,
`robot_nodes/sim/rollout.py` straight from the simulated arm. Whatever happens, what `tick` returns
went through the guard or is zero.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from fleet.messages import EndReason
from fleet.robot_config import Reaction, RobotConfig
from robot_nodes.actor import Actor, NewestPolicy
from robot_nodes.clearance import GuardGeometry
from robot_nodes.episode import Decision, Episode
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.exploration import GaussianExploration
from robot_nodes.guard import GuardLimits
from robot_nodes.guard_state import NO_INTERVENTION
from robot_nodes.guarded_commands import GuardedCommands, overload
from robot_nodes.intervention_counts import InterventionCounts
from robot_nodes.joint_states import JointReading
from robot_nodes.kinematics import Kinematics
from robot_nodes.reset import Reset
from robot_nodes.reset_steps import ResetError
from robot_nodes.tasks.task import ArmState, Task, Vector
from robot_nodes.teleop import Teleop
from robot_nodes.trajectory import Trajectory

logger = logging.getLogger(__name__)

_LONGEST_STEP = 1.9  # control periods between two readings; joint states of 20 Hz and more stay below
_TELL_S = 5.0  # between two lines in the log about such steps
_NO_SENSORS: Vector = np.zeros(0)

Phase = Literal["waiting", "resetting", "episode", "paused", "fault", "estopped"]


class ControlLoopError(RuntimeError):
    """What a person asked for does not apply now; the text says what the robot does instead."""


class ControlLoop:
    """One robot's behaviour, tick by tick.

    loop = ControlLoop(robot, task, kinematics, recorder, newest_policy, rng)
    every 1/control_rate_hz:  velocity = loop.tick(reading, steady_s, sensors)   # or loop.hold(…)
                              trajectory = loop.take_trajectory()                # for the reset
                              if loop.take_service_call(): …                     # loop.service_done(…) later

    Each `evaluate_every`-th episode is noise-free, with the policy that was newest at its start
    (0: none is, 1: all are). Before each episode and its reset, the robot waits as long as `learner_behind`
    says for whom.

    Attributes:
        phase: What the robot does.
        note: Why, for people.
        blocked: Set from outside: why no new step may be taken (spool full, …); empty if one may.
        teleop: Where a person's commands go in; none if the config has none.
        asked: What was asked of the guard at the newest tick [nq] (rad/s).
        last_interventions: What the guard did then.
        exploration_scale: Multiplies the policy's exploration_std; may be changed at any time.
        training_outcomes: Verdicts on the newest episodes in which no person moved the robot.
        evaluation_outcomes: Verdicts on the newest noise-free ones.
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
        learner_behind: Callable[[], str] = lambda: "",
        dry_run: bool = False,
    ) -> None:
        self._robot, self._task, self._kinematics = robot, task, kinematics
        self._recorder, self._rng, self._evaluate_every = recorder, rng, evaluate_every
        self.exploration_scale = exploration_scale
        self._learner_behind = learner_behind
        self._max_velocity = np.array(robot.limits.max_joint_velocity_rad_s)
        self._dt = 1.0 / robot.control_rate_hz
        self._episode_ticks = max(1, round(task.episode_s * robot.control_rate_hz))
        self._zero: Vector = np.zeros(len(robot.joints))
        exploration = GaussianExploration(len(robot.joints), rng)
        self._actor = Actor(newest_policy, robot.watchdogs.policy_age, exploration)
        geometry = GuardGeometry(robot, kinematics)
        guarded = partial(GuardedCommands, GuardLimits.from_config(robot.limits), geometry)
        self._commands = guarded(self._dt)
        self._reset = Reset(robot, geometry, guarded, rng, dry_run=dry_run)
        self.teleop = Teleop(robot, kinematics) if robot.teleop is not None else None

        self.phase: Phase = "waiting"
        self.note = "for joint states"
        self.blocked = ""
        self.asked: Vector = self._zero
        self.last_interventions = NO_INTERVENTION
        self._episode: Episode | None = None
        self._reading = JointReading(self._zero, self._zero, 0)
        self._command_before: Vector = self._zero
        self._last_stamp_ns = 0

        self.ticks = 0
        self.late_ticks = 0
        self._odd_steps = 0  # since the log was told of them
        self._odd_steps_told_s = -math.inf
        self.episodes = 0
        self._counts = InterventionCounts()
        self.training_outcomes: deque[bool] = deque(maxlen=20)
        self.evaluation_outcomes: deque[bool] = deque(maxlen=20)

    # What it says ---------------------------------------------------------------------------

    @property
    def command(self) -> Vector:
        """The newest command [nq] (rad/s)."""
        return self._commands.last

    @property
    def interventions(self) -> dict[str, int]:
        """How many commands each of the guard's limits has changed."""
        return self._counts.counts

    @property
    def largest_interventions(self) -> dict[str, float]:
        """The largest change of a joint by each limit (rad/s)."""
        return self._counts.largest

    @property
    def stopped_commands(self) -> int:
        """Commands that the guard held back: at a joint's limit, the workspace, NaN, …."""
        return self._counts.stopped

    @property
    def smoothed_commands(self) -> int:
        """Commands of which the guard only limited velocity, acceleration or jerk."""
        return self._counts.smoothed

    def take_trajectory(self) -> Trajectory | None:
        """What to tell the trajectory controller now: the way home, or a stop when a reset is cut short.

        To be asked after every tick and whenever the loop was told something.
        """
        return self._reset.take_trajectory()

    def take_service_call(self) -> bool:
        """Whether to call the reset service now; `service_done` must follow.

        Not before two commands were zero: a simulated arm refuses while it is commanded to move, and the
        call may overtake the newest command.
        """
        still = not (self._command_before.any() or self.command.any())
        return still and self._reset.take_service_call()

    # What it is told ------------------------------------------------------------------------

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

    def hold(self, note: str, action: Reaction) -> None:
        """A watchdog has tripped: zero, then wait for the next tick, or latch a fault."""
        if self.phase not in ("waiting", "resetting", "episode"):
            return  # it holds still already, and a person must look at it anyway
        if action == "latch":
            self.fault(note)
        else:
            self._stop_episode("fault")
            self._enter("waiting", note)

    def label(self, success: bool) -> None:
        """A person's verdict: the step under way is the last of the episode, and terminates it.

        Raises:
            ControlLoopError: No episode is running.
        """
        self._running_episode().verdict = success

    def next_episode(self) -> None:
        """A person ends the episode without a verdict; a reset follows.

        Raises:
            ControlLoopError: No episode is running.
        """
        if self._running_episode().verdict is not None:
            return  # it ends with the step under way, and the verdict must not be lost
        self._stop_episode("intervention")
        self._begin_reset()

    def ready(self) -> None:
        """A person says that all is in place for the next episode.

        Raises:
            ControlLoopError: The robot does not wait for that.
        """
        if self.phase != "resetting" or not self._reset.waits_for_person:
            raise ControlLoopError(f"nobody is waited for: the robot is {self._state}")
        self._reset.ready()

    def service_done(self, ok: bool, message: str) -> None:
        """The reset service has answered, or could not be called."""
        self._reset.service_done(ok, message)

    def _running_episode(self) -> Episode:
        if self._episode is None:
            raise ControlLoopError(f"no episode is running: the robot is {self._state}")
        return self._episode

    @property
    def _state(self) -> str:
        return f"{self.phase} ({self.note})" if self.note else self.phase

    # One tick -------------------------------------------------------------------------------

    def tick(self, reading: JointReading, steady_s: float, sensors: Vector = _NO_SENSORS) -> Vector:
        """Decide the next command from the newest readings.

        Args:
            reading: Joints in the order of the config.
            steady_s: Steady wall time (s), for the age of the policy and of a person's commands.
            sensors: Values of all extra sensors [ns].

        Returns:
            Joint velocities that passed the guard [nq] (rad/s).
        """
        self.ticks += 1
        self._command_before = self.command
        if not (np.isfinite(reading.q).all() and np.isfinite(reading.qd).all()):
            self.fault("joint states are not finite: check the driver and its wiring")
        elif not np.isfinite(sensors).all():
            self.fault("readings of the extra sensors are not finite: check their drivers")
        if self.phase in ("paused", "fault", "estopped"):
            return self.command
        interval_s = (reading.stamp_ns - self._last_stamp_ns) * 1e-9
        if self._episode is not None:
            if interval_s == 0.0:
                return self.command  # no new reading: the step is not over
            if not 0.0 < interval_s < _LONGEST_STEP * self._dt:
                # A step of another length is not what the policy learns from: drop it, start afresh.
                self.late_ticks += 1
                self._tell_odd_step(interval_s, steady_s)
                self._stop_episode("fault")
                self._begin_reset()
        self._last_stamp_ns = reading.stamp_ns

        q = reading.q
        state = ArmState(q, reading.qd, self._kinematics.tool_position(q), reading.stamp_ns, sensors)
        person = self.teleop.velocity(q, steady_s) if self.teleop is not None else None
        self._reading = reading
        if self.phase == "waiting":
            self._try_reset(steady_s)
        if self.phase == "resetting":
            self._tick_reset(state, steady_s, person)
        elif self._episode is not None:
            self._tick_episode(self._episode, state, steady_s, person)
        else:
            self._act(self._zero if person is None else person)
        if "effort" in self.last_interventions.values:
            self.hold(overload(reading.effort, self._robot), self._robot.watchdogs.effort)
        return self.command

    def _tick_episode(
        self, episode: Episode, state: ArmState, steady_s: float, person: Vector | None
    ) -> None:
        observation = self._task.observe(state, episode.goal)
        success = episode.complete(state, observation)
        if success is not None:
            self._finish(episode, success)
            if self.phase == "resetting":
                self._tick_reset(state, steady_s, person)
            return
        old = self._actor.too_old(steady_s)
        if old and self._robot.watchdogs.policy_age.action == "latch":
            self.fault(old)
            return
        if self.blocked or old:
            self._stop_episode("stopped")
            self._enter("waiting", self.blocked or old)
            return
        if person is not None and episode.evaluating:
            # What follows does not measure the policy: an episode of its own, for training.
            self._stop_episode("intervention")
            episode = self._begin_episode(episode.goal, evaluating=False)

        policy_action, policy_version = self._actor.act(observation, self.exploration_scale)
        self._act(policy_action * self._max_velocity if person is None else person)
        episode.counts.add(self.last_interventions)
        episode.helped |= person is not None
        episode.pending = Decision(
            observation=observation,
            action=self.command / self._max_velocity,
            policy_action=policy_action,
            intervened=person is not None,
            clipped=self.last_interventions.any,
            policy_version=policy_version,
            stamp_ns=state.stamp_ns,
        )

    def _tick_reset(self, state: ArmState, steady_s: float, person: Vector | None) -> None:
        """Do the reset's next move; when it is done, the episode begins in the same tick."""
        if person is not None:
            self._reset.interrupt()
            self._act(person)
            return
        try:
            wish = self._reset.tick(state.q, state.qd, state.stamp_ns)
        except ResetError as error:
            self.fault(str(error))
            return
        if wish is None:
            every = self._evaluate_every
            evaluating = every > 0 and (self._recorder.episode + 2) % every == 0
            episode = self._begin_episode(self._task.sample_goal(self._rng), evaluating)
            self._tick_episode(episode, state, steady_s, person)
            return
        self.note = self._reset.note
        self._act(wish)

    # Parts ----------------------------------------------------------------------------------

    def _act(self, wish: Vector) -> None:
        """Guard a wish [nq] (rad/s) and count what the guard did."""
        reading = self._reading
        self.asked = wish
        self.last_interventions = self._commands.next(wish, reading.q, reading.qd, reading.effort)
        self._counts.add(self.last_interventions)

    def _try_reset(self, steady_s: float) -> None:
        if strain := overload(self._reading.effort, self._robot):
            self.note = strain
        elif self.blocked:
            self.note = self.blocked
        elif not self._actor.ready:
            self.note = "for the first policy"
        elif old := self._actor.too_old(steady_s):
            self.note = old
        elif behind := self._learner_behind():
            self.note = behind
        else:
            self._begin_reset()

    def _tell_odd_step(self, interval_s: float, steady_s: float) -> None:
        self._odd_steps += 1
        if steady_s - self._odd_steps_told_s < _TELL_S:
            return
        logger.warning(
            "episode dropped: joint states %.3f s apart, a step takes %.3f s (%d since the last such line): "
            "the driver or this computer was late",
            interval_s,
            self._dt,
            self._odd_steps,
        )
        self._odd_steps, self._odd_steps_told_s = 0, steady_s

    def _begin_reset(self) -> None:
        if behind := self._learner_behind():
            self._enter("waiting", behind)
            return
        self._reset.begin()
        self._enter("resetting", self._reset.note)

    def _begin_episode(self, goal: Vector, evaluating: bool) -> Episode:
        self._actor.begin(evaluating)
        self._enter("episode", "evaluating" if evaluating else "")
        self._episode = Episode(
            self._task,
            goal,
            self._robot.labels,
            self._recorder,
            self._episode_ticks,
            evaluating=evaluating,
        )
        return self._episode

    def _finish(self, episode: Episode, success: bool) -> None:
        """Count an episode that ran to its end, and reset."""
        self._episode = None
        self.episodes += 1
        if episode.evaluating:
            self.evaluation_outcomes.append(success)
        elif not episode.helped:
            self.training_outcomes.append(success)
        self._begin_reset()

    def _stop_episode(self, reason: EndReason) -> None:
        if self._episode is not None:
            self._episode.stop(reason)
            self._episode = None

    def _enter(self, phase: Phase, note: str) -> None:
        if phase in ("fault", "estopped") and (phase, note) != (self.phase, self.note):
            logger.error("%s: %s", phase, note)
        elif phase in ("paused", "waiting") and phase != self.phase:
            logger.info("%s: %s", phase, note)
        self.phase, self.note = phase, note
        if phase not in ("resetting", "episode"):
            self._reset.abort()
            self._commands.stop()
            self.asked, self.last_interventions = self._zero, NO_INTERVENTION
