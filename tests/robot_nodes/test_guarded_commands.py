"""What is remembered from one guarded command to the next, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.config_file import load_fleet
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits, Interventions
from robot_nodes.guarded_commands import GuardedCommands, overload
from robot_nodes.intervention_counts import InterventionCounts
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

ROBOT = (
    load_fleet(
        "hardware_configs/fleets/sim2.yaml",
        [
            "robots.0.robot.limits.max_joint_jerk_rad_s3=[100, 100, 100, 100, 100, 100, 100]",
            "robots.0.robot.limits.max_effort=[50, 50, 50, 50, 50, 50, 50]",
        ],
    )
    .robots[0]
    .robot
)
HOME = np.array(ROBOT.reset.home_rad)
DT = 0.05


@pytest.fixture
def commands() -> GuardedCommands:
    kinematics = Kinematics(load_urdf(ROBOT.urdf), ROBOT.joints, ROBOT.tool_link)
    return GuardedCommands(GuardLimits.from_config(ROBOT.limits), GuardGeometry(ROBOT, kinematics), DT)


def test_velocity_and_acceleration_of_before_are_remembered(commands: GuardedCommands) -> None:
    # 100 rad/s³ let the acceleration rise by 5 rad/s² per tick: 5, then 10, which is 0.25, then 0.75 rad/s.
    wish = np.full(7, 1.5)
    for expected in (0.25, 0.75):
        interventions = commands.next(wish, HOME, np.zeros(7))
        assert commands.last == pytest.approx(np.full(7, expected))
        assert "jerk" in interventions.names
    commands.stop()
    assert not commands.last.any()
    commands.next(wish, HOME, np.zeros(7))
    assert commands.last == pytest.approx(np.full(7, 0.25)), "from rest again"


def test_effort_stops_and_is_told_in_words(commands: GuardedCommands) -> None:
    effort = np.array([0.0, -50.0, 50.5, 0, 0, 0, 0])
    assert commands.next(np.ones(7), HOME, np.zeros(7), effort).values == {"effort": 1.0}
    assert not commands.last.any()
    assert overload(effort, ROBOT) == (
        "joint_3 has an effort of 50.5 N m, more than its limits.max_effort 50: see what it pushes against"
    )
    assert overload(None, ROBOT) == overload(np.full(7, 50.0), ROBOT) == ""


def test_interventions_are_counted_by_limit_and_by_kind() -> None:
    counts = InterventionCounts()
    for values in ({}, {"acceleration": 0.2}, {"acceleration": 0.1, "workspace": 0.4}, {"velocity": 0.3}):
        counts.add(Interventions(values))
    assert counts.counts == {"acceleration": 2, "workspace": 1, "velocity": 1}
    assert counts.largest == {"acceleration": 0.2, "workspace": 0.4, "velocity": 0.3}
    assert (counts.stopped, counts.smoothed) == (1, 2)
    assert counts.metrics == {
        "guard/acceleration": 2.0,
        "guard/workspace": 1.0,
        "guard/velocity": 1.0,
        "guard/acceleration_max_rad_s": 0.2,
        "guard/workspace_max_rad_s": 0.4,
        "guard/velocity_max_rad_s": 0.3,
    }
