"""Arguments of the commands that take logs, and how they open them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from fleet.cli_output import clear_errors, escape, fail
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from replay_server.logs import Logs

_SHOWN = 5

LogPaths = Annotated[
    list[Path],
    typer.Argument(metavar="LOGS...", help="Run folders, folders of such, or single HDF5 episodes."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=VALUE",
        help="Only some episodes: robot=robot1,robot2 task=reach run=ID since=2026-11-30T14:00 until=… "
        "success=yes policy=10..50 evaluation=no end=success rows=20.. return=0..; repeatable: all hold.",
    ),
]


def open_chosen(paths: list[Path], where: list[str] | None, console: Console) -> Logs:
    """Find the episodes asked for, showing progress; files that cannot be read are told and left out.

    Raises:
        LogsError: A path holds no logs.
        SelectionError: A condition cannot be understood.
    """
    from replay_server.logs import open_logs
    from replay_server.selection import Selection

    selection = Selection.parse(where or ())
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading files that no catalog knows yet", total=None)
        logs = open_logs(
            paths, selection, lambda done, total: progress.update(task, completed=done, total=total)
        )
    tell_damaged(logs, console)
    return logs


def tell_damaged(logs: Logs, console: Console, known: int = 0) -> None:
    """Name the files that could not be read, beyond the first `known`."""
    damaged = list(logs.damaged.items())[known:]
    for path, reason in damaged[:_SHOWN]:
        text = f"[yellow]left out:[/] {escape(str(path))}: {escape(reason)}"
        console.print(text, highlight=False, soft_wrap=True)
    if len(damaged) > _SHOWN:
        console.print(f"[yellow]left out:[/] {len(damaged) - _SHOWN} more such files", highlight=False)


@contextmanager
def clear_log_errors() -> Iterator[None]:
    """As `clear_errors`, and for what is wrong with logs or conditions."""
    from replay_server.logs import LogsError
    from replay_server.selection import SelectionError

    with clear_errors():
        try:
            yield
        except (LogsError, SelectionError) as error:
            fail(str(error), EXIT_CONFIG)
