"""What all arms of a fleet have in common: the names and bounds that their one policy sees.

Every host loads the same fleet YAML and so comes to the same spaces, whichever robot it drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.robot_config import RobotConfig
from fleet.spaces import JOINT_COMMAND, Space

_AXES = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class SharedArm:
    """One kind of arm as it is; several kinds as one with the widest bounds of all.

    Attributes:
        joints: The joints' own names if all robots have the same, otherwise joint_1, joint_2, … [nq].
        position_low_rad: Lowest joint positions of any [nq] (rad).
        position_high_rad: Highest joint positions of any [nq] (rad).
        velocity_rad_s: Highest joint velocities of any [nq] (rad/s).
        tool_low_m: Lowest corner of the box around all workspace spheres [3] (m).
        tool_high_m: Highest corner of that box [3] (m).
    """

    joints: tuple[str, ...]
    position_low_rad: tuple[float, ...]
    position_high_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...]
    tool_low_m: tuple[float, ...]
    tool_high_m: tuple[float, ...]

    @classmethod
    def of(cls, robots: Sequence[RobotConfig]) -> SharedArm:
        """What robots with equally many joints share (`FleetConfig` sees to that)."""
        limits = [robot.limits for robot in robots]
        spheres = [limit.workspace_sphere for limit in limits]
        names = {tuple(robot.joints) for robot in robots}
        canonical = tuple(f"joint_{i + 1}" for i in range(len(robots[0].joints)))
        return cls(
            joints=names.pop() if len(names) == 1 else canonical,
            position_low_rad=_least([limit.position_low_rad for limit in limits]),
            position_high_rad=_most([limit.position_high_rad for limit in limits]),
            velocity_rad_s=_most([limit.max_joint_velocity_rad_s for limit in limits]),
            tool_low_m=_least([[c - s.radius_m for c in s.center_m] for s in spheres]),
            tool_high_m=_most([[c + s.radius_m for c in s.center_m] for s in spheres]),
        )

    @property
    def state(self) -> Space:
        """q, q̇ and the tool's position [2 nq + 3]: what most tasks' observations begin with."""
        n = len(self.joints)
        return Space(
            names=(
                *(f"{joint}/position" for joint in self.joints),
                *(f"{joint}/velocity" for joint in self.joints),
                *(f"tool/{axis}" for axis in _AXES),
            ),
            units=("rad",) * n + ("rad/s",) * n + ("m",) * 3,
            low=(*self.position_low_rad, *(-v for v in self.velocity_rad_s), *self.tool_low_m),
            high=(*self.position_high_rad, *self.velocity_rad_s, *self.tool_high_m),
        )

    @property
    def action(self) -> Space:
        """Joint velocities [nq], as fractions of each robot's own limits."""
        n = len(self.joints)
        return Space(
            names=tuple(joint + JOINT_COMMAND for joint in self.joints),
            units=("1",) * n,
            low=(-1.0,) * n,
            high=(1.0,) * n,
        )


def shared_sensors(robots: Sequence[RobotConfig]) -> Space | None:
    """The numbers of all sensors in order [ns], with the widest bounds; None if the robots have none.

    Where robots call a sensor's numbers differently (joints of different arms) they become 1, 2, ….
    """
    if not robots[0].sensors:
        return None
    names, units, low, high = list[str](), list[str](), list[float](), list[float]()
    for same in zip(*(robot.sensors for robot in robots), strict=True):
        sensor = same[0]
        components = {each.components for each in same}
        numbers = tuple(str(i + 1) for i in range(len(sensor.components)))
        names += [f"{sensor.name}/{c}" for c in (components.pop() if len(components) == 1 else numbers)]
        units += sensor.units
        low += _least([each.bounds(each.low) for each in same])
        high += _most([each.bounds(each.high) for each in same])
    return Space(names=tuple(names), units=tuple(units), low=tuple(low), high=tuple(high))


def _least(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(min(column) for column in zip(*rows, strict=True))


def _most(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(max(column) for column in zip(*rows, strict=True))
