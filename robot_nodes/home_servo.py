"""The way home of a reset: all joints at once, and one after the other where that is held back.

In a corner of two limits the guard may find no motion of all joints that leaves neither, although single
joints could move: without this the arm would stand there until a person moved it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig

Vector = npt.NDArray[np.float64]

STILL_RAD = 0.005  # a joint that has stayed within this did not move
BLOCKED_S = 0.5  # as long as the arm may stand still before it counts as held back
ALONE_S = 0.5  # as long as one joint moves alone


class HomeServo:
    """Joint velocities towards home.

        servo = HomeServo(robot, home)
        wish = servo.velocity(q, now_s)     # each tick; through the guard, as everything

    Attributes:
        round_s: How long it takes to find that nothing moves, neither all joints nor any of them (s).
    """

    def __init__(self, robot: RobotConfig, home: Vector) -> None:
        """Go to `home` [nq] (rad), as fast as `reset.speed` says."""
        self._home, self._gain = home, robot.reset.gain_per_s
        self._fastest = robot.reset.speed * np.array(robot.limits.max_joint_velocity_rad_s)
        self.round_s = BLOCKED_S + ALONE_S * (len(home) + 1)
        self._alone: list[int] = []  # joints to try; the first of them moves, all others stand still
        self._from: Vector = np.full_like(home, np.inf)  # where the arm was at `_since_s`
        self._since_s = 0.0

    def velocity(self, q: Vector, now_s: float) -> Vector:
        """What to ask for at q [nq] (rad), `now_s` (s) on a clock of the caller's: [nq] (rad/s)."""
        error = self._home - q
        wish: Vector = np.clip(self._gain * error, -self._fastest, self._fastest)
        moved = bool(np.abs(q - self._from).max() > STILL_RAD)
        if not self._alone:
            if moved:
                self._begin(q, now_s)
            elif now_s - self._since_s > BLOCKED_S and np.abs(wish).max() * BLOCKED_S > 2.0 * STILL_RAD:
                self._alone = [int(joint) for joint in np.argsort(-np.abs(error), kind="stable")]
                self._begin(q, now_s)
        elif now_s - self._since_s > ALONE_S:
            self._alone = [] if moved else self._alone[1:]
            self._begin(q, now_s)
        if self._alone:
            wish[np.arange(len(wish)) != self._alone[0]] = 0.0
        return wish

    def _begin(self, q: Vector, now_s: float) -> None:
        self._from, self._since_s = q.copy(), now_s
