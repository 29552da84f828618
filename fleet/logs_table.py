"""Episodes as a table for people, and what they are in a few lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fleet.cli_output import escape

if TYPE_CHECKING:
    from replay_server.episode_store import EpisodeSummary
    from replay_server.log_summary import LogSummary

_SHOWN_NAMES = 8


def print_summary(summary: LogSummary, damaged: int, console: Console) -> None:
    """How many episodes of whom, from when to when, and how they went."""
    if not summary.episodes:
        console.print("no episodes" + (f", {damaged:,} files left out" if damaged else ""), highlight=False)
        return
    first, last = (_time(ns, "%Y-%m-%d %H:%M") for ns in (summary.first_ns, summary.last_ns))
    lines = {
        "episodes": f"{summary.episodes:,} of {len(summary.runs):,} runs, {summary.rows:,} rows"
        if len(summary.runs) > 1
        else f"{summary.episodes:,}, {summary.rows:,} rows",
        "robots": _names(summary.robots),
        "tasks": _names(summary.tasks) or "not known",
        "arrived": f"{first} to {last}" if first != last else first,
        "success": f"training {summary.training}, evaluation {summary.evaluation}",
        "policies": "v{} to v{}".format(*summary.policies or ("?", "?")),
    }
    if summary.unfinished:
        lines["unfinished"] = f"{summary.unfinished:,}"
    if damaged:
        lines["left out"] = f"[yellow]{damaged:,} damaged or foreign files[/]"
    for name, text in lines.items():
        console.print(f"[bold]{name:<10}[/] {text}", highlight=False, soft_wrap=True)


def episode_table(episodes: Sequence[EpisodeSummary]) -> Table:
    """One line each; columns in which nothing differs are left out."""
    infos = [episode.info for episode in episodes]
    several_runs = len({info.run_id for info in infos}) > 1
    several_tasks = len({info.task for info in infos}) > 1
    heads = ["time", *["run"] * several_runs, *["task"] * several_tasks, "robot", "boot-episode", "rows"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in (*heads, "policy", "eval", "end", "ok", "return"):
        right = name in ("rows", "policy", "return")
        table.add_column(
            name,
            no_wrap=name not in ("run", "robot"),
            overflow="fold",
            justify="right" if right else "left",
        )
    for info in infos:
        table.add_row(
            _time(info.received_ns),
            *[escape(info.run_id)] * several_runs,
            *[escape(info.task)] * several_tasks,
            escape(info.robot_id),
            f"{escape(info.boot_id)}-{info.episode:06d}",
            str(info.rows),
            f"v{info.policy_version}",
            "yes" if info.evaluation else "",
            escape(info.end) or "unfinished",
            "[green]yes[/]" if info.success else "no",
            f"{info.metrics.get('return', math.nan):.2f}",
        )
    return table


def _time(received_ns: int, form: str = "%m-%d %H:%M") -> str:
    return datetime.fromtimestamp(received_ns / 1e9).strftime(form)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return escape(", ".join(names[:_SHOWN_NAMES]) + more)
