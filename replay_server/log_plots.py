"""Pictures of how episodes went: returns, success, ends, help by persons and the guard, old policies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fleet.messages import FINISHED
from replay_server.episode_curves import EpisodeCurves, without_outliers
from replay_server.log_statistics import LogStatistics
from replay_server.plot_style import (
    BLACK,
    GREEN,
    GREY,
    MOST_BARS,
    ORANGE,
    PINK,
    RED,
    SKY,
    Drawing,
    bars_height,
    legend_above,
    name_bars,
    new_figure,
    robot_colours,
    short,
)
from replay_server.robot_numbers import RobotNumbers, quantile
from replay_server.success_plot import success

_END_COLOURS = {
    "success": GREEN,
    "failure": RED,
    "time_limit": SKY,
    "fault": BLACK,
    "stopped": GREY,
    "intervention": PINK,
    "": ORANGE,
}


def draw_statistics(statistics: LogStatistics, robots: Sequence[RobotNumbers]) -> Iterator[Drawing]:
    """All pictures that there is something to see in; none of these of a single episode."""
    if len(statistics.episodes) < 2:
        return
    curves = EpisodeCurves(statistics.episodes)
    shown = robots[:MOST_BARS]
    yield returns(curves)
    if any(episode.info.end in FINISHED for episode in curves.episodes):
        yield _with_note(success(curves, shown), robots)
    yield _with_note(ends(curves, shown), robots)
    if any(episode.intervened for episode in curves.episodes):
        yield persons(curves)
    if any(episode.clipped for episode in curves.episodes):
        yield _with_note(guard(curves, shown), robots)
    if statistics.behind:
        yield staleness(curves, statistics)


def returns(curves: EpisodeCurves) -> Drawing:
    """Returns over transitions and over time."""
    figure, axes = new_figure(6.4, [["transitions"], ["time"]])
    everything = np.array([e.total for e in curves.episodes])
    for axis, x in (
        (axes["transitions"], curves.over_transitions(axes["transitions"])),
        (axes["time"], curves.over_time(axes["time"])),
    ):
        curves.draw_robots(axis, x, lambda e: math.nan if e.info.evaluation else e.total)
        curves.draw_evaluations(axis, x, lambda e: e.total)
        axis.set_ylabel("return of an episode")
        without_outliers(axis, everything)
    legend_above(axes["transitions"])
    return Drawing(
        "returns",
        "Returns",
        f"Sum of the rewards of an episode. Dots: each episode with exploration. Lines: mean of the newest "
        f"{curves.window}, of a robot or of all noise-free evaluation episodes.",
        figure,
    )


def ends(curves: EpisodeCurves, robots: Sequence[RobotNumbers]) -> Drawing:
    """How long episodes were, and why they ended."""
    bars = bars_height(len(robots))
    figure, axes = new_figure(2.9 + bars, [["steps"], ["ends"]], height_ratios=[2.9, bars])
    axis, below = axes["steps"], axes["ends"]
    x = curves.over_transitions(axis)
    for end, colour in _END_COLOURS.items():
        chosen = [i for i, e in enumerate(curves.episodes) if e.info.end == end]
        if chosen:
            rows = [curves.episodes[i].info.rows for i in chosen]
            label = f"{end.replace('_', ' ') or 'unfinished'} ({len(chosen):,})"
            axis.scatter(x[chosen], rows, 9, color=colour, alpha=0.6, linewidths=0, label=label)
    axis.set(ylabel="steps of an episode")
    axis.set_ylim(bottom=0)
    legend_above(axis)
    for place, robot in enumerate(robots):
        left = 0.0
        for end, colour in _END_COLOURS.items():
            share = 100 * robot.ends.get(end, 0) / robot.episodes
            below.barh(place, share, left=left, color=colour, height=0.7)
            left += share
    name_bars(below, [robot.robot_id for robot in robots])
    below.set(xlabel="episodes (%)", xlim=(0, 100))
    return Drawing("ends", "Lengths and ends", "Why episodes ended, over time and by robot.", figure)


def persons(curves: EpisodeCurves) -> Drawing:
    """Share of steps in which a person moved the robot."""
    figure, axes = new_figure(2.9, [["share"]])
    axis = axes["share"]
    curves.draw_robots(axis, curves.over_transitions(axis), lambda e: 100 * e.intervened)
    axis.set(ylabel="steps with a person (%)", ylim=(-3, 103))
    legend_above(axis)
    return Drawing(
        "persons",
        "Interventions",
        "Share of an episode's steps in which a person moved the robot. Lines: mean of the newest "
        f"{curves.window}.",
        figure,
    )


def guard(curves: EpisodeCurves, robots: Sequence[RobotNumbers]) -> Drawing:
    """Share of commands that the guard changed, over time and by limit."""
    limits = sorted({limit for robot in robots for limit in robot.guard})
    bars = bars_height(len(robots)) + 0.4
    mosaic = [["share"], ["limits"]] if limits else [["share"]]
    figure, axes = new_figure(2.9 + bars * bool(limits), mosaic, height_ratios=[2.9, bars][: len(mosaic)])
    axis = axes["share"]
    curves.draw_robots(axis, curves.over_transitions(axis), lambda e: 100 * e.clipped)
    axis.set(ylabel="commands changed (%)", ylim=(-3, 103))
    legend_above(axis)
    if limits:
        _matrix(axes["limits"], robots, limits)
    return Drawing(
        "guard",
        "Guard",
        "Share of commands that the guard changed. Acceleration, velocity and jerk only smooth, which is "
        "normal while a robot explores; position, workspace and the others hold it back. Several may act "
        "on one command.",
        figure,
    )


def staleness(curves: EpisodeCurves, statistics: LogStatistics) -> Drawing:
    """How many versions behind robots acted, and how long with one version."""
    figure, axes = new_figure(6.2, [["rows", "held"], ["over", "over"]])
    colours = robot_colours(sorted(statistics.behind))
    most = max(quantile(counts, 0.999) for counts in statistics.behind.values())
    for robot, counts in sorted(statistics.behind.items()):
        versions = np.arange(1, int(most) + 2)
        at_least = [sum(n for v, n in counts.items() if v >= k) for k in versions]
        share = 100 * np.array(at_least) / counts.total()
        axes["rows"].plot(versions, share, ".-", color=colours[robot], linewidth=1.5)
    axes["rows"].set(xlabel="at least so many versions behind", ylabel="rows (%)")
    axes["rows"].set_ylim(0, max(1, axes["rows"].get_ylim()[1]))
    axes["rows"].set_xlim(0.5, max(5, most + 1) + 0.5)
    axes["rows"].xaxis.get_major_locator().set_params(integer=True)
    curves.draw_robots(axes["held"], curves.over_transitions(axes["held"]), lambda e: e.held_s, dots=False)
    axes["held"].set_ylabel("acted with one version\nfor up to (s)")
    axes["held"].set_ylim(bottom=0)
    curves.draw_robots(axes["over"], curves.over_transitions(axes["over"]), lambda e: e.behind)
    axes["over"].set_ylabel("versions behind")
    axes["over"].set_ylim(0, max(1, axes["over"].get_ylim()[1]))
    legend_above(axes["over"])
    return Drawing(
        "staleness",
        "Old policies",
        "Versions behind: how many versions newer a policy any of these robots had acted with before that "
        "row arrived. Right: longest time with one version, on the robot's own clock. Lines: mean of the "
        f"newest {curves.window} episodes.",
        figure,
    )


def _with_note(drawing: Drawing, robots: Sequence[RobotNumbers]) -> Drawing:
    """Say so if there are more robots than bars."""
    if len(robots) <= MOST_BARS:
        return drawing
    return replace(drawing, caption=f"{drawing.caption} Of {len(robots)} robots the first {MOST_BARS}.")


def _matrix(axis: Any, robots: Sequence[RobotNumbers], limits: Sequence[str]) -> None:
    """Shares by robot and limit as a table whose colours show where to look."""
    shares = np.array([[100 * robot.guard.get(limit, 0.0) for limit in limits] for robot in robots])
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text = "0" if share == 0 else "<1" if share < 1 else f"{share:.0f}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=8.5, color="white" if share > 55 else BLACK
        )
    axis.set_xticks(range(len(limits)), [limit.replace("_", "\n") for limit in limits])
    axis.set_yticks(range(len(robots)), [short(robot.robot_id) for robot in robots])
    axis.set_xlabel("commands changed by each limit (%)")
    axis.grid(visible=False)
