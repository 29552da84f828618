"""How well a critic agrees with itself on logs: its TD error, in units of the reward and of its variance.

A small error says that Q is consistent there, not that it is right, and not that the policy is good: where
the critic has learned from these very rows it says least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from learner.critic import Critic
from learner.episode_bootstrap import episode_weights, interval
from learner.row_file import RowFile

_CHUNK = 8192
_MARGIN = 0.05  # of the possible range: a good critic errs by as much near its ends


@dataclass(frozen=True)
class TdError:
    """One critic on some logs; intervals are 90 %, by bootstrap over episodes.

    Attributes:
        mean_absolute: Mean |Q − y|, in units of the reward.
        mean_absolute_interval: Of that.
        mean_squared: Mean (Q − y)².
        mean_squared_interval: Of that.
        relative: mean_squared / variance of y: 0 is perfect, 1 no better than a constant.
        relative_interval: Of that.
        value_mean: Mean V.
        impossible_targets: Share of targets beyond what rewards as in the logs can sum up to, by more
            than 5 % of that range.
        learned_from: Share of the episodes that the critic has learned from; None: not known, other logs.
        gamma: The critic's discount.
    """

    mean_absolute: float
    mean_absolute_interval: tuple[float, float]
    mean_squared: float
    mean_squared_interval: tuple[float, float]
    relative: float
    relative_interval: tuple[float, float]
    value_mean: float
    impossible_targets: float
    learned_from: float | None
    gamma: float


def measure_td_error(
    critic: Critic,
    rows: RowFile,
    members: int,
    generator: torch.Generator,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TdError:
    """Go through all rows once.

    Args:
        critic: Whose.
        rows: The logs.
        members: Of the bootstrap.
        generator: Draws it.
        on_progress: Called now and then with the rows done and their total.
    """
    reward = rows.values[:, rows.layout.reward]
    horizon = 1.0 / max(1.0 - critic.gamma, 1e-12)
    low, high = horizon * min(0.0, float(reward.min())), horizon * max(0.0, float(reward.max()))
    margin = _MARGIN * (high - low)
    # Of each episode: rows, Σ|δ|, Σδ², Σy, Σy², ΣV, targets out of bounds.
    sums = torch.zeros(len(rows.starts), 7, dtype=torch.float64)
    for start in range(0, rows.rows, _CHUNK):
        chunk = rows.values[start : start + _CHUNK]
        said = critic.judge(chunk)
        error, y = said.error.double(), said.target.double()
        beyond = (y < low - margin) | (y > high + margin)
        columns = [torch.ones_like(y), error.abs().mean(1), error.square().mean(1), y, y.square()]
        columns += [said.value.double(), beyond.double()]
        episode = rows.episode_of(torch.arange(start, start + len(chunk)))
        sums.index_add_(0, episode, torch.stack(columns, dim=1))
        on_progress(start + len(chunk), rows.rows)
    totals = episode_weights(len(sums), members, generator).double() @ sums
    _, absolute, squared, y, y2, value, beyond = (totals / totals[:, :1]).unbind(1)
    relative = squared / (y2 - y.square()).clamp_(min=1e-12)
    return TdError(
        float(absolute[0]), interval(absolute), float(squared[0]), interval(squared),
        float(relative[0]), interval(relative), float(value[0]), float(beyond[0]),
        _learned_from(critic, rows), critic.gamma,
    )  # fmt: skip


def _learned_from(critic: Critic, rows: RowFile) -> float | None:
    own = [info for info in rows.infos if info.run_id == critic.run_id]
    if not own:
        return None
    return sum(info.first_cursor < critic.learned_rows for info in own) / len(rows.infos)
