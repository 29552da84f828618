"""A GIF of the learned arm: drawn with Matplotlib, so it needs no display and no GPU driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.sim.rollout import EpisodeResult

_FRAMES_PER_S = 10
_HOLD_FRAMES = 6


def film_episodes(
    robot: RobotConfig, episodes: Sequence[EpisodeResult], success_radius_m: float, path: Path
) -> None:
    """Write the episodes, one after another in robot time, as an animated GIF.

    Each shows the arm, the tool's trail and, where the task's metrics name one (`target_x_m` …), the
    target: red, green once the tool is within the success radius.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    chain = _Chain(robot)
    figure = plt.figure(figsize=(4.4, 4.4), dpi=80)
    canvas: Any = figure.canvas
    axes: Any = figure.add_subplot(projection="3d")
    stride = max(1, round(robot.control_rate_hz / _FRAMES_PER_S))
    frames = []
    for number, episode in enumerate(episodes, 1):
        links = [chain.points(q) for q in episode.joints]
        keys = [f"target_{axis}_m" for axis in "xyz"]
        target = np.array([episode.metrics[key] for key in keys]) if keys[0] in episode.metrics else None
        ticks = [*range(0, len(links), stride), *[len(links) - 1] * _HOLD_FRAMES]
        for tick in ticks:
            trail = np.array([points[-1] for points in links[: tick + 1]])
            _draw(axes, links[tick], trail, f"episode {number}")
            if target is not None:
                _draw_target(axes, trail[-1], target, success_radius_m)
            canvas.draw()
            frames.append(
                Image.fromarray(np.asarray(canvas.buffer_rgba())).convert(
                    "P", palette=Image.Palette.ADAPTIVE, colors=64
                )
            )
    plt.close(figure)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // _FRAMES_PER_S, loop=0)


class _Chain:
    """Positions of the joints along the arm, base to tool."""

    def __init__(self, robot: RobotConfig) -> None:
        arm = MujocoArm(robot)
        self._arm, self._model = arm, arm.model

    def points(self, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Joint anchors and the tool [n, 3] (m)."""
        self._arm.reset(q)
        anchors = self._arm.data.xanchor.copy()
        return np.vstack([[0.0, 0.0, 0.0], anchors, self._arm.tool_position])


def _draw(axes: Any, points: Any, trail: Any, title: str) -> None:
    axes.clear()
    axes.set(xlim=(-0.3, 0.8), ylim=(-0.55, 0.55), zlim=(0, 1.1), title=title)
    axes.set_xticklabels([]), axes.set_yticklabels([]), axes.set_zticklabels([])
    axes.view_init(elev=22, azim=-50)
    axes.set_box_aspect((1, 1, 1), zoom=1.35)
    shadow = points.copy()
    shadow[:, 2] = 0
    axes.plot(*shadow.T, color="0.8", linewidth=6, solid_capstyle="round")
    axes.plot(*points.T, color="#37474f", linewidth=9, solid_capstyle="round", solid_joinstyle="round")
    axes.plot(*points.T, color="#90a4ae", linewidth=5, solid_capstyle="round", solid_joinstyle="round")
    axes.scatter(*points[1:-1].T, color="#ff8f00", s=45, depthshade=False)
    axes.plot(*trail.T, color="tab:blue", linewidth=1.2)


def _draw_target(axes: Any, tool: Any, target: Any, success_radius_m: float) -> None:
    distance_m = float(np.linalg.norm(tool - target))
    color = "tab:green" if distance_m <= success_radius_m else "tab:red"
    axes.scatter(*target, color=color, s=110, alpha=0.8, depthshade=False)
    axes.plot([target[0]] * 2, [target[1]] * 2, [0, target[2]], color="0.7", linewidth=0.8, linestyle=":")
    axes.set_title(f"{axes.get_title()}: {100 * distance_m:.0f} cm from the target")
