"""Each robot of some logs in numbers: what a table has a line of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fleet.messages import GUARD_METRICS
from replay_server.episode_file import EpisodeInfo
from replay_server.log_statistics import EpisodeNumbers, LogStatistics
from replay_server.log_summary import Rate, success_rate


@dataclass(frozen=True)
class RobotNumbers:
    """One robot in numbers; shares are of its rows.

    Attributes:
        robot_id: Who.
        boots: Starts of its process that are among the episodes.
        episodes: How many.
        rows: Their transitions.
        training: Success rate of episodes with exploration.
        evaluation: Success rate of noise-free ones.
        mean_return: Of episodes with exploration; NaN without.
        ends: Episodes by why they ended; "" for those without an end.
        intervened: Share in which a person moved it.
        clipped: Share that the guard changed.
        saturated: Share of executed actions at ±1.
        guard: Share changed by each limit of the guard.
        behind: Mean number of versions behind; NaN if unknown.
        behind_99: 99 % of rows are at most so many versions behind; NaN if unknown.
        held_s: The longest that it acted with one version (s); NaN if unknown.
    """

    robot_id: str
    boots: int
    episodes: int
    rows: int
    training: Rate
    evaluation: Rate
    mean_return: float
    ends: dict[str, int]
    intervened: float
    clipped: float
    saturated: float
    guard: dict[str, float]
    behind: float
    behind_99: float
    held_s: float


def robots(statistics: LogStatistics) -> list[RobotNumbers]:
    """Each robot in numbers, by name."""
    by_robot: dict[str, list[EpisodeNumbers]] = {}
    for episode in statistics.episodes:
        by_robot.setdefault(episode.info.robot_id, []).append(episode)
    return [
        _robot(robot, by_robot[robot], statistics.behind.get(robot, Counter())) for robot in sorted(by_robot)
    ]


def _robot(robot_id: str, episodes: Sequence[EpisodeNumbers], behind: Counter[int]) -> RobotNumbers:
    infos = [episode.info for episode in episodes]
    rows = np.array([info.rows for info in infos])
    returns = [e.total for e in episodes if not e.info.evaluation and not math.isnan(e.total)]
    guard: Counter[str] = Counter()
    for info in infos:
        guard.update(guard_counts(info))

    def share(name: str) -> float:
        return float(np.average([getattr(episode, name) for episode in episodes], weights=rows))

    known = behind.total()
    return RobotNumbers(
        robot_id=robot_id,
        boots=len({(info.run_id, info.boot_id) for info in infos}),
        episodes=len(infos),
        rows=int(rows.sum()),
        training=success_rate(infos, evaluation=False),
        evaluation=success_rate(infos, evaluation=True),
        mean_return=float(np.mean(returns)) if returns else math.nan,
        ends=dict(Counter(info.end for info in infos).most_common()),
        intervened=share("intervened"),
        clipped=share("clipped"),
        saturated=share("saturated"),
        guard={limit: count / int(rows.sum()) for limit, count in guard.most_common()},
        behind=sum(versions * count for versions, count in behind.items()) / known if known else math.nan,
        behind_99=quantile(behind, 0.99),
        held_s=max((e.held_s for e in episodes if not math.isnan(e.held_s)), default=math.nan),
    )


def guard_counts(info: EpisodeInfo) -> dict[str, int]:
    """Commands of an episode that each limit of the guard changed; of a cut one at most its rows."""
    return {
        key.removeprefix(GUARD_METRICS): min(int(value), info.rows)
        for key, value in info.metrics.items()
        if key.startswith(GUARD_METRICS) and not key.endswith("_max_rad_s")
    }


def quantile(counts: Counter[int], share: float) -> float:
    """The smallest number that at least this share of what was counted does not exceed; NaN of nothing."""
    needed, so_far = share * counts.total(), 0
    for value in sorted(counts):
        so_far += counts[value]
        if so_far >= needed:
            return float(value)
    return math.nan
