"""Arms nobody has built: the guard's promises do not depend on the robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fleet.robot_config import SafetyLimits
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits, GuardState, guard
from robot_nodes.guard_correction import BRAKING_SLACK_M
from robot_nodes.kinematics import Kinematics
from robot_nodes.link_points import LinkPoints
from robot_nodes.urdf_source import Urdf

SLOW = [HealthCheck.too_slow]  # an arm takes milliseconds to make, and the machine may be busy


@dataclass(frozen=True, slots=True)
class RandomArm:
    geometry: GuardGeometry
    limits: GuardLimits
    dt: float


@dataclass(frozen=True, slots=True)
class _Config:
    """As much of a RobotConfig as the guard's geometry looks at."""

    name: str
    joints: list[str]
    tool_link: str
    limits: SafetyLimits
    reset: Any


@dataclass(frozen=True, slots=True)
class _Home:
    home_rad: list[float]


def random_arm(rng: np.random.Generator) -> RandomArm:
    """2 to 7 revolute joints, and every limit there is, most of them near the arm."""
    n = int(rng.integers(2, 8))
    parts = ['<link name="link_0"/>']
    for i in range(1, n + 1):
        axis = np.roll([1, 0, 0], rng.integers(3)) if rng.random() < 0.7 else rng.normal(size=3)
        xyz, rpy = rng.uniform(-0.4, 0.4, 3), rng.uniform(-3, 3, 3)
        parts.append(
            f'<link name="link_{i}"/><joint name="joint_{i}" type="revolute"><parent link="link_{i - 1}"/>'
            f'<child link="link_{i}"/><origin xyz="{_text(xyz)}" rpy="{_text(rpy)}"/>'
            f'<axis xyz="{_text(axis / np.linalg.norm(axis))}"/>'
            '<limit lower="-3" upper="3" velocity="9" effort="9"/></joint>'
        )
    urdf = Urdf(f'<robot name="random">{"".join(parts)}</robot>', "random.urdf")
    joints = [f"joint_{i}" for i in rng.permutation(np.arange(1, n + 1))]
    home = rng.uniform(-2, 2, n)

    balls = [
        (f"link_{rng.integers(n + 1)}", tuple(rng.uniform(-0.2, 0.2, 3))) for _ in range(rng.integers(2, 9))
    ]
    kinematics = Kinematics(urdf, joints, f"link_{n}")
    points = LinkPoints(kinematics, [(f"link_{n}", (0.0, 0.0, 0.0)), *balls])
    points.update(home)
    places = points.positions[: len(balls) + 1].copy()
    apart = [
        float(np.linalg.norm(places[a] - places[b])) / 2
        for a in range(1, len(balls) + 1)
        for b in range(a)
        if not points.may_always_touch(a, b)
    ]
    radius = rng.uniform(0.01, 1.0) * min([0.1, *apart])
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    near = rng.choice([0.001, 0.05, 0.5])
    limits = SafetyLimits.model_validate(
        {
            "position_low_rad": (home - rng.uniform(0.01, 2, n)).tolist(),
            "position_high_rad": (home + rng.uniform(0.01, 2, n)).tolist(),
            "max_joint_velocity_rad_s": rng.uniform(0.1, 4, n).tolist(),
            "max_joint_acceleration_rad_s2": rng.uniform(0.5, 40, n).tolist(),
            "max_joint_jerk_rad_s3": rng.uniform(5, 500, n).tolist() if rng.random() < 0.5 else None,
            "max_effort": [10.0] * n if rng.random() < 0.5 else None,
            "workspace_sphere": {
                "center_m": (places[0] + rng.uniform(-0.05, 0.05, 3)).tolist(),
                "radius_m": 0.1 + near,
            },
            "workspace_box": {"low_m": (places[0] - near).tolist(), "high_m": (places[0] + near).tolist()},
            "workspace_planes": [
                {"name": "post", "normal": normal.tolist(), "offset_m": normal @ places[0] - near}
            ],
            "link_planes": [
                {
                    "name": "wall",
                    "normal": (-normal).tolist(),
                    "offset_m": (-places @ normal).min() - radius - near,
                }
            ],
            "link_spheres": [
                {"link": link, "center_m": center, "radius_m": radius} for link, center in balls
            ],
            "link_margin_m": 0.0,
            "self_collision": True,
            "self_collision_ignore": [],
        }
    )
    robot: Any = _Config("random", joints, f"link_{n}", limits, _Home(home.tolist()))
    rate = rng.choice([10.0, 20.0, 100.0, 500.0])
    return RandomArm(GuardGeometry(robot, kinematics), GuardLimits.from_config(limits), 1.0 / rate)


def _text(numbers: np.ndarray) -> str:
    return " ".join(f"{x:.6f}" for x in numbers)


wild = st.one_of(
    st.floats(-5, 5),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1e-200, -1e308, 1e308]),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[RandomArm, GuardState, np.ndarray]:
    """An arm, somewhere near its home, moving or not, and what is asked of it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arm = random_arm(rng)
    n = arm.limits.velocity.size
    low, high = arm.limits.position_low, arm.limits.position_high
    q = low + (high - low) * draw(arrays(float, n, elements=st.floats(-0.1, 1.1)))
    previous = arm.limits.velocity * draw(arrays(float, n, elements=st.floats(-1.1, 1.1)))
    acceleration = arm.limits.acceleration * draw(arrays(float, n, elements=st.floats(-1.5, 1.5)))
    effort = draw(st.none() | arrays(float, n, elements=st.floats(-10.5, 10.5)))
    # Half of what is asked is aimed at the nearest limit, the rest is anything.
    state = arm.geometry.state(q, previous, previous, acceleration, effort)
    if draw(st.booleans()):
        u = -np.sign(state.clearance_gradient[state.clearance.argmin()]) * arm.limits.velocity
    else:
        u = draw(arrays(float, n, elements=wild))
    return arm, state, u


@given(situation=situations())
@settings(max_examples=100, suppress_health_check=SLOW)
def test_what_is_promised_of_every_command(situation: tuple[RandomArm, GuardState, np.ndarray]) -> None:
    arm, state, u = situation
    limits, dt = arm.limits, arm.dt
    before = u.copy(), state.q.copy(), state.clearance.copy(), state.clearance_curvature.copy()
    safe, interventions = guard(u, state, limits, dt)

    # The same again gives the same, and what went in is left alone.
    again, same = guard(u, state, limits, dt)
    np.testing.assert_array_equal(again, safe)
    assert same == interventions
    for array, copy in zip((u, state.q, state.clearance, state.clearance_curvature), before, strict=True):
        np.testing.assert_array_equal(array, copy)

    assert np.isfinite(safe).all()
    assert (np.abs(safe) <= limits.velocity).all()
    # Within the acceleration limit, or, where stopping wins, between the command before and zero.
    previous = np.clip(state.previous_command, -limits.velocity, limits.velocity)
    within = np.abs(safe - previous) <= limits.acceleration * dt + 1e-9
    slower = (safe * previous >= 0.0) & (np.abs(safe) <= np.abs(previous))
    assert (within | slower).all()
    assert (within | (safe == u)).all() or interventions.stopped  # it may be asked for what stopping wants

    # Interventions say what was done.
    assert set(interventions.names) == set(interventions.values)
    assert np.isfinite(list(interventions.values.values())).all()
    if not interventions.any:
        np.testing.assert_allclose(safe, u, atol=1e-8)
    if not np.isfinite(u).all():
        assert interventions.names == ("non_finite",)
    overloaded = (
        state.effort is not None and limits.effort is not None and (np.abs(state.effort) > 10.0).any()
    )
    assert ("effort" in interventions.names) == (overloaded and np.isfinite(u).all())
    if {"non_finite", "effort"} & set(interventions.names):
        np.testing.assert_array_equal(safe, 0.0)

    # Each joint's next place has its limit ahead of it, or the motion leads back.
    following = state.q + safe * dt
    assert (following <= np.maximum(limits.position_high, state.q) + 1e-9).all()
    assert (following >= np.minimum(limits.position_low, state.q) - 1e-9).all()
    # So have tool and balls, to second order.
    way = safe * dt
    bend = np.minimum(way @ state.clearance_curvature @ way, 0.0) / 2
    clearance = state.clearance + state.clearance_gradient @ way + bend
    assert (clearance >= np.minimum(state.clearance, 0.0) - BRAKING_SLACK_M - 1e-9).all()


@given(situation=situations())
@settings(max_examples=30, suppress_health_check=SLOW)
def test_a_robot_at_rest_is_never_set_in_motion(situation: tuple[RandomArm, GuardState, np.ndarray]) -> None:
    arm, state, _ = situation
    zeros = np.zeros_like(state.q)
    state = arm.geometry.state(state.q, zeros, zeros, zeros)
    safe, interventions = guard(zeros, state, arm.limits, arm.dt)
    np.testing.assert_array_equal(safe, 0.0)
    assert not interventions.any


@pytest.mark.parametrize("seed", range(4))
def test_an_arm_that_follows_stays_within_its_limits(seed: int) -> None:
    """Commands followed to the letter, towards limit after limit: what is left is the guard's own error."""
    rng = np.random.default_rng(seed)
    for _ in range(10):
        arm = random_arm(rng)
        limits, n = arm.limits, arm.limits.velocity.size
        q = (limits.position_low + limits.position_high) / 2
        if arm.geometry.least_clearance(q)[0] < 0.0:
            continue
        previous = acceleration = np.zeros(n)
        for tick in range(100):
            state = arm.geometry.state(q, previous, previous, acceleration)
            row = state.clearance.argmin() if tick % 2 else rng.integers(state.clearance.size)
            u = -np.sign(state.clearance_gradient[row]) * limits.velocity
            command, _ = guard(u, state, limits, arm.dt)
            acceleration, previous = (command - previous) / arm.dt, command
            q = q + command * arm.dt
            assert arm.geometry.least_clearance(q)[0] > -0.01
            assert (q <= limits.position_high + 1e-9).all()
            assert (q >= limits.position_low - 1e-9).all()
