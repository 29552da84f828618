from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fleet.config import LearnerConfig
from fleet.messages import PolicyMessage, policy_checksum
from fleet.spaces import Space, SpaceSpec
from learner.publisher import policy_message
from learner.trainer import Trainer
from robot_nodes.policy import NumpyPolicy, PolicyError

SPEC = SpaceSpec(
    observation=Space(("a", "b"), ("1", "1"), (-1.0, -1.0), (1.0, 1.0)),
    action=Space(("u",), ("1",), (-1.0,), (1.0,)),
)


def make_message(**changes: Any) -> PolicyMessage:
    """nx 2, one hidden layer of 2, nu 1."""
    parameters = np.array([1, 0, 0, -1, 0.5, 0, 0.25, 2, -0.5], "<f4")
    arrays = {
        "parameters": parameters,
        "observation_mean": np.array([1, 2], "<f4"),
        "observation_scale": np.array([2, 0.5], "<f4"),
    }
    arrays.update({key: changes.pop(key) for key in list(changes) if key in arrays})
    message = PolicyMessage(
        run_id="run",
        version=7,
        learner_step=70,
        spec_hash=SPEC.hash,
        layer_sizes=[2, 2, 1],
        exploration_std=0.3,
        exploration_correlation=0.0,
        published_ns=1,
        checksum=policy_checksum(*arrays.values()),
        **arrays,
    )
    return replace(message, **changes)


def test_mean_action_by_hand() -> None:
    policy = NumpyPolicy.from_message(make_message(), SPEC)
    # x = ((2, −2) − (1, 2)) · (2, .5) = (2, −2); h = relu(2 + .5, 2) = (2.5, 2); tanh(.625 + 4 − .5)
    assert policy.mean_action([2.0, -2.0]).tolist() == [pytest.approx(np.tanh(4.125), abs=1e-6)]
    # x is clipped to ±10: h = relu(10.5, −10) = (10.5, 0)
    assert policy.mean_action([1e6, 1e6]).tolist() == [pytest.approx(np.tanh(2.125), abs=1e-6)]
    assert (policy.version, policy.learner_step, policy.observation_size, policy.action_size) == (7, 70, 2, 1)


def test_the_result_is_not_overwritten_by_the_next_call() -> None:
    policy = NumpyPolicy.from_message(make_message(), SPEC)
    first = policy.mean_action([1.0, 2.0])
    kept = first.copy()
    policy.mean_action([2.0, -2.0])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("hidden", [[100, 100], [32]])
def test_torch_and_numpy_agree(hidden: list[int]) -> None:
    def space(n: int, letter: str) -> Space:
        return Space(tuple(f"{letter}{i}" for i in range(n)), ("1",) * n, (-9.0,) * n, (9.0,) * n)

    spec = SpaceSpec(space(20, "x"), space(7, "u"))
    trainer = Trainer(LearnerConfig(hidden_sizes=hidden), spec, seed=1)
    rng = np.random.default_rng(0)
    trainer.normaliser.extend(rng.normal(3.0, 2.0, (500, 20)))
    trainer.refresh_normaliser()
    with torch.no_grad():
        trainer.network.flat.add_(0.05 * torch.randn(trainer.shape.parameters, generator=torch.Generator()))
    policy = NumpyPolicy.from_message(policy_message(trainer, "run", 0, 0.3, 1), spec)
    observations = rng.normal(3.0, 4.0, (200, 20)).astype("f4")
    x = ((torch.from_numpy(observations) - trainer._mean[:20]) * trainer._scale[:20]).clamp(-10, 10)
    with torch.no_grad():
        expected = trainer.network(x).mu.numpy()
    assert np.abs(expected).max() > 0.3
    actual = np.stack([policy.mean_action(observation) for observation in observations])
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert actual.dtype == np.float32
    assert np.abs(actual).max() <= 1.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spec_hash": "other"}, "for other spaces"),
        ({"checksum": "0" * 32}, "checksum"),
        ({"parameters": np.full(9, np.nan, "<f4")}, "9 values not finite"),
        ({"observation_scale": np.array([1, np.inf], "<f4")}, "observation_scale has 1 values not finite"),
        ({"layer_sizes": [2, 3, 1]}, "take 13 parameters, got 9"),
        ({"layer_sizes": [1, 3, 1]}, "begin and end with the spec's sizes"),
        ({"layer_sizes": [2]}, "two or more positive integers"),
        ({"layer_sizes": [2, -2, 1]}, "two or more positive integers"),
        ({"observation_mean": np.zeros(3, "<f4"), "observation_scale": np.ones(3, "<f4")}, "3 dimensions"),
        ({"exploration_std": float("nan")}, "exploration_std"),
        ({"exploration_correlation": 1.0}, "below 1"),
    ],
)
def test_a_bad_policy_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PolicyError, match=reason) as caught:
        NumpyPolicy.from_message(make_message(**changes), SPEC)
    assert "policy 7 of run run" in str(caught.value)
