"""Keeping μ near the actions of the data: what makes learning from logs alone safe.

Offline, nothing corrects a V(x) that is too high because μ(x) is where the data has no actions: NAF's
quadratic goes on rising there. So the loss becomes a mix

    (1 − λ) · TD loss + λ · mean_b w_b ½ Σ_j ρ_j (u_j − μ_j(x))²

of which λ = 0 is plain NAF and λ = 1 behaviour cloning (in the spirit of TD3+BC, arXiv:2106.06860). Weights w
prefer actions that turned out better than the values say, as in AWAC (arXiv:2006.09359):

    w_b ∝ min(exp(a_b / (T · rms a)), 20),   a = y − min_k V_k(x),   mean w = 1

within groups of 64 rows, so neither the scale of rewards nor values that are too high everywhere matter.
ρ_j falls with the variance of the logged actions about what observations explain of them
(`learner/logged_spread.py`): where the data is narrow, μ is held firmly; where it explores, hardly.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_ROWS = 64
MAX_WEIGHT = 20.0
_MIN_EXPONENT = -87.0  # of a float32: below, all weights of a group may be 0, and their mean as well


class Behaviour:
    """λ, T and ρ, and the weights that follow from them.

    Attributes:
        weight: λ in [0, 1]; 0: none of this.
        temperature: T; 0: all rows count alike.
        precision: ρ [nu], on the learner's device; ones at first.
    """

    def __init__(self, weight: float, temperature: float, like: Tensor, nu: int) -> None:
        """Keep ρ on the device of `like`."""
        self.weight, self.temperature = weight, temperature
        self.precision = like.new_ones(nu)

    def row_weights(self, advantage: Tensor) -> Tensor:
        """The weight w of each row [B, 1], of a = y − V(x) [B]."""
        if not self.temperature:
            return torch.ones_like(advantage)[:, None]
        groups = torch.split(advantage, GROUP_ROWS)
        return torch.cat([self._group_weights(group) for group in groups])[:, None]

    def _group_weights(self, advantage: Tensor) -> Tensor:
        rms = advantage.square().mean().sqrt()
        exponent = advantage / (self.temperature * rms + 1e-8)
        w = exponent.clamp_min(_MIN_EXPONENT).exp().clamp_max(MAX_WEIGHT)
        return w / w.mean()
