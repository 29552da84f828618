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
