"""The steps that `reset.steps` may have: home by velocity or trajectory, a service, a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.home_servo import STILL_RAD, HomeServo
from robot_nodes.trajectory import Guarded, Trajectory, TrajectoryError, TrajectoryPlan, braking

Vector = npt.NDArray[np.float64]

PLAN_STEPS = 10  # per tick: about a millisecond
# An arm follows its trajectory while it is near to where the plan has been in the last LAG_S.
LAG_S = 0.5
DEVIATION_RAD = 0.1
DEVIATION_S = 0.5  # as long as it may be elsewhere
NAMED_JOINTS = 3  # at most, in the text of a fault


class ResetError(RuntimeError):
    """The reset has failed: the robot must stop until a person has looked; the text says what to look at."""


class Step(Protocol):
    """One step of `reset.steps`."""

    note: str

    def tick(self, q: Vector, qd: Vector, now_s: float) -> Vector | None:
        """Joint velocities asked for [nq] (rad/s), `now_s` (s) after the first tick; None: done."""

    def cancel(self, q: Vector, qd: Vector) -> bool:
        """The arm is needed elsewhere; returns whether the step must start afresh afterwards."""


class Motion:
    """What the steps that move the arm know."""

    def __init__(self, robot: RobotConfig, home: Vector) -> None:
        self.robot, self.home, self.reset = robot, home, robot.reset
        self._least: Vector = np.full_like(home, np.inf)  # where each joint has been since the step began
        self._farthest: Vector = np.full_like(home, -np.inf)

    def at_rest(self, qd: Vector) -> bool:
        """Slow enough to begin an episode, or a trajectory."""
        return bool(np.abs(qd).max() < self.reset.gain_per_s * self.reset.tolerance_rad)

    def arrived(self, q: Vector, qd: Vector) -> bool:
        """Home, and at rest."""
        return bool(np.abs(self.home - q).max() < self.reset.tolerance_rad) and self.at_rest(qd)

    def check_time(self, q: Vector, now_s: float) -> None:
        """Fail when it has taken too long (s).

        Raises:
            ResetError: It has; the text names the joints that are farthest from home.
        """
        self._least, self._farthest = np.fmin(self._least, q), np.fmax(self._farthest, q)
        if now_s > self.reset.timeout_s:
            raise ResetError(f"reset took more than {self.reset.timeout_s:g} s: {self._what_is_left(q)}")

    def _what_is_left(self, q: Vector) -> str:
        error = np.abs(self.home - q)
        away = [int(j) for j in np.argsort(-error, kind="stable") if error[j] >= self.reset.tolerance_rad]
        if not away:
            return "the arm is home, but does not come to rest"
        texts = [
            f"{self.robot.joints[j]} is {error[j]:.2f} rad from home"
            + (" and did not move" if self._farthest[j] - self._least[j] < STILL_RAD else "")
            for j in away[:NAMED_JOINTS]
        ]
        more = len(away) - len(texts)
        return ", ".join(texts) + (f", and {more} more" if more else "")


class VelocityStep:
    """Servo home."""

    note = ""

    def __init__(self, motion: Motion) -> None:
        self._motion = motion
        self._servo = HomeServo(motion.robot, motion.home)

    def tick(self, q: Vector, qd: Vector, now_s: float) -> Vector | None:
        """Towards home."""
        if self._motion.arrived(q, qd):
            return None
        self._motion.check_time(q, now_s)
        return self._servo.velocity(q, now_s)

    def cancel(self, q: Vector, qd: Vector) -> bool:
        """Always afresh: the servo goes on from where the arm is."""
        return True


class TrajectoryStep:
    """Come to rest, plan the way home, hand it over and watch the arm follow it."""

    note = ""

    def __init__(
        self, motion: Motion, guarded: Guarded, send: Callable[[Trajectory], None], dry_run: bool
    ) -> None:
        self._motion, self._guarded, self._send, self._dry_run = motion, guarded, send, dry_run
        self._plan: TrajectoryPlan | None = None
        self._trajectory: Trajectory | None = None
        self._positions: Vector = np.zeros((0, 0))  # of the trajectory and, before it, the start
        self._sent_s = self._followed_s = 0.0

    def tick(self, q: Vector, qd: Vector, now_s: float) -> Vector | None:
        """Zeros: the trajectory controller moves the arm."""
        motion = self._motion
        if self._trajectory is not None:
            return self._follow(self._trajectory, q, qd, now_s)
        if self._plan is None:
            if motion.arrived(q, qd):
                return None
            motion.check_time(q, now_s)
            if motion.at_rest(qd):
                self._plan = TrajectoryPlan(q, motion.home, motion.robot, self._guarded)
                self._positions = q[np.newaxis]
        if self._plan is not None:
            try:
                self._trajectory = self._plan.advance(PLAN_STEPS)
            except TrajectoryError as error:
                raise ResetError(f"reset: {error}") from error
            if self._trajectory is not None:
                self._positions = np.concatenate((self._positions, self._trajectory.positions))
                self._sent_s = self._followed_s = now_s
                self._send(self._trajectory)
        return np.zeros_like(q)

    def _follow(self, trajectory: Trajectory, q: Vector, qd: Vector, now_s: float) -> Vector | None:
        if self._dry_run:
            return np.zeros_like(q)
        elapsed_s = now_s - self._sent_s
        if elapsed_s >= trajectory.times_s[-1] and self._motion.arrived(q, qd):
            return None
        self._motion.check_time(q, elapsed_s)
        first, last = np.searchsorted(trajectory.times_s, (elapsed_s - LAG_S, elapsed_s))
        recent = self._positions[first : last + 2]
        deviation = np.maximum(recent.min(axis=0) - q, q - recent.max(axis=0))
        if deviation.max() < DEVIATION_RAD:
            self._followed_s = now_s
        elif now_s - self._followed_s > DEVIATION_S:
            worst = int(deviation.argmax())
            left_rad = abs(self._motion.home - q)[worst]
            raise ResetError(
                f"reset: {self._motion.robot.joints[worst]} is {deviation[worst]:.2f} rad off its trajectory "
                f"and {left_rad:.2f} rad from home: is a trajectory controller active on "
                f"{self._motion.robot.topics.joint_trajectory}?"
            )
        return np.zeros_like(q)

    def cancel(self, q: Vector, qd: Vector) -> bool:
        """A trajectory under way brakes; another must be planned."""
        if self._trajectory is not None:
            self._send(braking(q, qd, self._motion.robot))
        return True


class ServiceStep:
    """Come to rest, have the service called and wait for its answer."""

    def __init__(self, motion: Motion) -> None:
        self._motion = motion
        self.note = f"for the service {motion.reset.service}"
        self.wanted = False
        self._called = False
        self._answer: tuple[bool, str] | None = None

    def tick(self, q: Vector, qd: Vector, now_s: float) -> Vector | None:
        """Zeros, until the answer is there."""
        name, timeout_s = self._motion.reset.service, self._motion.reset.timeout_s
        if self._answer is not None:
            ok, message = self._answer
            if not ok:
                raise ResetError(f"reset: service {name} failed: {message or 'it gave no reason'}")
            return None
        if now_s > timeout_s:
            raise ResetError(
                f"reset: no answer from service {name} within {timeout_s:g} s"
                if self._called
                else f"reset: the arm did not come to rest within {timeout_s:g} s"
            )
        if not self._called and self._motion.at_rest(qd):
            self.wanted = self._called = True
        return np.zeros_like(q)

    def done(self, ok: bool, message: str) -> None:
        """The service has answered; an answer to a call from before does not count."""
        if self._called and not self.wanted:
            self._answer = (ok, message)

    def cancel(self, q: Vector, qd: Vector) -> bool:
        """It cannot be called back: go on waiting."""
        return False


class PersonStep:
    """Hold still until a person says that all is in place."""

    note = "for a person: put things in place, then call ~/ready"

    def __init__(self) -> None:
        self.ready = False

    def tick(self, q: Vector, qd: Vector, now_s: float) -> Vector | None:
        """Zeros, until the person is ready."""
        return None if self.ready else np.zeros_like(q)

    def cancel(self, q: Vector, qd: Vector) -> bool:
        """The person is still wanted."""
        return False
