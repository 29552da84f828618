"""Pictures of the paper's experiments."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common.paper_cell import Record, reached, task_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ["#1b6ca8", "#d1495b", "#3a7d44", "#e09f3e", "#6d597a", "#4d4d4d"]


def draw_algorithms(runs: Sequence[Record], path: Path) -> None:
    """Success and return over transitions: thin lines are seeds, thick ones their means."""
    tasks = list(dict.fromkeys(task_name(run["cell"]) for run in runs))
    names = list(dict.fromkeys(run["cell"]["algorithm"] for run in runs))
    figure, all_axes = plt.subplots(
        2, len(tasks), figsize=(5.2 * len(tasks), 6.4), squeeze=False, layout="constrained"
    )
    for column, task in enumerate(tasks):
        for row, (key, factor, what) in enumerate(
            [("success", 100.0, "success %"), ("return", 1.0, "return")]
        ):
            axes = all_axes[row, column]
            for name, colour in zip(names, _COLOURS, strict=False):
                mine = [r for r in runs if (task_name(r["cell"]), r["cell"]["algorithm"]) == (task, name)]
                _draw_curves(axes, mine, "rows", 1e-3, key, factor, colour, name)
            axes.set_ylabel(what)
            if key == "success":
                axes.set_ylim(-3, 103)
            axes.grid(alpha=0.3)
        all_axes[0, column].set_title(task)
        all_axes[1, column].set_xlabel("transitions / 1000")
    all_axes[0, 0].legend()
    _save(figure, path)


def draw_workers(runs: Sequence[Record], path: Path) -> None:
    """Success over time for each number of robots, and the time to 95 % over that number."""
    kinds = list(dict.fromkeys((run["cell"]["updates_per_s"], run["cell"]["mode"]) for run in runs))
    speeds = sorted({speed for speed, _ in kinds}, reverse=True)
    modes = sorted({mode for _, mode in kinds})
    numbers = sorted({run["cell"]["workers"] for run in runs})
    width = len(modes) + 1
    figure, all_axes = plt.subplots(
        len(speeds), width, figsize=(4.6 * width, 3.6 * len(speeds)), squeeze=False, layout="constrained"
    )
    for row, speed in enumerate(speeds):
        for column, mode in enumerate(modes):
            axes = all_axes[row, column]
            mine = [
                run for run in runs if (run["cell"]["updates_per_s"], run["cell"]["mode"]) == (speed, mode)
            ]
            for number, colour in zip(numbers, _COLOURS, strict=False):
                group = [run for run in mine if run["cell"]["workers"] == number]
                label = f"{number} robot{'s' if number > 1 else ''}"
                _draw_curves(axes, group, "time_s", 1 / 60, "success", 100.0, colour, label)
            axes.set(
                title=f"{mode}, {speed:g} updates/s", xlabel="minutes", ylabel="success %", ylim=(-3, 103)
            )
            if column:
                axes.sharex(all_axes[row, 0])
            axes.grid(alpha=0.3)
            minutes = [_median_minutes(mine, number) for number in numbers]
            all_axes[row, -1].plot(numbers, minutes, "o-", label=mode, color=_COLOURS[column])
        axes = all_axes[row, -1]
        axes.set_xscale("log", base=2)
        if any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            axes.set_yscale("log")
        axes.set(title=f"minutes to 95 %, {speed:g} updates/s", xlabel="robots", xticks=numbers)
        axes.set_xticklabels([str(number) for number in numbers])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    all_axes[0, 0].legend()
    _save(figure, path)


def _median_minutes(runs: Sequence[Record], workers: int) -> float:
    """NaN, which is not drawn, where half of the runs did not get there."""
    points = [reached(run["curve"]) for run in runs if run["cell"]["workers"] == workers]
    times = [point["time_s"] / 60 if point else math.inf for point in points]
    median = statistics.median(times) if times else math.inf
    return median if math.isfinite(median) else math.nan


def _draw_curves(
    axes: Axes,
    runs: Sequence[Record],
    x: str,
    x_factor: float,
    y: str,
    y_factor: float,
    colour: str,
    label: str,
) -> None:
    """Each run thin, their mean thick; one that ended early counts with its last value."""
    curves = [
        (
            np.array([point[x] * x_factor for point in run["curve"]]),
            np.array([point[y] * y_factor for point in run["curve"]]),
        )
        for run in runs
        if run["curve"]
    ]
    if not curves:
        return
    for xs, ys in curves:
        axes.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.8)
    grid = np.linspace(min(xs[0] for xs, _ in curves), max(xs[-1] for xs, _ in curves), 60)
    mean = np.mean([np.interp(grid, xs, ys) for xs, ys in curves], axis=0)
    axes.plot(grid, mean, color=colour, linewidth=2.0, label=label)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"drew {path}")
