"""Joints that do not move however far they are commanded, at any speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FOLLOWED = 0.2  # share of the commanded travel that a joint must have moved
_SIGNS = np.array([[1.0], [-1.0]])


@dataclass(frozen=True, slots=True)
class StuckJoint:
    """A joint that has not moved.

    Attributes:
        index: Which one.
        commanded_rad: How far it was commanded, with its sign (rad).
        moved_rad: How far it went that way, with its sign (rad).
        lasted_s: In how long (s).
    """

    index: int
    commanded_rad: float
    moved_rad: float
    lasted_s: float


class StuckJoints:
    """Adds up commanded travel per joint and direction, for however long, until the joint has followed.

    A stretch of a direction begins where the commanded travel is least: commands that go to and fro add up
    to little. It is judged once it is longer than `limit_rad` and `window_s` (by then a servo's lag is
    over), and it ends when the joint has followed.
    """

    def __init__(self, limit_rad: float, window_s: float) -> None:
        self._limit_rad, self._window_ns = limit_rad, window_s * 1e9
        self._began_ns: Array | None = None  # each [2, nq], of travel up and of travel down
        self._commanded = self._measured = np.zeros((2, 0))  # at the beginning

    def clear(self) -> None:
        """Begin new stretches: something else has moved the robot."""
        self._began_ns = None

    def add(self, stamp_ns: int, q: Array, commanded: Array) -> StuckJoint | None:
        """A new reading; returns the worst joint that did not follow, whose stretch then begins anew.

        Args:
            stamp_ns: Its ROS time (ns).
            q: Joint positions [nq] (rad).
            commanded: Travel commanded until then [nq] (rad).
        """
        travel, position = _SIGNS * commanded, _SIGNS * q
        if self._began_ns is None:
            self._began_ns = np.full(travel.shape, float(stamp_ns))
            self._commanded, self._measured = travel, position
            return None
        asked, moved = travel - self._commanded, position - self._measured
        lasted_ns = stamp_ns - self._began_ns
        judged = (asked > self._limit_rad) & (lasted_ns > self._window_ns)
        followed = judged & (moved >= _FOLLOWED * asked)
        stuck = judged & ~followed & (asked - moved > self._limit_rad)
        worst: StuckJoint | None = None
        if stuck.any():
            side, joint = np.unravel_index(np.where(stuck, asked - moved, -1.0).argmax(), stuck.shape)
            sign = float(_SIGNS[side, 0])
            worst = StuckJoint(
                int(joint),
                sign * float(asked[side, joint]),
                sign * float(moved[side, joint]) + 0.0,
                float(lasted_ns[side, joint]) * 1e-9,
            )
        over = (asked <= 0) | followed | stuck
        self._began_ns = np.where(over, float(stamp_ns), self._began_ns)
        self._commanded = np.where(over, travel, self._commanded)
        self._measured = np.where(over, position, self._measured)
        return worst
