"""Pictures of what robots did: histograms of their actions, and where the tool was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from fleet.spaces import JOINT_COMMAND
from replay_server.action_histogram import BINS, Coverage
from replay_server.log_statistics import LogStatistics
from replay_server.plot_style import BLUE, RED, Drawing, new_figure, short

_COLUMNS = 4
_MOST_ACTIONS = 24
_TICKS = (1, 5, 20, 50, 100)


def draw_actions(statistics: LogStatistics) -> Iterator[Drawing]:
    """All pictures of this file that there is something to see in."""
    yield actions(statistics)
    if statistics.coverage:
        yield coverage(statistics)


def actions(statistics: LogStatistics) -> Drawing:
    """A histogram per action: executed by the robot, and asked for by policy and noise."""
    names = statistics.spec.action.names[:_MOST_ACTIONS]
    rows = -(-len(names) // _COLUMNS)
    places = [[f"{row * _COLUMNS + column}" for column in range(_COLUMNS)] for row in range(rows)]
    figure, axes = new_figure(0.7 + 1.75 * rows, places, sharex=True, sharey=True)
    edges = np.linspace(-1, 1, BINS + 1)
    executed, asked = (
        100 * histogram.counts / max(1, histogram.rows)
        for histogram in (statistics.executed, statistics.asked)
    )
    for i, name in enumerate(names):
        axis = axes[str(i)]
        # Roots, so that the many at ±1 and at 0 do not hide how the others are spread.
        axis.stairs(np.sqrt(executed[i]), edges, fill=True, color=BLUE, alpha=0.55, label="executed")
        axis.stairs(np.sqrt(asked[i]), edges, color=RED, linewidth=1.3, label="asked for")
        at_limit = (100 * histogram.saturation[i] for histogram in (statistics.executed, statistics.asked))
        text = "at ±1: {:.0f} %, asked for {:.0f} %".format(*at_limit)
        axis.set_title(f"{short(name.removesuffix(JOINT_COMMAND))}\n{text}", fontsize=8, loc="left", pad=3)
        axis.set(xlim=(-1.03, 1.03), ylim=(0, 10.2))
        axis.set_xticks([-1, 0, 1], ["−1", "0", "1"])
        axis.set_yticks(np.sqrt(_TICKS), map(str, _TICKS))
    for place, axis in axes.items():
        axis.set_visible(int(place) < len(names))
    figure.supxlabel("action, 1 is the limit", fontsize=10)
    figure.supylabel("rows (%)", fontsize=10)
    handles, labels = axes["0"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=8.5, frameon=False)
    left_out = len(statistics.spec.action.names) - len(names)
    more = f" {left_out} more actions are not drawn." if left_out else ""
    return Drawing(
        "actions",
        "Actions",
        "Filled: what robots executed, after the guard. Line: what policy and noise asked for. The vertical "
        f"axis is stretched towards 0; numbers say how many rows are at either limit.{more}",
        figure,
    )


def coverage(statistics: LogStatistics) -> Drawing:
    """Where the tool was, and where it was when the episode succeeded."""
    pictures = statistics.coverage
    both = all(c.success.any() and c.other.any() for c in pictures)
    top = [c.axes[1] for c in pictures]
    mosaic = [top, [f"{name} success" for name in top]] if both else [top]
    figure, axes = new_figure(3.4 * len(mosaic) + 0.2, mosaic)
    for picture in pictures:
        rows = picture.success + picture.other
        axis = axes[picture.axes[1]]
        shown = axis.pcolormesh(
            *_edges(picture), _masked(rows, rows).T, norm=LogNorm(1, max(2, rows.max())), cmap="Blues"
        )
        figure.colorbar(shown, ax=axis, label="rows in a cell")
        _frame(axis, picture, rows)
        if both:
            axis = axes[f"{picture.axes[1]} success"]
            share = 100 * picture.success / np.maximum(rows, 1)
            shown = axis.pcolormesh(
                *_edges(picture), _masked(share, rows).T, vmin=0, vmax=100, cmap="cividis"
            )
            figure.colorbar(shown, ax=axis, label="rows of episodes\nthat succeeded (%)")
            _frame(axis, picture, rows)
    return Drawing(
        "coverage",
        "Where the tool was",
        "From above (x, y) and from the side (x, z), in the robot's base frame. White: never there.",
        figure,
    )


def _edges(picture: Coverage) -> tuple[Any, Any]:
    return tuple(
        np.linspace(low, high, cells + 1)
        for low, high, cells in zip(picture.low, picture.high, picture.success.shape, strict=True)
    )  # type: ignore[return-value]


def _masked(values: Any, rows: Any) -> Any:
    return np.ma.masked_where(rows == 0, values)


def _frame(axis: Any, picture: Coverage, rows: Any) -> None:
    """Label the axes, and show only what was visited and a little around it."""
    for side, (name, set_limits) in enumerate(zip(picture.axes, (axis.set_xlim, axis.set_ylim), strict=True)):
        visited = np.flatnonzero(rows.any(axis=1 - side))
        edges = _edges(picture)[side]
        set_limits(edges[max(visited[0] - 2, 0)], edges[min(visited[-1] + 3, len(edges) - 1)])
        (axis.set_xlabel if side == 0 else axis.set_ylabel)(f"{name} (m)")
    axis.set_aspect("equal")
