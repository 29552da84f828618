"""Bootstrap over episodes: rows of one episode hang together, whole episodes are drawn again.

Member 0 counts every episode once and gives the estimate; each other member is what another day of as
many episodes might have brought, and their spread is the interval.
"""

from __future__ import annotations

import torch
from torch import Tensor


def episode_weights(episodes: int, members: int, generator: torch.Generator) -> Tensor:
    """How often each member has drawn each episode [1 + members, episodes]; member 0: once each."""
    weights = torch.ones(1 + members, episodes)
    for member in weights[1:]:
        drawn = torch.randint(episodes, (episodes,), generator=generator)
        member.copy_(torch.bincount(drawn, minlength=episodes))
    return weights


def weighted_mean(weights: Tensor, values: Tensor) -> Tensor:
    """Mean of values [E], or [1 + members, E], under each member's weights [1 + members, E].

    Returns:
        [1 + members]; NaN for a member that has drawn none of the episodes.
    """
    return (weights * values).sum(dim=1) / weights.sum(dim=1)


def interval(values: Tensor, level: float = 0.9) -> tuple[float, float]:
    """The middle `level` of the members' spread, moved to around the estimate.

    Args:
        values: Of each member, the estimate first [1 + members].
        level: Which share of the members lies inside.

    Returns:
        Both ends; NaN with fewer than two members.
    """
    members = values[1:][torch.isfinite(values[1:])].double()
    if len(members) < 2:
        return float("nan"), float("nan")
    tails = torch.tensor([(1.0 - level) / 2, (1.0 + level) / 2], dtype=torch.float64)
    low, high = (torch.quantile(members, tails) - members.mean() + values[0]).tolist()
    return low, high
