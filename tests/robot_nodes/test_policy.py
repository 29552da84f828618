from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fleet.config import LearnerConfig
from fleet.messages import PolicyMessage, policy_checksum
from fleet.spaces import Space, SpaceSpec
from learner.ddpg import DdpgShape
from learner.naf import evaluate
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


def test_layer_normalisation_and_residuals_by_hand() -> None:
    # x = (2, −2), z = (2.5, 2): mean 2.25, variance 0.0625, normalised to (n, −n)
    n = 0.25 / np.sqrt(0.0625 + 1e-5)
    for changes, expected in [
        ({"layer_norm": True}, 0.25 * n - 0.5),
        ({"residual": True}, 0.25 * (2.5 + 2) + 2 * (2 - 2) - 0.5),
        ({"layer_norm": True, "residual": True}, 0.25 * (n + 2) + 2 * (0 - 2) - 0.5),
    ]:
        policy = NumpyPolicy.from_message(make_message(**changes), SPEC)
        assert policy.mean_action([2.0, -2.0]) == pytest.approx([np.tanh(expected)], abs=1e-6)
        assert policy.precision_factor() is None


def precise(*more: float, **changes: Any) -> PolicyMessage:
    """make_message() with precision noise and `more` parameters."""
    parameters = np.concatenate([make_message().parameters, np.array(more, "<f4")])
    return make_message(parameters=parameters, noise="precision", **changes)


@pytest.mark.parametrize(
    ("message", "expected"),
    [  # the hidden layer is (2.5, 2); 0.4 · 2.5 − 0.1 · 2 + 0.3 = 1.1
        (precise(0.4, -0.1, 0.3), np.exp(np.tanh(1.1))),
        (precise(0.4, -0.1, 0.3, diagonal="exp"), np.exp(1.1)),
        (precise(0.4, -0.1, 0.3, -0.7, diagonal="scaled"), np.exp(np.tanh(1.1) - 0.7)),
        (precise(400.0, -0.1, 0.3, diagonal="exp"), np.exp(20)),  # more would overflow
    ],
)
def test_precision_factor_by_hand(message: PolicyMessage, expected: float) -> None:
    policy = NumpyPolicy.from_message(message, SPEC)
    assert policy.mean_action([2.0, -2.0]) == pytest.approx([np.tanh(4.125)], abs=1e-6)
    factor = policy.precision_factor()
    assert factor is not None and factor.tolist() == [[pytest.approx(expected, rel=1e-6)]]
    assert policy.action_size == 1


def space(n: int, letter: str) -> Space:
    return Space(tuple(f"{letter}{i}" for i in range(n)), ("1",) * n, (-9.0,) * n, (9.0,) * n)


@pytest.mark.parametrize("noise", ["gaussian", "precision"])
@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_sizes": [100, 100]},
        {"hidden_sizes": [32], "layer_norm": True},
        {"hidden_sizes": [20, 20, 30], "residual": True, "off_diagonal": True},
        {"hidden_sizes": [64, 64, 64], "layer_norm": True, "residual": True, "diagonal": "scaled"},
        {"hidden_sizes": [40, 40], "off_diagonal": True, "diagonal": "scaled", "values": 1},
        {"algorithm": "naf_2016", "layer_norm": True},
        {"algorithm": "naf_linear", "layer_norm": True, "residual": True},
        {"algorithm": "ddpg", "hidden_sizes": [30, 30]},
    ],
    ids=str,
)
def test_torch_and_numpy_agree(settings: dict[str, Any], noise: str) -> None:
    if noise == "precision" and settings.get("algorithm") in ("naf_linear", "ddpg"):
        with pytest.raises(ValueError, match="exploration: precision needs P"):
            LearnerConfig(exploration=noise, **settings)
        return
    spec = SpaceSpec(space(20, "x"), space(7, "u"))
    trainer = Trainer(LearnerConfig(exploration=noise, **settings), spec, seed=1)
    rng = np.random.default_rng(0)
    trainer.normaliser.extend(rng.normal(3.0, 2.0, (500, 20)))
    trainer.refresh_statistics()
    trainer.flat.add_(0.05 * torch.randn(trainer.network.parameters, generator=torch.Generator()))
    policy = NumpyPolicy.from_message(policy_message(trainer, "run", 0, 0.3, 1), spec)
    observations = rng.normal(3.0, 4.0, (100, 20)).astype("f4")
    x = ((torch.from_numpy(observations) - trainer._mean[:20]) * trainer._scale[:20]).clamp(-10, 10)
    with torch.no_grad():
        if isinstance(trainer.network, DdpgShape):
            mu, L = trainer.network.mean_action(trainer.flat, x).numpy(), np.empty(0)
        else:
            naf = evaluate(trainer.network, trainer.flat, x)
            mu, L = naf.mu.numpy(), naf.L.numpy()
    assert np.abs(mu).max() > 0.3
    for i, observation in enumerate(observations):
        action, factor = policy.mean_action(observation), policy.precision_factor()
        np.testing.assert_allclose(action, mu[i], atol=1e-5)
        assert action.dtype == np.float32 and np.abs(action).max() <= 1.0
        if noise == "gaussian":
            assert factor is None
        else:
            np.testing.assert_allclose(factor, L[i], rtol=1e-5, atol=1e-5)


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
        ({"noise": "pink"}, "noise must be one of gaussian, precision, got 'pink'"),
        ({"diagonal": "d" * 99}, "diagonal must be one of bounded, scaled, exp, got 'd{40}'"),
        ({"noise": "precision"}, "with precision noise take 12 parameters, got 9"),
        ({"noise": "precision", "diagonal": "scaled"}, "take 13 parameters, got 9"),
    ],
)
def test_a_bad_policy_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PolicyError, match=reason) as caught:
        NumpyPolicy.from_message(make_message(**changes), SPEC)
    assert "policy 7 of run run" in str(caught.value)


def test_below_the_diagonal_of_l_there_are_as_many_numbers_as_the_message_says() -> None:
    spec = SpaceSpec(SPEC.observation, space(3, "u"))
    base = {"layer_sizes": [2, 3], "spec_hash": spec.hash, "noise": "precision"}
    for off_diagonal, outputs in ((False, 6), (True, 9)):
        for parameters in (3 * outputs, 3 * outputs - 1):
            zeros = np.zeros(parameters, "<f4")
            message = make_message(parameters=zeros, off_diagonal=off_diagonal, **base)
            if parameters % 3:
                with pytest.raises(PolicyError, match=f"take {3 * outputs} parameters"):
                    NumpyPolicy.from_message(message, spec)
                continue
            policy = NumpyPolicy.from_message(message, spec)
            policy.mean_action([0.5, 0.5])
            np.testing.assert_array_equal(policy.precision_factor(), np.eye(3))
