"""What all our pictures of logs have in common: colours, sizes, axes; drawn without a window."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

# Okabe and Ito (2008): told apart by the colour-blind, and in grey.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#9A9A9A"
ROBOT_COLOURS = (BLUE, RED, GREEN, PINK, SKY, ORANGE)
"""Of as many robots; more of them are drawn grey."""

WIDTH = 8.6
"""Of all figures (inches); a page shows them as wide as itself."""

MOST_BARS = 24
"""Robots, runs or ranges of versions that one chart has room for."""

_DPI = 120
_LONGEST_NAME = 18


@dataclass(frozen=True)
class Drawing:
    """A figure with what a reader should know.

    Attributes:
        name: Its file's, without suffix.
        title: What it shows.
        caption: How to read it.
        figure: The picture.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    def png(self) -> bytes:
        """The picture as a PNG file."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, dpi=_DPI, format="png", metadata={"Software": None})
        return buffer.getvalue()


def new_figure(
    height: float, mosaic: Any, layout: Literal["constrained"] | None = "constrained", **options: Any
) -> tuple[Figure, dict[str, Any]]:
    """A figure `height` inches high with quiet axes, laid out as the names in the lists of `mosaic` are."""
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    axes = figure.subplot_mosaic(mosaic, **options)
    for axis in axes.values():
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return figure, axes


def robot_colours(robots: Sequence[str]) -> dict[str, str]:
    """A colour for each; all are grey where there are more than can be told apart."""
    if len(robots) > len(ROBOT_COLOURS):
        return dict.fromkeys(robots, GREY)
    return dict(zip(robots, ROBOT_COLOURS, strict=False))


def short(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def bars_height(count: int) -> float:
    """How high a chart of so many horizontal bars must be (inches)."""
    return 1.0 + 0.28 * max(2, min(count, MOST_BARS))


def name_bars(axis: Any, names: Sequence[str]) -> None:
    """Write names beside horizontal bars, the first at the top."""
    axis.set_yticks(range(len(names)), [short(name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def legend_above(axis: Any, columns: int = 4) -> None:
    """The legend over the axes, where no data can be below it."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            fontsize=8.5,
            frameon=False,
            borderaxespad=0.2,
            handlelength=1.6,
            markerscale=1.6,
            columnspacing=1.4,
        )
