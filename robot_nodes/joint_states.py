"""sensor_msgs/JointState to joint positions and velocities in the order of the config.

The order of a JointState depends on the driver's configuration and `velocity` may be empty
(REP-103 units, ros2_control's joint_state_broadcaster): map by name, difference if need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


class JointStateError(ValueError):
    """A JointState cannot be used; the text names the joint or the field."""


@dataclass(frozen=True, slots=True)
class JointReading:
    """One usable reading.

    Attributes:
        q: Positions [nq] (rad).
        qd: Velocities [nq] (rad/s).
        stamp_ns: ROS time of the message's header (ns).
    """

    q: npt.NDArray[np.float64]
    qd: npt.NDArray[np.float64]
    stamp_ns: int


class JointStateReader:
    """Reads the joints of one robot out of JointState messages."""

    def __init__(self, joints: Sequence[str]) -> None:
        self._joints = list(joints)
        self._names: list[str] = []
        self._order: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._last: JointReading | None = None

    def read(self, message: Any) -> JointReading:
        """Pick this robot's joints.

        Raises:
            JointStateError: A joint is missing or a field has the wrong length.
        """
        names = message.name
        if names != self._names:
            missing = [joint for joint in self._joints if joint not in names]
            if missing:
                raise JointStateError(
                    f"joint_states lacks {', '.join(missing)}; it has {', '.join(names) or 'none'}"
                )
            self._order = np.array([names.index(joint) for joint in self._joints], np.intp)
            self._names = list(names)
        q = np.asarray(message.position, np.float64)
        qd = np.asarray(message.velocity, np.float64)
        if len(q) != len(names) or len(qd) not in (0, len(names)):
            raise JointStateError(
                f"joint_states has {len(names)} names, {len(q)} positions and {len(qd)} velocities: "
                "positions must be as many as names, velocities too or empty"
            )
        q = q[self._order]
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        qd = qd[self._order] if len(qd) else self._difference(q, stamp_ns)
        self._last = JointReading(q, qd, stamp_ns)
        return self._last

    def _difference(self, q: npt.NDArray[np.float64], stamp_ns: int) -> npt.NDArray[np.float64]:
        last = self._last
        if last is None or stamp_ns <= last.stamp_ns:
            return np.zeros_like(q)
        return (q - last.q) / ((stamp_ns - last.stamp_ns) * 1e-9)
