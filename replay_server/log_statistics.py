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
from replay_server.policy_staleness import HeldPolicy, Ints, StalenessSweep

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class EpisodeNumbers:
    """One episode in numbers.

    Attributes:
        info: Its facts.
        total: Sum of its rewards: its return; NaN if that is no number.
        seconds: How long it took (s).
        intervened: Share of its rows in which a person moved the robot.
        clipped: Share of its rows that the guard changed.
        saturated: Share of its executed actions, of all dimensions, at ±1.
        behind: Mean over its rows of how many versions newer a policy had acted somewhere; NaN if that cannot
            be known, see `LogStatistics.add`.
        held_s: The longest that the robot had acted with one version (s); NaN likewise.
    """

    info: EpisodeInfo
    total: float
    seconds: float
    intervened: float
    clipped: float
    saturated: float
    behind: float = math.nan
    held_s: float = math.nan


class LogStatistics:
    """Adds up episodes of one spec.

    Attributes:
        spec: The spec.
        episodes: One record each, as they were added.
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

    def add(self, info: EpisodeInfo, rows: Transitions, cursor: Ints | None) -> None:
        """Take an episode; those of one run come one after the other, by their first cursor.

        How old its policies were is known of episodes that a robot lived as they stand: in merged or imported
        ones cursors say nothing about who acted when, and versions may be those of several learners.

        Args:
            info: Its facts.
            rows: Its rows [N].
            cursor: Their places in the log of their run [N]; None: they lie elsewhere now, as merged ones do.
        """
        if not rows.rows:
            return
        if info.run_id != self._run:
            self.finish()
            self._run = info.run_id
        total = info.metrics.get("return", float(np.sum(rows.reward, dtype=np.float64)))
        numbers = EpisodeNumbers(
            info=info,
            total=total if math.isfinite(total) else math.nan,
            seconds=_seconds(rows.stamp_ns),
            intervened=float(rows.intervened.mean()),
            clipped=float(rows.clipped.mean()),
            saturated=float(is_saturated(rows.action).mean()),
        )
        self.episodes.append(numbers)
        self.executed.add(rows.action)
        self.asked.add(rows.policy_action)
        change = np.abs(np.clip(rows.action, -1, 1) - np.clip(rows.policy_action, -1, 1))
        self.changed += np.nansum(change, axis=0, dtype=np.float64)
        for coverage in self.coverage:
            coverage.add(rows.observation, info.success)
        self._look_at(info.robot_id, rows)
        if not info.origin and cursor is not None:
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
            episode.behind = float(behind.mean())
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


def rolling_mean(values: Floats, window: int) -> Floats:
    """Mean of each value and the up to `window` - 1 before it [N]; NaN is left out."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    after = np.arange(1, len(values) + 1)
    first = np.maximum(after - window, 0)
    found = counts[after] - counts[first]
    return np.where(found > 0, (sums[after] - sums[first]) / np.maximum(found, 1), np.nan)
