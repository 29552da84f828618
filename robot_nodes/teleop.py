"""A person who takes over: the newest command of a joystick or the like, while it is fresh.

What comes out of here is a wish like the policy's: the guard has the last word.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.kinematics import Kinematics

Vector = npt.NDArray[np.float64]

# Of the pseudo-inverse: a direction in which the arm moves the tool by σ per radian is followed to
# σ² / (σ² + λ²), so that near a singular pose the tool gets slower and the joints do not race.
DAMPING = 0.05


class TeleopError(ValueError):
    """A person's command cannot be used; the text says what is wrong with it."""


class Teleop:
    """The person's command, as joint velocities.

        teleop.twist([0.1, 0, 0], [0, 0, 0], "base_link", arrived_s)     # as messages come in
        teleop.joint_velocity([0.2, 0, 0, 0, 0, 0, 0], arrived_s)
        wish = teleop.velocity(q, steady_s)                              # each tick; None: nobody moves it

    The newest message counts, of whichever stream. Zeros are a command, too: the person holds the arm.
    """

    def __init__(self, robot: RobotConfig, kinematics: Kinematics) -> None:
        """Nobody has taken over yet; `robot.teleop` must be there."""
        assert robot.teleop is not None
        self._config, self._kinematics = robot.teleop, kinematics
        self._max_velocity = np.array(robot.limits.max_joint_velocity_rad_s)
        self._tool_link = robot.tool_link
        self._arrived_s = -np.inf
        self._newest: Callable[[Vector], Vector] = np.zeros_like

    def twist(self, linear: npt.ArrayLike, angular: npt.ArrayLike, frame_id: str, arrived_s: float) -> None:
        """Move the tool: its velocity in the axes of a frame.

        Args:
            linear: [3] (m/s).
            angular: [3] (rad/s).
            frame_id: The tool link, the URDF's root link, or empty for the root link.
            arrived_s: Steady time of arrival (s).

        Raises:
            TeleopError: It is not finite, or in another frame.
        """
        v, w = _checked("linear", linear, 3), _checked("angular", angular, 3)
        frame, root = frame_id.lstrip("/"), self._kinematics.root_link
        if frame not in ("", root, self._tool_link):
            raise TeleopError(
                f"teleop: a twist's frame_id must be {root!r}, '' (the same) or {self._tool_link!r}, "
                f"got {frame_id!r}"
            )
        linear_share = float(np.linalg.norm(v)) / self._config.max_linear_m_s
        angular_share = float(np.linalg.norm(w)) / self._config.max_angular_rad_s
        fastest = max(linear_share, angular_share, 1.0)
        twist, in_tool_frame = np.concatenate((v, w)) / fastest, frame == self._tool_link != root
        self._newest = lambda q: self._joints_of(twist, in_tool_frame, q)
        self._arrived_s = arrived_s

    def joint_velocity(self, values: npt.ArrayLike, arrived_s: float) -> None:
        """Move the joints, in the order of the config [nq] (rad/s).

        Raises:
            TeleopError: It is not finite, or not one number per joint.
        """
        velocity = _checked("joint velocities", values, len(self._max_velocity))
        self._newest = lambda q: velocity
        self._arrived_s = arrived_s

    def velocity(self, q: Vector, steady_s: float) -> Vector | None:
        """What the person asks of the joints at q [nq] (rad) now [nq] (rad/s); None if nobody does."""
        if steady_s - self._arrived_s > self._config.max_age_s:
            return None
        return self._newest(q)

    def _joints_of(self, twist: Vector, in_tool_frame: bool, q: Vector) -> Vector:
        """q̇ = Jᵀ (J Jᵀ + λ² 1)⁻¹ ẋ, scaled as a whole until no joint is faster than its limit."""
        if in_tool_frame:
            rotation = self._kinematics.tool_rotation(q)
            twist = np.concatenate((rotation @ twist[:3], rotation @ twist[3:]))
        jacobian = self._kinematics.twist_jacobian(q)
        squared = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
        velocity: Vector = jacobian.T @ np.linalg.solve(squared, twist)
        return velocity / max(float((np.abs(velocity) / self._max_velocity).max()), 1.0)


def _checked(name: str, values: npt.ArrayLike, size: int) -> Vector:
    array = np.array(values, dtype=np.float64)
    if array.shape != (size,):
        raise TeleopError(f"teleop: {name} must be {size} numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise TeleopError(f"teleop: {name} must be finite, got {array.tolist()}")
    return array
