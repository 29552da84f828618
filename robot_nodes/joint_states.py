"""sensor_msgs/JointState to joint positions and velocities in the order of the config.

The order of a JointState depends on the driver's configuration. `velocity` and `effort` may be empty, or
NaN throughout: that is how ros2_control's joint_state_broadcaster shows that the hardware has no such
interface. A gripper's or another arm's joints may come in messages of their own on the same topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray as Array


class JointStateError(ValueError):
    """A JointState cannot be used; the text names the joint or the field."""


class OtherJointsError(JointStateError):
    """A JointState has none of this robot's joints: it is somebody else's, and no fault."""


@dataclass(frozen=True, slots=True)
class JointReading:
    """One usable reading.

    Attributes:
        q: Positions [nq] (rad).
        qd: Velocities [nq] (rad/s).
        stamp_ns: ROS time of the message's header (ns).
        effort: Efforts [nq] (N m); None: the driver gives none.
    """

    q: Array[np.float64]
    qd: Array[np.float64]
    stamp_ns: int
    effort: Array[np.float64] | None = None


class JointStateReader:
    """Reads the joints of one robot out of JointState messages."""

    def __init__(self, joints: Sequence[str], *, needs_effort: bool = False) -> None:
        """Nothing is known yet; with `needs_effort` a message without efforts cannot be used."""
        self._joints, self._needs_effort = list(joints), needs_effort
        self._names: list[str] = []
        self._order: Array[np.intp] = np.zeros(0, np.intp)
        self._last: JointReading | None = None
        self._given: set[str] = set()  # fields that were finite once: NaN in them is a fault from then on

    def read(self, message: Any) -> JointReading:
        """Pick this robot's joints.

        Raises:
            JointStateError: A joint is missing or a field has the wrong length.
        """
        names = message.name
        if names != self._names:
            missing = [joint for joint in self._joints if joint not in names]
            if missing:
                error = OtherJointsError if missing == self._joints else JointStateError
                raise error(f"joint_states lacks {', '.join(missing)}; it has {', '.join(names) or 'none'}")
            self._order = np.array([names.index(joint) for joint in self._joints], np.intp)
            self._names = list(names)
        q = np.asarray(message.position, np.float64)
        n = len(names)
        if len(q) != n or len(message.velocity) not in (0, n) or len(message.effort) not in (0, n):
            raise JointStateError(
                f"joint_states has {n} names, {len(q)} positions, {len(message.velocity)} velocities and "
                f"{len(message.effort)} efforts: positions must be as many as names, the others too or empty"
            )
        q = q[self._order]
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        qd = self._optional("velocity", message.velocity)
        effort = self._optional("effort", message.effort)
        if effort is None and self._needs_effort:
            raise JointStateError(
                "joint_states has no efforts, which limits.max_effort needs: turn them on in the driver, "
                "or set max_effort: null to do without"
            )
        if qd is None:
            qd = self._difference(q, stamp_ns)
        reading = JointReading(q, qd, stamp_ns, effort)
        if np.isfinite(q).all():
            self._last = reading
        return reading

    def _optional(self, field: str, values: Any) -> Array[np.float64] | None:
        """This robot's values of a field; None if the driver does not give it."""
        if len(values) == 0:
            return None
        picked = np.asarray(values, np.float64)[self._order]
        if field not in self._given:
            if np.isnan(picked).all():
                return None
            self._given.add(field)
        return picked

    def _difference(self, q: Array[np.float64], stamp_ns: int) -> Array[np.float64]:
        last = self._last
        if last is None or stamp_ns <= last.stamp_ns:
            return np.zeros_like(q)
        return (q - last.q) / ((stamp_ns - last.stamp_ns) * 1e-9)
