"""What an operator sees while a fleet runs: one screen, drawn from the server's Status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fleet.config import GoalConfig
from fleet.messages import Status

_STATE_STYLES = {
    "episode": "green",
    "resetting": "cyan",
    "running": "green",
    "waiting": "yellow",
    "paused": "yellow",
    "fault": "bold red",
    "estopped": "bold white on red",
}
_STALE_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, beside what the server says.

    Attributes:
        run: Name of the run.
        elapsed_s: Wall time since the fleet was up (s).
        goal: When it ends by itself.
        restarts: Processes that had to be started again.
        note: One line about what is going on.
    """

    run: str
    elapsed_s: float
    goal: GoalConfig | None = None
    restarts: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def success_rate(evaluations: Sequence[Mapping[str, Any]], over: int) -> float | None:
    """Share of successes among the newest `over` noise-free episodes; None until there are as many."""
    if len(evaluations) < over:
        return None
    return sum(bool(e["success"]) for e in evaluations[-over:]) / over


def summary_line(status: Status, progress: Progress) -> str:
    """The screen in one line, for logs and pipes."""
    learner = stats_of(status, "learner")
    over = progress.goal.over_episodes if progress.goal else 20
    rate = success_rate(status.evaluations, over)
    return (
        f"{_clock(progress.elapsed_s)}  rows {status.stats.get('replay/rows_inserted', 0):,}"
        f" ({status.stats.get('replay/rows_per_s', 0):.0f}/s)"
        f"  updates {learner.get('learner/updates', 0):,} ({learner.get('learner/updates_per_s', 0):.0f}/s)"
        f"  policy v{learner.get('learner/policy_version', -1)}"
        f"  success {_percent(rate)} of the last {over} evaluations ({len(status.evaluations)} done)"
        + (f"  {progress.note}" if progress.note else "")
    )


def render(status: Status | None, progress: Progress) -> RenderableType:
    """The whole screen."""
    title = f"parallel-naf · run {progress.run} · {_clock(progress.elapsed_s)}"
    if status is None:
        return Panel(Text(progress.note or "starting …"), title=title)
    parts: list[RenderableType] = [_robots(status), _servers(status), _goal(status, progress)]
    if progress.restarts:
        restarted = ", ".join(f"{name} ×{count}" for name, count in progress.restarts.items())
        parts.append(Text(f"started again: {restarted}", style="yellow"))
    if progress.note:
        parts.append(Text(progress.note, style="yellow"))
    return Panel(Group(*parts), title=title)


def _robots(status: Status) -> Table:
    table = Table(expand=True, box=None, header_style="bold")
    for name in ("robot", "state", "policy", "age", "steps", "episodes", "success", "evaluated", "guard"):
        table.add_column(name, justify="left" if name in ("robot", "state") else "right", no_wrap=True)
    for process in sorted(status.processes, key=lambda p: str(p["process_id"])):
        if process["role"] != "robot":
            continue
        stats = process["stats"]
        note = stats.get("robot/note", "")
        table.add_row(
            str(process["process_id"]),
            _state(process)
            if not note or process["state"] == "episode"
            else _state(process) + Text(f" {note}"),
            f"v{stats.get('robot/policy_version', -1)}",
            f"{stats.get('robot/policy_age_s', -1):.1f} s",
            f"{stats.get('robot/steps', 0):,}",
            f"{stats.get('robot/episodes', 0):,}",
            _percent(stats.get("robot/success_rate")),
            _percent(stats.get("robot/evaluation_success_rate")),
            f"{stats.get('robot/interventions', 0):,}",
        )
    if not table.row_count:
        table.add_row("none yet")
    return table


def _servers(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    replay = status.stats
    table.add_row(
        Text("replay server", style="bold"),
        f"{replay.get('replay/rows_inserted', 0):,} rows",
        f"{replay.get('replay/rows_per_s', 0):.0f} rows/s",
        f"{replay.get('replay/episodes_stored', 0):,} episodes stored",
        f"{replay.get('replay/duplicates_dropped', 0)} duplicates dropped",
    )
    for process in status.processes:
        if process["role"] != "learner":
            continue
        stats = process["stats"]
        table.add_row(
            Text("learner ", style="bold") + _state(process),
            f"{stats.get('learner/updates', 0):,} updates",
            f"{stats.get('learner/updates_per_s', 0):.0f} updates/s",
            f"loss {stats.get('learner/td_loss', float('nan')):.4f}",
            f"{stats.get('learner/updates_per_row', 0):.2f} updates per row",
        )
    return table


def _goal(status: Status, progress: Progress) -> Text:
    over = progress.goal.over_episodes if progress.goal else 20
    rate = success_rate(status.evaluations, over)
    dots = Text("noise-free episodes ")
    for evaluation in status.evaluations[-over:]:
        dots.append("●" if evaluation["success"] else "○", style="green" if evaluation["success"] else "red")
    dots.append(f"  {_percent(rate)}")
    if progress.goal:
        budget = _clock(progress.goal.time_budget_s)
        dots.append(f"  goal {_percent(progress.goal.success_rate)} of the last {over}, within {budget}")
    return dots


def _state(process: Mapping[str, Any]) -> Text:
    if process["age_s"] > _STALE_S:
        return Text(f"silent for {process['age_s']:.0f} s", style="bold red")
    return Text(str(process["state"]), style=_STATE_STYLES.get(str(process["state"]), ""))


def stats_of(status: Status | None, role: str) -> Mapping[str, Any]:
    """The newest numbers of the (first) process with this role; empty if there is none."""
    for process in status.processes if status else ():
        if process["role"] == role:
            stats: Mapping[str, Any] = process["stats"]
            return stats
    return {}


def _percent(rate: float | None) -> str:
    return "–" if rate is None or rate < 0 else f"{100 * rate:.0f} %"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
