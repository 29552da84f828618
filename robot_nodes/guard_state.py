"""What the guard works with: the robot at a tick, the limits, and what it reports about its work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.robot_config import SafetyLimits

Array = NDArray[np.float64]
ClearanceLimit = Literal["workspace", "link_planes", "self_collision"]

# Every limit, in the order in which it is applied; these are the keys of `Interventions.values`.
LIMITS = (
    "non_finite",
    "effort",
    "velocity",
    "acceleration",
    "jerk",
    "position",
    "workspace",
    "link_planes",
    "self_collision",
)
SMOOTHING = frozenset({"velocity", "acceleration", "jerk"})  # the others hold the robot back


class ClearanceRow(NamedTuple):
    """What one number of `GuardState.clearance` is the distance of.

    Attributes:
        limit: Which of the guard's limits it belongs to.
        label: For people: "table: ball 3 on link_5".
    """

    limit: ClearanceLimit
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class GuardState:
    """What the guard knows about the robot at this tick. `clearance.GuardGeometry` makes it.

    Attributes:
        q: Joint positions [nq] (rad).
        qd: Joint velocities [nq] (rad/s).
        previous_command: What the guard returned one tick ago; zeros at first [nq] (rad/s).
        previous_acceleration: By how much that differed from the command before, per second [nq] (rad/s²).
        effort: Measured efforts [nq] (N m); none: the arm does not say.
        tool_position: In the frame of the workspace sphere [3] (m).
        jacobian: J at q, tool velocity = J q̇ [3, nq].
        tool_curvature: Second derivative of the tool's position by q [3, nq, nq] (m/rad²), C-contiguous.
        clearance: Distances that must not become negative [K] (m).
        clearance_gradient: Their derivatives by q [K, nq] (m/rad), C-contiguous.
        clearance_curvature: Their second derivatives [K, nq, nq] (m/rad²), C-contiguous; at most that.
        clearance_rows: What they are, K of them.
    """

    q: Array
    qd: Array
    previous_command: Array
    previous_acceleration: Array
    effort: Array | None
    tool_position: Array
    jacobian: Array
    tool_curvature: Array
    clearance: Array
    clearance_gradient: Array
    clearance_curvature: Array
    clearance_rows: tuple[ClearanceRow, ...]


class JointLimits(NamedTuple):
    """The limits of one joint; what is not limited is infinite."""

    position_low: float
    position_high: float
    velocity: float
    acceleration: float
    jerk: float
    effort: float


@dataclass(frozen=True, slots=True, eq=False)
class GuardLimits:
    """The per-joint limits and the sphere of `SafetyLimits` as arrays, and room to calculate in.

    Planes, box and link spheres are in `clearance.GuardGeometry`. One instance serves one thread.

    Attributes:
        position_low: [nq] (rad).
        position_high: [nq] (rad).
        velocity: [nq] (rad/s).
        acceleration: [nq] (rad/s²).
        sphere_center: [3] (m).
        sphere_radius: (m).
        jerk: [nq] (rad/s³); none: not limited.
        effort: [nq] (N m); none: not looked at.
        joints: All of them, joint by joint.
        scratch: The guard's own.
    """

    position_low: Array
    position_high: Array
    velocity: Array
    acceleration: Array
    sphere_center: Array
    sphere_radius: float
    jerk: Array | None = None
    effort: Array | None = None
    joints: tuple[JointLimits, ...] = field(init=False, repr=False)
    scratch: Scratch = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive what is faster to work with."""
        nq = self.velocity.size
        unlimited = np.full(nq, math.inf)
        columns = (
            self.position_low,
            self.position_high,
            self.velocity,
            self.acceleration,
            unlimited if self.jerk is None else self.jerk,
            unlimited if self.effort is None else self.effort,
        )
        rows = zip(*(column.tolist() for column in columns), strict=True)
        object.__setattr__(self, "joints", tuple(JointLimits(*row) for row in rows))
        object.__setattr__(self, "scratch", Scratch(nq))

    @classmethod
    def from_config(cls, limits: SafetyLimits) -> GuardLimits:
        """The limits of a robot's config."""
        return cls(
            position_low=np.array(limits.position_low_rad),
            position_high=np.array(limits.position_high_rad),
            velocity=np.array(limits.max_joint_velocity_rad_s),
            acceleration=np.array(limits.max_joint_acceleration_rad_s2),
            sphere_center=np.array(limits.workspace_sphere.center_m),
            sphere_radius=limits.workspace_sphere.radius_m,
            jerk=None if limits.max_joint_jerk_rad_s3 is None else np.array(limits.max_joint_jerk_rad_s3),
            effort=None if limits.max_effort is None else np.array(limits.max_effort),
        )


class Scratch:
    """Arrays that the guard calculates in, so that a tick allocates none.

    Attributes:
        way: Of the joints until the robot rests [nq] (rad).
        slope: Derivative of a violation by the command [nq] (m s).
        direction: Of a violation of the sphere [3] (m/m).
        tool_way: Of the tool until the robot rests, to first order [3] (m).
        tool_bend: Twice what that misses to second order [3] (m).
        tool_turn: What `way` adds to the tool's Jacobian [3 nq] (m/rad).
    """

    def __init__(self, nq: int) -> None:
        """Room for nq joints; that for clearances comes when their number is known."""
        self.way: Array = np.zeros(nq)
        self.slope: Array = np.zeros(nq)
        self.direction: Array = np.zeros(3)
        self.tool_way: Array = np.zeros(3)
        self.tool_bend: Array = np.zeros(3)
        self.tool_turn: Array = np.zeros(3 * nq)
        self._nq = nq
        self._finite: dict[tuple[int, ...], NDArray[np.bool_]] = {}
        self._rows: dict[int, RowScratch] = {}

    def is_finite(self, array: Array) -> bool:
        """Whether no number of the array [...] is NaN or infinite."""
        finite = self._finite.get(array.shape)
        if finite is None:
            finite = self._finite[array.shape] = np.zeros(array.shape, dtype=np.bool_)
        np.isfinite(array, out=finite)
        return bool(np.count_nonzero(finite) == finite.size)

    def rows(self, count: int) -> RowScratch:
        """Room for so many clearances."""
        arrays = self._rows.get(count)
        if arrays is None:
            arrays = self._rows[count] = RowScratch(count, self._nq)
        return arrays


class RowScratch:
    """Arrays for K clearances.

    Attributes:
        at_rest: When the robot rests [K] (m).
        bend: What curvature takes away [K] (m), ≤ 0.
        turn: What `way` adds to the gradients [K nq] (m/rad).
        least: What `at_rest` must not fall below [K] (m).
        norms: Of the gradients [K] (m/rad).
    """

    def __init__(self, count: int, nq: int) -> None:
        """Room for so many."""
        self.at_rest, self.bend, self.least, self.norms = np.zeros((4, count))
        self.turn: Array = np.zeros(count * nq)


@dataclass(frozen=True, slots=True)
class Interventions:
    """Which limits changed the command, and by how much.

    Attributes:
        values: For each limit that acted how far it moved the worst joint (rad/s), in the order of LIMITS.
            Workspace, link planes and self-collision act together: each that did gets what all did.
            A stop (non_finite, effort) is worth the fastest of the joints that were asked to move.
        max_change: How far the result is from what was asked, worst joint (rad/s).
        where: What held the robot back, for people, if it was not a joint: "table: ball 3 on link_5".
    """

    values: Mapping[str, float] = field(default_factory=dict)
    max_change: float = 0.0
    where: str = ""

    @property
    def any(self) -> bool:
        """The command is not what was asked for."""
        return bool(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """The limits that acted, in the order in which they are applied."""
        return tuple(self.values)

    @property
    def stopped(self) -> bool:
        """A limit held the robot back: its command was not merely smoothed."""
        return not self.values.keys() <= SMOOTHING


NO_INTERVENTION = Interventions()
