"""A GIF of the learned arm in its scene: drawn with Matplotlib, so it needs no display and no GPU driver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.config import DoorTaskConfig, TaskConfig
from fleet.pick_place_config import PickPlaceTaskConfig
from fleet.robot_config import RobotConfig
from fleet.scene_config import Door, HangingObject, SceneBox, SceneConfig
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.sim.rollout import EpisodeResult
from robot_nodes.tasks.door_geometry import DoorGeometry

_FRAMES_PER_S = 10
_HOLD_FRAMES = 6
# Corners of a cube, one after another along its edges, until all have been drawn.
_CUBE_OUTLINE = [
    *((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)),
    *((1, 0, 1), (1, 1, 1), (1, 1, 0), (1, 1, 1), (0, 1, 1), (0, 1, 0), (0, 1, 1), (0, 0, 1)),
]


def film_episodes(
    robot: RobotConfig,
    task: TaskConfig,
    episodes: Sequence[EpisodeResult],
    path: Path,
) -> None:
    """Write the episodes, one after another in robot time, as an animated GIF.

    Each shows the arm, the tool's trail, the scene and, where the task's metrics name one (`target_x_m` …),
    the target. What is not yet as it should be is red, then green.
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
        poses = [chain.pose(q) for q in episode.joints]
        for tick in [*range(0, len(poses), stride), len(poses) - 1]:
            links, fingers = poses[tick]
            trail = np.array([points[-1] for points, _ in poses[: tick + 1]])
            _draw(axes, links, fingers, trail, f"episode {number}")
            if task.scene is not None:
                _draw_scene(axes, task.scene, episode.scene[tick])
            if isinstance(task, DoorTaskConfig):
                _tell_angle(axes, episode.scene[tick, 0], task.success_angle_rad)
            else:
                moved = episode.scene[tick] if isinstance(task, PickPlaceTaskConfig) else trail[-1]
                target = np.array([episode.metrics[f"target_{axis}_m"] for axis in "xyz"])
                _draw_target(axes, moved, target, task.success_radius_m)
            canvas.draw()
            frames.append(
                Image.fromarray(np.asarray(canvas.buffer_rgba())).convert(
                    "P", palette=Image.Palette.ADAPTIVE, colors=64
                )
            )
        frames += [frames[-1]] * (_HOLD_FRAMES - 1)
    plt.close(figure)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // _FRAMES_PER_S, loop=0)


class _Chain:
    """Where the arm is: the joints from base to tool; the fingers, about joints that lead elsewhere."""

    def __init__(self, robot: RobotConfig) -> None:
        arm = MujocoArm(robot)
        self._arm, model = arm, arm.model
        body, on_the_way = model.body(robot.tool_link).id, set()
        while body:
            on_the_way.add(body)
            body = model.body_parentid[body]
        self._links = [i for i in range(model.njnt) if model.jnt_bodyid[i] in on_the_way]
        self._fingers = [
            (i, model.body_geomadr[model.jnt_bodyid[i]])
            for i in range(model.njnt)
            if i not in self._links and model.body_geomnum[model.jnt_bodyid[i]]
        ]

    def pose(self, q: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float64]]]:
        """Joint anchors and the tool [n, 3] (m); the ends of each finger [2, 3] (m)."""
        self._arm.reset(q)
        tool, anchors, middles = self._arm.tool_position, self._arm.data.xanchor, self._arm.data.geom_xpos
        # A finger ends as far beyond the middle of its shape as its joint is before that.
        fingers = [np.array([anchors[i], 2.0 * middles[geom] - anchors[i]]) for i, geom in self._fingers]
        return np.vstack([[0.0, 0.0, 0.0], anchors[self._links], tool]), fingers


def _draw(axes: Any, points: Any, fingers: Any, trail: Any, title: str) -> None:
    axes.clear()
    axes.title.set_color("black")
    axes.set(xlim=(-0.3, 0.8), ylim=(-0.55, 0.55), zlim=(0, 1.1), title=title)
    axes.set_xticklabels([]), axes.set_yticklabels([]), axes.set_zticklabels([])
    axes.view_init(elev=22, azim=-50)
    axes.set_box_aspect((1, 1, 1), zoom=1.35)
    shadow = points.copy()
    shadow[:, 2] = 0
    axes.plot(*shadow.T, color="0.8", linewidth=6, solid_capstyle="round")
    if fingers:
        points = points[:-1]  # the tool is a point in the air between them
        for finger in fingers:
            axes.plot(*np.vstack([points[-1:], finger]).T, color="#37474f", linewidth=3)
    axes.plot(*points.T, color="#37474f", linewidth=9, solid_capstyle="round", solid_joinstyle="round")
    axes.plot(*points.T, color="#90a4ae", linewidth=5, solid_capstyle="round", solid_joinstyle="round")
    axes.scatter(*points[1 : None if fingers else -1].T, color="#ff8f00", s=45, depthshade=False, zorder=3)
    axes.plot(*trail.T, color="tab:blue", linewidth=1.2)


def _draw_target(axes: Any, moved: Any, target: Any, success_radius_m: float) -> None:
    distance_m = float(np.linalg.norm(moved - target))
    color = "tab:green" if distance_m <= success_radius_m else "tab:red"
    axes.scatter(*target, color=color, s=110, alpha=0.8, depthshade=False)
    axes.plot([target[0]] * 2, [target[1]] * 2, [0, target[2]], color="0.7", linewidth=0.8, linestyle=":")
    axes.set_title(f"{axes.get_title()}: {100 * distance_m:.0f} cm from the target")


def _tell_angle(axes: Any, hinge_rad: float, success_rad: float) -> None:
    color = "tab:green" if hinge_rad >= success_rad else "tab:red"
    axes.set_title(f"{axes.get_title()}: door {math.degrees(max(hinge_rad, 0.0)):.0f}° open", color=color)


def _draw_scene(axes: Any, scene: SceneConfig, positions: npt.NDArray[np.float64]) -> None:
    """Its boxes as outlines, its door at these angles (rad), seen from the robot's side, its object there."""
    for box in scene.boxes:
        _draw_box(axes, box)
    if scene.door is not None:
        axes.view_init(elev=22, azim=-140)
        axes.computed_zorder = False  # the arm is before the door, whatever the middles of both say
        _draw_door(axes, scene.door, *positions)
    if scene.object is not None:
        _draw_object(axes, scene.object, positions)


def _draw_box(axes: Any, box: SceneBox) -> None:
    cos, sin = math.cos(box.yaw_rad), math.sin(box.yaw_rad)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    unit = np.array(_CUBE_OUTLINE, float) - 0.5
    axes.plot(*(box.center_m + unit * box.size_m @ turn.T).T, color="0.75", linewidth=0.8, zorder=0)


def _draw_door(axes: Any, door: Door, hinge_rad: float, handle_rad: float) -> None:
    geometry = DoorGeometry(door, 0.0)
    across, up = 0.5 * door.width_m * geometry.along, np.array([0.0, 0.0, 0.5 * door.height_m])
    corners = [[geometry.panel_center + a * across + b * up for a in (-1, 1)] for b in (-1, 1)]
    panel = np.array([[geometry.turned(corner, hinge_rad) for corner in row] for row in corners])
    axes.plot_surface(*panel.transpose(2, 0, 1), color="#a1887f", edgecolor="#5d4037", alpha=0.5, zorder=0)
    level = geometry.lever_end - geometry.lever_start
    lever = math.cos(handle_rad) * level - math.sin(handle_rad) * door.handle.lever_m * np.array([0, 0, 1])
    ends = (geometry.rosette, geometry.lever_start, geometry.lever_start + lever)
    handle = np.array([geometry.turned(end, hinge_rad) for end in ends])
    axes.plot(*handle.T, color="#212121", linewidth=4, solid_capstyle="round", zorder=1)


def _draw_object(axes: Any, thing: HangingObject, middle: npt.NDArray[np.float64]) -> None:
    x, y, z = middle
    top = z + 0.5 * thing.length_m
    axes.plot([x, x], [y, y], [z - 0.5 * thing.length_m, top], color="#c62828", linewidth=5)
    hook = thing.start_m[2] + thing.string_m  # nearly: it is drawn anew for each episode
    axes.plot([x, thing.start_m[0]], [y, thing.start_m[1]], [top, hook], color="0.6", linewidth=0.8)
