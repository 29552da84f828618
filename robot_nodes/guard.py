"""The last word on every command: joint velocities go in, velocities that are safe to execute come out.

Pure arithmetic: no state of its own, no clock, no I/O. It assumes what a robot's controller gives: that
velocities are followed within a fraction of a tick, and that the last command stays in force until the
next one. Both position limits and workspace keep room to brake in discrete ticks, so that in ordinary
running no limit asks for more deceleration than another allows. Where they do conflict, stopping wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fleet.config import SafetyLimits

Array = NDArray[np.float64]

CORRECTIONS = 8  # Newton steps to the workspace sphere; the line search makes up for what they miss
CORRECTION_DEPTH_M = 1e-5  # how far inside they aim, so that they end there after few steps
BISECTIONS = 8  # a line search ends within 1/256 of the longest safe step
# Outside the sphere each metre travelled must lead this much (m) back. Not 0: a straight line is not quite
# where the arm goes, and a hostile policy would creep away on the difference.
RETURN_SLOPE = 0.1
CHANGE_RAD_S = 1e-9  # smaller changes are rounding, not interventions


@dataclass(frozen=True, slots=True, eq=False)
class GuardState:
    """What the guard knows about the robot at this tick.

    Attributes:
        q: Joint positions [nq] (rad).
        qd: Joint velocities [nq] (rad/s).
        previous_command: What the guard returned one tick ago; zeros at first [nq] (rad/s).
        tool_position: In the frame of the workspace sphere [3] (m).
        jacobian: J at q, tool velocity = J q̇ [3, nq].
    """

    q: Array
    qd: Array
    previous_command: Array
    tool_position: Array
    jacobian: Array


@dataclass(frozen=True, slots=True, eq=False)
class GuardLimits:
    """`fleet.config.SafetyLimits` as arrays.

    Attributes:
        position_low: [nq] (rad).
        position_high: [nq] (rad).
        velocity: [nq] (rad/s).
        acceleration: [nq] (rad/s²).
        sphere_center: [3] (m).
        sphere_radius: (m).
    """

    position_low: Array
    position_high: Array
    velocity: Array
    acceleration: Array
    sphere_center: Array
    sphere_radius: float

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
        )


class Interventions(NamedTuple):
    """Which limits changed the command, and by how much the worst joint was changed (rad/s)."""

    non_finite: bool = False
    velocity: bool = False
    acceleration: bool = False
    position: bool = False
    workspace: bool = False
    max_change: float = 0.0

    @property
    def any(self) -> bool:
        """The command is not what was asked for."""
        return self.non_finite or self.velocity or self.acceleration or self.position or self.workspace

    @property
    def names(self) -> tuple[str, ...]:
        """The limits that acted, in the order in which they are applied."""
        return tuple(name for name, acted in zip(self._fields[:-1], self[:-1], strict=True) if acted)


def guard(u: ArrayLike, state: GuardState, limits: GuardLimits, dt: float) -> tuple[Array, Interventions]:
    """The command nearest to u that is safe to execute for dt seconds: always finite, always in the limits.

    In order: not finite → stop; velocity; acceleration around the previous command; joint positions
    with braking distance; workspace sphere through the Jacobian (arXiv:1610.00633).

    Args:
        u: Joint velocities asked for [nq] (rad/s); anything, NaN included.
        state: The robot at this tick.
        limits: What must hold.
        dt: Time until the next command (s).

    Raises:
        ValueError: A shape or dt is wrong: a bug in the caller, not a state of the robot.
    """
    u = np.asarray(u, dtype=np.float64)
    if not u.shape == state.q.shape == state.previous_command.shape == limits.velocity.shape:
        raise ValueError(
            f"u {u.shape}, q {state.q.shape} and previous_command {state.previous_command.shape} must have "
            f"the shape of the limits {limits.velocity.shape}"
        )
    if state.jacobian.shape != (3, u.size) or state.tool_position.shape != (3,):
        raise ValueError(
            f"jacobian must be (3, {u.size}) and tool_position (3,), got {state.jacobian.shape} "
            f"and {state.tool_position.shape}"
        )
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be positive, got {dt}")
    if not _is_finite(u, state):
        known = u[np.isfinite(u)]
        return np.zeros_like(u), Interventions(
            non_finite=True, max_change=float(np.abs(known).max(initial=0.0))
        )

    slow = _clip(u, -limits.velocity, limits.velocity)

    previous = _clip(state.previous_command, -limits.velocity, limits.velocity)
    change = limits.acceleration * dt
    low = np.maximum(previous - change, -limits.velocity)
    high = np.minimum(previous + change, limits.velocity)
    smooth = _clip(slow, low, high)

    # Both bounds stay on their side of zero, so clipping to them stops a joint but never starts one.
    fastest_down = -_fastest_that_stops(state.q - limits.position_low, limits.acceleration, dt)
    fastest_up = _fastest_that_stops(limits.position_high - state.q, limits.acceleration, dt)
    low, high = _clip(low, fastest_down, fastest_up), _clip(high, fastest_down, fastest_up)
    bounded = _clip(smooth, low, high)

    safe = _inside_sphere(bounded, low, high, previous, state, limits, dt)

    return safe, Interventions(
        velocity=_differs(slow, u),
        acceleration=_differs(smooth, slow),
        position=_differs(bounded, smooth),
        workspace=safe is not bounded,
        max_change=float(np.abs(safe - u).max()),
    )


def _is_finite(u: Array, state: GuardState) -> bool:
    numbers = (u, state.q, state.qd, state.previous_command, state.tool_position, state.jacobian)
    return all(np.isfinite(array).all() for array in numbers)


def _clip(x: Array, low: Array, high: Array) -> Array:
    return np.minimum(np.maximum(x, low), high)  # a third of the time of np.clip on seven numbers


def _differs(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() > CHANGE_RAD_S)


def _fastest_that_stops(room: Array, acceleration: Array, dt: float) -> Array:
    """The highest speed [nq] (rad/s) for one tick, after which braking ends within `room` [nq] (rad).

    Speed v for this tick, then v - a dt, v - 2 a dt, … travels dt ((n + 1) v - a dt n (n + 1) / 2) in
    all, with n = ⌊v / (a dt)⌋ ticks of braking; this is the inverse. Zero where there is no room.
    """
    room = np.maximum(room, 0.0)
    step = acceleration * dt  # speed lost per tick
    n = np.floor((np.sqrt(1.0 + 8.0 * room / (step * dt)) - 1.0) / 2.0)
    fastest: Array = room / (dt * (n + 1.0)) + step * n / 2.0
    return fastest


def _stopping_time(u: Array, limits: GuardLimits, dt: float) -> float:
    """For how long (s) u would have to last to go as far as u for one tick and then braking does.

    All joints brake together, as hard as the first of them allows: with m = max |u| / (a dt) ticks to
    rest, dt (1 + Σ_{i=1}^{⌊m⌋} (1 - i/m)).
    """
    ticks = float((np.abs(u) / limits.acceleration).max()) / dt
    n = math.floor(ticks)
    return dt * (1.0 + n - n * (n + 1) / (2.0 * ticks)) if n else dt


def _inside_sphere(
    u: Array, low: Array, high: Array, previous: Array, state: GuardState, limits: GuardLimits, dt: float
) -> Array:
    """The command u itself, or the nearest one found in [low, high] that comes to rest inside the sphere.

    The part of u that points outwards is taken back by the least change of joint velocities,
    Δu = -Jᵀn (nᵀJJᵀn)⁻¹ · excess (arXiv:1610.00633). From outside the sphere only motion
    back towards it is let through.
    """
    from_center = state.tool_position - limits.sphere_center
    distance_now = _norm(from_center)

    def end_of(command: Array) -> tuple[Array, float]:
        """The tool's way until it rests [3] (m), to first order, and how far outside that is (≤ 0: safe)."""
        way = (state.jacobian @ command) * _stopping_time(command, limits, dt)
        nearer = distance_now - RETURN_SLOPE * _norm(way)
        return way, _norm(from_center + way) - max(limits.sphere_radius, nearer)

    corrected = u
    way, excess = end_of(u)
    for _ in range(CORRECTIONS):
        if excess <= 0.0:
            return corrected
        rest = from_center + way
        direction = rest / _norm(rest)
        if distance_now > limits.sphere_radius:
            direction += RETURN_SLOPE * way / _norm(way)  # a way of no length has no excess
        slope = state.jacobian.T @ direction * _stopping_time(corrected, limits, dt)
        # Joints already at a bound cannot help: leave the correction to the others.
        slope[np.where(slope > 0.0, corrected <= low, corrected >= high)] = 0.0
        squared = float(slope @ slope) + 1e-8  # damped: no leap where the arm cannot move inwards
        corrected = _clip(corrected - slope * ((excess + CORRECTION_DEPTH_M) / squared), low, high)
        way, excess = end_of(corrected)
    if excess <= 0.0:
        return corrected

    # Between braking as hard as allowed, which keeps the acceleration limit, and the correction; if
    # braking is not enough, between standing still, which never leaves the sphere, and braking.
    ticks = float((np.abs(previous) / limits.acceleration).max()) / dt
    braking = _clip(previous * max(0.0, 1.0 - 1.0 / ticks) if ticks > 0.0 else previous, low, high)
    start, end = (braking, corrected) if end_of(braking)[1] <= 0.0 else (np.zeros_like(u), braking)
    safe, unsafe = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (safe + unsafe) / 2.0
        if end_of(start + middle * (end - start))[1] <= 0.0:
            safe = middle
        else:
            unsafe = middle
    return start + safe * (end - start)


def _norm(x: Array) -> float:
    return math.sqrt(float(x @ x))  # a fifth of the time of np.linalg.norm
