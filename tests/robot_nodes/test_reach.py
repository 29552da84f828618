"""The reach task against numbers computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fleet.config import ConfigError
from fleet.config_file import load_fleet
from robot_nodes.tasks.reach import ReachTask, reach_reward
from robot_nodes.tasks.task import ArmState, make_task

FLEET = Path(__file__).parents[2] / "hardware_configs/fleets/sim2.yaml"


@pytest.fixture(scope="module")
def task() -> ReachTask:
    fleet = load_fleet(FLEET)
    made = make_task(fleet, fleet.robots[0].id)
    assert isinstance(made, ReachTask)
    return made


def state(tool: list[float]) -> ArmState:
    return ArmState(np.arange(7.0), np.arange(7.0) + 10, np.array(tool), stamp_ns=0)


def test_reward_by_hand():
    config = load_fleet(FLEET).task.model_copy(
        update={
            "distance_weight": 1.0,
            "precision_weight": 0.5,
            "precision_scale_per_m2": 100.0,
            "action_weight": 0.01,
        }
    )
    action = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    expected = -0.1 + 0.5 * math.exp(-1.0) - 0.01 * 2 / 7
    assert reach_reward(0.1, action, config) == pytest.approx(expected)


def test_observation_is_the_papers_twenty_numbers(task):
    x = task.observe(state([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6]))
    assert x.dtype == np.float32
    assert x.tolist() == pytest.approx([*range(7), *range(10, 17), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert task.spec.observation.size == 20
    assert task.spec.action.size == 7


def test_success_is_five_centimetres_and_the_task_never_terminates(task):
    goal = np.array([0.5, 0.0, 0.5])
    assert task.success(state([0.5, 0.0, 0.549]), goal)
    assert not task.success(state([0.5, 0.0, 0.551]), goal)
    assert not task.terminated(state([0.5, 0.0, 0.5]), goal)


def test_goals_fill_the_shell_and_nothing_else(task):
    config = load_fleet(FLEET).task
    rng = np.random.default_rng(0)
    goals = np.array([task.sample_goal(rng) for _ in range(2000)])
    radius = np.linalg.norm(goals - config.target_center_m, axis=1)
    inner, outer = config.target_radius_m
    assert radius.min() >= inner and radius.max() <= outer
    assert goals[:, 2].min() >= config.target_min_z_m
    assert goals[:, 0].min() >= config.target_min_x_m
    # Even by volume: half of the shell's volume lies beyond this radius (the planes cut a little of it).
    middle = ((inner**3 + outer**3) / 2) ** (1 / 3)
    assert 0.4 < (radius > middle).mean() < 0.6


def test_targets_that_cannot_be_are_told_before_a_run():
    with pytest.raises(ConfigError, match="inner < outer"):
        load_fleet(FLEET, ["task.target_radius_m=[0.6, 0.35]"])
    fleet = load_fleet(FLEET, ["task.target_min_x_m=0.9"])
    with pytest.raises(ConfigError, match=r"target_min_x_m 0\.9"):
        make_task(fleet, fleet.robots[0].id)
