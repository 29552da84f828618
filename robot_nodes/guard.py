"""The last word on every command: joint velocities go in, velocities that are safe to execute come out.

Pure arithmetic: no state of its own, no clock, no I/O. It assumes what a robot's controller gives: that
velocities are followed within a fraction of a tick, and that the last command stays in force until the
next one. Position limits, workspace, planes and self-collision keep room to brake in discrete ticks, so
that in ordinary running no limit asks for more deceleration than another allows. Where they do conflict,
stopping wins.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from robot_nodes.guard_correction import correct
from robot_nodes.guard_state import (
    NO_INTERVENTION,
    Array,
    ClearanceRow,
    GuardLimits,
    GuardState,
    Interventions,
    JointLimits,
)

__all__ = ["ClearanceRow", "GuardLimits", "GuardState", "Interventions", "guard"]

# How far a simulated arm may get beyond its limits, whatever is asked of it: what the guard's model (second
# order, perfect servos) is off. Tested with both; docs/benchmarks.md has what was measured in 10^6 ticks.
POSITION_MARGIN_RAD = 0.01
CLEARANCE_MARGIN_M = 0.003
CHANGE_RAD_S = 1e-9  # smaller changes are rounding, not interventions


def guard(
    u: ArrayLike, state: GuardState, limits: GuardLimits, dt: float, out: Array | None = None
) -> tuple[Array, Interventions]:
    """The command nearest to u that is safe to execute for dt seconds: always finite, always in the limits.

    In order: not finite → stop; effort → stop; velocity; acceleration around the previous command; jerk;
    joint positions with braking distance; workspace, link planes and self-collision through their
    gradients (arXiv:1610.00633). For each joint the result is within the velocity limit, and within the
    acceleration limit of the previous command or, where stopping wins, between that command and zero.

    Once it has seen a robot it allocates no array but the result, and with `out` none at all; what is
    left are Python's numbers and the lists and tuples that hold them, freed before it returns, and the
    `Interventions` when there are any. Nothing that it returns is changed by a later call.

    Args:
        u: Joint velocities asked for [nq] (rad/s); anything, NaN included.
        state: The robot at this tick.
        limits: What must hold.
        dt: Time until the next command (s).
        out: Where to put the result [nq]; may be any of the arrays that go in. None: a new array.

    Raises:
        ValueError: A shape or dt is wrong: a bug in the caller, not a state of the robot.
    """
    u = np.asarray(u, dtype=np.float64)
    _check_shapes(u, state, limits, dt, out)
    safe = np.zeros(u.size) if out is None else out
    asked = u.tolist()
    if not _is_finite(u, state, limits):
        return _stop(safe, asked, "non_finite")
    if state.effort is not None and limits.effort is not None:
        for measured, joint in zip(state.effort.tolist(), limits.joints, strict=True):
            if abs(measured) > joint.effort:
                return _stop(safe, asked, "effort")

    values: dict[str, float] = {}
    command, low, high = [], [], []
    now = zip(
        asked,
        limits.joints,
        state.q.tolist(),
        state.previous_command.tolist(),
        state.previous_acceleration.tolist(),
        strict=True,
    )
    for wish, joint, q, previous, acceleration in now:
        bounded, lowest, highest = _bound(wish, joint, q, previous, acceleration, dt, values)
        command.append(bounded)
        low.append(lowest)
        high.append(highest)

    correction = correct(command, low, high, state, limits, dt)
    if correction is not None:
        command = correction.command
        for limit in correction.limits:
            values[limit] = correction.change
        if not math.isfinite(sum(command)):  # distances so large that arithmetic gives up
            return _stop(safe, asked, "non_finite")
    for i, value in enumerate(command):
        safe[i] = value
    if not values:
        return safe, NO_INTERVENTION
    change = max(map(abs, map(float.__sub__, command, asked)))
    return safe, Interventions(values, change, correction.where if correction is not None else "")


def _check_shapes(u: Array, state: GuardState, limits: GuardLimits, dt: float, out: Array | None) -> None:
    shape, rows = limits.velocity.shape, len(state.clearance_rows)
    if not (
        u.shape
        == state.q.shape
        == state.qd.shape
        == state.previous_command.shape
        == state.previous_acceleration.shape
        == (shape if state.effort is None else state.effort.shape)
        == (shape if out is None else out.shape)
        == shape
    ):
        raise ValueError(
            f"u {u.shape}, out, and the state's q {state.q.shape}, qd {state.qd.shape}, previous_command "
            f"{state.previous_command.shape}, previous_acceleration {state.previous_acceleration.shape} and "
            f"effort must have the shape of the limits {shape}"
        )
    nq = u.size
    for name, array, expected in (
        ("tool_position", state.tool_position, (3,)),
        ("jacobian", state.jacobian, (3, nq)),
        ("tool_curvature", state.tool_curvature, (3, nq, nq)),
        ("clearance", state.clearance, (rows,)),
        ("clearance_gradient", state.clearance_gradient, (rows, nq)),
        ("clearance_curvature", state.clearance_curvature, (rows, nq, nq)),
    ):
        if array.shape != expected:
            raise ValueError(f"{name} must be {expected}, got {array.shape}")
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be positive, got {dt}")


def _is_finite(u: Array, state: GuardState, limits: GuardLimits) -> bool:
    is_finite = limits.scratch.is_finite
    return (
        is_finite(u)
        and is_finite(state.q)
        and is_finite(state.qd)
        and is_finite(state.previous_command)
        and is_finite(state.previous_acceleration)
        and is_finite(state.tool_position)
        and is_finite(state.jacobian)
        and is_finite(state.tool_curvature)
        and is_finite(state.clearance)
        and is_finite(state.clearance_gradient)
        and is_finite(state.clearance_curvature)
        and (state.effort is None or limits.effort is None or is_finite(state.effort))
    )


def _stop(safe: Array, asked: list[float], limit: str) -> tuple[Array, Interventions]:
    safe.fill(0.0)
    fastest = max((abs(wish) for wish in asked if math.isfinite(wish)), default=0.0)
    return safe, Interventions({limit: fastest}, fastest)


def _bound(
    wish: float,
    joint: JointLimits,
    q: float,
    previous: float,
    previous_acceleration: float,
    dt: float,
    values: dict[str, float],
) -> tuple[float, float, float]:
    """One joint's command, and from where to where it may be moved by what comes later (rad/s)."""
    slow = min(max(wish, -joint.velocity), joint.velocity)

    # Whatever was commanded before, it counts as what the limits allow.
    previous = min(max(previous, -joint.velocity), joint.velocity)
    change = joint.acceleration * dt
    low, high = max(previous - change, -joint.velocity), min(previous + change, joint.velocity)
    smooth = min(max(slow, low), high)

    easy = smooth
    if joint.jerk < math.inf:
        low, high = _ease(low, high, joint, previous, previous_acceleration, dt)
        easy = min(max(smooth, low), high)

    # Both bounds stay on their side of zero, so clipping to them stops a joint but never starts one.
    down = -_fastest_that_stops(q - joint.position_low, joint, dt)
    up = _fastest_that_stops(joint.position_high - q, joint, dt)
    low, high = min(max(low, down), up), min(max(high, down), up)
    bounded = min(max(easy, low), high)

    if bounded != wish:
        _note(values, "velocity", slow - wish)
        _note(values, "acceleration", smooth - slow)
        _note(values, "jerk", easy - smooth)
        _note(values, "position", bounded - easy)
    return bounded, low, high


def _ease(
    low: float, high: float, joint: JointLimits, previous: float, acceleration: float, dt: float
) -> tuple[float, float]:
    """The part of [low, high] (rad/s) in which acceleration builds up no faster than the jerk limit.

    Towards zero, braking as hard as the acceleration limit allows stays open; so does standing still.
    """
    acceleration = min(max(acceleration, -joint.acceleration), joint.acceleration)
    build_up = joint.jerk * dt
    lowest = previous + (acceleration - build_up) * dt
    highest = previous + (acceleration + build_up) * dt
    if previous >= 0.0:
        lowest = min(lowest, max(low, 0.0))
        highest = max(highest, previous)
    if previous <= 0.0:
        highest = max(highest, min(high, 0.0))
        lowest = min(lowest, previous)
    return max(low, lowest), min(high, highest)


def _note(values: dict[str, float], limit: str, change: float) -> None:
    change = abs(change)
    if change > CHANGE_RAD_S and change > values.get(limit, 0.0):
        values[limit] = change


def _fastest_that_stops(room: float, joint: JointLimits, dt: float) -> float:
    """The highest speed (rad/s) for one tick, after which braking ends within `room` (rad).

    Speed v for this tick, then v - a dt, v - 2 a dt, … travels dt ((n + 1) v - a dt n (n + 1) / 2) in
    all, with n = ⌊v / (a dt)⌋ ticks of braking; this is the inverse. Zero where there is no room.
    """
    if room <= 0.0:
        return 0.0
    step = joint.acceleration * dt  # speed lost per tick
    if room > (joint.velocity / step + 2.0) * joint.velocity * dt:
        return joint.velocity  # so far away that it does not matter
    n = math.floor((math.sqrt(1.0 + 8.0 * room / (step * dt)) - 1.0) / 2.0)
    return room / (dt * (n + 1.0)) + step * n / 2.0
