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
        ends = [*rows.starts[1:].tolist(), rows.rows]
        returns, tails = torch.full((len(ends),), torch.nan), []
        for i, (start, end) in enumerate(zip(rows.starts.tolist(), ends, strict=True)):
            if rows.infos[i].end not in FINISHED:
                continue
            reward = rows.values[start:end, rows.layout.reward].double()
            returns[i] = float(reward @ gamma ** torch.arange(end - start, dtype=torch.float64))
            tails.append(gamma ** (end - start) * float(rows.values[end - 1, rows.layout.bootstrap]))
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
