"""What rewards look like: how large, and between which bounds; makes one setting fit every task."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.algorithm_config import AlgorithmConfig


@dataclass
class RewardStatistics:
    """Of all rewards seen, unscaled; none at first.

    statistics.extend(new_rows.reward)
    scale = statistics.scale(config)
    low, high = statistics.target_bounds(config)

    Attributes:
        count: How many there were.
        squares: Sum of their squares.
        low: The smallest of them and 0.
        high: The largest of them and 0.
    """

    count: int = 0
    squares: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def extend(self, reward: npt.NDArray[Any]) -> None:
        """See rewards [N]."""
        if not len(reward):
            return
        self.count += len(reward)
        self.squares += float(np.square(reward, dtype=np.float64).sum())
        self.low, self.high = min(self.low, float(reward.min())), max(self.high, float(reward.max()))

    def scale(self, config: AlgorithmConfig) -> float:
        """Factor of rewards in the TD target.

        Normalised by their root mean square it fits every task. It does not need to know which rows follow
        each other, and it moves slowly, as it is of all rewards so far.
        """
        if not config.normalise_rewards or not self.squares:
            return config.reward_scale
        return config.reward_scale / math.sqrt(self.squares / self.count)

    def target_bounds(self, config: AlgorithmConfig) -> tuple[float, float]:
        """What scaled rewards can sum up to: the smallest and largest for ever; infinite unless clipped."""
        if not config.clip_targets:
            return -math.inf, math.inf
        factor = self.scale(config) / (1.0 - config.gamma)
        return factor * self.low, factor * self.high

    def state(self) -> dict[str, Any]:
        """Everything `load_state` needs."""
        return asdict(self)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.count = int(state["count"])
        for key in ("squares", "low", "high"):
            setattr(self, key, float(state[key]))
