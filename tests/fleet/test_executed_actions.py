"""What the guard would let through of a policy's actions, put in the right places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.fleet_logs import record
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.executed_actions import ExecutedActions
from fleet.guard_sample import GuardSample, robot_of
from learner.publisher import policy_message
from learner.row_file import RowFile
from learner.trainer import Trainer
from replay_server.logs import Logs, open_logs
from robot_nodes.tasks.task import make_task


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    return load_fleet(
        "hardware_configs/fleets/sim2.yaml",
        ["task.episode_s=1.0", "learner.hidden_sizes=[8]", "learner.engine=eager"],
    )


@pytest.fixture(scope="module")
def logs(fleet: FleetConfig, tmp_path_factory: pytest.TempPathFactory) -> Logs:
    folder: Path = tmp_path_factory.mktemp("runs")
    message = policy_message(Trainer(fleet.learner, make_task(fleet, "robot1").spec), "r", 0, 0.3, 0)
    record(fleet, folder / "logs", message, episodes=2, seed=0)
    return open_logs([folder / "logs"])


@pytest.fixture(scope="module")
def rows(logs: Logs, tmp_path_factory: pytest.TempPathFactory) -> RowFile:
    return RowFile.build(tmp_path_factory.mktemp("rows") / "rows", logs)


def by_position(observation: np.ndarray) -> np.ndarray:
    """An action that tells which observation it is for, too small and slow for the guard to mind."""
    return 0.01 * observation[:, :7]


def test_without_a_fleet_they_are_the_policy_s_own(rows: RowFile) -> None:
    executed = ExecutedActions.of(rows, by_position, None)
    values = rows.values.numpy()
    np.testing.assert_array_equal(executed.here, by_position(values[:, :20]))
    np.testing.assert_array_equal(executed.following, by_position(values[:, 20:40]))
    np.testing.assert_array_equal(executed.first, by_position(values[rows.starts.numpy(), :20]))


def test_the_guard_knows_what_was_executed_before(fleet: FleetConfig, rows: RowFile) -> None:
    told = []
    executed = ExecutedActions.of(
        rows, lambda x: np.ones((len(x), 7)), fleet, lambda done, total: told.append((done, total))
    )
    # 15 rad/s² · 0.05 s of 1.5 rad/s: half of the range more than the action before, which is 0 at first
    np.testing.assert_allclose(executed.first, 0.5, atol=1e-6)
    before = rows.values[:, rows.layout.action].numpy()
    np.testing.assert_allclose(executed.following, np.minimum(before + 0.5, 1.0), atol=1e-6)
    assert told == [(20, 80), (40, 80), (60, 80), (80, 80)]


def test_robots_that_the_fleet_lacks_are_told_and_left_out(fleet: FleetConfig, logs: Logs) -> None:
    assert robot_of(fleet, "robot2") is fleet.entry("robot2").robot
    assert robot_of(fleet, "arm9") is fleet.robots[0].robot  # all are of one kind
    first, second = fleet.robots
    other = second.model_copy(
        update={"id": "arm9", "robot": second.robot.model_copy(update={"name": "another"})}
    )
    mixed = fleet.model_copy(update={"robots": [first, other]})
    assert robot_of(mixed, "robot2") is None
    rng = np.random.default_rng(0)
    assert GuardSample.draw(logs, fleet, 1000, rng).preview().rows == 80
    sample = GuardSample.draw(logs, mixed, 1000, rng)
    assert (sample.strangers, sample.preview().rows) == (["robot2"], 40)
