"""Commanded against measured travel, with joint states that come late, seldom or frozen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fleet.robot_config import RobotConfig, TrackingWatchdog
from robot_nodes.following import Following
from robot_nodes.joint_states import JointReading

TICK_NS = 50_000_000


def following(window_s: float = 0.5, limit_rad: float = 0.1) -> Following:
    tracking = TrackingWatchdog(window_s=window_s, limit_rad=limit_rad, action="latch")
    robot: Any = SimpleNamespace(watchdogs=SimpleNamespace(tracking=tracking), joints=["a", "b"])
    return Following(cast(RobotConfig, robot))


def reading(stamp_ns: int, a: float, b: float = 0.0) -> JointReading:
    return JointReading(np.array([a, b]), np.zeros(2), stamp_ns)


def command(a: float, b: float = 0.0) -> np.ndarray:
    return np.array([a, b])


def test_a_joint_that_obeys_is_not_blamed():
    watched = following(limit_rad=0.001)
    for i in range(100):
        watched.add(i * TICK_NS, reading(i * TICK_NS, 0.02 * i, -0.01 * i), command(0.4, -0.2))
        assert watched.problem == ""


def test_a_stuck_joint_is_named_with_what_was_commanded():
    watched = following()
    for i in range(6):  # 5 steps of 0.02 rad: 0.1 rad apart is still right
        watched.add(i * TICK_NS, reading(i * TICK_NS, 1.0), command(0.4))
        assert watched.problem == ""
    watched.add(6 * TICK_NS, reading(6 * TICK_NS, 1.0), command(0.4))
    assert watched.problem.startswith("a does not follow: it moved 0.000 rad where 0.120 rad were commanded")
    watched.clear()
    assert watched.problem == ""


def test_a_joint_that_runs_away_is_found():
    watched = following()
    for i in range(10):
        watched.add(i * TICK_NS, reading(i * TICK_NS, 0.0, 0.03 * i), command(0.0))
    assert "b does not follow: it moved" in watched.problem


def test_a_slow_drift_stays_below_the_limit_of_a_window():
    watched = following(window_s=0.2, limit_rad=0.02)
    for i in range(200):  # 0.1 rad/s too slow: 0.02 rad in 0.2 s
        watched.add(i * TICK_NS, reading(i * TICK_NS, 0.0195 * i), command(0.4))
        assert watched.problem == ""


@pytest.mark.parametrize("delay_ticks", [1, 5])
def test_joint_states_that_come_late_are_compared_with_their_own_time(delay_ticks):
    watched = following(limit_rad=0.01)
    position, path = 0.0, []
    for i in range(60):
        velocity = 0.9 if i % 20 < 10 else -0.9
        path.append(position)
        if i >= delay_ticks:
            seen = i - delay_ticks
            in_force = 0.9 if (i - 1) % 20 < 10 else -0.9
            watched.add(i * TICK_NS, reading(seen * TICK_NS, path[seen]), command(in_force))
            assert watched.problem == ""
        position += velocity * TICK_NS * 1e-9


def test_a_burst_of_ticks_after_a_stall_is_no_reason_for_blame():
    watched = following(limit_rad=0.02)
    watched.add(0, reading(0, 0.0), command(0.0))
    # Ticks catch up within 3 ms; the arm has hardly moved since the last of their commands was sent.
    watched.add(300_000_000, reading(299_000_000, 0.0), command(0.0))
    watched.add(301_000_000, reading(300_500_000, 0.0), command(0.3))
    watched.add(303_000_000, reading(302_000_000, 0.0003), command(0.6))
    assert watched.problem == ""


def test_repeated_joint_states_count_once():
    watched = following()
    for i in range(40):
        watched.add(i * TICK_NS, reading(0, 0.0), command(0.4))
    assert watched.problem == "", "their age is watched elsewhere"


@pytest.mark.parametrize("speed", [0.02, 0.2, 1.0, -0.2])
def test_a_stuck_joint_is_found_at_any_speed(speed):
    watched = following(limit_rad=0.15)
    ticks = 0
    while not watched.problem:
        watched.add(ticks * TICK_NS, reading(ticks * TICK_NS, 1.0, 0.5), command(0.0, speed))
        ticks += 1
        assert ticks * 0.05 * abs(speed) < 0.26, "0.15 rad, and two ticks: the first commands nothing"
    assert watched.problem.startswith("b does not follow: it moved 0.000 rad where ")
    if speed == 0.02:
        assert "0.150 rad were commanded within 7.5 s" in watched.problem


def test_a_joint_that_sticks_on_its_way_is_found_within_two_limits():
    watched = following(limit_rad=0.1)
    found_at = None
    for i in range(600):
        watched.add(i * TICK_NS, reading(i * TICK_NS, min(0.005 * i, 1.02)), command(0.1))
        if watched.problem and found_at is None:
            found_at = 0.005 * i
    assert found_at is not None and 1.12 < found_at < 1.22


def test_a_joint_that_sticks_after_it_has_turned_round_is_found():
    watched = following(limit_rad=0.1)
    for i in range(101):
        watched.add(i * TICK_NS, reading(i * TICK_NS, -0.005 * i), command(-0.1))
    assert watched.problem == ""
    back_rad = 0.0
    while not watched.problem:
        i, back_rad = i + 1, back_rad + 0.005
        watched.add(i * TICK_NS, reading(i * TICK_NS, -0.5), command(0.1))
        assert back_rad < 0.107
    assert watched.problem.startswith("a does not follow: it moved 0.000 rad where 0.10")


def test_a_stuck_joint_is_found_under_exploration_noise_around_a_slow_command():
    watched = following()
    rng = np.random.default_rng(3)
    for i in range(200):
        watched.add(i * TICK_NS, reading(i * TICK_NS, 1.0), command(0.03 + rng.normal(0.0, 0.1)))
        if watched.problem:
            return
    pytest.fail("10 s at 0.03 rad/s are 0.3 rad")


def wander(rng: np.random.Generator, before: float) -> float:
    return float(np.clip(before + rng.uniform(-0.15, 0.15), -0.4, 0.4))


def noise(rng: np.random.Generator, before: float) -> float:
    return float(rng.uniform(-0.4, 0.4))


def reverse(rng: np.random.Generator, before: float) -> float:
    return before if rng.random() < 0.97 and before else float(rng.choice([-0.4, 0.4]))


def stop_and_go(rng: np.random.Generator, before: float) -> float:
    return before if rng.random() < 0.95 else float(rng.choice([0.0, 0.0, 0.02, -0.02, 0.4]))


@pytest.mark.parametrize("command_after", [wander, noise, reverse, stop_and_go])
@pytest.mark.parametrize("delay_ticks", [0, 2])
def test_a_joint_that_lags_is_never_blamed(command_after, delay_ticks):
    watched = following(limit_rad=0.1)
    rng = np.random.default_rng(7)
    wish, velocity, q = 0.0, 0.0, 0.0
    path = []
    for i in range(10_000):
        path.append(q)
        seen = max(0, i - delay_ticks)
        watched.add(i * TICK_NS, reading(seen * TICK_NS, path[seen]), command(wish))
        assert watched.problem == "", f"tick {i}"
        wish = command_after(rng, wish)
        for _ in range(10):  # a servo of first order: 0.1 s behind, 0.08 rad at a full reversal
            velocity += (wish - velocity) * 0.005 / 0.1
            q += velocity * 0.005


def test_commands_to_and_fro_do_not_add_up():
    watched = following(limit_rad=0.1)
    for i in range(2000):  # 0.08 rad there and back again, which the joint ignores
        watched.add(i * TICK_NS, reading(i * TICK_NS, 1.0), command(0.16 if i // 10 % 2 else -0.16))
        assert watched.problem == ""


def test_what_another_has_moved_does_not_count():
    watched = following(limit_rad=0.1)
    for i in range(2000):
        watched.add(i * TICK_NS, reading(i * TICK_NS, 1.0), command(0.02))
        assert watched.problem == ""
        if i % 90 == 89:  # 0.09 rad
            watched.clear()
