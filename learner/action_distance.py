"""How far a policy acts from what robots did in the logs: where it is far, the logs say little about it.

As logged actions are what was executed, so should be the policy's: what the guard would let through.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.logged_spread import LoggedSpread
from learner.row_file import RowFile

FAR = 2.0
"""Spreads of the logs beyond which a row counts as far; the logs' own rows are at 1 on average."""

_CHUNK = 8192


@dataclass(frozen=True)
class ActionDistance:
    """The policy's action − u over all rows, u the executed action, in [-1, 1].

    Attributes:
        rms: Root mean square over rows and dimensions.
        rms_per_action: Of each dimension, in the spec's order.
        quantiles: Of each row's root mean square, at 5, 25, 50, 75 and 95 %.
        spread: The logs' own: root mean square of u around what was usual there.
        in_spreads: Root mean square of (action − u) / spread, each dimension by its own: about 1 where
            the policy does what was usual.
        far: Share of rows more than FAR spreads away.
    """

    rms: float
    rms_per_action: list[float]
    quantiles: list[float]
    spread: float
    in_spreads: float
    far: float


def measure_distance(rows: RowFile, spread: LoggedSpread, actions: Tensor) -> ActionDistance:
    """Go through all rows once.

    Args:
        rows: The logs.
        spread: Theirs.
        actions: What the policy would execute at each row's observation [N, nu].
    """
    layout = rows.layout
    squares = torch.zeros(layout.nu, dtype=torch.float64)
    row_rms, row_spreads = torch.empty(rows.rows), torch.empty(rows.rows)
    for start in range(0, rows.rows, _CHUNK):
        chunk = rows.values[start : start + _CHUNK]
        difference = actions[start : start + _CHUNK] - chunk[:, layout.action]
        squares += difference.double().square().sum(0)
        row_rms[start : start + _CHUNK] = difference.square().mean(1).sqrt()
        row_spreads[start : start + _CHUNK] = (difference / spread.values).square().mean(1).sqrt()
    per_action = squares / rows.rows
    ranks = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    sorted_rms = row_rms.sort().values  # torch.quantile refuses more than 16 million numbers
    return ActionDistance(
        rms=float(per_action.mean().sqrt()),
        rms_per_action=per_action.sqrt().tolist(),
        quantiles=sorted_rms[(ranks * (rows.rows - 1)).round().long()].tolist(),
        spread=float(spread.values.square().mean().sqrt()),
        in_spreads=float(row_spreads.double().square().mean().sqrt()),
        far=float((row_spreads > FAR).float().mean()),
    )
