"""What of an action is executed where the guard lets it change only so much from one step to the next.

The acceleration limit is by far the guard's most frequent intervention, and the only one that needs nothing
but the action before.
"""

from __future__ import annotations

import torch
from torch import Tensor


def within(u: Tensor, before: Tensor, max_change: Tensor) -> Tensor:
    """The action nearest to u that differs from the one before by no more than max_change, all [B, nu]."""
    return torch.maximum(torch.minimum(u, before + max_change), before - max_change)


def at_will(episodes: int, nu: int) -> Tensor:
    """A max_change of each episode that limits nothing [episodes, nu]."""
    return torch.full((episodes, nu), torch.inf)
