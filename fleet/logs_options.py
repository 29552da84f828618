"""Arguments of the commands that take logs, and how they open them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.cli_output import clear_errors, fail, progress_on, tell
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
    with progress_bar(console, "reading files that no catalog knows yet") as on_progress:
        logs = open_logs(paths, selection, on_progress)
    tell_damaged(logs, console)
    return logs


def tell_damaged(logs: Logs, console: Console, known: int = 0) -> None:
    """Name the files that could not be read, beyond the first `known`."""
    damaged = list(logs.damaged.items())[known:]
    for path, reason in damaged[:_SHOWN]:
        tell(console, "left out", f"{path}: {reason}")
    if len(damaged) > _SHOWN:
        tell(console, "left out", f"{len(damaged) - _SHOWN} more such files")


def tell_copies(logs: Logs, console: Console) -> None:
    """Say how many episodes count twice or more."""
    if logs.copies:
        tell(
            console,
            "note",
            f"{logs.copies} episodes are there more than once, and each copy counts; "
            "pnaf logs merge keeps one",
        )


@contextmanager
def clear_log_errors() -> Iterator[None]:
    """As `clear_errors`, and for what is wrong with logs, conditions or the disk."""
    from replay_server.episode_file import EpisodeFileError
    from replay_server.logs import LogsError
    from replay_server.selection import SelectionError

    with clear_errors():
        try:
            yield
        except (LogsError, SelectionError) as error:
            fail(str(error), EXIT_CONFIG)
        except (OSError, EpisodeFileError) as error:
            fail(str(error), 1)


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar to be told of what is done and the total."""
    with progress_on(console) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
