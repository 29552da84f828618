"""One episode as a picture: every joint's position, velocity and action over time, then all else it saw."""

from __future__ import annotations

from typing import Any

import numpy as np

from fleet.messages import Array
from fleet.spaces import JOINT_COMMAND, Space
from replay_server.episode_file import Episode
from replay_server.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    Drawing,
    Floats,
    new_figure,
    short,
)

_LINES = (BLUE, RED, GREEN, ORANGE, SKY, PINK)
_MOST_ACTIONS = 16
_MOST_GROUPS = 24
_REWARD = "the task's reward"
_CHANGED = 0.01
"""An action that the guard changed by less looks the same."""


def draw_episode(episode: Episode, name: str, title: str) -> Drawing:
    """Traces of one episode.

    Args:
        episode: Which.
        name: The picture's, without suffix.
        title: What is special about it.
    """
    spec, rows = episode.spec, episode.transitions
    names = spec.action.names[:_MOST_ACTIONS]
    joints = [action.removesuffix(JOINT_COMMAND) for action in names]
    of_joints = {f"{joint}/{what}" for joint in joints for what in ("position", "velocity")}
    groups = _groups(spec.observation, of_joints)
    others = [_REWARD, *groups]
    has_joints = bool(of_joints & set(spec.observation.names))
    mosaic = [[f"{joint} {what}" for what in ("position", "velocity", "action")] for joint in joints]
    if not has_joints:
        actions = [f"{joint} action" for joint in joints]
        mosaic = [_padded(actions[i : i + 3]) for i in range(0, len(actions), 3)]
    mosaic += [_padded(others[i : i + 3]) for i in range(0, len(others), 3)]
    height = 1.0 + 1.25 * len(mosaic)
    # By hand: so many axes take a second to be laid out by themselves.
    figure, axes = new_figure(height, mosaic, layout=None, sharex=True, empty_sentinel=".")
    top, bottom = 1 - 0.55 / height, 0.55 / height
    figure.subplots_adjust(left=0.065, right=0.985, top=top, bottom=bottom, hspace=0.42, wspace=0.24)

    start = (rows.stamp_ns - rows.stamp_ns[0]) / 1e9
    step = float(np.median(np.diff(start))) if len(start) > 1 else 1.0
    ends = np.append(start, start[-1] + step)
    # What followed the last row is what the episode ended in.
    seen = np.concatenate([rows.observation, rows.next_observation[-1:]])
    for i, joint in enumerate(joints):
        if has_joints:
            for what in ("position", "velocity"):
                _joint(axes[f"{joint} {what}"], spec.observation, f"{joint}/{what}", ends, seen)
        axis = axes[f"{joint} action"]
        axis.stairs(
            rows.policy_action[:, i], ends, baseline=None, color=RED, linewidth=0.9, label="asked for"
        )
        axis.stairs(rows.action[:, i], ends, baseline=None, color=BLUE, linewidth=1.3, label="executed")
        axis.set_ylim(-1.15, 1.15)
        changed = np.abs(rows.action[:, i] - rows.policy_action[:, i]) > _CHANGED
        _shade(axis, ends, changed, ORANGE, 0.25, "the guard changed this action")
        _title(axis, f"{short(joint)} action", "1")
    axes[_REWARD].stairs(rows.reward, ends, baseline=None, color=BLACK, linewidth=1.2)
    _title(axes[_REWARD], f"reward, sum {np.sum(rows.reward, dtype=np.float64):.4g}", "")
    for group, dims in groups.items():
        for dim, colour in zip(dims, _LINES, strict=False):
            label = spec.observation.names[dim].removeprefix(f"{group}/")
            axes[group].plot(ends, seen[:, dim], color=colour, linewidth=1.2, label=label)
        _title(axes[group], group, spec.observation.units[dims[0]])
        axes[group].legend(
            fontsize=7, ncols=3, frameon=False, loc="best", handlelength=1.0, columnspacing=0.8
        )
    for column in zip(*mosaic, strict=True):
        lowest = [name for name in column if name != "."][-1]
        axes[lowest].tick_params(labelbottom=True)
    for axis in axes.values():
        axis.tick_params(labelsize=7.5)
        axis.margins(x=0.01)
        _shade(axis, ends, rows.intervened, PINK, 0.35, "a person moved it")
    figure.supxlabel("time from the episode's first row (s)", fontsize=10, y=0.1 / height)
    handles: dict[str, Any] = {}
    for axis in (axes[f"{joints[0]} action"], next(iter(axes.values()))):
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="upper left", ncols=5, fontsize=8.5, frameon=False)
    return Drawing(name, title, _caption(episode), figure)


def _groups(space: Space, without: set[str]) -> dict[str, list[int]]:
    """Dimensions by what their names have before the slash; only so many as colours can tell apart."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(space.names):
        if name not in without:
            group = groups.setdefault(name.rpartition("/")[0] or name, [])
            if len(group) < len(_LINES):
                group.append(i)
    return dict(list(groups.items())[:_MOST_GROUPS])


def _padded(names: list[str]) -> list[str]:
    return names + ["."] * (3 - len(names))


def _joint(axis: Any, space: Space, name: str, times: Floats, seen: Array) -> None:
    if name not in space.names:
        axis.set_visible(False)
        return
    dim = space.names.index(name)
    axis.plot(times, seen[:, dim], color=BLUE, linewidth=1.3)
    for bound in (space.low[dim], space.high[dim]):
        axis.axhline(bound, color=BLACK, linewidth=0.8, linestyle="--", label="limit")
    _title(axis, short(name.replace("/", " ")), space.units[dim])


def _title(axis: Any, text: str, unit: str) -> None:
    axis.set_title(f"{text} ({unit})" if unit not in ("", "1") else text, fontsize=8, loc="left", pad=3)


def _shade(axis: Any, ends: Floats, flags: Array, colour: str, alpha: float, label: str) -> None:
    """Colour the background of the steps with a flag."""
    if flags.any():
        padded = np.concatenate([[False], flags, [False]]).astype(np.int8)
        edges = np.flatnonzero(np.diff(padded))
        for first, after in zip(edges[::2], edges[1::2], strict=True):
            axis.axvspan(
                ends[first], ends[after], color=colour, alpha=alpha, linewidth=0, label=label, zorder=0
            )
            label = "_"


def _caption(episode: Episode) -> str:
    info = episode.info
    facts = [
        f"{info.robot_id}, boot {info.boot_id}, episode {info.episode}",
        f"{info.rows} steps",
        f"policy v{info.policy_version}",
        "evaluation" if info.evaluation else "with exploration",
        f"end: {info.end.replace('_', ' ') or 'unfinished'}",
        "success" if info.success else "no success",
    ]
    return ", ".join(facts) + ". Dashed: bounds of the observation."
