"""Scale and bounds of rewards, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fleet.algorithm_config import AlgorithmConfig
from learner.reward_statistics import RewardStatistics


@pytest.fixture
def statistics() -> RewardStatistics:
    """Rewards 1, −2, 3, −2 in two parts: squares 1 + 4 + 9 + 4 = 18."""
    made = RewardStatistics()
    made.extend(np.array([1.0, -2.0], "f4"))
    made.extend(np.array([3.0, -2.0], "f4"))
    made.extend(np.zeros(0, "f4"))
    return made


def test_scale(statistics: RewardStatistics) -> None:
    assert statistics.scale(AlgorithmConfig(reward_scale=2.0)) == pytest.approx(2 / math.sqrt(18 / 4))
    assert statistics.scale(AlgorithmConfig(reward_scale=2.0, normalise_rewards=False)) == 2.0


def test_before_any_reward_and_with_none_but_zeros_the_scale_is_the_configs() -> None:
    empty = RewardStatistics()
    assert empty.scale(AlgorithmConfig(reward_scale=3.0)) == 3.0
    empty.extend(np.zeros(5, "f4"))
    assert empty.scale(AlgorithmConfig(reward_scale=3.0)) == 3.0


def test_target_bounds(statistics: RewardStatistics) -> None:
    """−2 and 3 for ever at γ = 0.75: −8 and 12."""
    config = AlgorithmConfig(gamma=0.75, normalise_rewards=False, reward_scale=1.0, clip_targets=True)
    assert statistics.target_bounds(config) == pytest.approx((-8, 12))
    assert statistics.target_bounds(config.model_copy(update={"clip_targets": False})) == (
        -math.inf,
        math.inf,
    )


def test_the_value_of_an_ended_task_lies_within_the_bounds() -> None:
    statistics = RewardStatistics()
    statistics.extend(np.array([-3.0, -1.0], "f4"))
    config = AlgorithmConfig(gamma=0.5, normalise_rewards=False, clip_targets=True)
    assert statistics.target_bounds(config) == pytest.approx((-6, 0))


def test_goes_on_from_its_state(statistics: RewardStatistics) -> None:
    other = RewardStatistics()
    other.load_state(statistics.state())
    assert other == statistics


def test_no_sum_of_rewards_without_discount() -> None:
    for keys in ({"normalise_rewards": True}, {"normalise_rewards": False, "clip_targets": True}):
        with pytest.raises(ValueError, match="gamma: 1 gives rewards no finite sum"):
            AlgorithmConfig(gamma=1.0, **keys)
    AlgorithmConfig(gamma=1.0, normalise_rewards=False)
