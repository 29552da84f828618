"""How far a policy acts from what robots did in the logs: where it is far, the logs say little about it.

As logged actions are what was executed, so is μ here, if it is known how much a robot lets an action change
in a step: see `learner/executed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.behaviour import Behaviour
from learner.executed import at_will, within
from learner.row_file import RowFile

FAR = 2.0
"""Spreads of the logs beyond which a row counts as far; the logs' own rows are at 1 on average."""

_CHUNK = 8192


@dataclass(frozen=True)
class ActionDistance:
    """μ(x) − u over all rows, u the executed action, in [-1, 1].

    Attributes:
        rms: Root mean square over rows and dimensions.
        rms_per_action: Of each dimension, in the spec's order.
        quantiles: Of each row's root mean square, at 5, 25, 50, 75 and 95 %.
        spread: The logs' own: root mean square of u around what was usual there.
        in_spreads: Root mean square of (μ − u) / spread, each dimension by its own: about 1 where the policy
            does what was usual.
        far: Share of rows more than FAR spreads away.
    """

    rms: float
    rms_per_action: list[float]
    quantiles: list[float]
    spread: float
    in_spreads: float
    far: float


def measure_distance(
    rows: RowFile,
    behaviour: Behaviour,
    mean_action: Callable[[Tensor], Tensor],
    max_change: Tensor | None = None,
) -> ActionDistance:
    """Go through all rows once.

    Args:
        rows: The logs.
        behaviour: Their spread.
        mean_action: The policy, observations [B, nx] to actions [B, nu].
        max_change: How much the robot of each episode can change each action in a step [E, nu].
    """
    changes = at_will(rows.episodes, rows.layout.nu) if max_change is None else max_change
    layout = rows.layout
    squares = torch.zeros(layout.nu, dtype=torch.float64)
    row_rms, row_spreads = torch.empty(rows.rows), torch.empty(rows.rows)
    for start in range(0, rows.rows, _CHUNK):
        chunk = rows.values[start : start + _CHUNK]
        index = torch.arange(start, start + len(chunk))
        u = within(
            mean_action(chunk[:, : layout.nx]), rows.action_before(index), changes[rows.episode_of(index)]
        )
        difference = u - chunk[:, layout.action]
        squares += difference.double().square().sum(0)
        row_rms[start : start + _CHUNK] = difference.square().mean(1).sqrt()
        row_spreads[start : start + _CHUNK] = (difference / behaviour.spread).square().mean(1).sqrt()
    per_action = squares / rows.rows
    ranks = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    sorted_rms = row_rms.sort().values  # torch.quantile refuses more than 16 million numbers
    return ActionDistance(
        rms=float(per_action.mean().sqrt()),
        rms_per_action=per_action.sqrt().tolist(),
        quantiles=sorted_rms[(ranks * (rows.rows - 1)).round().long()].tolist(),
        spread=float(behaviour.spread.square().mean().sqrt()),
        in_spreads=float(row_spreads.double().square().mean().sqrt()),
        far=float((row_spreads > FAR).float().mean()),
    )
