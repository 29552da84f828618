"""Where a robot comes to rest after one tick of a command and braking, and which limits that violates.

With w(u) = u T(u), the joints' way until they rest, a limit's clearance c with gradient g and curvature C is
then c + g w + w C w / 2. Only a curvature that takes clearance away counts: another one might hide that the
limit is crossed on the way and left again. For two balls, curvature is that of their motion alone: the
straight way past a ball leads farther from it than this says, never nearer.
"""

from __future__ import annotations

import math

import numpy as np

from robot_nodes.guard_state import GuardLimits, GuardState

# Beyond a limit each metre travelled must lead this much (m) back. Not 0: the second order is not quite
# where the arm goes, and a hostile policy would creep away on the difference.
RETURN_SLOPE = 0.1
SPHERE = -1  # number of the workspace sphere; other limits have that of their clearance row


class RestingPlace:
    """Looks at one command after the other, in one state of the robot.

    place = RestingPlace(state, limits, dt)
    violation, limit = place.violation(u)
    if violation > 0.0: slope = place.slope(limit)
    """

    def __init__(self, state: GuardState, limits: GuardLimits, dt: float) -> None:
        """Prepare what is the same for all commands; they last dt seconds."""
        self._state, self._dt = state, dt
        self._accelerations = [joint.acceleration for joint in limits.joints]
        self._radius = limits.sphere_radius
        center = limits.sphere_center.tolist()
        self._from_center = list(map(float.__sub__, state.tool_position.tolist(), center))
        self._distance = math.hypot(*self._from_center)
        self._scratch = limits.scratch
        self._rows = limits.scratch.rows(len(state.clearance_rows))
        nq = len(limits.joints)
        self._tool_curvature = state.tool_curvature.reshape(-1, nq)
        self._curvature = state.clearance_curvature.reshape(-1, nq)
        self._has_rows = len(state.clearance_rows) > 0
        self._is_beyond = self._has_rows and state.clearance.item(state.clearance.argmin()) < 0.0
        if self._is_beyond:
            gradient, norms = state.clearance_gradient, self._rows.norms
            np.einsum("ij,ij->i", gradient, gradient, out=norms)
            np.sqrt(norms, out=norms)
        self._time = 0.0

    def ticks(self, u: list[float]) -> float:
        """How many ticks, not whole, the slowest joint needs to brake from u [nq] (rad/s)."""
        return max(abs(v) / a for v, a in zip(u, self._accelerations, strict=True)) / self._dt

    def violation(self, u: list[float]) -> tuple[float, int]:
        """How much more the worst limit asks for (m), ≤ 0: nothing; and which that is."""
        self._come_to_rest(u)
        back = self._distance - RETURN_SLOPE * math.hypot(*self._scratch.tool_way.tolist())
        worst = self._tool_at_rest() - max(self._radius, back)
        if not self._has_rows:
            return worst, SPHERE
        rows = self._rows
        if self._is_beyond:
            np.multiply(rows.norms, RETURN_SLOPE * math.hypot(*self._scratch.way.tolist()), out=rows.least)
            np.add(rows.least, self._state.clearance, out=rows.least)
            np.minimum(rows.least, 0.0, out=rows.least)
            np.subtract(rows.at_rest, rows.least, out=rows.at_rest)
        row = int(rows.at_rest.argmin())
        violation = -rows.at_rest.item(row)
        return (violation, row) if violation > worst else (worst, SPHERE)

    def depth(self, u: list[float]) -> float:
        """How far beyond the worst limit the robot comes to rest (m), ≤ 0: within all of them."""
        self._come_to_rest(u)
        sphere = self._tool_at_rest() - self._radius
        if not self._has_rows:
            return sphere
        return max(sphere, -self._rows.at_rest.item(self._rows.at_rest.argmin()))

    def slope(self, limit: int) -> list[float]:
        """Derivative [nq] (m s) of a limit's violation by the command last looked at."""
        scratch, state, rows, time = self._scratch, self._state, self._rows, self._time
        way = scratch.way.tolist()
        if limit == SPHERE:
            place, moved = self._place(), scratch.tool_way.tolist()
            distance, length = math.hypot(*place), math.hypot(*moved)
            # A way of no length has no violation.
            pull = RETURN_SLOPE / length if self._distance > self._radius and length > 0.0 else 0.0
            for i in range(3):
                scratch.direction[i] = place[i] / distance + pull * moved[i]
            np.dot(scratch.direction, state.jacobian, out=scratch.slope)
            slope = scratch.slope.tolist()
            if self._outwards(place) > 0.0:
                np.dot(scratch.direction, scratch.tool_turn.reshape(3, -1), out=scratch.slope)
                slope = list(map(float.__add__, slope, scratch.slope.tolist()))
            return [s * time for s in slope]
        slope = state.clearance_gradient[limit].tolist()
        if rows.bend.item(limit) < 0.0:
            turn = rows.turn.reshape(-1, len(way))[limit].tolist()
            slope = list(map(float.__add__, slope, turn))
        pull, length = 0.0, math.hypot(*way)
        if state.clearance.item(limit) < 0.0 and length > 0.0:
            pull = RETURN_SLOPE * rows.norms.item(limit) / length
        return [(pull * w - s) * time for s, w in zip(slope, way, strict=True)]

    def _come_to_rest(self, u: list[float]) -> None:
        scratch, state, rows = self._scratch, self._state, self._rows
        self._time = self._stopping_time(u)
        way = scratch.way
        for i, speed in enumerate(u):
            way[i] = speed * self._time
        np.dot(state.jacobian, way, out=scratch.tool_way)
        np.dot(self._tool_curvature, way, out=scratch.tool_turn)
        np.dot(scratch.tool_turn.reshape(3, -1), way, out=scratch.tool_bend)
        if self._has_rows:
            np.dot(self._curvature, way, out=rows.turn)
            np.dot(rows.turn.reshape(-1, len(u)), way, out=rows.bend)
            np.minimum(rows.bend, 0.0, out=rows.bend)
            np.multiply(rows.bend, 0.5, out=rows.bend)
            np.dot(state.clearance_gradient, way, out=rows.at_rest)
            np.add(rows.at_rest, rows.bend, out=rows.at_rest)
            np.add(rows.at_rest, state.clearance, out=rows.at_rest)

    def _place(self) -> list[float]:
        """Of the tool at rest, from the sphere's centre and to first order [3] (m)."""
        return list(map(float.__add__, self._from_center, self._scratch.tool_way.tolist()))

    def _outwards(self, place: list[float]) -> float:
        return sum(map(float.__mul__, place, self._scratch.tool_bend.tolist()))

    def _tool_at_rest(self) -> float:
        """Distance from the sphere's centre (m)."""
        place = self._place()
        distance, outwards = math.hypot(*place), self._outwards(place)
        return distance + 0.5 * outwards / distance if outwards > 0.0 else distance

    def _stopping_time(self, u: list[float]) -> float:
        """For how long (s) u would have to last to go as far as u for one tick and then braking does.

        All joints brake together, as hard as the first of them allows: with m = max |u| / (a dt) ticks to
        rest, dt (1 + Σ_{i=1}^{⌊m⌋} (1 - i/m)).
        """
        ticks = self.ticks(u)
        n = math.floor(ticks)
        return self._dt * (1.0 + n - n * (n + 1) / (2.0 * ticks)) if n else self._dt
