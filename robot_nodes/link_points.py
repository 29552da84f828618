"""Points that move with the links of a robot: where they are and how they move, many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from robot_nodes.kinematics import Kinematics

Array = NDArray[np.float64]
Vector3 = tuple[float, float, float]

# [p]× = p @ this, reshaped: the matrix of the vector product with p.
CROSS = np.zeros((3, 9))
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    CROSS[_i, 3 * _k + _j] = 1.0
    CROSS[_i, 3 * _j + _k] = -1.0
# (1, p) @ this, reshaped, is the [3, 6] that takes (v, ω) to v - p × ω.
_TRANSFER = np.zeros((4, 3, 6))
_TRANSFER[0, :, :3] = np.eye(3)
_TRANSFER[1:, :, 3:] = -CROSS.reshape(3, 3, 3)
_TRANSFER.shape = (4, 18)


class LinkPoints:
    """Positions and Jacobians of n points, in the frame of the URDF's root link.

        points = LinkPoints(kinematics, [("tool", (0.0, 0.0, 0.0)), ("link_3", (0.0, 0.0, 0.1))])
        points.update(q)
        velocities = points.jacobians @ qd

    The arrays are this object's own: each update overwrites them and allocates none. The last point,
    number n, is the origin, which never moves.

    Attributes:
        positions: [n + 1, 3] (m).
        jacobians: Velocity of point i = jacobians[i] q̇ [n + 1, 3, nq] (m/rad).
        axes: Angular velocity that each joint adds = axes q̇ [3, nq] (rad/rad).
        bodies: Number of the rigid body that each point is on [n]; 0: on the root link.
        carries: 1 where joint i carries joint j or is it, else 0 [nq, nq].
    """

    def __init__(self, kinematics: Kinematics, points: Sequence[tuple[str, Vector3]]) -> None:
        """Points are given by their link and their place in its frame (m).

        Raises:
            ValueError: There is no such link; the text names it.
        """
        self._model = pin.Model(kinematics.model)
        joint_at = {self._model.idx_vs[joint]: joint for joint in range(1, self._model.njoints)}
        moved_by = [joint_at[i] for i in kinematics.velocity_index.tolist()]
        frames, self.bodies = [], []
        for number, (link, center) in enumerate(points):
            if not self._model.existFrame(link, pin.FrameType.BODY):
                links = ", ".join(f.name for f in self._model.frames if f.type == pin.FrameType.BODY)
                raise ValueError(f"no link {link!r}; the URDF has: {links}")
            on = self._model.frames[self._model.getFrameId(link, pin.FrameType.BODY)]
            place = on.placement * pin.SE3(np.eye(3), np.array(center))
            name = f"point {number} on {link}"
            frame = pin.Frame(name, on.parentJoint, on.parentFrame, place, pin.FrameType.OP_FRAME)
            frames.append(self._model.addFrame(frame, False))
            self.bodies.append(self._body(on.parentJoint, moved_by))
        # Bodies are joined by one of the robot's joints to this other one.
        self._joined = {j: self._body(self._model.parents[j], moved_by) for j in moved_by}

        self._data = self._model.createData()
        self._q: Array = pin.neutral(self._model)
        self._position_index, self._velocity_index = kinematics.position_index, kinematics.velocity_index
        n, nq = len(points), len(moved_by)
        self.positions: Array = np.zeros((n + 1, 3))
        self.jacobians: Array = np.zeros((n + 1, 3, nq))
        # Views of Pinocchio's own memory: reading them afresh at each update would take most of its time.
        self._places = [self._data.oMf[frame].translation for frame in frames]
        self._spatial = self._data.J
        self._columns: Array = np.zeros((6, nq))  # v, ω
        self.axes = self._columns[3:]
        carried = [self._chain(joint) for joint in moved_by]
        self.carries: Array = np.array([[float(i in chain) for chain in carried] for i in moved_by])
        self._augmented: Array = np.ones((n, 4))  # 1, p
        self._transfer: Array = np.zeros((n, 3, 6))
        chains = [self._chain(self._model.frames[frame].parentJoint) for frame in frames]
        self._moves: Array = np.array([[[float(j in chain) for j in moved_by]] * 3 for chain in chains])

    def update(self, q: Array) -> None:
        """Move to joint positions q [nq] (rad)."""
        self.place(q)
        self._spatial.take(self._velocity_index, 1, self._columns, "clip")  # the default mode would allocate
        # A joint that turns with ω and moves the origin with v moves a point p with v - p × ω.
        n = len(self._places)
        np.copyto(self._augmented[:, 1:], self.positions[:n])
        np.dot(self._augmented, _TRANSFER, out=self._transfer.reshape(n, 18))
        np.matmul(self._transfer, self._columns, out=self.jacobians[:n])
        np.multiply(self.jacobians[:n], self._moves, out=self.jacobians[:n])

    def place(self, q: Array) -> None:
        """Move the positions alone: Jacobians and axes stay what they were."""
        self._q[self._position_index] = q
        pin.computeJointJacobians(self._model, self._data, self._q)
        pin.updateFramePlacements(self._model, self._data)
        for position, place in zip(self.positions, self._places, strict=False):
            position[:] = place

    def may_always_touch(self, a: int, b: int) -> bool:
        """Whether two points are on one rigid body, or on two that one of the robot's joints joins."""
        i, j = self.bodies[a], self.bodies[b]
        return i == j or self._joined.get(i) == j or self._joined.get(j) == i

    def _chain(self, joint: int) -> list[int]:
        """The joints from this one to the root."""
        chain = []
        while joint > 0:
            chain.append(joint)
            joint = self._model.parents[joint]
        return chain

    def _body(self, joint: int, moved_by: list[int]) -> int:
        """The joint of the robot whose motion carries what hangs on this joint; others stand still."""
        return next((j for j in self._chain(joint) if j in moved_by), 0)
