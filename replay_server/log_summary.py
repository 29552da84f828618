"""What a set of episodes is, in a few numbers, from their facts alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.messages import FINISHED
from replay_server.episode_file import EpisodeInfo

_Z = 1.96
"""Of the normal distribution: 95 % lie within."""


@dataclass(frozen=True)
class Rate:
    """Successes among episodes that ran to their end, so that the task's verdict counts."""

    successes: int = 0
    episodes: int = 0

    @property
    def share(self) -> float:
        """Between 0 and 1; NaN without an episode."""
        return self.successes / self.episodes if self.episodes else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true rate lies with 95 % (Wilson 1927, equation 4)."""
        if not self.episodes:
            return 0.0, 1.0
        n, p, z2 = self.episodes, self.share, _Z**2
        middle, half = p + z2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
        return max(0.0, min(low, p)), min(1.0, max(high, p))  # rounding must not push p out

    def __str__(self) -> str:
        return f"{100 * self.share:.0f} % of {self.episodes:,}" if self.episodes else "none"


def success_rate(infos: Iterable[EpisodeInfo], evaluation: bool) -> Rate:
    """Of the evaluation episodes, or of the others."""
    finished = [info for info in infos if info.evaluation == evaluation and info.end in FINISHED]
    return Rate(sum(info.success for info in finished), len(finished))


@dataclass(frozen=True)
class LogSummary:
    """Logs in a few numbers.

    Attributes:
        episodes: How many.
        rows: Their transitions.
        runs: The runs they belong to.
        robots: Who lived them.
        tasks: What they are about, as far as that is known.
        first_ns: Wall time at which the first arrived (ns); 0 without episodes.
        last_ns: The same of the last.
        training: Success rate of episodes with exploration.
        evaluation: Success rate of noise-free ones.
        policies: Lowest and highest of their oldest policies' versions; None without episodes.
        unfinished: Episodes without an end.
    """

    episodes: int
    rows: int
    runs: tuple[str, ...]
    robots: tuple[str, ...]
    tasks: tuple[str, ...]
    first_ns: int
    last_ns: int
    training: Rate
    evaluation: Rate
    policies: tuple[int, int] | None
    unfinished: int


def summarise(infos: Iterable[EpisodeInfo]) -> LogSummary:
    """Count."""
    infos = list(infos)
    received = [info.received_ns for info in infos]
    versions = [info.policy_version for info in infos]
    return LogSummary(
        episodes=len(infos),
        rows=sum(info.rows for info in infos),
        runs=tuple(sorted({info.run_id for info in infos})),
        robots=tuple(sorted({info.robot_id for info in infos})),
        tasks=tuple(sorted({info.task for info in infos if info.task})),
        first_ns=min(received, default=0),
        last_ns=max(received, default=0),
        training=success_rate(infos, evaluation=False),
        evaluation=success_rate(infos, evaluation=True),
        policies=(min(versions), max(versions)) if versions else None,
        unfinished=sum(not info.complete for info in infos),
    )
