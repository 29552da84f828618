"""What a person sees while logs are replayed: how far each robot is, how fast, and how long it takes yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from fleet.cli_output import escape

if TYPE_CHECKING:
    from robot_nodes.log_player import LogPlayer

_MANY_ROBOTS = 12  # more do not fit a screen: one line for all


@dataclass(slots=True)
class _Line:
    """Sums over the robots of one line: rows in all, there, and come now; time left (s), NaN if unknown."""

    total: int = 0
    rows: int = 0
    now: int = 0
    left_s: float = 0.0
    held: bool = False

    def text(self, elapsed_s: float) -> str:
        rate = self.now / max(elapsed_s, 1e-3)
        left_s = self.left_s
        if math.isnan(left_s) and rate:
            left_s = (self.total - self.rows) / rate
        text = f"{self.rows:,} of {self.total:,} rows  {rate:,.0f}/s"
        if self.rows == self.total or math.isnan(left_s):
            return text
        return text + ("  held: pnaf fleet resume" if self.held else f"  {_clock(left_s)} left")


class ReplayView:
    """One line per robot on stderr; one for all if they are many."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._began_s = math.nan

    def note(self, text: str) -> None:
        """Say something above the lines."""
        self._progress.console.print(escape(text), highlight=False, soft_wrap=True)

    def show(self, player: LogPlayer) -> None:
        """Draw how far each robot is, once that is known."""
        if not all(robot.located for robot in player.robots):
            return
        now_s = self._progress.get_time()
        if math.isnan(self._began_s):
            self._began_s = now_s
        lines: dict[str, _Line] = {}
        for robot in player.robots:
            name = robot.plan.robot_id if len(player.robots) <= _MANY_ROBOTS else "all robots"
            line = lines.setdefault(name, _Line())
            line.total += robot.plan.rows
            line.rows += robot.rows_durable
            line.now += robot.rows_durable - robot.rows_before
            line.left_s = max(player.left_s(robot), line.left_s)  # in this order NaN stays
            line.held |= robot.hold.held
        for name, line in lines.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(escape(name), total=line.total, text="")
            text = line.text(now_s - self._began_s)
            self._progress.update(self._tasks[name], completed=line.rows, text=text)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def replay_view(console: Console) -> Iterator[ReplayView]:
    """A view while a replay runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield ReplayView(progress)
