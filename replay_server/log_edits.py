"""Logs out of logs: other orders, parts and pieces of what is there. No row is changed, only chosen.

with LogWriter(out, logs.spec, made, config, as_lived=True) as writer:
    write_edited(writer, logs, Cut(keep_steps=40))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fleet.messages import COLUMNS, GUARD_METRICS, Transitions
from replay_server.episode_file import EpisodeInfo
from replay_server.episode_store import EpisodeSummary
from replay_server.log_writer import LogWriter
from replay_server.logs import Logs, LogsError, Progress, run_folder_of

Edit = Callable[[EpisodeInfo, Transitions], "tuple[EpisodeInfo, Transitions] | None"]
"""What becomes of an episode and its rows; None: nothing."""


def as_it_is(info: EpisodeInfo, transitions: Transitions) -> tuple[EpisodeInfo, Transitions]:
    """The edit that changes nothing."""
    return info, transitions


def write_edited(
    writer: LogWriter,
    logs: Logs,
    edit: Edit = as_it_is,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Write what becomes of the episodes; a damaged one is noted in `logs` and left out.

    Raises:
        LogsError: Nothing is left to write.
        OSError: The disk is full, or not writable.
    """
    for summary, transitions in only(logs, in_order(logs.episodes)).read(on_progress):
        if (edited := edit(summary.info, transitions)) is not None:
            writer.add(*edited)
    if not writer.episodes:
        raise LogsError(
            f"{writer.folder.path}: nothing is left to write: no episode is whole and long enough"
        )


def in_order(episodes: Sequence[EpisodeSummary]) -> list[EpisodeSummary]:
    """The same, in the order given, but those of one boot by their number.

    After a crash an episode may have arrived behind a later one of its boot; the places of a boot stay.
    """
    boots: dict[tuple[str, str], list[EpisodeSummary]] = {}
    for summary in episodes:
        boots.setdefault((summary.info.robot_id, summary.info.boot_id), []).append(summary)
    by_number = {
        stream: iter(sorted(those, key=lambda summary: summary.info.episode))
        for stream, those in boots.items()
    }
    return [next(by_number[summary.info.robot_id, summary.info.boot_id]) for summary in episodes]


def only(logs: Logs, episodes: Iterable[EpisodeSummary]) -> Logs:
    """Logs of some of the episodes and of the folders these lie in; damage is noted in both."""
    chosen = list(episodes)
    used = {run_folder_of(summary.path) for summary in chosen}
    return replace(logs, episodes=chosen, folders=[folder for folder in logs.folders if folder in used])


# Parts --------------------------------------------------------------------------------------


def by_share(
    episodes: Sequence[EpisodeSummary], shares: Mapping[str, float], seed: int
) -> dict[str, list[EpisodeSummary]]:
    """Deal episodes out at random, each to one part.

    Each robot's episodes are shuffled, and the next goes to the part that lacks most: so each part has its
    share of all episodes, and nearly of each robot's.

    Args:
        episodes: All of them.
        shares: Of each part; they add up to 1.
        seed: Of the shuffling.
    """
    rng = np.random.default_rng(seed)
    robots: dict[str, list[EpisodeSummary]] = {}
    for summary in episodes:
        robots.setdefault(summary.info.robot_id, []).append(summary)
    parts: dict[str, list[EpisodeSummary]] = {name: [] for name in shares}
    dealt = 0
    for _, those in sorted(robots.items()):
        for index in rng.permutation(len(those)):
            dealt += 1
            poorest = max(parts, key=lambda name: shares[name] * dealt - len(parts[name]))
            parts[poorest].append(those[index])
    places = {summary.path: place for place, summary in enumerate(episodes)}
    return {name: sorted(part, key=lambda summary: places[summary.path]) for name, part in parts.items()}


VALUES: dict[str, Callable[[EpisodeInfo], str]] = {
    "robot": lambda info: info.robot_id,
    "task": lambda info: info.task or "unknown",
    "success": lambda info: "success" if info.success else "failure",
    "evaluation": lambda info: "evaluation" if info.evaluation else "training",
}
"""What episodes can be told apart by."""


def by_value(episodes: Sequence[EpisodeSummary], key: str) -> dict[str, list[EpisodeSummary]]:
    """One part per value of one of VALUES, in the order of the values."""
    parts: dict[str, list[EpisodeSummary]] = {}
    for summary in episodes:
        parts.setdefault(VALUES[key](summary.info), []).append(summary)
    return dict(sorted(parts.items()))


# Pieces -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """The edit that takes some steps of each episode.

    An episode that loses its end was stopped there: its last row is truncated unless it terminated, whether
    it would have been a success is not known, and the task's metrics, which speak of the end, are gone.

    Attributes:
        skip_steps: Steps left out at the start; an episode without more is left out.
        keep_steps: Most steps that follow.
    """

    skip_steps: int = 0
    keep_steps: int | None = None

    def rows(self, rows: int) -> range:
        """Which rows of an episode are taken."""
        end = rows if self.keep_steps is None else min(rows, self.skip_steps + self.keep_steps)
        return range(self.skip_steps, max(end, self.skip_steps))

    def __call__(self, info: EpisodeInfo, transitions: Transitions) -> tuple[EpisodeInfo, Transitions] | None:
        """What is left of an episode."""
        taken = self.rows(info.rows)
        if not taken:
            return None
        if len(taken) == info.rows:
            return info, transitions
        columns: dict[str, Any] = {
            name: getattr(transitions, name)[taken.start : taken.stop] for name in COLUMNS
        }
        metrics = {key: value for key, value in info.metrics.items() if not key.startswith(GUARD_METRICS)}
        if taken.stop < info.rows:
            columns["truncated"] = columns["truncated"].copy()
            columns["truncated"][-1] = not columns["terminated"][-1]
            info = replace(info, end="stopped", success=False, complete=True)
            metrics = {}
        metrics["return"] = float(columns["reward"].sum(dtype=np.float64))
        whole = f"steps {taken.start} to {taken.stop - 1} of {info.rows}"
        origin = f"{info.origin}; {whole}" if info.origin else whole
        return replace(info, metrics=metrics, origin=origin), Transitions(**columns)


def limit(
    episodes: Sequence[EpisodeSummary],
    cut: Cut,
    first: int | None = None,
    last: int | None = None,
    max_rows: int | None = None,
) -> list[EpisodeSummary]:
    """The first or last episodes that a cut leaves something of, whole as long as the rows suffice.

    Args:
        episodes: All of them.
        cut: What is left of each.
        first: At most so many from the start.
        last: At most so many from the end.
        max_rows: The first episode, or with `last` the last one, that would bring more ends it.
    """
    chosen = [summary for summary in episodes if cut.rows(summary.info.rows)]
    if first is not None:
        chosen = chosen[:first]
    if last is not None:
        chosen = chosen[-last:]
    if max_rows is None:
        return chosen
    nearest = chosen[::-1] if last is not None else chosen
    ends = np.cumsum([len(cut.rows(summary.info.rows)) for summary in nearest])
    nearest = nearest[: int(np.searchsorted(ends, max_rows, side="right"))]
    return nearest[::-1] if last is not None else nearest
