"""Discounted returns in simulation: the task's own rewards, long enough to mean what an estimate means."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, policy_checksum
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.sim.true_return import long_enough, true_return
from robot_nodes.tasks.task import make_task


def resting(fleet) -> PolicyMessage:
    spec = make_task(fleet, "robot1").spec
    nx = spec.observation.size
    arrays = np.zeros(7 * (nx + 1), "<f4"), np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    return PolicyMessage(
        run_id="run", version=0, learner_step=0, spec_hash=spec.hash, layer_sizes=[nx, 7],
        exploration_std=0.0, exploration_correlation=0.0, published_ns=0, checksum=policy_checksum(*arrays),
        parameters=arrays[0], observation_mean=arrays[1], observation_scale=arrays[2],
    )  # fmt: skip


def test_rewards_are_discounted_step_by_step() -> None:
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml", ["task.episode_s=1.0"])
    message, gamma = resting(fleet), 0.5
    batches = []
    with simulated_arm(fleet, "robot1", seed=8) as arm:
        rollout = Rollout(fleet, "robot1", message, 7, arm, on_batch=batches.append)
        for _ in range(3):
            rollout.episode()
    rewards = np.concatenate([batch.reward for batch in batches]).reshape(3, 20)
    returns = [sum(gamma**t * r for t, r in enumerate(episode)) for episode in rewards.tolist()]
    told = []
    truth = true_return(
        fleet, "robot1", message, gamma, 3, 7, on_progress=lambda done, total: told.append((done, total))
    )
    assert truth.mean == pytest.approx(np.mean(returns), rel=1e-6)
    assert truth.standard_error == pytest.approx(np.std(returns, ddof=1) / np.sqrt(3), rel=1e-6)
    assert (truth.episodes, truth.episode_s, truth.tail) == (3, 1.0, 0.5**20)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert np.isnan(true_return(fleet, "robot1", message, gamma, 1, 7).standard_error)


@pytest.mark.parametrize(("gamma", "episode_s"), [(0.5, 4.0), (0.95, 4.5), (0.99, 22.95), (0.9999, 80.0)])
def test_episodes_go_on_until_the_rest_hardly_weighs(gamma: float, episode_s: float) -> None:
    # ln 0.01 / ln 0.95 = 89.8 steps, / ln 0.99 = 458.2, of 0.05 s; at most 20 times the task's 4 s
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml")
    assert long_enough(fleet, "robot1", gamma).task.episode_s == pytest.approx(episode_s)
    assert fleet.task.episode_s == 4.0
