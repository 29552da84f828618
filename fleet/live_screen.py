"""What an operator sees while a fleet runs: one screen, drawn from the server's Status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.columns import Columns
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
_STOPPED = ("paused", "fault", "estopped")
_STALE_S = 5.0
_MANY_ROWS = 500  # that wait on a robot: more than a few seconds of it


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


def evaluations_that_count(goal: GoalConfig | None) -> int:
    """How many of the newest noise-free episodes the success rate is taken of."""
    return goal.over_episodes if goal else 20


def summary_line(status: Status, progress: Progress) -> str:
    """The screen in one line, for logs and pipes."""
    learner = stats_of(status, "learner")
    over = evaluations_that_count(progress.goal)
    rate = success_rate(status.evaluations, over)
    return (
        f"{_clock(progress.elapsed_s)}  rows {status.stats.get('replay/rows_inserted', 0):,}"
        f" ({status.stats.get('replay/rows_per_s', 0):.0f}/s)"
        f"  updates {learner.get('learner/updates', 0):,} ({learner.get('learner/updates_per_s', 0):.0f}/s)"
        f"  policy {_version(learner.get('learner/policy_version', -1))}"
        f"  success {_percent(rate)} of the last {over} evaluations ({len(status.evaluations)} done)"
        + "".join(f"  {text}" for text in _stopped_robots(status))
        + (f"  {progress.note}" if progress.note else "")
    )


def _version(number: int) -> str:
    """Of a policy; below 0: there is none yet."""
    return f"v{number}" if number >= 0 else "–"


def _stopped_robots(status: Status) -> list[str]:
    """Robots that go on only when a person lets them, each with its note."""
    texts = []
    for process in _of_role(status, "robot"):
        if process["state"] in _STOPPED:
            note = str(process["stats"].get("robot/note", ""))
            texts.append(f"{process['process_id']} {process['state']}" + (f": {note}" if note else ""))
    return texts


def render(status: Status | None, progress: Progress) -> RenderableType:
    """The whole screen; nothing an operator needs is cut at 80 columns."""
    title = Text(f"parallel-naf · run {progress.run} · {_clock(progress.elapsed_s)}")
    if status is None:
        return Panel(Text(progress.note or "starting …"), title=title)
    parts: list[RenderableType] = [_robots(status), *_robot_notes(status), "", _servers(status, progress)]
    if progress.restarts:
        restarted = ", ".join(f"{name} ×{count}" for name, count in progress.restarts.items())
        parts.append(Text(f"started again: {restarted}", style="yellow"))
    if progress.note:
        parts.append(Text(progress.note, style="yellow"))
    return Panel(Group(*parts), title=title)


def _of_role(status: Status, role: str) -> list[Mapping[str, Any]]:
    return sorted((p for p in status.processes if p["role"] == role), key=lambda p: str(p["process_id"]))


def _robots(status: Status) -> Table:
    table = Table(expand=True, box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    # Only a long id may be shortened, and only when there is no room for it.
    table.add_column("robot", overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for name in ("policy", "age", "steps", "episodes", "success", "eval", "guard"):
        table.add_column(name, justify="right", no_wrap=True)
    for process in _of_role(status, "robot"):
        stats = process["stats"]
        table.add_row(
            Text(str(process["process_id"])),
            _state(process),
            _version(stats.get("robot/policy_version", -1)),
            _age(stats.get("robot/policy_age_s", -1.0)),
            f"{stats.get('robot/steps', 0):,}",
            f"{stats.get('robot/episodes', 0):,}",
            _percent(stats.get("robot/success_rate")),
            _percent(stats.get("robot/evaluation_success_rate")),
            f"{stats.get('robot/interventions', 0):,}",
            style="dim" if _is_silent(process) else "",  # these numbers are old
        )
    if not table.row_count:
        table.add_row("none yet")
    return table


def _robot_notes(status: Status) -> list[Text]:
    """Why robots are not in an episode, and what they could not deliver; one line each."""
    notes = []
    for process in _of_role(status, "robot"):
        stats = process["stats"]
        waiting, dropped = stats.get("robot/unacked", 0), stats.get("robot/rows_dropped", 0)
        if dropped:
            text = f"{process['process_id']}: {dropped:,} rows LOST, its spool was full (spool.on_full)"
            notes.append(Text(text, style="bold red"))
        if waiting > _MANY_ROWS:
            text = f"{process['process_id']}: {waiting:,} rows wait in its spool"
            notes.append(Text(text, style="yellow"))
        note, silent = str(stats.get("robot/note", "")), _is_silent(process)
        if note and (silent or process["state"] != "episode"):
            name = Text(f"{process['process_id']} ")
            notes.append(name + _state(process) + Text(f"; last: {note}" if silent else f": {note}"))
    return notes


def _servers(status: Status, progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    replay = status.stats
    duplicates, lost = replay.get("replay/duplicates_dropped", 0), replay.get("replay/rows_lost", 0)
    demonstrated = replay.get("replay/demonstration_rows", 0)
    table.add_row(
        "replay server",
        _items(
            f"{replay.get('replay/rows_inserted', 0):,} rows",
            f"{replay.get('replay/rows_per_s', 0):,.0f} rows/s",
            f"{replay.get('replay/episodes_stored', 0):,} episodes stored",
            f"{demonstrated:,} demonstrated" if demonstrated else "",
            f"{duplicates:,} duplicates dropped" if duplicates else "",
            Text(f"{lost:,} rows LOST", style="bold red") if lost else "",
        ),
    )
    if error := replay.get("replay/journal_error"):
        text = f"cannot write its journal: {error}. Nothing is lost, robots keep their rows: make room"
        table.add_row("", Text(text, style="bold red"))
    for process in _of_role(status, "learner"):
        stats = process["stats"]
        table.add_row(
            "learner",
            _items(
                _state(process),
                f"{stats.get('learner/updates', 0):,} updates",
                f"{stats.get('learner/updates_per_s', 0):,.0f} updates/s",
                f"{stats.get('learner/updates_per_row', 0):.2f} updates per row",
                f"loss {stats['learner/td_loss']:.4g}" if "learner/td_loss" in stats else "",
            ),
        )
    if not _of_role(status, "learner"):
        table.add_row("learner", "none yet")
    table.add_row("noise-free", _evaluations(status, progress.goal))
    return table


def _evaluations(status: Status, goal: GoalConfig | None) -> Columns:
    over = evaluations_that_count(goal)
    dots = Text()
    for evaluation in status.evaluations[-over:]:
        dots.append("●" if evaluation["success"] else "○", style="green" if evaluation["success"] else "red")
    rate = success_rate(status.evaluations, over)
    dots.append(f" {len(status.evaluations)} of {over} episodes" if rate is None else f" {_percent(rate)}")
    if goal is None:
        return _items(dots)
    return _items(dots, f"goal {_percent(goal.success_rate)} of {over} within {_clock(goal.time_budget_s)}")


def _items(*items: str | Text) -> Columns:
    """Side by side where there is room, and on the next line, whole, where there is not."""
    texts = [item if isinstance(item, Text) else Text(item) for item in items]
    return Columns([text for text in texts if text], padding=(0, 2))


def _is_silent(process: Mapping[str, Any]) -> bool:
    return float(process["age_s"]) > _STALE_S


def _state(process: Mapping[str, Any]) -> Text:
    if _is_silent(process):
        return Text(f"silent {_age(process['age_s'], digits=0)}", style="bold red")
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


def _age(seconds: float, digits: int = 1) -> str:
    if seconds < 0:
        return "–"
    if seconds < 100:
        return f"{seconds:.{digits}f} s"
    return f"{seconds:.0f} s" if seconds < 1000 else f"{seconds / 60:.0f} min"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
