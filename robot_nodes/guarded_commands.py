"""Commands of one robot, one after the other, each through the guard."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits, Interventions, guard

Vector = npt.NDArray[np.float64]


class GuardedCommands:
    """What the guard must know about the commands before, remembered.

    commands = GuardedCommands(limits, geometry, dt)
    each dt: interventions = commands.next(wish, q, qd, effort)
             publish(commands.last)
    at a stop: commands.stop()

    Attributes:
        last: The newest command [nq] (rad/s).
    """

    def __init__(self, limits: GuardLimits, geometry: GuardGeometry, dt: float) -> None:
        """At rest; `dt` is the time from one command to the next (s)."""
        self._limits, self._geometry, self._dt = limits, geometry, dt
        self._zero: Vector = np.zeros_like(limits.velocity)
        self.last: Vector = self._zero
        self._acceleration: Vector = self._zero

    def next(self, wish: Vector, q: Vector, qd: Vector, effort: Vector | None = None) -> Interventions:
        """Guard a wish [nq] (rad/s) of the robot in this state and keep the result as `last`."""
        state = self._geometry.state(q, qd, self.last, self._acceleration, effort)
        command, interventions = guard(wish, state, self._limits, self._dt)
        self._acceleration = (command - self.last) / self._dt
        self.last = command
        return interventions

    def stop(self) -> None:
        """Zero, whatever the command before was."""
        self.last = self._acceleration = self._zero


def overload(effort: Vector | None, robot: RobotConfig) -> str:
    """Which joint works harder than limits.max_effort, in words; empty if none does or nobody knows.

    Args:
        effort: Measured efforts [nq] (N m); None: the arm does not say.
        robot: Its config.
    """
    most = robot.limits.max_effort
    if most is None or effort is None or not (over := np.abs(effort) > most).any():
        return ""
    joint = int(over.argmax())
    return (
        f"{robot.joints[joint]} has an effort of {effort[joint]:.3g} N m, more than its limits.max_effort "
        f"{most[joint]:g}: see what it pushes against"
    )
