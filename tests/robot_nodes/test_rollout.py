"""Episodes on the simulated arm without ROS: resets by motion, a door, always the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, TransitionBatch, policy_checksum
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT
from robot_nodes.sim.evaluation import Evaluation, evaluate_policy, write_film
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.sim.rollout import EpisodeResult, Rollout
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import make_task


def linear_policy(fleet: FleetConfig, weights: np.ndarray) -> PolicyMessage:
    """A policy without hidden layers: nx observations to 7 actions, and a bias for each of these."""
    spec = make_task(fleet, "robot1").spec
    nx = spec.observation.size
    arrays = weights.astype("<f4"), np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    return PolicyMessage(
        run_id="run",
        version=0,
        learner_step=0,
        spec_hash=spec.hash,
        layer_sizes=[nx, 7],
        exploration_std=0.0,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(*arrays),
        parameters=arrays[0],
        observation_mean=arrays[1],
        observation_scale=arrays[2],
    )


def test_in_simulation_resets_are_by_motion_alone() -> None:
    fleet = load_fleet(
        "hardware_configs/fleets/sim2.yaml",
        [
            "task.episode_s=0.5",
            "robots.0.robot.reset.steps=[trajectory, service, person]",
            "robots.0.robot.reset.service=/reset_world",
        ],
    )
    with simulated_arm(fleet, "robot1", seed=1) as arm:
        rollout = Rollout(fleet, "robot1", linear_policy(fleet, np.zeros(147)), seed=0, arm=arm)
        results = [rollout.episode() for _ in range(2)]
    assert [result.rows for result in results] == [10, 10]
    home = np.array(fleet.robots[0].robot.reset.home_rad)
    starts = np.array([result.joints[0] for result in results])
    assert np.abs(starts - home).max() <= 0.3 + 0.05 + 1e-6
    assert np.ptp(starts, axis=0).max() > 0.1, "two different homes"


def test_a_policys_score_in_mujoco_stays_what_it_has_always_been() -> None:
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml", ["task.episode_s=2"])
    policy = linear_policy(fleet, 0.3 * np.random.default_rng(5).standard_normal(147))
    evaluation = evaluate_policy(fleet, policy, episodes=2, seed=3, robot_id="robot1")
    assert (evaluation.robot_id, evaluation.simulator) == ("robot1", "mujoco")
    distances = [episode.metrics["final_distance_m"] for episode in evaluation.episodes]
    returns = [episode.metrics["return"] for episode in evaluation.episodes]
    assert distances == pytest.approx([0.748288161994553, 0.7724559449942563], rel=1e-6)
    assert returns == pytest.approx([-21.043636750889334, -23.708557015550603], rel=1e-6)


def test_real_hardware_is_not_simulated() -> None:
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml", ["robots.0.robot.sim=null"])
    with pytest.raises(ConfigError, match="robot1 is real hardware"):
        evaluate_policy(fleet, linear_policy(fleet, np.zeros(147)), 1, 0, "robot1")


def test_a_door_is_closed_before_each_episode_and_its_angles_are_observed() -> None:
    fleet = load_fleet("fleets/door2.yaml", ["task.episode_s=1"])
    batches: list[TransitionBatch] = []
    with simulated_arm(fleet, "robot1", 1, "mujoco") as arm:
        assert isinstance(arm, MujocoArm)
        still = linear_policy(fleet, np.zeros(22 * 7 + 7))
        rollout = Rollout(fleet, "robot1", still, seed=0, arm=arm, on_batch=batches.append)
        for _ in range(2):
            arm.data.joint(HINGE_JOINT).qpos[0] = 0.3
            arm.data.joint(HANDLE_JOINT).qfrc_applied[0] = 0.6  # against 3 N m/rad: 0.2 rad
            result = rollout.episode()
            assert result.rows == 20
            assert result.scene[:, 0] == pytest.approx(np.zeros(20), abs=0.001)
            assert result.scene[-1, 1] == pytest.approx(0.2, abs=0.01)
            assert result.metrics["handle_angle_rad"] == pytest.approx(0.2, abs=0.01)
            observation = np.concatenate([batch.observation for batch in batches])
            np.testing.assert_allclose(observation[:, -2:], result.scene, atol=1e-6)
            batches.clear()
    summary = Evaluation("robot1", "mujoco", [result]).summary
    assert summary["success_rate"] == 0.0 and abs(summary["mean_door_angle_rad"]) < 0.001


def test_a_film_shows_how_far_the_door_is_open(tmp_path: Path) -> None:
    fleet = load_fleet("fleets/door2.yaml")
    home = np.array(fleet.robots[0].robot.reset.home_rad)
    frames = []
    for hinge, handle in [(0.0, 0.0), (0.0, 0.5), (0.6, 0.5)]:
        episode = EpisodeResult(False, {}, 1, home[np.newaxis], np.array([[hinge, handle]]))
        write_film(fleet, Evaluation("robot1", "mujoco", [episode]), tmp_path / "door.gif")
        with Image.open(tmp_path / "door.gif") as film:
            frames.append(np.asarray(film.convert("RGB"), float)[40:])  # below the title
    lever, panel = (np.abs(frames[i + 1] - frames[i]).max(axis=2) > 50 for i in range(2))
    assert 0 < lever.sum() < 0.2 * panel.sum()
