from __future__ import annotations

import numpy as np
import pytest

from fleet.messages import PolicyMessage, policy_checksum
from fleet.robot_config import PolicyAgeWatchdog
from robot_nodes.actor import Actor, NewestPolicy
from robot_nodes.exploration import GaussianExploration
from robot_nodes.policy import NumpyPolicy

LOG_RATIO = 1.0


def make_actor(noise: str) -> Actor:
    """nx 1, nu 2, μ = 0; P minds the second action e² times more than the first."""
    log_L = [0.0, LOG_RATIO] if noise == "precision" else []
    arrays = np.array([0, 0, 0, 0, *[0.0] * len(log_L), *log_L], "<f4"), np.zeros(1, "<f4"), np.ones(1, "<f4")
    message = PolicyMessage(
        run_id="run",
        version=7,
        learner_step=70,
        spec_hash="",
        layer_sizes=[1, 2],
        exploration_std=0.2,
        exploration_correlation=0.0,
        published_ns=1,
        checksum=policy_checksum(*arrays),
        parameters=arrays[0],
        observation_mean=arrays[1],
        observation_scale=arrays[2],
        noise=noise,
        diagonal="exp",
    )
    newest = NewestPolicy(NumpyPolicy(message), received_s=0.0)
    exploration = GaussianExploration(2, np.random.default_rng(0))
    return Actor(lambda: newest, PolicyAgeWatchdog(limit_s=1.0, action="keep_acting"), exploration)


def deviations(actor: Actor, scale: float) -> np.ndarray:
    actions = [actor.act(np.zeros(1, "f4"), scale)[0] for _ in range(4000)]
    return np.std(actions, axis=0)


def test_noise_is_as_strong_as_policy_and_robot_say() -> None:
    actor = make_actor("gaussian")
    actor.begin(evaluating=False)
    np.testing.assert_allclose(deviations(actor, 1.0), 0.2, rtol=0.06)
    np.testing.assert_allclose(deviations(actor, 0.5), 0.1, rtol=0.06)


def test_precision_noise_is_strongest_where_q_minds_least() -> None:
    actor = make_actor("precision")
    actor.begin(evaluating=False)
    first, second = deviations(actor, 0.5)
    assert first / second == pytest.approx(np.exp(LOG_RATIO), rel=0.06)
    assert (first**2 + second**2) / 2 == pytest.approx(0.1**2, rel=0.06)


@pytest.mark.parametrize("noise", ["gaussian", "precision"])
def test_an_evaluation_has_no_noise(noise: str) -> None:
    actor = make_actor(noise)
    actor.begin(evaluating=True)
    assert deviations(actor, 1.0).tolist() == [0.0, 0.0]
