"""Actions put through the guard at logged moments: as the robot's own guard did, and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.fleet_logs import record
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, Transitions, policy_checksum
from fleet.robot_config import RobotConfig, UrdfTopic
from fleet.spaces import SpaceSpec
from replay_server.logs import Logs, open_logs
from robot_nodes.guard_preview import GuardPreview, GuardPreviewError, Moments
from robot_nodes.intervention_counts import InterventionCounts
from robot_nodes.tasks.task import make_task


def moments_of(transitions: Transitions, places: np.ndarray, spec: SpaceSpec, robot: RobotConfig) -> Moments:
    before = np.pad(transitions.action, ((2, 0), (0, 0)))
    return Moments.of(
        transitions.observation[places], np.stack([before[places + 1], before[places]]), spec, robot
    )


def preview_guard(robot: RobotConfig, moments: Moments, actions: np.ndarray) -> InterventionCounts:
    preview = GuardPreview(robot)
    preview(moments, actions)
    return preview.counts


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    return load_fleet("hardware_configs/fleets/sim2.yaml", ["task.episode_s=2.0"])


@pytest.fixture(scope="module")
def logs(fleet: FleetConfig, tmp_path_factory: pytest.TempPathFactory) -> Logs:
    spec = make_task(fleet, "robot1").spec
    nx = spec.observation.size
    weights = np.random.default_rng(0).normal(0, 0.3, 7 * (nx + 1)).astype("<f4")
    arrays = weights, np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    message = PolicyMessage(
        run_id="run", version=0, learner_step=0, spec_hash=spec.hash, layer_sizes=[nx, 7],
        exploration_std=0.3, exploration_correlation=0.0, published_ns=0, checksum=policy_checksum(*arrays),
        parameters=arrays[0], observation_mean=arrays[1], observation_scale=arrays[2],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    record(fleet, folder, message, episodes=3, seed=0, robots=["robot1"])
    return open_logs([folder])


def test_it_does_to_the_logged_wishes_what_the_robot_s_guard_did(fleet: FleetConfig, logs: Logs) -> None:
    robot = fleet.entry("robot1").robot
    changed = clipped = 0
    for summary in logs.episodes:
        transitions = logs.transitions(summary)
        places = np.arange(2, transitions.rows)  # before the first step something else was commanded
        moments = moments_of(transitions, places, logs.spec, robot)
        counts = preview_guard(robot, moments, transitions.policy_action[places])
        changed += counts.stopped + counts.smoothed
        clipped += int(transitions.clipped[places].sum())
        executed = GuardPreview(robot)(moments, transitions.policy_action[places])
        np.testing.assert_allclose(executed, transitions.action[places], atol=2e-4)
        none = preview_guard(robot, moments, transitions.action[places])
        assert none.stopped <= 2  # what was executed is safe; positions are rounded in logs
    assert clipped > 20
    assert changed == clipped


def test_by_hand(fleet: FleetConfig, logs: Logs) -> None:
    robot = fleet.entry("robot1").robot
    transitions = logs.transitions(logs.episodes[0])
    moments = moments_of(transitions, np.array([0, 1, 5]), logs.spec, robot)
    executed = 1.5 * transitions.action.astype(np.float64)  # rad/s
    np.testing.assert_allclose(moments.previous_command, [0 * executed[0], executed[0], executed[4]])
    expected = [0 * executed[0], 20 * executed[0], 20 * (executed[4] - executed[3])]
    np.testing.assert_allclose(moments.previous_acceleration, expected)
    np.testing.assert_array_equal(moments.q, transitions.observation[[0, 1, 5], :7])
    np.testing.assert_array_equal(moments.qd, transitions.observation[[0, 1, 5], 7:14])

    home = np.array(robot.reset.home_rad)[None]
    still = np.zeros((1, 7))
    at_home = Moments(home, still, still, still)
    gentle = preview_guard(robot, at_home, np.full((1, 7), 0.3))
    assert (gentle.stopped, gentle.smoothed) == (0, 0)
    # 15 rad/s² for 0.05 s: 0.75 rad/s from rest, not 1.5
    hasty = preview_guard(robot, at_home, np.eye(7)[:1])
    assert (hasty.stopped, hasty.smoothed, hasty.counts) == (0, 1, {"acceleration": 1})
    assert hasty.largest == {"acceleration": pytest.approx(0.75)}
    # Joint 1 a thousandth from its limit, and on
    near = home.copy()
    near[0, 0] = robot.limits.position_high_rad[0] - 0.001
    stopped = preview_guard(robot, Moments(near, still, still, still), 0.4 * np.eye(7)[:1])
    assert stopped.stopped == 1 and "position" in stopped.counts


def test_logs_that_do_not_say_where_the_arm_was(fleet: FleetConfig, logs: Logs) -> None:
    robot = fleet.entry("robot1").robot
    transitions, spec = logs.transitions(logs.episodes[0]), logs.spec
    names = tuple(name.replace("joint_3/velocity", "x") for name in spec.observation.names)
    renamed = replace(spec, observation=replace(spec.observation, names=names))
    with pytest.raises(GuardPreviewError, match="no 'joint_3/velocity'"):
        moments_of(transitions, np.array([0]), renamed, robot)
    gripper = load_fleet(Path("hardware_configs/fleets/pick2.yaml")).robots[0].robot
    with pytest.raises(GuardPreviewError, match="has 8 joints, the logs' actions move 7"):
        moments_of(transitions, np.array([0]), spec, gripper)


def test_a_robot_whose_urdf_only_its_driver_has(fleet: FleetConfig) -> None:
    robot = fleet.entry("robot1").robot
    with pytest.raises(GuardPreviewError, match="from the topic robot_description"):
        GuardPreview(robot.model_copy(update={"urdf": UrdfTopic(topic="robot_description")}))
    with pytest.raises(GuardPreviewError, match="cannot be read"):
        GuardPreview(robot.model_copy(update={"urdf": Path("none.urdf")}))
