"""What a person should look at first in logs: facts that stand out, in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from replay_server.log_statistics import LogStatistics
from replay_server.log_summary import Rate
from replay_server.robot_numbers import RobotNumbers

_OFTEN = 0.5
"""An action that is asked for at ±1 in so many rows is hardly controlled."""

_CHANGED = 0.25
"""So much change of an action by the guard, on average, is no smoothing."""

_FAR_BEHIND = 10
"""Versions; robots of a fleet that works are 0 to 2 behind."""

_LONG_HELD_S = 120.0
"""A learner publishes every few seconds."""

_SHOWN = 4


def findings(statistics: LogStatistics, robots: Sequence[RobotNumbers], damaged: int) -> list[str]:
    """What stands out, the worst first; empty if nothing does.

    Args:
        statistics: Of the episodes.
        robots: The same by robot.
        damaged: How many files could not be read.
    """
    return [*_files(statistics, damaged), *_of_robots(statistics, robots), *_actions(statistics)]


def _files(statistics: LogStatistics, damaged: int) -> Iterator[str]:
    infos = [episode.info for episode in statistics.episodes]
    if damaged:
        yield f"Files that are damaged or foreign, left out and listed below: {damaged:,}."
    if statistics.not_finite:
        yield f"Rows with NaN or infinity, from a sensor or a task: {statistics.not_finite:,}."
    if unfinished := sum(not info.complete for info in infos):
        yield f"Episodes without an end, that go on or whose robot was cut off: {unfinished:,}."
    if infos and not any(info.success for info in infos):
        yield "No episode succeeded."


def _of_robots(statistics: LogStatistics, robots: Sequence[RobotNumbers]) -> Iterator[str]:
    for robot in robots:
        name = robot.robot_id
        if faults := robot.ends.get("fault", 0):
            yield f"{name}: {faults:,} of {robot.episodes:,} episodes ended with a fault."
        if robot.intervened:
            yield f"{name}: a person moved it in {_percent(robot.intervened)} of its steps."
        others = [other for other in robots if other is not robot]
        for kind, rate_of in _RATES.items():
            rate, rest = rate_of(robot), _pooled([rate_of(other) for other in others])
            if rate.episodes and rate.interval[1] < rest.interval[0]:
                yield (
                    f"{name} succeeded in only {rate} {kind} episodes, the other robots in {rest}: "
                    "more than chance explains."
                )
        yield from _guarded(robot, others)
        if still := _still(statistics, name):
            yield f"{name}: {_names(still)} never changed, while other robots' did: is that sensor alive?"
        if robot.behind_99 >= _FAR_BEHIND:
            yield (
                f"{name} acted {robot.behind_99:.0f} or more versions behind in over 1 % of its steps: "
                "is its network slow?"
            )
        if robot.held_s >= _LONG_HELD_S:
            yield (
                f"{name} acted with one version for {robot.held_s:,.0f} s: no newer one reached it, "
                "or there was none."
            )


_RATES: dict[str, Callable[[RobotNumbers], Rate]] = {
    "training": lambda robot: robot.training,
    "evaluation": lambda robot: robot.evaluation,
}


def _guarded(robot: RobotNumbers, others: Sequence[RobotNumbers]) -> Iterator[str]:
    rows = sum(other.rows for other in others)
    for limit, share in robot.guard.items():
        rest = sum(other.guard.get(limit, 0.0) * other.rows for other in others) / rows if rows else math.inf
        if share > 0.1 and share > 2 * rest:
            yield (
                f"{robot.robot_id}: the guard's limit {limit} changed {_percent(share)} of its commands, "
                f"{_percent(rest)} of the other robots'."
            )


def _actions(statistics: LogStatistics) -> Iterator[str]:
    names = np.array(statistics.spec.action.names)
    if often := list(names[statistics.asked.saturation >= _OFTEN]):
        yield f"{_names(often)}: asked for at ±1 in half of all steps or more."
    change = statistics.changed / max(1, statistics.asked.rows)
    if pushed := [f"{names[i]} ({change[i]:.2f})" for i in np.flatnonzero(change >= _CHANGED)]:
        yield f"{_names(pushed)}: so much the guard changed these actions on average, where 1 is their limit."


def _still(statistics: LogStatistics, robot: str) -> list[str]:
    """Observations that never changed on this robot and did on each other one."""
    moved = {name: statistics.high[name] > statistics.low[name] for name in statistics.low}
    others = [moves for name, moves in moved.items() if name != robot]
    if not others:
        return []
    names = np.array(statistics.spec.observation.names)
    return list(names[~moved[robot] & np.all(others, axis=0)])


def _pooled(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.successes for rate in rates), sum(rate.episodes for rate in rates))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.2g} %"
