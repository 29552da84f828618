"""What robots usually did in logs, and how much that varied: the measure of a distance from them.

The usual action b(x) is a ridge regression on random ReLU features, each half of the episodes predicted by
what the other half says: what b(x) leaves over is the logs' own spread, be it noise or several policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.row_file import RowFile

_CHUNK = 8192
_FEATURES = 256
_RIDGE = 1e-3  # per row, of features of order 1
_LEAST_SPREAD = 0.02  # of an action in [-1, 1]: logs without noise would make any distance infinite


@dataclass(frozen=True, eq=False)
class LoggedSpread:
    """The spread of logged actions around the usual one.

    Attributes:
        values: Root mean square of u − b(x), at least 0.02 [nu].
    """

    values: Tensor


def measure_spread(rows: RowFile, generator: torch.Generator) -> LoggedSpread:
    """Go through all rows three times: their scale, the regression, what it leaves over.

    Args:
        rows: The logs.
        generator: Draws the features and the halves.
    """
    layout, nx = rows.layout, rows.layout.nx
    chunks = [slice(start, start + _CHUNK) for start in range(0, rows.rows, _CHUNK)]
    sums = torch.zeros(2, nx, dtype=torch.float64)
    for chunk in chunks:
        x = rows.values[chunk, :nx].double()
        sums += torch.stack([x.sum(0), x.square().sum(0)])
    mean, square = sums / rows.rows
    scale = 1.0 / (square - mean.square()).clamp_(min=1e-6).sqrt()
    W = torch.randn(nx, _FEATURES, generator=generator) * (2.0 / nx) ** 0.5
    b = torch.randn(_FEATURES, generator=generator)

    def features(chunk: slice) -> Tensor:
        x = (rows.values[chunk, :nx] - mean.float()) * scale.float()
        return torch.cat([torch.ones(len(x), 1), x, torch.relu(x @ W + b)], dim=1)

    episodes = len(rows.starts)
    half = torch.zeros(episodes, dtype=torch.int64)
    half[torch.randperm(episodes, generator=generator)[: episodes // 2]] = 1

    def half_of(chunk: slice) -> Tensor:
        """Of each row; with one episode, its first and its second half."""
        index = torch.arange(chunk.start, min(chunk.stop, rows.rows))
        return half[rows.episode_of(index)] if episodes > 1 else (2 * index // rows.rows).clamp_(max=1)

    size = 1 + nx + _FEATURES
    gram = torch.zeros(2, size, size, dtype=torch.float64)
    moment = torch.zeros(2, size, layout.nu, dtype=torch.float64)
    for chunk in chunks:
        phi, u, which = features(chunk), rows.values[chunk, layout.action], half_of(chunk)
        for h in range(2):
            mine = phi[which == h]
            gram[h] += (mine.T @ mine).double()
            moment[h] += (mine.T @ u[which == h]).double()
    ridge = _RIDGE * rows.rows / 2 * torch.eye(size, dtype=torch.float64)
    weights = torch.linalg.solve(gram + ridge, moment).flip(0).float()  # of the other half

    squares = torch.zeros(layout.nu, dtype=torch.float64)
    for chunk in chunks:
        phi, u, which = features(chunk), rows.values[chunk, layout.action], half_of(chunk)
        usual = torch.where((which == 0)[:, None], phi @ weights[0], phi @ weights[1]).clamp_(-1.0, 1.0)
        squares += (u - usual).double().square().sum(0)
    return LoggedSpread((squares / rows.rows).sqrt().clamp_(min=_LEAST_SPREAD).float())
