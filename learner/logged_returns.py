"""What the logged episodes themselves earned: discounted returns, the yardstick of every estimate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fleet.messages import FINISHED
from learner.row_file import RowFile


@dataclass(frozen=True, eq=False)
class LoggedReturns:
    """Discounted returns Σ_t γ^t r_t of episodes that ran to their end; of others they would mean less.

    Attributes:
        returns: Of each episode [E]; NaN for one that did not run to its end.
        tail: Mean weight γ^T of what came after the end of those that a time limit cut, which is left out.
    """

    returns: Tensor
    tail: float

    @classmethod
    def of(cls, rows: RowFile, gamma: float) -> LoggedReturns:
        """Of all episodes."""
        returns, tails = torch.full((rows.episodes,), torch.nan), []
        for i, (info, place) in enumerate(zip(rows.infos, rows.slices, strict=True)):
            if info.end not in FINISHED:
                continue
            episode = rows.values[place]
            reward = episode[:, rows.layout.reward].double()
            returns[i] = float(reward @ gamma ** torch.arange(len(reward), dtype=torch.float64))
            tails.append(gamma ** len(reward) * float(episode[-1, rows.layout.bootstrap]))
        return cls(returns, sum(tails) / len(tails) if tails else 0.0)

    @property
    def finished(self) -> Tensor:
        """Which episodes ran to their end [E]."""
        return torch.isfinite(self.returns)

    def mean(self, weights: Tensor | None = None) -> Tensor:
        """Mean under each member's weights of episodes [1 + members, E]; without: the plain mean [1]."""
        w = self.finished.float() if weights is None else weights * self.finished
        return (w * self.returns.nan_to_num(0.0)).sum(-1) / w.sum(-1)

    def best_fifth(self) -> float:
        """Mean of the best fifth of these episodes: luck of the start included."""
        finished = self.returns[self.finished].sort(descending=True).values
        return float(finished[: max(1, len(finished) // 5)].mean()) if len(finished) else float("nan")
