"""Numbers of episodes as curves over transitions or time: a line per robot, and one of all evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import dates

from replay_server.log_statistics import EpisodeNumbers, in_order, rolling_mean
from replay_server.plot_style import BLACK, BLUE, GREY, Floats, robot_colours, short

_EVALUATION = "evaluation, all robots"


class EpisodeCurves:
    """Draws one value of each episode.

    Attributes:
        episodes: In order of arrival.
        transitions: Rows up to and with each episode [E].
        times: When each arrived, as the clock on the wall showed it [E] (datetime64).
        window: How many episodes a line is the mean of.
    """

    def __init__(self, episodes: Sequence[EpisodeNumbers]) -> None:
        self.episodes = in_order(episodes)
        self.transitions = np.cumsum([e.info.rows for e in self.episodes])
        local = [datetime.fromtimestamp(e.info.received_ns / 1e9) for e in self.episodes]
        self.times = np.array(local, "datetime64[us]")
        self.window = max(20, len(self.episodes) // 100)
        self._colours = robot_colours(sorted({e.info.robot_id for e in self.episodes}))

    def over_transitions(self, axis: Any) -> npt.NDArray[Any]:
        """Label the horizontal axis; returns its values [E]."""
        most = self.transitions[-1]
        unit, name = (1000, "thousand transitions") if most >= 10_000 else (1, "transitions")
        axis.set_xlabel(f"{name} of all robots")
        axis.set_xlim(0, 1.02 * most)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value / unit:,g}")
        return self.transitions

    def over_time(self, axis: Any) -> npt.NDArray[Any]:
        """Label the horizontal axis; returns its values [E]."""
        axis.set_xlabel("time of arrival, local")
        margin = max((self.times[-1] - self.times[0]) / 50, np.timedelta64(30, "s"))
        axis.set_xlim(self.times[0] - margin, self.times[-1] + margin)
        locator: Any = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        return self.times

    def draw_robots(
        self, axis: Any, x: npt.NDArray[Any], value: Callable[[EpisodeNumbers], float], *, dots: bool = True
    ) -> None:
        """A line per robot, of all episodes that have the value.

        Args:
            axis: Where.
            x: What `over_transitions` or `over_time` gave.
            value: What to draw; NaN is left out.
            dots: Draw each episode, too.
        """
        values = np.array([value(e) for e in self.episodes], np.float64)
        robots = np.array([e.info.robot_id for e in self.episodes])
        many = len(self._colours) > 1 and set(self._colours.values()) == {GREY}
        for number, (robot, colour) in enumerate(self._colours.items()):
            label = short(robot) if not many else "one robot" if number == 0 else "_"
            chosen = np.flatnonzero((robots == robot) & ~np.isnan(values))
            if dots:
                size = 10 if len(self.episodes) < 2000 else 3
                axis.scatter(x[chosen], values[chosen], size, color=colour, alpha=0.3, linewidths=0)
            self._line(axis, x, values, chosen, color=colour, linewidth=0.8 if many else 1.5, label=label)
        if many:
            everyone = np.flatnonzero(~np.isnan(values))
            self._line(axis, x, values, everyone, color=BLUE, linewidth=2.0, label="mean of all robots")

    def draw_evaluations(
        self, axis: Any, x: npt.NDArray[Any], value: Callable[[EpisodeNumbers], float]
    ) -> None:
        """One line that stands out, of the evaluation episodes of all robots."""
        values = np.array([value(e) if e.info.evaluation else np.nan for e in self.episodes], np.float64)
        chosen = np.flatnonzero(~np.isnan(values))
        if len(chosen):
            self._line(axis, x, values, chosen, color=BLACK, linewidth=2.2, label=_EVALUATION)

    def _line(
        self, axis: Any, x: npt.NDArray[Any], values: Floats, chosen: npt.NDArray[np.intp], **look: Any
    ) -> None:
        """The rolling mean, starting anew with each run."""
        runs = np.array([self.episodes[i].info.run_id for i in chosen])
        for run in dict.fromkeys(runs):
            of_run = chosen[runs == run]
            mean = rolling_mean(values[of_run], self.window)
            first = min(self.window, len(of_run)) // 4  # a mean of fewer jumps about
            marker = "o" if len(of_run) < 3 else ""
            axis.plot(*_with_gaps(x[of_run][first:], mean[first:]), marker=marker, markersize=4, **look)
            look["label"] = "_"


def _with_gaps(x: npt.NDArray[Any], y: Floats) -> tuple[npt.NDArray[Any], Floats]:
    """Points with NaN between those that a long pause parts, so that no line is drawn through it."""
    steps = np.diff(x).astype(np.float64)
    if len(steps) < 2:
        return x, y
    pauses = np.flatnonzero((steps > 20 * np.median(steps)) & (steps > 0.05 * steps.sum())) + 1
    return np.insert(x, pauses, x[pauses]), np.insert(y, pauses, np.nan)


def without_outliers(axis: Any, values: Floats) -> None:
    """Let a few extreme values not flatten all others: the axis shows the middle 99 %."""
    known = values[~np.isnan(values)]
    if len(known) >= 100:
        low, high = np.quantile(known, [0.005, 0.995])
        margin = 0.08 * (high - low) or 1.0
        axis.set_ylim(low - margin, high + margin)
