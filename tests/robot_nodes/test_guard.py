from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import ClearanceRow, GuardLimits, GuardState, Interventions, guard
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

ROBOT = Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml"
DT = 0.05


def load_robot() -> RobotConfig:
    data = yaml.safe_load(ROBOT.read_text())
    data["urdf"] = str((ROBOT.parent / data["urdf"]).resolve())
    return RobotConfig.model_validate(data)


CONFIG = load_robot()
GEOMETRY = GuardGeometry(CONFIG, Kinematics(load_urdf(CONFIG.urdf), CONFIG.joints, CONFIG.tool_link))
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
WALL = ClearanceRow("link_planes", "wall: ball 0 on cart")


def on_line(q: float, previous: float = 0.0, acceleration: float = 0.0) -> GuardState:
    return GuardState(
        q=np.array([q]),
        qd=np.array([previous]),
        previous_command=np.array([previous]),
        previous_acceleration=np.array([acceleration]),
        effort=None,
        tool_position=np.array([q, 0.0, 0.0]),
        jacobian=np.array([[1.0], [0.0], [0.0]]),
        tool_curvature=np.zeros((3, 1, 1)),
        clearance=np.zeros(0),
        clearance_gradient=np.zeros((0, 1)),
        clearance_curvature=np.zeros((0, 1, 1)),
        clearance_rows=(),
    )


def before_wall(q: float, previous: float = 0.0, wall: float = 0.5, bend: float = 0.0) -> GuardState:
    """On the line, with a wall; `bend` is the second derivative of the distance from it."""
    return dataclasses.replace(
        on_line(q, previous),
        clearance=np.array([wall - q]),
        clearance_gradient=np.array([[-1.0]]),
        clearance_curvature=np.array([[[bend]]]),
        clearance_rows=(WALL,),
    )


# Two joints that move the tool along x and y.
PLANE = GuardLimits(
    position_low=np.full(2, -9.0),
    position_high=np.full(2, 9.0),
    velocity=np.full(2, 1.0),
    acceleration=np.full(2, 100.0),
    sphere_center=np.zeros(3),
    sphere_radius=100.0,
)


def in_plane(x: float, y: float) -> GuardState:
    return GuardState(
        q=np.array([x, y]),
        qd=np.zeros(2),
        previous_command=np.zeros(2),
        previous_acceleration=np.zeros(2),
        effort=None,
        tool_position=np.array([x, y, 0.0]),
        jacobian=np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        tool_curvature=np.zeros((3, 2, 2)),
        clearance=np.zeros(0),
        clearance_gradient=np.zeros((0, 2)),
        clearance_curvature=np.zeros((0, 2, 2)),
        clearance_rows=(),
    )


def with_rows(state: GuardState, *rows: tuple[ClearanceRow, float, list[float]]) -> GuardState:
    nq = state.q.size
    return dataclasses.replace(
        state,
        clearance=np.array([row[1] for row in rows]),
        clearance_gradient=np.array([row[2] for row in rows]),
        clearance_curvature=np.zeros((len(rows), nq, nq)),
        clearance_rows=tuple(row[0] for row in rows),
    )


def arm_state(q: np.ndarray, previous: np.ndarray) -> GuardState:
    return GEOMETRY.state(q, previous, previous, np.zeros(7))


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
    assert ARM7.jerk is None
    assert ARM7.effort is None
    more = {"max_joint_jerk_rad_s3": [200.0] * 7, "max_effort": [80.0] * 7}
    limits = GuardLimits.from_config(CONFIG.limits.model_copy(update=more))
    assert limits.joints[6] == (-2.8, 2.8, 1.5, 15.0, 200.0, 80.0)


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


NUMBERS = [field.name for field in dataclasses.fields(GuardState) if field.name != "clearance_rows"]


@pytest.mark.parametrize("field", NUMBERS)
def test_a_state_that_is_not_finite_stops_the_robot(field: str) -> None:
    state = dataclasses.replace(before_wall(0.0, previous=0.2), effort=np.array([1.0]))
    limits = dataclasses.replace(LINE, effort=np.array([5.0]))
    assert guard_line(0.1, state, limits) == (0.1, ())
    broken = getattr(state, field).copy()
    broken.flat[0] = np.nan
    state = dataclasses.replace(state, **{field: broken})
    assert guard_line(0.1, state, limits) == (0.0, ("non_finite",))


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
    """At the sphere's rightmost point x is refused, y goes on."""
    limits = dataclasses.replace(PLANE, sphere_radius=0.5)
    safe, interventions = guard(np.array([0.8, 0.8]), in_plane(0.5, 0.0), limits, DT)
    assert interventions.names == ("workspace",)
    # One tick would end at (0.54, 0.04), 0.5415 from the centre. The nearest point of the sphere is
    # (0.54, 0.04) 0.5 / 0.5415 = (0.4986, 0.0369): x moves back by 1.4 mm while y goes 36.9 mm, in 0.05 s.
    assert safe[0] == pytest.approx(-0.0275, abs=0.001)
    assert safe[1] == pytest.approx(0.7387, abs=0.001)
    assert interventions.max_change == pytest.approx(0.8 - safe[0])
    assert interventions.values == {"workspace": pytest.approx(0.8 - safe[0])}
    assert interventions.where == "workspace sphere"
    assert interventions.stopped


def test_what_the_sphere_takes_back_stays_within_the_velocity_limits() -> None:
    """Two joints that both move the tool along x, where the least correction would overspeed the second."""
    state = dataclasses.replace(in_plane(0.5, 0.0), jacobian=np.array([[1.0, 0.5], [0.0, 0.0], [0.0, 0.0]]))
    # Outwards 1.0 - 0.49 = 0.51 m/s; the least change, -0.51 (1, 0.5) / 1.25, leaves (0.592, -1.184).
    limits = dataclasses.replace(PLANE, sphere_radius=0.5)
    safe, _ = guard(np.array([1.0, -0.98]), state, limits, DT)
    np.testing.assert_allclose(safe, [0.5, -1.0], atol=0.001)
    assert np.abs(safe).max() <= 1.0


def test_the_sphere_knows_that_the_tool_goes_round() -> None:
    """A joint that bends the tool's way outwards by 2 m/rad²: 0.05 rad are 2.5 mm, all the room there is."""
    limits = dataclasses.replace(
        LINE, sphere_radius=1.0, velocity=np.array([2.0]), acceleration=np.array([40.0])
    )
    curvature = np.array([2.0, 0.0, 0.0]).reshape(3, 1, 1)
    state = dataclasses.replace(
        on_line(0.0),
        tool_position=np.array([0.9975, 0.0, 0.0]),
        jacobian=np.array([[0.0], [1e-9], [0.0]]),
        tool_curvature=curvature,
    )
    u, names = guard_line(1.5, state, limits)
    assert u == pytest.approx(1.0, abs=0.005)
    assert u <= 1.0
    assert names == ("workspace",)
    inwards = dataclasses.replace(state, tool_curvature=-curvature)
    assert guard_line(1.5, inwards, limits) == (1.5, ())


# Jerk --------------------------------------------------------------------------------------

SMOOTH = dataclasses.replace(LINE, jerk=np.array([40.0]))  # acceleration may change by 2 rad/s² per tick


def test_acceleration_builds_up_no_faster_than_the_jerk_limit() -> None:
    """Per tick 2 rad/s² more, up to 10: the speed grows by 0.1, 0.2, 0.3, 0.4, 0.5 and then 0.5 rad/s."""
    limits = dataclasses.replace(SMOOTH, velocity=np.array([3.0]))
    speeds, acceleration = [0.0], 0.0
    for _ in range(6):
        u, names = guard_line(-3.0, on_line(0.9, speeds[-1], acceleration), limits)
        assert "acceleration" in names
        assert ("jerk" in names) == (len(speeds) < 5)
        acceleration = (u - speeds[-1]) / DT
        speeds.append(u)
    np.testing.assert_allclose(speeds, [0.0, -0.1, -0.3, -0.6, -1.0, -1.5, -2.0], atol=1e-12)


@pytest.mark.parametrize(
    ("previous", "acceleration", "asked", "expected"),
    [
        (1.0, 8.0, 0.0, 0.5),  # braking: as hard as the acceleration limit
        (1.0, 8.0, 1.0, 1.0),  # no longer faster
        (1.0, 8.0, 1.4, 1.4),  # 0.4 is what 8 rad/s² are
        (1.0, -8.0, 1.4, 1.0),  # from braking to speeding up: not at once
        (0.3, 0.0, -1.0, 0.0),  # braking ends at zero …
        (0.0, -6.0, -1.0, -0.4),  # … and goes on from there with 6 + 2 rad/s²
        (0.0, -6.0, 1.0, 0.0),  # the other way: standing still is always open
        (-1.0, -8.0, 0.0, -0.5),
        (-1.0, 8.0, -1.4, -1.0),
    ],
)
def test_jerk_never_holds_back_stopping(
    previous: float, acceleration: float, asked: float, expected: float
) -> None:
    u, _ = guard_line(asked, on_line(0.0, previous, acceleration), SMOOTH)
    assert u == pytest.approx(expected)


def test_a_position_limit_wins_over_jerk() -> None:
    u, names = guard_line(1.5, on_line(1.0 - 0.025, 1.0, 10.0), SMOOTH)
    assert u == pytest.approx(0.5)  # see the table above
    assert "position" in names
    assert guard_line(1.5, on_line(1.0, 1.0, 10.0), SMOOTH)[0] == 0.0


# Effort ------------------------------------------------------------------------------------


def test_an_effort_beyond_its_limit_stops_the_robot() -> None:
    limits = dataclasses.replace(LINE, effort=np.array([5.0]))
    for effort, expected in ((5.0, 0.3), (-5.0, 0.3), (5.1, 0.0), (-5.1, 0.0)):
        state = dataclasses.replace(on_line(0.0, previous=1.0), effort=np.array([effort]))
        safe, interventions = guard(np.array([0.3]), state, limits, 0.1)
        assert safe[0] == expected
        assert interventions.stopped == (expected == 0.0)
        assert dict(interventions.values) == ({"effort": 0.3} if expected == 0.0 else {})
    # At rest it is an intervention as well: the loop must hear of it.
    state = dataclasses.replace(on_line(0.0), effort=np.array([9.0]))
    assert guard(np.zeros(1), state, limits, DT)[1].names == ("effort",)


def test_efforts_that_nobody_measures_or_limits_do_not_matter() -> None:
    limited = dataclasses.replace(LINE, effort=np.array([5.0]))
    assert guard_line(0.3, on_line(0.0), limited) == (0.3, ())
    for effort in (1e9, np.nan):
        assert guard_line(0.3, dataclasses.replace(on_line(0.0), effort=np.array([effort]))) == (0.3, ())


# Clearances --------------------------------------------------------------------------------


def test_before_a_wall_there_is_room_to_brake() -> None:
    # 0.1 m of room. To stop takes 0.05 (1.5 + 1 + 0.5) = 0.15 from 1.5, 0.1125 from 1.25, 0.075 from 1.
    safe, interventions = guard(np.array([1.5]), before_wall(0.4, previous=1.5), LINE, DT)
    assert 1.0 <= safe[0] < 1.25
    assert interventions.values == {"link_planes": pytest.approx(1.5 - safe[0])}
    assert interventions.where == "wall: ball 0 on cart"
    assert interventions.stopped
    assert guard_line(-1.5, before_wall(0.4, previous=-1.5)) == (-1.5, ())


def test_running_into_a_wall_at_full_speed_never_brakes_harder_than_allowed() -> None:
    q, previous = -0.9, 0.0
    for _ in range(200):
        u, _ = guard_line(9.0, before_wall(q, previous))
        assert abs(u - previous) <= 0.5 + 1e-9
        q, previous = q + u * DT, u
        assert q <= 0.5 + 1e-12
    assert q == pytest.approx(0.5, abs=1e-3)


def test_curvature_that_leads_to_the_wall_counts_and_the_other_does_not() -> None:
    # One tick of v goes w = 0.05 v. Straight on, 10 mm are 0.2 rad/s; with w + 10 w² = 0.01, w = 9.16 mm.
    quick = dataclasses.replace(LINE, acceleration=np.array([100.0]))
    for bend, fastest in ((0.0, 0.2), (-20.0, 0.1832), (20.0, 0.2)):
        u, _ = guard_line(1.0, before_wall(0.49, bend=bend), quick)
        assert u == pytest.approx(fastest, abs=1e-3)
        assert u <= fastest + 1e-4


def test_beyond_a_wall_only_the_way_back_is_open() -> None:
    assert guard_line(0.3, before_wall(0.6)) == (pytest.approx(0.0, abs=1e-3), ("link_planes",))
    assert guard_line(-0.3, before_wall(0.6)) == (-0.3, ())
    assert guard_line(0.0, before_wall(0.6)) == (0.0, ())


def test_a_wall_takes_back_the_motion_towards_it_and_keeps_the_rest() -> None:
    row = ClearanceRow("self_collision", "ball 1 on a and ball 2 on c")
    state = with_rows(in_plane(0.0, 0.0), (row, 0.01, [-0.6, -0.8]))
    # Towards it 1.4 m/s of which 0.2 are free: the least change is -1.2 (0.6, 0.8).
    safe, interventions = guard(np.ones(2), state, PLANE, DT)
    np.testing.assert_allclose(safe, [0.28, 0.04], atol=0.002)
    assert interventions.names == ("self_collision",)
    assert interventions.where == row.label


def test_several_walls_are_kept_at_once() -> None:
    """A corner: x ≤ 10 mm away, y ≤ 5 mm, and a sphere that is nearer still in between."""
    rows = ((ClearanceRow("workspace", "x"), 0.01, [-1.0, 0.0]), (WALL, 0.005, [0.0, -1.0]))
    safe, interventions = guard(np.ones(2), with_rows(in_plane(0.0, 0.0), *rows), PLANE, DT)
    np.testing.assert_allclose(safe, [0.2, 0.1], atol=0.002)
    assert interventions.names == ("workspace", "link_planes")
    assert interventions.where == "wall: ball 0 on cart"  # the worst at first
    assert len(set(interventions.values.values())) == 1  # they act together
    assert interventions.max_change == pytest.approx(0.9, abs=0.002)

    state = with_rows(in_plane(0.495, 0.0), *rows)
    safe, interventions = guard(np.ones(2), state, dataclasses.replace(PLANE, sphere_radius=0.5), DT)
    assert (state.clearance + state.clearance_gradient @ safe * DT >= 0.0).all()
    assert np.linalg.norm(state.tool_position[:2] + safe * DT) <= 0.5
    assert safe.min() > 0.05


def test_between_walls_that_want_opposite_things_it_stands_still() -> None:
    rows = ((WALL, -0.01, [-1.0, 0.0]), (WALL, -0.01, [1.0, 0.0]))
    for u in ([1.0, 0.0], [-1.0, 0.3], [0.0, 1.0]):
        safe, interventions = guard(np.array(u), with_rows(in_plane(0.0, 0.0), *rows), PLANE, DT)
        np.testing.assert_allclose(safe, 0.0, atol=1e-9)
        assert interventions.names == ("link_planes",)


def test_a_hair_beyond_a_wall_it_brakes_instead_of_stopping_dead() -> None:
    """From 0.11 rad/s, braking by 0.1 goes on for 0.5 mm: allowed to 1 mm beyond the wall, not farther."""
    gentle = dataclasses.replace(LINE, acceleration=np.array([2.0]))
    for beyond, expected in ((0.0004, 0.01), (0.0006, 0.0)):
        u, names = guard_line(1.0, before_wall(0.5 + beyond, previous=0.11), gentle)
        assert u == pytest.approx(expected, abs=1e-9)
        assert "link_planes" in names


# What is reported --------------------------------------------------------------------------


def test_each_limit_reports_how_far_it_moved_the_worst_joint() -> None:
    safe, interventions = guard(np.array([9.0]), on_line(1.0 - 0.025, previous=1.5), LINE, DT)
    assert safe[0] == pytest.approx(0.5)
    assert interventions.values == {"velocity": pytest.approx(7.5), "position": pytest.approx(1.0)}
    assert interventions.max_change == pytest.approx(8.5)
    assert interventions.stopped
    smoothed = guard(np.array([9.0]), on_line(-0.9, previous=0.2), LINE, DT)[1]
    assert smoothed.values == {"velocity": pytest.approx(7.5), "acceleration": pytest.approx(0.8)}
    assert not smoothed.stopped
    nan = guard(np.array([np.nan]), on_line(0.0), LINE, DT)[1]
    assert (nan.any, nan.stopped, nan.values, nan.max_change) == (True, True, {"non_finite": 0.0}, 0.0)


def test_shapes_and_dt_that_are_wrong_are_the_callers_bug() -> None:
    with pytest.raises(ValueError, match=r"u \(2,\)"):
        guard(np.zeros(2), on_line(0.0), LINE, DT)
    with pytest.raises(ValueError, match="shape of the limits"):
        guard(np.zeros(1), dataclasses.replace(on_line(0.0), effort=np.zeros(2)), LINE, DT)
    with pytest.raises(ValueError, match="shape of the limits"):
        guard(np.zeros(1), on_line(0.0), LINE, DT, out=np.zeros(2))
    for name, shape in {
        "tool_position": (2,),
        "jacobian": (6, 1),
        "tool_curvature": (3, 1),
        "clearance": (2,),
        "clearance_gradient": (2, 1),
        "clearance_curvature": (1, 1),
    }.items():
        state = dataclasses.replace(before_wall(0.0), **{name: np.zeros(shape)})
        with pytest.raises(ValueError, match=f"{name} must be"):
            guard(np.zeros(1), state, LINE, DT)
    for dt in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="dt"):
            guard(np.zeros(1), on_line(0.0), LINE, dt)


# Memory ------------------------------------------------------------------------------------


def test_the_result_is_the_callers_own_and_may_overwrite_what_went_in() -> None:
    state = on_line(0.0, previous=0.2)
    first, _ = guard(np.array([0.4]), state, LINE, DT)
    guard(np.array([-0.1]), state, LINE, DT)
    assert first[0] == 0.4
    previous = state.previous_command
    out, interventions = guard(np.array([1.0]), state, LINE, DT, out=previous)
    assert out is previous
    assert out[0] == pytest.approx(0.7)  # 0.5 more than the 0.2 that was there
    assert interventions.names == ("acceleration",)


def _peak_bytes(balls: int) -> tuple[int, int]:
    """The most memory in use during a tick in free space and one at the sphere, with so many balls."""
    link = {"center_m": (0.0, 0.0, 0.05), "radius_m": 0.02}
    more = {
        "link_spheres": [{**link, "link": f"link_{1 + i % 7}"} for i in range(balls)],
        "link_planes": [{"name": "table", "normal": (0, 0, 1), "offset_m": 0.1}],
        "self_collision": True,
    }
    data = CONFIG.model_dump(mode="json")
    data["limits"] |= more
    robot = RobotConfig.model_validate(data)
    geometry = GuardGeometry(robot, Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link))
    assert len(geometry.rows) >= balls
    q, zeros, out = np.array(robot.reset.home_rad), np.zeros(7), np.zeros(7)
    peaks = []
    for radius in (0.75, 0.145):  # the tool is 0.143 m from the centre
        sphere = robot.limits.workspace_sphere.model_copy(update={"radius_m": radius})
        limits = GuardLimits.from_config(robot.limits.model_copy(update={"workspace_sphere": sphere}))
        u = np.sign(geometry.state(q, zeros, zeros, zeros).jacobian[0])
        for _ in range(3):  # the last is measured
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            _, interventions = guard(u, geometry.state(q, zeros, u, zeros), limits, DT, out)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            tracemalloc.stop()
        assert ("workspace" in interventions.names) == (radius == 0.145)
    return peaks[2], peaks[5]


def test_a_tick_needs_no_array_but_those_it_has() -> None:
    """40 balls make hundreds of clearances; one temporary array for them would be kilobytes."""
    few, many = _peak_bytes(2), _peak_bytes(40)
    for a, b in zip(few, many, strict=True):
        assert a < 6000  # Python's numbers, lists and views
        assert b - a < 1000


# Properties of a whole arm -----------------------------------------------------------------

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
    # Tool, to first order: the next place is inside the sphere, or no farther out, or braking leads there.
    distance = np.linalg.norm(state.tool_position - ARM7.sphere_center)
    next_place = state.tool_position + state.jacobian @ safe * DT
    assert np.linalg.norm(next_place - ARM7.sphere_center) <= max(distance, ARM7.sphere_radius) + 0.001


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
