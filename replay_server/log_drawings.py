"""Logs to pictures: all episodes are read once; what they add up to is drawn, and a few of them whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fleet.messages import FINISHED
from fleet.run_folder import RunFolder
from replay_server.action_plots import draw_actions
from replay_server.episode_plot import draw_episode
from replay_server.episode_store import EpisodeSummary
from replay_server.log_plots import draw_statistics
from replay_server.log_statistics import EpisodeNumbers, LogStatistics
from replay_server.logs import Logs, LogsError, run_folder_of
from replay_server.plot_style import Drawing
from replay_server.robot_numbers import RobotNumbers


def read_statistics(logs: Logs, on_progress: Callable[[int, int], None]) -> LogStatistics:
    """Add up all rows; damaged files are noted in `logs`.

    Raises:
        LogsError: No episode is there or can be read, or they are of several specs.
    """
    statistics = LogStatistics(logs.spec)
    folder: Path | None = None
    run_id = ""
    for summary, rows in logs.read_by_cursor(on_progress):
        if (here := run_folder_of(summary.path)) != folder:
            statistics.finish()  # each folder has cursors of its own, also several of one run
            folder = here
            run_id = RunFolder(here).known_run_id() if here is not None else ""
        as_lived = run_id in ("", summary.info.run_id)
        statistics.add(summary.info, rows.transitions, rows.cursor if as_lived else None)
    statistics.finish()
    if not statistics.episodes:
        raise LogsError("no episode can be read: all files are damaged")
    return statistics


def examples(logs: Logs, statistics: LogStatistics) -> list[tuple[str, EpisodeSummary]]:
    """The best, the worst and the newest episode, each once, with what is special about it.

    Best and worst by their return, of those that ran to their end if there are any.
    """
    episodes = statistics.episodes
    known = [e for e in episodes if not math.isnan(e.total)]
    finished = [e for e in known if e.info.end in FINISHED] or known
    chosen: dict[str, EpisodeNumbers] = {}
    if finished:
        chosen["best"] = max(finished, key=lambda e: e.total)
        chosen["worst"] = min(finished, key=lambda e: e.total)
    chosen["newest"] = max(episodes, key=lambda e: (e.info.received_ns, e.info.last_cursor))
    summaries = {id(summary.info): summary for summary in logs.episodes}
    titles: dict[int, list[str]] = {}
    for title, episode in chosen.items():
        titles.setdefault(id(episode.info), []).append(title)
    return [(" and ".join(names), summaries[key]) for key, names in titles.items()]


def draw_logs(
    logs: Logs,
    statistics: LogStatistics,
    robots: Sequence[RobotNumbers],
    shown: Sequence[tuple[str, EpisodeSummary]],
) -> Iterator[Drawing]:
    """Each picture when it is asked for, so that only one is in memory.

    Args:
        logs: The episodes.
        statistics: What they add up to.
        robots: The same by robot.
        shown: Episodes to draw whole, with what is special about them, or empty.

    Raises:
        EpisodeFileError: An episode to be shown was damaged meanwhile.
    """
    yield from draw_statistics(statistics, robots)
    yield from draw_actions(statistics)
    for title, summary in shown:
        name = f"{title} episode" if title else "episode"
        heading = f"{name[0].upper()}{name[1:]}: {summary.info.robot_id}/{summary.path.name}"
        yield draw_episode(logs.episode(summary), f"{name.replace(' ', '-')}-{summary.path.stem}", heading)
