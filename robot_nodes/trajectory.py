"""Joint trajectories of a reset: planned by rolling the guarded servo forward, and braked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.guard_state import SMOOTHING
from robot_nodes.guarded_commands import GuardedCommands
from robot_nodes.home_servo import HomeServo

Vector = npt.NDArray[np.float64]

Guarded = Callable[[float], GuardedCommands]
"""guarded(dt): fresh commands of this robot, from rest."""

_SHORTEST_STEP_S = 0.02  # between two points: what controllers interpolate well
_REST_RAD_S = 1e-6


class TrajectoryError(RuntimeError):
    """There is no way home within the limits; the text says which joint, how far, and what is in the way."""


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Points to pass through; constant acceleration in between. The last one is at rest.

    Attributes:
        times_s: From the start of the motion, rising, the first above 0 [T] (s).
        positions: [T, nq] (rad).
        velocities: [T, nq] (rad/s).
    """

    times_s: Vector
    positions: Vector
    velocities: Vector


def braking(q: Vector, qd: Vector, robot: RobotConfig) -> Trajectory:
    """One point: where all joints come to rest together, the first of them as hard as allowed.

    Args:
        q: Joint positions [nq] (rad).
        qd: Joint velocities [nq] (rad/s).
        robot: For its limits.
    """
    limits = robot.limits
    slowest = float((np.abs(qd) / limits.max_joint_acceleration_rad_s2).max())
    time_s = max(slowest, 1.0 / robot.control_rate_hz)
    stop = np.clip(q + qd * (time_s / 2), limits.position_low_rad, limits.position_high_rad)
    return Trajectory(np.array([time_s]), stop[np.newaxis], np.zeros((1, len(q))))


class TrajectoryPlan:
    """The way home from rest at q, a few steps at a time, so that no tick takes long.

        plan = TrajectoryPlan(q, home, robot, guarded)
        each tick: trajectory = plan.advance(10)      # None: not yet

    The guard lets each step through as it would on the arm, at the plan's own positions and velocities.
    """

    def __init__(self, q: Vector, home: Vector, robot: RobotConfig, guarded: Guarded) -> None:
        self._home, self._robot = home, robot
        self._step_s = max(1.0 / robot.control_rate_hz, _SHORTEST_STEP_S)
        self._q, self._commands = q, guarded(self._step_s)
        self._servo = HomeServo(robot, home)
        self._points: list[Vector] = []
        self._velocities: list[Vector] = []
        self._arriving = False
        # When it does not arrive, the limits are named that acted while each joint was tried.
        self._held_back: deque[str] = deque(maxlen=round(self._servo.round_s / self._step_s))

    def advance(self, steps: int) -> Trajectory | None:
        """Plan so many steps more; the trajectory when it has arrived.

        Raises:
            TrajectoryError: It does not arrive within reset.timeout_s.
        """
        for _ in range(steps):
            if self._arriving and np.abs(self._commands.last).max() < _REST_RAD_S:
                self._velocities[-1] = np.zeros_like(self._q)
                times_s = self._step_s * np.arange(1.0, len(self._points) + 1)
                return Trajectory(times_s, np.array(self._points), np.array(self._velocities))
            if len(self._points) * self._step_s > self._robot.reset.timeout_s:
                raise TrajectoryError(self._failure())
            self._step()
        return None

    def _step(self) -> None:
        error = self._home - self._q
        self._arriving |= bool(np.abs(error).max() < self._robot.reset.tolerance_rad / 2)
        now_s = len(self._points) * self._step_s
        wish = np.zeros_like(error) if self._arriving else self._servo.velocity(self._q, now_s)
        interventions = self._commands.next(wish, self._q, self._commands.last)
        velocity = self._commands.last
        self._q = self._q + velocity * self._step_s
        # The guard thinks in steps of constant velocity. Half a step behind them, velocities that rise and
        # fall linearly from point to point travel the same way, within the same acceleration.
        self._points.append(self._q - velocity * (self._step_s / 2))
        self._velocities.append(velocity)
        limits = [name for name in interventions.names if name not in SMOOTHING]
        self._held_back.append(interventions.where or ", ".join(limits))

    def _failure(self) -> str:
        error = np.abs(self._home - self._q)
        worst = int(error.argmax())
        text = (
            f"no way home within {self._robot.reset.timeout_s:g} s: {self._robot.joints[worst]} stays "
            f"{error[worst]:.2f} rad away"
        )
        if limits := sorted({limit for limit in self._held_back if limit}):
            return f"{text}, held back by the guard ({'; '.join(limits)})"
        return f"{text}: allow a longer reset.timeout_s or a higher reset.speed"
