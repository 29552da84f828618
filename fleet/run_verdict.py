"""`pnaf logs verify`: look at the files of a run, and say what was found to a person.

Totals first, then one line per boot of a robot, then what is wrong and what to do about it.
As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.cli_output import progress_on
from fleet.run_folder import RunFolder

if TYPE_CHECKING:
    from replay_server.spans import Span
    from replay_server.verify import RunCheck, StreamCheck

_SHOWN_SPANS = 5


def check_run(run: Path, console: Console) -> RunCheck:
    """Look at every row of a run, those in the spools below its folder included; shows progress."""
    from replay_server.verify import verify_run
    from robot_nodes.spool_file import read_spool

    run_id = RunFolder(run).known_run_id()
    boots = [boot for boot in read_spool(run / "spool") if boot.run_id in ("", run_id)]
    with progress_on(console) as progress:
        task = progress.add_task("reading episode files", total=None)
        check = verify_run(
            run,
            {(boot.robot_id, boot.boot_id): boot.spans for boot in boots},
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    for boot in boots:
        if boot.damaged:
            check.damaged[str(run / "spool" / boot.robot_id / boot.boot_id)] = (
                f"{boot.damaged} damaged stretches in this spool; start the robot: it keeps them aside and "
                "sends what is whole"
            )
    return check


def print_verdict(run: Path, check: RunCheck, console: Console) -> None:
    """Print the whole verdict."""
    streams = check.streams
    robots = len({stream.robot_id for stream in streams})
    where = (
        f"{sum(s.in_episodes for s in streams):,} in {check.episodes:,} episode files, "
        f"{sum(s.in_journal for s in streams):,} in the server's journal only, "
        f"{sum(s.in_spool for s in streams):,} waiting in robots' spools"
    )
    lines = [
        f"[bold]{escape(str(run))}[/]: {check.rows:,} rows of {robots} robots in {len(streams)} boots",
        where,
        _verdict(check),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if streams:
        console.print(_table(streams))
        console.print("[dim]journal, spool: rows that are only there; open: episodes without an end[/]")
    for problem in (*_row_problems(streams), *(f"{path}: {why}" for path, why in check.damaged.items())):
        console.print(f"[red]✗ {escape(problem)}[/]", highlight=False, soft_wrap=True)
    for note in check.notes:
        console.print(f"[yellow]• {escape(note)}[/]", highlight=False, soft_wrap=True)


def _verdict(check: RunCheck) -> str:
    if check.ok:
        return "[bold green]OK: nothing is missing, doubled, out of order or damaged[/]"
    counts = {
        "rows missing": check.missing,
        "rows doubled": check.doubled,
        "rows out of order": check.disordered,
        "files damaged": len(check.damaged),
    }
    return f"[bold red]NOT OK: {', '.join(f'{n:,} {what}' for what, n in counts.items() if n)}[/]"


def _table(streams: Sequence[StreamCheck]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("robot", overflow="fold")
    table.add_column("boot", overflow="fold")
    for name in ("rows", "seq", "journal", "spool", "open", "missing", "doubled"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in streams:
        problems = (sum(b - a + 1 for a, b in spans) for spans in (s.missing, s.doubled))
        table.add_row(
            s.robot_id,
            s.boot_id,
            f"{s.rows:,}",
            f"{s.first_seq}…{s.last_seq}",
            str(s.in_journal or ""),
            str(s.in_spool or ""),
            str(len(s.unfinished) or ""),
            *(f"[bold red]{count:,}[/]" if count else "" for count in problems),
        )
    return table


def _row_problems(streams: Sequence[StreamCheck]) -> list[str]:
    problems = []
    for s in streams:
        name = f"{s.robot_id} boot {s.boot_id}"
        if s.missing:
            problems.append(
                f"{name}: seq {_text(s.missing)} missing. If that robot's spool is on another computer, it "
                "may still have them: start the replay server and the robot, then verify again"
            )
        if s.doubled:
            problems.append(
                f"{name}: seq {_text(s.doubled)} in more than one episode file. Were files copied into the "
                "run folder? Move the copies out of it"
            )
        if s.disordered:
            problems.append(
                f"{name}: seq {_text(s.disordered)} stored out of order. Please report it with the logs"
            )
    return problems


def _text(found: Sequence[Span]) -> str:
    shown = ", ".join(str(a) if a == b else f"{a}…{b}" for a, b in found[:_SHOWN_SPANS])
    return shown + (f" and {len(found) - _SHOWN_SPANS} more stretches" if len(found) > _SHOWN_SPANS else "")
