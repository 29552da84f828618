"""Targets that look n steps ahead, with the correction that NAF allows for actions other than its own.

A row's successor in the log continues it where its observation is that row's next observation, bit for
bit: nothing else needs to be stored. For k < n such steps

    y = r_0 + Σ_k γ^k (r_k − A′(x_k, u_k)) + γ^n V′(x_n)

as V(x) = Q(x, u) − A(x, u) holds for whatever u was executed: without −A′ ≥ 0, later actions would be
judged as if they were the best ones. (Our derivation; the paper has one step. The same consistency is that
of Nachum et al. 2017, arXiv:1702.08892, without entropy.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learner.naf import NafShape, advantage, evaluate


class Batch(NamedTuple):
    """What a gradient is computed of: B transitions, normalised and scaled.

    Attributes:
        x: Observations [B, nx].
        u: Executed actions [B, nu].
        reward: Rewards [B].
        discount: γ of the value of next_x, or 0 where the task ended [B].
        next_x: Next observations [B, nx].
    """

    x: Tensor
    u: Tensor
    reward: Tensor
    discount: Tensor
    next_x: Tensor


def multistep(network: NafShape, target: Tensor, steps: list[Batch]) -> Batch:
    """One batch that looks as far ahead as the rows continue each other.

    Args:
        network: The network.
        target: Flat parameters of its target network.
        steps: The rows, their successors in the log, and so on.
    """
    x, u, reward, discount, next_x = steps[0]
    follows = torch.ones_like(reward, dtype=torch.bool)
    for step in steps[1:]:
        follows = follows & (discount > 0) & (step.x == next_x).all(dim=1)
        naf = evaluate(network, target, step.x)
        gain = step.reward - advantage(step.u, naf.mu, naf.L)
        reward = torch.where(follows, reward + discount * gain, reward)
        next_x = torch.where(follows[:, None], step.next_x, next_x)
        discount = torch.where(follows, discount * step.discount, discount)
    return Batch(x, u, reward, discount, next_x)
