"""Forward kinematics and Jacobian of a robot's tool, from its URDF through Pinocchio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pinocchio as pin
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Kinematics:
    """Where the tool is and how it moves, in the frame of the URDF's root link.

    Joints of the URDF which are not named stay at zero. One instance serves one thread: it reuses
    Pinocchio's buffers. A query takes a few microseconds.

        kinematics = Kinematics(robot.urdf, robot.joints, robot.tool_link)
        velocity = kinematics.jacobian(q) @ qd
    """

    def __init__(self, urdf: Path, joints: Sequence[str], tool_link: str) -> None:
        """Load the URDF; q is in the order of `joints` from then on.

        Raises:
            ValueError: The URDF cannot be read, or has no such joint or link; the text names it.
        """
        try:
            self._model = pin.buildModelFromXML(urdf.read_text())
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{urdf}: cannot be loaded as a URDF: {error}") from error
        known = list(self._model.names)[1:]  # names[0] is Pinocchio's "universe"
        position_index, velocity_index = [], []
        for name in joints:
            if name not in known:
                raise ValueError(f"{urdf}: no moving joint {name!r}; it has: {', '.join(known)}")
            joint = self._model.joints[self._model.getJointId(name)]
            if joint.nq != 1:
                raise ValueError(f"{urdf}: joint {name!r} is not a limited revolute or prismatic joint")
            position_index.append(joint.idx_q)
            velocity_index.append(joint.idx_v)
        if len(set(position_index)) != len(position_index):
            raise ValueError(f"joints must be unique, got {list(joints)}")
        if not self._model.existFrame(tool_link, pin.FrameType.BODY):
            links = ", ".join(f.name for f in self._model.frames if f.type == pin.FrameType.BODY)
            raise ValueError(f"{urdf}: no link {tool_link!r}; it has: {links}")
        self._frame = self._model.getFrameId(tool_link, pin.FrameType.BODY)
        self._data = self._model.createData()
        self._q: Array = pin.neutral(self._model)
        self._position_index = np.array(position_index)
        self._velocity_index = np.array(velocity_index)

    def tool_position(self, q: ArrayLike) -> Array:
        """Position of the tool [3] (m) at joint positions q [nq] (rad)."""
        placement = self._place(q)
        return placement.translation.copy()  # type: ignore[no-any-return]

    def tool_pose(self, q: ArrayLike) -> tuple[Array, Array]:
        """Position [3] (m) and orientation [4] (unit quaternion x y z w, w ≥ 0) at q [nq] (rad)."""
        placement = self._place(q)
        quaternion: Array = pin.Quaternion(placement.rotation).coeffs().copy()
        if quaternion[3] < 0:  # q and -q are one orientation: always give the same one
            quaternion = -quaternion
        return placement.translation.copy(), quaternion

    def jacobian(self, q: ArrayLike) -> Array:
        """J [3, nq] with tool velocity (m/s) = J q̇, at q [nq] (rad)."""
        self._q[self._position_index] = q
        full = pin.computeFrameJacobian(
            self._model, self._data, self._q, self._frame, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        return full[:3, self._velocity_index]  # type: ignore[no-any-return]

    def _place(self, q: ArrayLike) -> pin.SE3:
        self._q[self._position_index] = q
        pin.framesForwardKinematics(self._model, self._data, self._q)
        return self._data.oMf[self._frame]
