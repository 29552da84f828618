from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fleet.config import RobotConfig
from robot_nodes.guard import GuardLimits, GuardState, Interventions, guard
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.mujoco_arm import MujocoArm

ROBOT = Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml"
DT = 0.05

# What the guard promises beyond its model (straight lines, perfect servos), on the simulated arm.
# Measured over 3,000 ticks of each policy below: 3.6 mrad and 1.8 mm.
POSITION_MARGIN_RAD = 0.01
SPHERE_MARGIN_M = 0.003


def load_robot() -> RobotConfig:
    data = yaml.safe_load(ROBOT.read_text())
    data["urdf"] = str((ROBOT.parent / data["urdf"]).resolve())
    return RobotConfig.model_validate(data)


CONFIG = load_robot()
KINEMATICS = Kinematics(CONFIG.urdf, CONFIG.joints, CONFIG.tool_link)
ARM7 = GuardLimits.from_config(CONFIG.limits)

# One prismatic-like joint along x: tool at (q, 0, 0), so every number can be computed by hand.
LINE = GuardLimits(
    position_low=np.array([-1.0]),
    position_high=np.array([1.0]),
    velocity=np.array([1.5]),
    acceleration=np.array([10.0]),  # 0.5 rad/s per tick
    sphere_center=np.zeros(3),
    sphere_radius=100.0,
)


def on_line(q: float, previous: float = 0.0) -> GuardState:
    return GuardState(
        q=np.array([q]),
        qd=np.array([previous]),
        previous_command=np.array([previous]),
        tool_position=np.array([q, 0.0, 0.0]),
        jacobian=np.array([[1.0], [0.0], [0.0]]),
    )


def arm_state(q: np.ndarray, previous: np.ndarray) -> GuardState:
    return GuardState(q, previous, previous, KINEMATICS.tool_position(q), KINEMATICS.jacobian(q))


def guard_line(u: float, state: GuardState, limits: GuardLimits = LINE) -> tuple[float, tuple[str, ...]]:
    safe, interventions = guard(np.array([u]), state, limits, DT)
    return float(safe[0]), interventions.names


def test_limits_come_from_the_config() -> None:
    np.testing.assert_array_equal(ARM7.position_low, CONFIG.limits.position_low_rad)
    np.testing.assert_array_equal(ARM7.position_high, CONFIG.limits.position_high_rad)
    np.testing.assert_array_equal(ARM7.velocity, [1.5] * 7)
    np.testing.assert_array_equal(ARM7.acceleration, [15.0] * 7)
    np.testing.assert_array_equal(ARM7.sphere_center, [0.3, 0.0, 0.5])
    assert ARM7.sphere_radius == 0.75


def test_a_safe_command_passes_unchanged() -> None:
    u = np.array([0.3])
    safe, interventions = guard(u, on_line(0.0), LINE, DT)
    np.testing.assert_array_equal(safe, u)
    assert interventions == Interventions()
    assert not interventions.any


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_command_that_is_not_finite_stops_the_robot(bad: float) -> None:
    safe, names = guard_line(bad, on_line(0.0, previous=1.0))
    assert safe == 0.0
    assert names == ("non_finite",)
    u = np.zeros(7)
    u[3] = bad
    safe7, interventions = guard(u, arm_state(np.array(CONFIG.reset.home_rad), np.zeros(7)), ARM7, DT)
    np.testing.assert_array_equal(safe7, np.zeros(7))
    assert interventions.any


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(GuardState)])
def test_a_state_that_is_not_finite_stops_the_robot(field: str) -> None:
    state = on_line(0.0, previous=0.2)
    broken = getattr(state, field).copy()
    broken.flat[0] = np.nan
    assert guard_line(0.1, dataclasses.replace(state, **{field: broken})) == (0.0, ("non_finite",))


def test_velocity_is_limited() -> None:
    assert guard_line(9.0, on_line(-0.9, previous=1.5)) == (1.5, ("velocity",))
    assert guard_line(-1e308, on_line(0.9, previous=-1.5)) == (-1.5, ("velocity",))


def test_acceleration_is_limited_around_the_previous_command() -> None:
    assert guard_line(1.0, on_line(0.0, previous=0.2)) == (pytest.approx(0.7), ("acceleration",))
    assert guard_line(-1.0, on_line(0.0, previous=0.2)) == (pytest.approx(-0.3), ("acceleration",))


@pytest.mark.parametrize(
    ("room", "fastest"),
    [
        # Speed v now, then 0.5 rad/s less each tick, must travel exactly the room, 0.05 s a tick.
        (0.0, 0.0),
        (0.0125, 0.25),  # 0.25
        (0.025, 0.5),  # 0.5, then 0
        (0.05, 0.75),  # 0.75 + 0.25 = 1.0 → 0.05
        (0.075, 1.0),  # 1.0 + 0.5 = 1.5 → 0.075
        (0.1125, 1.25),  # 1.25 + 0.75 + 0.25 = 2.25 → 0.1125
    ],
)
def test_before_a_position_limit_there_is_room_to_brake(room: float, fastest: float) -> None:
    up, names = guard_line(1.5, on_line(1.0 - room, previous=1.5))
    assert up == pytest.approx(fastest, abs=1e-9)
    assert "position" in names
    down, names = guard_line(-1.5, on_line(-1.0 + room, previous=-1.5))
    assert down == pytest.approx(-fastest, abs=1e-9)
    assert "position" in names


def test_beyond_a_position_limit_only_the_way_back_is_open() -> None:
    assert guard_line(0.4, on_line(1.1)) == (0.0, ("position",))
    assert guard_line(-0.4, on_line(1.1)) == (-0.4, ())
    assert guard_line(0.0, on_line(1.1)) == (0.0, ())


def test_stopping_at_a_position_limit_wins_over_acceleration() -> None:
    assert guard_line(1.5, on_line(1.0, previous=1.5)) == (0.0, ("position",))


@pytest.mark.parametrize("acceleration", [3.0, 7.0, 10.0, 40.0])
def test_running_into_a_limit_at_full_speed_never_brakes_harder_than_allowed(acceleration: float) -> None:
    limits = dataclasses.replace(LINE, acceleration=np.array([acceleration]))
    q, previous = -0.9, 0.0
    for _ in range(200):
        u, _ = guard_line(9.0, on_line(q, previous), limits)
        assert abs(u - previous) <= acceleration * DT + 1e-9
        q, previous = q + u * DT, u
        assert q <= 1.0 + 1e-12
    assert q == pytest.approx(1.0, abs=1e-3)


def test_the_sphere_stops_outward_motion_and_only_that() -> None:
    limits = dataclasses.replace(LINE, sphere_radius=0.5)
    # 0.1 m of room: from 1.5 the tool would need 0.05 (1.5 + 1 + 0.5) = 0.15 to stop.
    u, names = guard_line(1.5, on_line(0.4, previous=1.5), limits)
    assert 1.0 <= u < 1.25  # 1.25 needs 0.1125, 1.0 needs 0.075
    assert names == ("workspace",)
    assert guard_line(-1.5, on_line(0.4, previous=-1.5), limits) == (-1.5, ())
    assert guard_line(0.5, on_line(0.5), limits) == (pytest.approx(0.0, abs=0.01), ("workspace",))


def test_outside_the_sphere_only_the_way_back_is_open() -> None:
    limits = dataclasses.replace(LINE, sphere_radius=0.5)
    assert guard_line(0.3, on_line(0.6), limits) == (pytest.approx(0.0, abs=1e-3), ("workspace",))
    assert guard_line(-0.3, on_line(0.6), limits) == (-0.3, ())
    assert guard_line(0.0, on_line(0.6), limits) == (0.0, ())


def test_the_sphere_takes_back_the_outward_part_and_keeps_the_rest() -> None:
    """Two joints, x and y, at the sphere's rightmost point: x is refused, y goes on."""
    limits = GuardLimits(
        position_low=np.full(2, -1.0),
        position_high=np.full(2, 1.0),
        velocity=np.full(2, 1.0),
        acceleration=np.full(2, 100.0),
        sphere_center=np.zeros(3),
        sphere_radius=0.5,
    )
    state = GuardState(
        q=np.array([0.5, 0.0]),
        qd=np.zeros(2),
        previous_command=np.zeros(2),
        tool_position=np.array([0.5, 0.0, 0.0]),
        jacobian=np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
    )
    safe, interventions = guard(np.array([0.8, 0.8]), state, limits, DT)
    assert interventions.names == ("workspace",)
    # One tick would end at (0.54, 0.04), 0.5415 from the centre. The nearest point of the sphere is
    # (0.54, 0.04) 0.5 / 0.5415 = (0.4986, 0.0369): x moves back by 1.4 mm while y goes 36.9 mm, in 0.05 s.
    assert safe[0] == pytest.approx(-0.0275, abs=0.001)
    assert safe[1] == pytest.approx(0.7387, abs=0.001)
    assert interventions.max_change == pytest.approx(0.8 - safe[0])


def test_what_the_sphere_takes_back_stays_within_the_velocity_limits() -> None:
    """Two joints that both move the tool along x, where the least correction would overspeed the second."""
    limits = GuardLimits(
        position_low=np.full(2, -9.0),
        position_high=np.full(2, 9.0),
        velocity=np.full(2, 1.0),
        acceleration=np.full(2, 100.0),
        sphere_center=np.zeros(3),
        sphere_radius=0.5,
    )
    state = GuardState(
        q=np.zeros(2),
        qd=np.zeros(2),
        previous_command=np.zeros(2),
        tool_position=np.array([0.5, 0.0, 0.0]),
        jacobian=np.array([[1.0, 0.5], [0.0, 0.0], [0.0, 0.0]]),
    )
    # Outwards 1.0 - 0.49 = 0.51 m/s; the least change, -0.51 (1, 0.5) / 1.25, leaves (0.592, -1.184).
    safe, _ = guard(np.array([1.0, -0.98]), state, limits, DT)
    np.testing.assert_allclose(safe, [0.5, -1.0], atol=0.001)
    assert np.abs(safe).max() <= 1.0


def test_shapes_and_dt_that_are_wrong_are_the_callers_bug() -> None:
    with pytest.raises(ValueError, match=r"u \(2,\)"):
        guard(np.zeros(2), on_line(0.0), LINE, DT)
    with pytest.raises(ValueError, match="jacobian must be"):
        guard(np.zeros(1), dataclasses.replace(on_line(0.0), jacobian=np.zeros((6, 1))), LINE, DT)
    for dt in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="dt"):
            guard(np.zeros(1), on_line(0.0), LINE, dt)


wild = st.one_of(
    st.floats(-3, 3), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1e-200, -1e-310])
)
joint_positions = arrays(float, 7, elements=st.floats(-4, 4))
joint_speeds = arrays(float, 7, elements=st.floats(-2, 2))


@given(u=arrays(float, 7, elements=wild), q=joint_positions, previous=joint_speeds)
def test_whatever_comes_in_what_goes_out_is_within_the_limits(
    u: np.ndarray, q: np.ndarray, previous: np.ndarray
) -> None:
    asked, state = u.copy(), arm_state(q, previous)
    safe, interventions = guard(u, state, ARM7, DT)
    np.testing.assert_array_equal(u, asked)  # the caller's array is left alone
    assert np.isfinite(safe).all()
    assert (np.abs(safe) <= ARM7.velocity).all()
    assert interventions.any == bool(interventions.names)
    if not interventions.any:
        np.testing.assert_allclose(safe, u, atol=1e-8)
    # Joints: the next position has the limit ahead of it, or the motion leads back.
    following = q + safe * DT
    assert (following <= np.maximum(ARM7.position_high, q) + 1e-9).all()
    assert (following >= np.minimum(ARM7.position_low, q) - 1e-9).all()
    # Tool, to first order: the next place is inside the sphere, or no farther out.
    distance = np.linalg.norm(state.tool_position - ARM7.sphere_center)
    next_place = state.tool_position + state.jacobian @ safe * DT
    assert np.linalg.norm(next_place - ARM7.sphere_center) <= max(distance, ARM7.sphere_radius) + 1e-9


@given(q=joint_positions)
def test_a_robot_at_rest_is_never_set_in_motion(q: np.ndarray) -> None:
    safe, interventions = guard(np.zeros(7), arm_state(q, np.zeros(7)), ARM7, DT)
    np.testing.assert_array_equal(safe, np.zeros(7))
    assert not interventions.any


@given(u=joint_speeds, q=joint_positions, previous=joint_speeds)
def test_guarding_a_guarded_command_changes_nothing(
    u: np.ndarray, q: np.ndarray, previous: np.ndarray
) -> None:
    state = arm_state(q, previous)
    once, _ = guard(u, state, ARM7, DT)
    twice, interventions = guard(once, state, ARM7, DT)
    if "acceleration" not in interventions.names:  # a stop may break it, and would then be softened
        np.testing.assert_allclose(twice, once, atol=1e-8)


Policy = Callable[[np.random.Generator, GuardState, int], np.ndarray]


def saturated(rng: np.random.Generator, state: GuardState, tick: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], 7) * ARM7.velocity


def constant(rng: np.random.Generator, state: GuardState, tick: int) -> np.ndarray:
    held = np.random.default_rng(tick // 40)
    return held.choice([-1.0, 1.0], 7) * ARM7.velocity * held.uniform(0.3, 2.0)


def outward(rng: np.random.Generator, state: GuardState, tick: int) -> np.ndarray:
    return np.sign(state.jacobian.T @ (state.tool_position - ARM7.sphere_center)) * ARM7.velocity


def sliding(rng: np.random.Generator, state: GuardState, tick: int) -> np.ndarray:
    """As fast as it can along the sphere while pushing against it."""
    outwards = state.tool_position - ARM7.sphere_center
    along = np.cross(outwards, np.random.default_rng(tick // 30).normal(size=3))
    wish = 2 * along / np.linalg.norm(along) + outwards / np.linalg.norm(outwards)
    return np.clip(100 * state.jacobian.T @ wish, -ARM7.velocity, ARM7.velocity)


def greedy(rng: np.random.Generator, state: GuardState, tick: int) -> np.ndarray:
    """Of some commands the one which, guarded, really gets farthest out: it knows the guard's errors."""

    def gets_to(u: np.ndarray) -> float:
        q = state.q + guard(u, state, ARM7, DT)[0] * DT
        return float(np.linalg.norm(KINEMATICS.tool_position(q) - ARM7.sphere_center))

    return max((rng.choice([-1.0, 0.0, 1.0], 7) * ARM7.velocity for _ in range(5)), key=gets_to)


def broken(rng: np.random.Generator, state: GuardState, tick: int) -> np.ndarray:
    u = rng.uniform(-1, 1, 7) * rng.choice([1.0, 1e300])
    if rng.random() < 0.1:
        u[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
    return u


@pytest.mark.parametrize("policy", [saturated, constant, outward, sliding, greedy, broken])
def test_no_policy_gets_the_simulated_arm_out_of_its_limits(policy: Policy) -> None:
    arm = MujocoArm(CONFIG)
    rng = np.random.default_rng(0)
    previous = np.zeros(7)
    overstepped, farthest, acted = 0.0, 0.0, 0
    for tick in range(800):
        if tick % 200 == 0:  # a fresh place, so that none of them is stuck in one corner
            arm.reset(_inside(rng))
            previous = np.zeros(7)
        q = arm.q
        state = GuardState(q, arm.qd, previous, KINEMATICS.tool_position(q), KINEMATICS.jacobian(q))
        previous, interventions = guard(policy(rng, state, tick), state, ARM7, DT)
        acted += interventions.any
        arm.command(previous)
        for _ in range(2):
            arm.step(DT / 2)
            q = arm.q
            overstepped = max(overstepped, (ARM7.position_low - q).max(), (q - ARM7.position_high).max())
            farthest = max(farthest, float(np.linalg.norm(arm.tool_position - ARM7.sphere_center)))
    assert overstepped <= POSITION_MARGIN_RAD
    assert farthest <= ARM7.sphere_radius + SPHERE_MARGIN_M
    assert acted > 100  # or it was not hostile


@pytest.mark.parametrize("policy", [saturated, outward, sliding, greedy])
def test_an_arm_that_starts_outside_the_sphere_gets_no_farther_out(policy: Policy) -> None:
    arm = MujocoArm(CONFIG)
    rng = np.random.default_rng(1)
    arm.reset([0.0, -0.8, 0.0, 0.15, 0.0, 0.0, 0.0])  # stretched backwards
    start = float(np.linalg.norm(arm.tool_position - ARM7.sphere_center))
    assert start > ARM7.sphere_radius + 0.02
    previous = np.zeros(7)
    for tick in range(200):
        q = arm.q
        state = GuardState(q, arm.qd, previous, KINEMATICS.tool_position(q), KINEMATICS.jacobian(q))
        previous, _ = guard(policy(rng, state, tick), state, ARM7, DT)
        arm.command(previous)
        arm.step(DT)
        assert np.linalg.norm(arm.tool_position - ARM7.sphere_center) <= start + SPHERE_MARGIN_M


def test_the_guard_does_not_keep_the_arm_from_going_home() -> None:
    """The servo of a reset arrives from anywhere in the sphere, its wall included."""
    arm = MujocoArm(CONFIG)
    rng = np.random.default_rng(2)
    for _ in range(30):
        arm.reset(_inside(rng))
        home = CONFIG.reset.home_rad + rng.uniform(-0.3, 0.3, 7)
        previous = np.zeros(7)
        for _ in range(round(CONFIG.reset.timeout_s / DT)):
            q = arm.q
            if np.abs(home - q).max() < CONFIG.reset.tolerance_rad:
                break
            state = GuardState(q, arm.qd, previous, KINEMATICS.tool_position(q), KINEMATICS.jacobian(q))
            previous, _ = guard(CONFIG.reset.gain_per_s * (home - q), state, ARM7, DT)
            arm.command(previous)
            arm.step(DT)
        else:
            pytest.fail(f"stuck at {arm.q}")


def _inside(rng: np.random.Generator) -> np.ndarray:
    while True:
        q = rng.uniform(ARM7.position_low, ARM7.position_high)
        if np.linalg.norm(KINEMATICS.tool_position(q) - ARM7.sphere_center) < ARM7.sphere_radius:
            return q
