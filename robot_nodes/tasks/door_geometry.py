"""Where a door and its handle are, in the frame of the robot's root link: what all simulators build.

With e = (cos yaw, sin yaw, 0) from the hinge along the closed door and z up:

    hinge angle θ    turns the door about the vertical axis through `hinge_m`: e → Rot(z, s θ) e, where
                     s = ±1 is `opening_sign`, so that a positive θ opens it
    handle angle φ   turns the lever about `handle_axis` = e × z, so that a positive φ presses it down: the
                     lever points from its axis along −e cos φ − z sin φ
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fleet.scene_config import Door

Vector = npt.NDArray[np.float64]

PRESS_FRACTION = 0.75  # of the lever, from its axis: far out, where little force turns it, but not at its end
_UP = np.array([0.0, 0.0, 1.0])


class DoorGeometry:
    """Measures of a door, closed unless said otherwise.

    geometry = DoorGeometry(scene.door, scene.fingertip_radius_m or 0.0)
    away = geometry.press_point(hinge_rad, handle_rad) - tool_position

    Attributes:
        foot: Foot of the hinge's axis [3] (m).
        along: Unit vector from the hinge along the door [3].
        outwards: Unit vector from the door to the robot's side [3].
        opening_sign: +1: it opens turning to the left, seen from above; −1: to the right.
        hinge_axis: Unit vector about which a positive hinge angle turns the door [3].
        handle_axis: Unit vector about which a positive handle angle turns the lever [3].
        panel_center: Middle of the panel [3] (m).
        panel_size: Its lengths along `along`, along `outwards` and upwards [3] (m).
        lever_start: Where the lever's middle line meets its axis [3] (m).
        lever_end: The middle of its free end [3] (m).
        rosette: Where its axis meets the panel's surface [3] (m).
    """

    def __init__(self, door: Door, fingertip_radius_m: float) -> None:
        """A fingertip is a ball around the tool; radius 0 (m) where there is none."""
        handle = door.handle
        self.foot: Vector = np.array(door.hinge_m)
        self.along: Vector = np.array([math.cos(door.yaw_rad), math.sin(door.yaw_rad), 0.0])
        left = np.cross(_UP, self.along)
        self.outwards: Vector = left if left @ self.foot < 0.0 else -left
        opens_to = self.outwards if door.opens == "pull" else -self.outwards
        self.opening_sign = 1 if opens_to @ left > 0.0 else -1
        self.hinge_axis: Vector = self.opening_sign * _UP
        self.handle_axis: Vector = np.cross(self.along, _UP)
        self.panel_center: Vector = self.foot + 0.5 * door.width_m * self.along + 0.5 * door.height_m * _UP
        self.panel_size: Vector = np.array([door.width_m, door.thickness_m, door.height_m])
        axis = self.foot + handle.from_hinge_m * self.along
        axis[2] = handle.height_m
        self.rosette: Vector = axis + 0.5 * door.thickness_m * self.outwards
        self.lever_start: Vector = self.rosette + (handle.standoff_m + handle.radius_m) * self.outwards
        self.lever_end: Vector = self.lever_start - handle.lever_m * self.along
        self._reach = PRESS_FRACTION * handle.lever_m
        self._above = handle.radius_m + fingertip_radius_m

    def press_point(self, hinge_rad: float, handle_rad: float) -> Vector:
        """Where the tool is when its fingertip rests on the lever to press it [3] (m)."""
        cos, sin = math.cos(handle_rad), math.sin(handle_rad)
        along, up = -self._reach * cos - self._above * sin, -self._reach * sin + self._above * cos
        return self.turned(self.lever_start + along * self.along + up * _UP, hinge_rad)

    def turned(self, point: Vector, hinge_rad: float) -> Vector:
        """Where a point of the closed door [3] (m) is when the hinge is at that angle (rad)."""
        angle = self.opening_sign * hinge_rad
        cos, sin = math.cos(angle), math.sin(angle)
        x, y, z = point - self.foot
        turned: Vector = self.foot + np.array([cos * x - sin * y, sin * x + cos * y, z])
        return turned
