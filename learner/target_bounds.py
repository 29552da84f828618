"""Limits of the TD targets, on the learner's device."""

from __future__ import annotations

import torch
from torch import Tensor


class TargetBounds:
    """What TD targets may be at most and at least; without limits at first.

    Attributes:
        low: Smallest target [].
        high: Largest target [].
    """

    def __init__(self, like: Tensor) -> None:
        """Keep the bounds on the device of `like`."""
        self.low, self.high = like.new_full((), -torch.inf), like.new_full((), torch.inf)

    def bound(self, low: float, high: float) -> None:
        """Clip to [low, high] from now on."""
        self.low.fill_(low)
        self.high.fill_(high)
