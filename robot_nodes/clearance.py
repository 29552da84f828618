"""How far a robot is from everything it must not touch, and how its joints change that.

Each number is one row: the tool's distance from a side of its box or from a half-space's plane; the
distance of a ball on a link from a table or wall; that of two balls on links which could collide. The
workspace sphere is not among them: the guard treats it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pinocchio as pin

from fleet.robot_config import HalfSpace, LinkSphere, RobotConfig, SafetyLimits
from robot_nodes.guard_state import Array, ClearanceRow, GuardState
from robot_nodes.kinematics import Kinematics
from robot_nodes.link_points import CROSS, LinkPoints

_TOOL = 0  # number of the tool among the points; that of ball i is i + 1
_LEAST_DISTANCE_M = 1e-9  # of two centres, to have a direction


class _Row(NamedTuple):
    """The distance of a point from a plane (its other is the origin) or from another point, less `least`."""

    what: ClearanceRow
    point: int
    other: int
    normal: Sequence[float]
    least: float


class GuardGeometry:
    """Makes the guard's state of what a robot measures.

        geometry = GuardGeometry(robot, kinematics)
        state = geometry.state(q, qd, previous_command, previous_acceleration, effort)
        command, interventions = guard(wish, state, limits, dt)

    One instance serves one thread. Attributes:
        rows: What the K clearances are.
    """

    def __init__(self, robot: RobotConfig, kinematics: Kinematics) -> None:
        """Find out what can touch what.

        Raises:
            ValueError: A name in the limits is unknown, or at reset.home_rad the robot is beyond a limit;
                the text says which, by how much and what to do.
        """
        limits = robot.limits
        _check_links(limits, kinematics)
        self._sphere = limits.workspace_sphere
        balls = [(ball.link, ball.center_m) for ball in limits.link_spheres]
        self._points = LinkPoints(kinematics, [(robot.tool_link, (0.0, 0.0, 0.0)), *balls])
        self._origin = len(balls) + 1  # number of the point that never moves
        planes, pairs = self._planes_of(limits), self._pairs_of(limits)
        self.rows = tuple(row.what for row in planes + pairs)
        self._pairs = slice(len(planes), len(self.rows))
        limit = [row.limit for row in self.rows]
        self._kinds = {
            kind: slice(limit.index(kind), limit.index(kind) + limit.count(kind)) for kind in limit
        }
        # Three more rows are the tool's x, y and z: so its place, Jacobian and curvature fall out as well.
        self._tool = slice(len(self.rows), None)
        for axis in np.eye(3):
            pairs.append(_Row(ClearanceRow("workspace", "tool"), _TOOL, self._origin, axis.tolist(), 0.0))
        self._allocate(planes + pairs, len(robot.joints))
        self._check_home(robot)

    def _planes_of(self, limits: SafetyLimits) -> list[_Row]:
        rows = [
            _Row(ClearanceRow("workspace", label), _TOOL, self._origin, normal, offset)
            for label, normal, offset in _tool_planes(limits)
        ]
        for plane in limits.link_planes:
            normal, offset = _unit(plane)
            for i, ball in enumerate(limits.link_spheres, start=1):
                if self._points.bodies[i]:  # nothing can be done for what does not move
                    what = ClearanceRow("link_planes", f"{plane.name}: {_name(i, ball)}")
                    least = offset + ball.radius_m + limits.link_margin_m
                    rows.append(_Row(what, i, self._origin, normal, least))
        return rows

    def _pairs_of(self, limits: SafetyLimits) -> list[_Row]:
        if not limits.self_collision:
            return []
        ignored = {frozenset(pair) for pair in limits.self_collision_ignore}
        return [
            _Row(
                ClearanceRow("self_collision", f"{_name(i, a)} and {_name(j, b)}"),
                i,
                j,
                (0.0, 0.0, 0.0),
                a.radius_m + b.radius_m + limits.link_margin_m,
            )
            for (i, a), (j, b) in combinations(enumerate(limits.link_spheres, start=1), 2)
            if not self._points.may_always_touch(i, j) and frozenset((a.link, b.link)) not in ignored
        ]

    def _allocate(self, rows: list[_Row], nq: int) -> None:
        k = len(rows)
        self._from = np.array([row.point for row in rows], dtype=np.intp)
        self._to = np.array([row.other for row in rows], dtype=np.intp)
        self._normals: Array = np.array([row.normal for row in rows], dtype=np.float64)
        self._least: Array = np.array([row.least for row in rows])
        self._apart, self._ends = np.zeros((2, k, 3))
        self._jacobians, self._turned = np.zeros((2, k, 3, nq))
        self._lengths: Array = np.zeros(self._pairs.stop - self._pairs.start)
        self._cross: Array = np.zeros((k, 3, 3))
        self._clearance: Array = np.zeros(k)
        self._gradient: Array = np.zeros((k, nq))
        self._curvature, self._mirrored = np.zeros((2, k, nq, nq))
        # As large as what they multiply: numpy allocates buffers to repeat a smaller one.
        self._carries: Array = np.tile(-self._points.carries, (k, 1, 1))
        self._carried: Array = np.tile(np.eye(nq) - self._points.carries.T, (k, 1, 1))

    def state(
        self,
        q: Array,
        qd: Array,
        previous_command: Array,
        previous_acceleration: Array,
        effort: Array | None = None,
    ) -> GuardState:
        """What the guard must know at joint positions q; see GuardState for the arguments.

        Tool position, Jacobian and clearances are this object's own arrays: the next call overwrites them.
        """
        self._points.update(q)
        self._measure()
        self._differentiate()
        rows, tool = slice(len(self.rows)), self._tool
        return GuardState(
            q=q,
            qd=qd,
            previous_command=previous_command,
            previous_acceleration=previous_acceleration,
            effort=effort,
            tool_position=self._clearance[tool],
            jacobian=self._gradient[tool],
            tool_curvature=self._curvature[tool],
            clearance=self._clearance[rows],
            clearance_gradient=self._gradient[rows],
            clearance_curvature=self._curvature[rows],
            clearance_rows=self.rows,
        )

    def least_clearance(self, q: Array) -> tuple[float, str]:
        """The least of all distances at q [nq] (rad) (m), < 0: beyond a limit; and which it is."""
        self._points.place(q)
        self._measure()
        least, label = self._sphere_clearance(), "workspace sphere"
        for clearance, row in zip(self._clearance.tolist(), self.rows, strict=False):
            if clearance < least:
                least, label = clearance, row.label
        return least, label

    def clearances(self, q: Array) -> dict[str, float]:
        """The least distance at q [nq] (rad) from the sphere and from each kind of limit (m)."""
        self._points.place(q)
        self._measure()
        least = {"sphere": self._sphere_clearance()}
        return least | {limit: float(self._clearance[rows].min()) for limit, rows in self._kinds.items()}

    def _sphere_clearance(self) -> float:
        return self._sphere.radius_m - math.dist(self._clearance[self._tool].tolist(), self._sphere.center_m)

    def _measure(self) -> None:
        positions = self._points.positions
        # Without allocating: the default mode of take would, and so would operands of unlike shapes.
        positions.take(self._from, 0, self._apart, "clip")
        positions.take(self._to, 0, self._ends, "clip")
        np.subtract(self._apart, self._ends, out=self._apart)
        if self._lengths.size:
            apart = self._apart[self._pairs]
            np.einsum("ki,ki->k", apart, apart, out=self._lengths)
            np.sqrt(self._lengths, out=self._lengths)
            np.maximum(self._lengths, _LEAST_DISTANCE_M, out=self._lengths)
            np.reciprocal(self._lengths, out=self._lengths)
            np.einsum("ki,k->ki", apart, self._lengths, out=self._normals[self._pairs])
        np.einsum("ki,ki->k", self._normals, self._apart, out=self._clearance)
        np.subtract(self._clearance, self._least, out=self._clearance)

    def _differentiate(self) -> None:
        jacobians = self._points.jacobians
        jacobians.take(self._from, 0, self._jacobians, "clip")
        jacobians.take(self._to, 0, self._turned, "clip")
        np.subtract(self._jacobians, self._turned, out=self._jacobians)
        np.matmul(self._normals[:, None, :], self._jacobians, out=self._gradient[:, None, :])
        # Joint i with axis ω turns the velocity J that joint j, which it carries, gives a point:
        # ∂²p/∂qᵢ∂qⱼ = ωᵢ × Jⱼ, and its part along n is -ωᵢ · (n × Jⱼ).
        np.dot(self._normals, CROSS, out=self._cross.reshape(-1, 9))
        np.matmul(self._cross, self._jacobians, out=self._turned)
        np.matmul(self._points.axes.T, self._turned, out=self._curvature)
        np.matmul(self._turned.transpose(0, 2, 1), self._points.axes, out=self._mirrored)
        np.multiply(self._curvature, self._carries, out=self._curvature)
        np.multiply(self._mirrored, self._carried, out=self._mirrored)
        np.add(self._curvature, self._mirrored, out=self._curvature)

    def _check_home(self, robot: RobotConfig) -> None:
        clearance, label = self.least_clearance(np.array(robot.reset.home_rad))
        if clearance >= 0.0:
            return
        what = (
            "make the balls or link_margin_m smaller, or list the links in self_collision_ignore if they may "
            "touch"
            if " and ball " in label
            else "choose another home, or make the limit wider"
        )
        raise ValueError(
            f"robot {robot.name!r}: at reset.home_rad it is {-clearance:.3f} m beyond a limit "
            f"({label}): {what}"
        )


def _check_links(limits: SafetyLimits, kinematics: Kinematics) -> None:
    links = [f.name for f in kinematics.model.frames if f.type == pin.FrameType.BODY]
    used = {"limits.link_spheres": [ball.link for ball in limits.link_spheres]}
    used["limits.self_collision_ignore"] = [link for pair in limits.self_collision_ignore for link in pair]
    for key, names in used.items():
        for name in names:
            if name not in links:
                raise ValueError(f"{key}: no link {name!r} in the URDF; it has: {', '.join(links)}")


def _unit(plane: HalfSpace) -> tuple[Sequence[float], float]:
    length = math.hypot(*plane.normal)
    return [x / length for x in plane.normal], plane.offset_m


def _tool_planes(limits: SafetyLimits) -> list[tuple[str, Sequence[float], float]]:
    """Label, normal and offset of each plane that keeps the tool in its box and half-spaces."""
    planes: list[tuple[str, Sequence[float], float]] = []
    if limits.workspace_box is not None:
        box = limits.workspace_box
        for i, axis in enumerate("xyz"):
            up = [float(i == k) for k in range(3)]
            planes.append((f"workspace box: lowest {axis}", up, box.low_m[i]))
            planes.append((f"workspace box: highest {axis}", [-x for x in up], -box.high_m[i]))
    for plane in limits.workspace_planes:
        planes.append((f"workspace plane {plane.name}", *_unit(plane)))
    return planes


def _name(point: int, ball: LinkSphere) -> str:
    return f"ball {point - 1} on {ball.link}"
