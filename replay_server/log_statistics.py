"""What logs are worth, in numbers: the rows of one episode after the other in, counts and curves out.

    statistics = LogStatistics(spec)
    for summary, rows in logs.read_by_cursor():
        statistics.add(summary.info, rows.transitions, rows.cursor)
    statistics.finish()

Holds one record per episode and counts in fixed bins, never the rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.messages import Transitions
from fleet.spaces import SpaceSpec
from replay_server.action_histogram import ActionHistogram, coverage_of, is_saturated
from replay_server.episode_file import EpisodeInfo
from replay_server.log_summary import Rate, success_rate
from replay_server.policy_staleness import HeldPolicy, Ints, StalenessSweep

Floats = npt.NDArray[np.float64]

GUARD = "guard/"
"""How an episode's metrics begin that count commands changed by a limit of the guard."""


@dataclass(slots=True)
class EpisodeNumbers:
    """One episode in numbers.

    Attributes:
        info: Its facts.
        total: Sum of its rewards: its return.
        seconds: How long it took (s).
        intervened: Share of its rows in which a person moved the robot.
        clipped: Share of its rows that the guard changed.
        saturated: Share of its executed actions, of all dimensions, at ±1.
        behind: Mean over its rows of how many versions newer a policy had acted somewhere; NaN if that cannot
            be known, see `LogStatistics.add`.
        behind_most: The largest.
        held_s: The longest that the robot had acted with one version (s); NaN likewise.
    """

    info: EpisodeInfo
    total: float
    seconds: float
    intervened: float
    clipped: float
    saturated: float
    behind: float = math.nan
    behind_most: float = math.nan
    held_s: float = math.nan


class LogStatistics:
    """Adds up episodes of one spec.

    Attributes:
        spec: The spec.
        episodes: One record each, in order of arrival once finished.
        executed: Actions as the robots executed them, after the guard.
        asked: Actions as policy and noise asked for them.
        coverage: Where the tool was, if the spec has it.
        behind: Per robot, rows per number of versions behind.
        changed: Sum over rows of how much the guard changed each action [nu].
        low: Per robot, the lowest of each observation [nx].
        high: Per robot, the highest of each observation [nx].
        not_finite: Rows that hold NaN or infinity.
    """

    def __init__(self, spec: SpaceSpec) -> None:
        self.spec = spec
        self.episodes: list[EpisodeNumbers] = []
        self.executed = ActionHistogram(spec.action.size)
        self.asked = ActionHistogram(spec.action.size)
        self.coverage = coverage_of(spec)
        self.behind: dict[str, Counter[int]] = {}
        self.changed = np.zeros(spec.action.size)
        self.low: dict[str, Floats] = {}
        self.high: dict[str, Floats] = {}
        self.not_finite = 0
        self._run: str | None = None
        self._sweep: StalenessSweep[int] = StalenessSweep()
        self._held: dict[tuple[str, str], HeldPolicy] = {}

    def add(self, info: EpisodeInfo, rows: Transitions, cursor: Ints) -> None:
        """Take an episode; those of one run come one after the other, by their first cursor.

        How old its policies were is known of episodes that a robot lived as they stand: in merged or imported
        ones cursors say nothing about who acted when, and versions may be those of several learners.

        Args:
            info: Its facts.
            rows: Its rows [N].
            cursor: Their places in the log [N].
        """
        if info.run_id != self._run:
            self.finish()
            self._run = info.run_id
        numbers = EpisodeNumbers(
            info=info,
            total=info.metrics.get("return", float(np.sum(rows.reward, dtype=np.float64))),
            seconds=_seconds(rows.stamp_ns),
            intervened=float(rows.intervened.mean()),
            clipped=float(rows.clipped.mean()),
            saturated=float(is_saturated(rows.action).mean()),
        )
        self.episodes.append(numbers)
        self.executed.add(rows.action)
        self.asked.add(rows.policy_action)
        self.changed += np.abs(rows.action - rows.policy_action).sum(axis=0, dtype=np.float64)
        for coverage in self.coverage:
            coverage.add(rows.observation, info.success)
        self._look_at(info.robot_id, rows)
        if not info.origin:
            held = self._held.setdefault((info.robot_id, info.boot_id), HeldPolicy())
            numbers.held_s = float(held.add(rows.policy_version, rows.stamp_ns).max())
            self._settle(self._sweep.add(len(self.episodes) - 1, cursor, rows.policy_version))

    def finish(self) -> None:
        """Nothing follows of the run."""
        self._settle(self._sweep.finish())
        self._sweep = StalenessSweep()
        self._held.clear()

    def _look_at(self, robot: str, rows: Transitions) -> None:
        """Note the range of what a robot saw, and rows that hold no numbers."""
        finite = np.isfinite(rows.observation).all(axis=1) & np.isfinite(rows.reward)
        finite &= np.isfinite(rows.action).all(axis=1) & np.isfinite(rows.next_observation).all(axis=1)
        self.not_finite += int(np.count_nonzero(~finite))
        for ranges, reduce in ((self.low, np.fmin), (self.high, np.fmax)):
            here = reduce.reduce(rows.observation, axis=0).astype(np.float64)
            ranges[robot] = reduce(ranges.get(robot, here), here)

    def _settle(self, settled: Iterator[tuple[int, Ints]]) -> None:
        for number, behind in settled:
            episode = self.episodes[number]
            episode.behind, episode.behind_most = float(behind.mean()), float(behind.max())
            counts = self.behind.setdefault(episode.info.robot_id, Counter())
            for versions, count in zip(*np.unique(behind, return_counts=True), strict=True):
                counts[int(versions)] += int(count)


def _seconds(stamp_ns: Ints) -> float:
    """From the first row to the end of the last, whose own end no stamp tells (s)."""
    steps = len(stamp_ns) - 1
    return float(stamp_ns[-1] - stamp_ns[0]) / 1e9 * (steps + 1) / steps if steps else 0.0


def in_order(episodes: Sequence[EpisodeNumbers]) -> list[EpisodeNumbers]:
    """By arrival."""
    return sorted(episodes, key=lambda e: (e.info.received_ns, e.info.first_cursor))


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
    returns = [e.total for e in episodes if not e.info.evaluation]
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
        key.removeprefix(GUARD): min(int(value), info.rows)
        for key, value in info.metrics.items()
        if key.startswith(GUARD) and not key.endswith("_max_rad_s")
    }


def quantile(counts: Counter[int], share: float) -> float:
    """The smallest number that at least this share of what was counted does not exceed; NaN of nothing."""
    needed, so_far = share * counts.total(), 0
    for value in sorted(counts):
        so_far += counts[value]
        if so_far >= needed:
            return float(value)
    return math.nan


def rolling_mean(values: Floats, window: int) -> Floats:
    """Mean of each value and the up to `window` - 1 before it [N]; NaN is left out."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    after = np.arange(1, len(values) + 1)
    first = np.maximum(after - window, 0)
    found = counts[after] - counts[first]
    return np.where(found > 0, (sums[after] - sums[first]) / np.maximum(found, 1), np.nan)
