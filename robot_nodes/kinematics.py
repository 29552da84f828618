"""Forward kinematics and Jacobian of a robot's tool, from its URDF through Pinocchio."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pinocchio as pin
from numpy.typing import ArrayLike, NDArray

from robot_nodes.urdf_source import Urdf

Array = NDArray[np.float64]

_MANY_TURNS_RAD = 1e4


class Kinematics:
    """Where the tool is and how it moves, in the frame of the URDF's root link.

    Joints of the URDF which are not named stay at zero. One instance serves one thread: it reuses
    Pinocchio's buffers. A query takes a few microseconds.

        kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
        velocity = kinematics.jacobian(q) @ qd
    """

    def __init__(self, urdf: Urdf, joints: Sequence[str], tool_link: str) -> None:
        """Load the URDF; q is in the order of `joints` from then on.

        Raises:
            ValueError: The text is no URDF, or has no such joint or link; the text names it.
        """
        try:
            self._model = pin.buildModelFromXML(_bounded(urdf.text))
        except (ElementTree.ParseError, ValueError, RuntimeError) as error:
            raise ValueError(f"{urdf.name}: cannot be loaded as a URDF: {error}") from error
        known = list(self._model.names)[1:]  # names[0] is Pinocchio's "universe"
        position_index, velocity_index = [], []
        for name in joints:
            if name not in known:
                raise ValueError(f"{urdf.name}: no moving joint {name!r}; it has: {', '.join(known)}")
            joint = self._model.joints[self._model.getJointId(name)]
            if joint.nq != 1:
                raise ValueError(
                    f"{urdf.name}: joint {name!r} is not a revolute, continuous or prismatic joint"
                )
            position_index.append(joint.idx_q)
            velocity_index.append(joint.idx_v)
        if len(set(position_index)) != len(position_index):
            raise ValueError(f"joints must be unique, got {list(joints)}")
        if not self._model.existFrame(tool_link, pin.FrameType.BODY):
            links = ", ".join(f.name for f in self._model.frames if f.type == pin.FrameType.BODY)
            raise ValueError(f"{urdf.name}: no link {tool_link!r}; it has: {links}")
        self._frame = self._model.getFrameId(tool_link, pin.FrameType.BODY)
        self.root_link = next(f.name for f in self._model.frames if f.type == pin.FrameType.BODY)
        self._data = self._model.createData()
        self._q: Array = pin.neutral(self._model)
        self._position_index = np.array(position_index)
        self._velocity_index = np.array(velocity_index)

    @property
    def model(self) -> pin.Model:
        """Pinocchio's model of the URDF; not to be changed."""
        return self._model

    @property
    def position_index(self) -> NDArray[np.int64]:
        """Where in the model's configuration each joint is [nq]."""
        return self._position_index

    @property
    def velocity_index(self) -> NDArray[np.int64]:
        """Where in the model's velocity each joint is [nq]."""
        return self._velocity_index

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

    def tool_rotation(self, q: ArrayLike) -> Array:
        """R [3, 3] that turns a vector in the tool's frame into the root link's, at q [nq] (rad)."""
        return self._place(q).rotation.copy()  # type: ignore[no-any-return]

    def jacobian(self, q: ArrayLike) -> Array:
        """J [3, nq] with tool velocity (m/s) = J q̇, at q [nq] (rad)."""
        return self._full_jacobian(q)[:3, self._velocity_index]

    def twist_jacobian(self, q: ArrayLike) -> Array:
        """J [6, nq] with the tool's twist = J q̇, at q [nq] (rad).

        The twist is the velocity of the tool's origin (m/s), then its angular velocity (rad/s), both along
        the axes of the root link.
        """
        return self._full_jacobian(q)[:, self._velocity_index]

    def _full_jacobian(self, q: ArrayLike) -> Array:
        self._q[self._position_index] = q
        return pin.computeFrameJacobian(  # type: ignore[no-any-return]
            self._model, self._data, self._q, self._frame, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )

    def _place(self, q: ArrayLike) -> pin.SE3:
        self._q[self._position_index] = q
        pin.framesForwardKinematics(self._model, self._data, self._q)
        return self._data.oMf[self._frame]


def _bounded(urdf: str) -> str:
    """With continuous joints as revolute ones: one number to Pinocchio, not cosine and sine."""
    root = ElementTree.fromstring(urdf)
    for joint in root.findall("joint"):
        if joint.get("type") == "continuous":
            joint.set("type", "revolute")
            for limit in joint.findall("limit"):
                joint.remove(limit)
            turns = {"lower": f"{-_MANY_TURNS_RAD}", "upper": f"{_MANY_TURNS_RAD}"}
            ElementTree.SubElement(joint, "limit", turns | {"effort": "0", "velocity": "0"})
    return ElementTree.tostring(root, encoding="unicode")
