"""Picture of success: over transitions, by robot, and by policy version or run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.messages import FINISHED
from replay_server.episode_curves import EpisodeCurves
from replay_server.log_statistics import EpisodeNumbers
from replay_server.log_summary import Rate, success_rate
from replay_server.plot_style import (
    BLACK,
    BLUE,
    MOST_BARS,
    Drawing,
    bars_height,
    legend_above,
    name_bars,
    new_figure,
)
from replay_server.robot_numbers import RobotNumbers

_VERSION_RANGES = 12


def success(curves: EpisodeCurves, robots: Sequence[RobotNumbers]) -> Drawing:
    """Success over transitions; by robot; by policy version, or by run if there are several."""
    runs = sorted({e.info.run_id for e in curves.episodes})
    groups = _by_version(curves.episodes) if len(runs) == 1 else _by_run(curves.episodes, runs)
    bars = bars_height(max(len(robots), len(groups)))
    figure, axes = new_figure(3.2 + bars, [["over", "over"], ["robots", "groups"]], height_ratios=[3.2, bars])
    axis = axes["over"]
    x = curves.over_transitions(axis)
    curves.draw_robots(axis, x, lambda e: math.nan if e.info.evaluation else _verdict(e), dots=False)
    curves.draw_evaluations(axis, x, _verdict)
    axis.set(ylabel="success (%)", ylim=(-3, 103))
    legend_above(axis)
    _rate_bars(axes["robots"], {robot.robot_id: (robot.training, robot.evaluation) for robot in robots})
    _rate_bars(axes["groups"], groups)
    legend_above(axes["robots"])
    return Drawing(
        "success",
        "Success",
        f"Above: share of the newest {curves.window} episodes that succeeded. Below: of all, with their "
        "number; lines: where the true rate lies with 95 %. Episodes count that ran to their end.",
        figure,
    )


def _verdict(episode: EpisodeNumbers) -> float:
    return 100.0 * episode.info.success if episode.info.end in FINISHED else math.nan


def _rates(episodes: Sequence[EpisodeNumbers]) -> tuple[Rate, Rate]:
    infos = [episode.info for episode in episodes]
    return success_rate(infos, evaluation=False), success_rate(infos, evaluation=True)


def _by_version(episodes: Sequence[EpisodeNumbers]) -> dict[str, tuple[Rate, Rate]]:
    versions = np.array([e.info.policy_version for e in episodes])
    first, last = int(versions.min()), int(versions.max())
    width = -(-(last - first + 1) // _VERSION_RANGES)
    groups = {}
    for low in range(first, last + 1, width):
        name = f"v{low}" if width == 1 else f"v{low} – {min(low + width - 1, last)}"
        chosen = np.flatnonzero((versions >= low) & (versions < low + width))
        groups[name] = _rates([episodes[int(i)] for i in chosen])
    return groups


def _by_run(episodes: Sequence[EpisodeNumbers], runs: Sequence[str]) -> dict[str, tuple[Rate, Rate]]:
    newest = {run: 0 for run in runs}
    for e in episodes:
        newest[e.info.run_id] = e.info.received_ns
    chosen = sorted(newest, key=lambda run: newest[run])[-MOST_BARS:]
    return {run: _rates([e for e in episodes if e.info.run_id == run]) for run in chosen}


def _rate_bars(axis: Any, rates: dict[str, tuple[Rate, Rate]]) -> None:
    """One point with its interval for training and one for evaluation, per name."""
    for side, (label, colour, marker) in enumerate((("training", BLUE, "o"), ("evaluation", BLACK, "D"))):
        places = [
            place + (side - 0.5) * 0.36 for place, pair in enumerate(rates.values()) if pair[side].episodes
        ]
        found = [pair[side] for pair in rates.values() if pair[side].episodes]
        if not found:
            continue
        share = np.array([100 * rate.share for rate in found])
        low, high = 100 * np.array([rate.interval for rate in found]).T
        axis.errorbar(
            share, places, xerr=[share - low, high - share], fmt=marker, color=colour, markersize=4.5,
            elinewidth=1.1, label=label,
        )  # fmt: skip
        for place, rate in zip(places, found, strict=True):
            axis.text(
                103, place, f"{rate.episodes:,}", fontsize=7.5, color=colour, va="center", clip_on=False
            )
    name_bars(axis, list(rates))
    axis.set(xlabel="success (%)", xlim=(-3, 103))
