"""The guard's geometry: a command is turned until the robot comes to rest where it may be.

The part of u that violates a limit is taken back by the least change of joint velocities,
Δu = -s (sᵀs)⁻¹ · violation with s the violation's derivative by u (arXiv:1610.00633), for the most violated
limit, again and again. Where that finds nothing, braking wins, and then standing still.
"""

from __future__ import annotations

from typing import NamedTuple

from robot_nodes.guard_state import LIMITS, ClearanceRow, GuardLimits, GuardState
from robot_nodes.resting_place import SPHERE, RestingPlace

CORRECTIONS = 10  # Newton steps; the line search makes up for what they miss
CORRECTION_DEPTH_M = 1e-5  # how far inside they aim, so that they end there after few steps
# Braking within the acceleration limit may end this far (m) beyond: better than a jolt for a hair's breadth.
BRAKING_SLACK_M = 0.001
_SPHERE = ClearanceRow("workspace", "workspace sphere")
BISECTIONS = 8  # a line search ends within 1/256 of the longest safe step
DAMPING_M2_S2 = 1e-8  # no leap where the arm cannot move inwards


class Correction(NamedTuple):
    """What became of a command that would have left the workspace or hit something.

    Attributes:
        command: [nq] (rad/s).
        change: Of the worst joint (rad/s).
        limits: Which limits were violated on the way to it.
        where: The first and worst of them, for people.
    """

    command: list[float]
    change: float
    limits: list[str]
    where: str


def correct(
    u: list[float], low: list[float], high: list[float], state: GuardState, limits: GuardLimits, dt: float
) -> Correction | None:
    """The nearest command found in [low, high] with which the robot comes to rest where it may be.

    Args:
        u: Within the joints' limits [nq] (rad/s).
        low: Lowest allowed [nq] (rad/s), ≤ 0 where a joint must be able to stop.
        high: Highest allowed [nq] (rad/s).
        state: The robot at this tick.
        limits: What must hold.
        dt: Time until the next command (s).

    Returns:
        None if u itself is such a command.
    """
    rest = RestingPlace(state, limits, dt)
    violation, limit = rest.violation(u)
    if violation <= 0.0:
        return None

    violated = [limit]
    corrected = u
    for _ in range(CORRECTIONS):
        slope = rest.slope(limit)
        # Joints already at a bound cannot help: leave the correction to the others.
        for i, (value, lowest, highest) in enumerate(zip(corrected, low, high, strict=True)):
            if value <= lowest if slope[i] > 0.0 else value >= highest:
                slope[i] = 0.0
        factor = (violation + CORRECTION_DEPTH_M) / (sum(s * s for s in slope) + DAMPING_M2_S2)
        corrected = [
            min(max(value - factor * s, lowest), highest)
            for value, s, lowest, highest in zip(corrected, slope, low, high, strict=True)
        ]
        violation, limit = rest.violation(corrected)
        if violation <= 0.0:
            break
        if limit not in violated:
            violated.append(limit)
    else:
        corrected = _search(corrected, low, high, rest, state, limits, dt)

    change = max(abs(after - before) for after, before in zip(corrected, u, strict=True))
    rows = [_SPHERE if limit == SPHERE else state.clearance_rows[limit] for limit in violated]
    acted = {row.limit for row in rows}
    return Correction(corrected, change, [name for name in LIMITS if name in acted], rows[0].label)


def _search(
    corrected: list[float],
    low: list[float],
    high: list[float],
    rest: RestingPlace,
    state: GuardState,
    limits: GuardLimits,
    dt: float,
) -> list[float]:
    """The longest safe step from braking to the correction or, if braking is not enough, from rest to it.

    Braking as hard as allowed keeps the acceleration limit; standing still never makes things worse.
    """
    previous = [
        min(max(value, -joint.velocity), joint.velocity)
        for value, joint in zip(state.previous_command.tolist(), limits.joints, strict=True)
    ]
    ticks = rest.ticks(previous)
    keep = max(0.0, 1.0 - 1.0 / ticks) if ticks > 0.0 else 0.0
    braking = [
        min(max(value * keep, lowest), highest)
        for value, lowest, highest in zip(previous, low, high, strict=True)
    ]
    brakes_in_time = rest.depth(braking) <= BRAKING_SLACK_M
    start, end = (braking, corrected) if brakes_in_time else ([0.0] * len(braking), braking)
    safe, unsafe, found = 0.0, 1.0, start
    for _ in range(BISECTIONS):
        middle = (safe + unsafe) / 2.0
        command = [a + middle * (b - a) for a, b in zip(start, end, strict=True)]
        if rest.violation(command)[0] <= 0.0:
            safe, found = middle, command
        else:
            unsafe = middle
    return found
