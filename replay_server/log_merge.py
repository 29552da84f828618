"""Logs that overlap as one: copies of an episode count once, different episodes of one name are told.

An episode is named by robot, boot and number. Of a copy that was made before the episode's end, the
longer one stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from fleet.messages import COLUMNS, Transitions
from replay_server.episode_file import EpisodeFileError
from replay_server.episode_store import EpisodeSummary
from replay_server.log_edits import only
from replay_server.logs import Logs, LogsError, Progress, run_folder_of

Name = tuple[str, str, int]
"""robot_id, boot_id and number of an episode."""

_LONGEST_BOOT = 56  # of the 64 characters of an id; the rest is for what makes it another


@dataclass(frozen=True)
class Merged:
    """What is left of logs once copies are gone.

    Attributes:
        logs: Each episode once.
        copies: Files that were left out, as another holds the same.
        renamed: Episodes that were given another boot, as theirs has another episode of that number.
    """

    logs: Logs
    copies: int
    renamed: int


def without_copies(
    logs: Logs, *, keep_both: bool = False, on_progress: Progress = lambda done, total: None
) -> Merged:
    """Find episodes of one name and keep one of each.

    Args:
        logs: Of one spec; damaged files that are found on the way are noted there.
        keep_both: Different episodes of one name all stay, those of later folders as other boots.
        on_progress: With the names done of those that several files have.

    Raises:
        LogsError: Files hold different episodes of one name.
    """
    named: dict[Name, list[EpisodeSummary]] = {}
    for summary in logs.episodes:
        named.setdefault(_name(summary), []).append(summary)
    sources = list(dict.fromkeys(chain(logs.folders, map(_source, logs.episodes))))
    shared = {name: those for name, those in named.items() if len(those) > 1}
    boots = {name[:2] for name in named}
    place_of: dict[Path, EpisodeSummary | None] = {summary.path: summary for summary in logs.episodes}
    copies = renamed = 0
    for done, those in enumerate(shared.values(), start=1):
        those = sorted(those, key=lambda summary: sources.index(_source(summary)))
        different = _different(logs, those, keep_both)
        for path in {summary.path for summary in those} - {summary.path for summary in different}:
            place_of[path] = None
            copies += path not in logs.damaged
        for summary in different[1:]:
            boot = _other_boot(summary, sources.index(_source(summary)) + 1, boots)
            place_of[summary.path] = replace(summary, info=replace(summary.info, boot_id=boot))
            renamed += 1
        on_progress(done, len(shared))
    kept = (summary for summary in place_of.values() if summary is not None)
    return Merged(only(logs, kept), copies, renamed)


def _name(summary: EpisodeSummary) -> Name:
    return summary.info.robot_id, summary.info.boot_id, summary.info.episode


def _source(summary: EpisodeSummary) -> Path:
    return run_folder_of(summary.path) or summary.path


def _different(logs: Logs, those: list[EpisodeSummary], keep_both: bool) -> list[EpisodeSummary]:
    """The episodes among files of one name, the best copy of each; unreadable ones are noted.

    Raises:
        LogsError: There are several, and not `keep_both`.
    """
    different: list[tuple[EpisodeSummary, Transitions]] = []
    for new in _readable(logs, those):
        for place, known in enumerate(different):
            if (better := _better(known, new)) is not None:
                different[place] = better
                break
        else:
            different.append(new)
    if len(different) > 1 and not keep_both:
        (one, rows), (other, other_rows) = different[:2]
        raise LogsError(
            f"{one.path} and {other.path} are different episodes ({rows.rows} and {other_rows.rows} rows) "
            "of the same robot, boot and number: leave one out, or keep both with --keep-both (one of them "
            "then counts as of another boot)"
        )
    return [summary for summary, _ in different]


def _readable(logs: Logs, those: list[EpisodeSummary]) -> Iterator[tuple[EpisodeSummary, Transitions]]:
    for summary in those:
        try:
            yield summary, logs.transitions(summary)
        except EpisodeFileError as error:
            logs.damaged[summary.path] = str(error).removeprefix(f"{summary.path}: ")


def _better(
    one: tuple[EpisodeSummary, Transitions], other: tuple[EpisodeSummary, Transitions]
) -> tuple[EpisodeSummary, Transitions] | None:
    """The copy to keep of two; None if they are different episodes."""
    short, long = sorted((one, other), key=lambda each: (each[1].rows, each[0].info.complete))
    if not _begins_with(long[1], short[1]):
        return None
    if not short[0].info.complete:
        return long
    same_rows = short[1].rows == long[1].rows
    same_end = _verdict(short[0]) == _verdict(long[0])
    return one if same_rows and same_end else None


def _begins_with(rows: Transitions, start: Transitions) -> bool:
    """Whether the first rows are bit for bit those of `start`."""
    return all(
        np.array_equal(_bits(getattr(rows, name)[: start.rows]), _bits(getattr(start, name)))
        for name in COLUMNS
    )


def _bits(column: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(column).reshape(-1).view(np.uint8)


def _verdict(summary: EpisodeSummary) -> tuple[str, bool]:
    return summary.info.end, summary.info.success


def _other_boot(summary: EpisodeSummary, number: int, taken: set[tuple[str, str]]) -> str:
    """A boot's name for what the number-th source has of a boot that another has, too."""
    robot_id, boot_id = summary.info.robot_id, summary.info.boot_id[:_LONGEST_BOOT]
    name = f"{boot_id}-{number}"
    while (robot_id, name) in taken:
        name += "x"
    return name
