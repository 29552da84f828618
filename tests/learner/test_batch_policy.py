"""Robots and offline evaluation act alike: the same μ, one observation at a time or all at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fleet.config import LearnerConfig
from fleet.spaces import Space, SpaceSpec
from learner.batch_policy import BatchPolicy
from learner.publisher import policy_message
from learner.trainer import Trainer
from robot_nodes.policy import NumpyPolicy

NX, NU = 6, 3
SPEC = SpaceSpec(
    Space(tuple("abcdef"), ("1",) * NX, (-1.0,) * NX, (1.0,) * NX),
    Space(tuple("uvw"), ("1",) * NU, (-1.0,) * NU, (1.0,) * NU),
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_norm": True},
        {"residual": True, "hidden_sizes": [6, 6]},
        {"layer_norm": True, "residual": True, "hidden_sizes": [6, 8, 8]},
        {"algorithm": "naf_linear"},
        {"algorithm": "ddpg"},
        {"exploration": "precision", "off_diagonal": True},
    ],
    ids=str,
)
def test_it_is_what_a_robot_would_do(settings: dict[str, object]) -> None:
    trainer = Trainer(
        LearnerConfig(**{"hidden_sizes": [16, 16], "engine": "eager", **settings}), SPEC, seed=3
    )
    rng = np.random.default_rng(0)
    trainer.flat += 0.3 * torch.from_numpy(rng.standard_normal(len(trainer.flat)).astype("f4"))
    trainer.normaliser.extend(rng.normal(2.0, 3.0, (100, NX)))
    message = policy_message(trainer, "run", 1, 0.3, 0)
    robot = NumpyPolicy.from_message(message, SPEC)
    observations = rng.normal(2.0, 6.0, (50, NX)).astype("f4")
    observations[:5] *= 1e4  # far beyond where normalised observations are clipped
    expected = np.array([robot.mean_action(x) for x in observations])
    actual = BatchPolicy(message)(torch.from_numpy(observations))
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-6)
    assert np.ptp(expected, axis=0).min() > 0.1  # nothing is equal by being constant
    if settings.get("layer_norm"):
        other = BatchPolicy(replace(message, layer_norm=False))(torch.from_numpy(observations))
        assert np.abs(other.numpy() - expected).max() > 0.01
