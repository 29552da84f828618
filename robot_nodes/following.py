"""Whether the joints go where their commands send them."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.joint_states import JointReading
from robot_nodes.stuck_joints import StuckJoints

Array = npt.NDArray[np.float64]


class Following:
    """Compares commanded with measured travel over the newest `tracking.window_s`, for slow joints longer.

    A joint that is stuck, a brake that is closed, a controller that is gone, a joint state that is frozen:
    all show as travel that was commanded and not measured; a joint that runs away as the reverse. A joint
    that is commanded too slowly for the window is stuck when travel of more than `limit_rad` in one
    direction, in however long, has hardly moved it. What was commanded until a joint state's own time counts,
    so one that comes late is no reason for blame.

    following.add(ros_ns, reading, command)     # each tick that moves the robot
    if following.problem: …
    """

    def __init__(self, robot: RobotConfig) -> None:
        tracking = robot.watchdogs.tracking
        assert tracking is not None
        self._window_s, self._limit_rad = tracking.window_s, tracking.limit_rad
        self._joints = robot.joints
        self._ticks: deque[tuple[int, Array]] = deque()  # time (ns), travel commanded until then [nq] (rad)
        self._readings: deque[tuple[int, Array, Array]] = deque()  # stamp (ns), q, q minus commanded travel
        self._stuck = StuckJoints(tracking.limit_rad, tracking.window_s)
        self.problem = ""

    def clear(self) -> None:
        """Begin a new window: something else has moved the robot."""
        self._ticks.clear()
        self._readings.clear()
        self._stuck.clear()
        self.problem = ""

    def add(self, ros_ns: int, reading: JointReading, command: Array) -> None:
        """A tick.

        Args:
            ros_ns: ROS time (ns).
            reading: The newest joint state.
            command: What was in force since the tick before [nq] (rad/s).
        """
        if not self._ticks:
            self._ticks.append((ros_ns, np.zeros(len(self._joints))))
        before_ns, travel = self._ticks[-1]
        self._ticks.append((ros_ns, travel + command * ((ros_ns - before_ns) * 1e-9)))
        old = bool(self._readings) and reading.stamp_ns <= self._readings[-1][0]
        if old or reading.stamp_ns < self._ticks[0][0]:
            return  # no new reading, or none yet of this window
        commanded = self._commanded(reading.stamp_ns)
        stuck = self._stuck.add(reading.stamp_ns, reading.q, commanded)
        gap = reading.q - commanded
        self._readings.append((reading.stamp_ns, reading.q, gap))
        while reading.stamp_ns - self._readings[0][0] > self._window_s * 1e9:
            self._readings.popleft()
        _, old_q, old_gap = self._readings[0]
        lag = gap - old_gap
        worst = int(np.abs(lag).argmax())
        if abs(lag[worst]) > self._limit_rad:
            measured = float(reading.q[worst] - old_q[worst])
            self.problem = self._text(worst, measured, measured - float(lag[worst]), self._window_s)
        elif stuck is not None:
            self.problem = self._text(stuck.index, stuck.moved_rad, stuck.commanded_rad, stuck.lasted_s)
        else:
            self.problem = ""

    def _text(self, joint: int, moved_rad: float, commanded_rad: float, seconds: float) -> str:
        return (
            f"{self._joints[joint]} does not follow: it moved {moved_rad:.3f} rad where "
            f"{commanded_rad:.3f} rad were commanded within {seconds:.3g} s "
            f"(limit {self._limit_rad:g} rad apart): is a brake closed, the joint blocked, "
            "the controller inactive, or its joint state frozen?"
        )

    def _commanded(self, stamp_ns: int) -> Array:
        """Travel commanded until a reading's time [nq] (rad); forgets what came before."""
        while len(self._ticks) > 2 and self._ticks[1][0] <= stamp_ns:
            self._ticks.popleft()
        (began_ns, began), (ended_ns, ended) = self._ticks[0], self._ticks[1]
        share = (stamp_ns - began_ns) / max(1, ended_ns - began_ns)  # above 1: stamped ahead of our clock
        return began + min(share, 1.0) * (ended - began)
