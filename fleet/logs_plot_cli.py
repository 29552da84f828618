"""`pnaf logs plot`: logs as pictures, or as one page for a browser."""

from __future__ import annotations

import importlib.metadata
import shlex
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.cli_output import escape, fail, progress_on
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen, tell_damaged
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from replay_server.episode_store import EpisodeSummary
    from replay_server.logs import Logs

_PAGE = (".html", ".htm")
_SHOWN = 4


def logs_plot(
    logs: LogPaths,
    out: Annotated[
        Path | None,
        typer.Option(
            help="REPORT.html: one page with everything in it. A folder: the pictures as PNG. "
            "Of one episode also PICTURE.png.",
            show_default="logs.html; EPISODE.png of one episode",
        ),
    ] = None,
    where: Where = None,
    episode: Annotated[
        list[Path] | None,
        typer.Option(
            help="HDF5 episode to draw whole, instead of the best, the worst and the newest; repeatable."
        ),
    ] = None,
) -> None:
    """Draw what logs are worth: returns, success, interventions, guard, old policies, actions, episodes.

    Of a single episode: its joints, actions and rewards over time.
    """
    started, console = time.monotonic(), Console(stderr=True)
    alone = len(logs) == 1 and logs[0].is_file() and not episode
    out = out or Path(f"{logs[0].stem}.png" if alone else "logs.html")
    if out.suffix == ".png" and not alone:
        fail(
            f"--out {out}: one picture can show one episode only: name a REPORT.html or a folder", EXIT_CONFIG
        )
    if out.suffix not in (*_PAGE, ".png", ""):
        fail(f"--out {out}: must be REPORT.html, or a folder for PNG files", EXIT_CONFIG)
    with clear_log_errors():
        opened = open_chosen(logs, where, console)
        known = len(opened.damaged)
        examples = [_episode(path, console) for path in episode or ()]
        title = f"Logs of {', '.join(map(str, logs[:_SHOWN]))}{', …' if len(logs) > _SHOWN else ''}"
        try:
            if out.suffix == ".png":
                files = _draw_one(opened, out)
            else:
                files = _draw_all(opened, examples, out, title, _command(logs, where, episode, out), console)
        except OSError as error:
            fail(f"{out} cannot be written: {error}", 1)
        except ImportError as error:
            fail(f"pictures need matplotlib ({error}): pip install matplotlib", 1)
    tell_damaged(opened, console, known)
    size = sum(file.stat().st_size for file in files)
    console.print(
        f"{escape(str(out))}: {len(files)} {'files' if len(files) > 1 else 'file'}, {size / 1e6:.1f} MB, "
        f"{opened.rows:,} rows in {time.monotonic() - started:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _draw_one(logs: Logs, out: Path) -> list[Path]:
    """Draw the one episode of `logs` as a PNG file.

    Raises:
        LogsError: There is none.
        EpisodeFileError: Its file is damaged.
    """
    from replay_server.episode_file import write_atomically
    from replay_server.episode_plot import draw_episode
    from replay_server.logs import LogsError

    if not logs.episodes:
        raise LogsError(f"{out} is not drawn: the episode cannot be read, or does not meet the conditions")
    summary = logs.episodes[0]
    picture = draw_episode(logs.episode(summary), out.stem, str(summary.path)).png()
    write_atomically(out, partial(Path.write_bytes, data=picture))
    return [out]


def _draw_all(
    logs: Logs, chosen: Sequence[EpisodeSummary], out: Path, title: str, command: str, console: Console
) -> list[Path]:
    """Write the page, or the pictures; returns the files."""
    from replay_server.episode_file import write_atomically
    from replay_server.log_drawings import draw_logs, examples, read_statistics
    from replay_server.log_findings import findings
    from replay_server.log_report import ReportFacts, report_html
    from replay_server.log_summary import summarise
    from replay_server.robot_numbers import robots

    with progress_on(console) as progress:
        task = progress.add_task("reading episodes", total=len(logs.episodes))
        statistics = read_statistics(logs, lambda done, _: progress.update(task, completed=done))
        progress.update(task, description="drawing", total=None)
        by_robot = robots(statistics)
        shown = [("", summary) for summary in chosen] or examples(logs, statistics)
        drawings = draw_logs(logs, statistics, by_robot, shown)
        if out.suffix not in _PAGE:
            files = []
            for drawing in drawings:
                files.append(out / f"{drawing.name}.png")
                write_atomically(files[-1], partial(Path.write_bytes, data=drawing.png()))
            return files
        facts = ReportFacts(
            title=title,
            summary=summarise(episode.info for episode in statistics.episodes),
            statistics=statistics,
            robots=by_robot,
            findings=findings(statistics, by_robot, len(logs.damaged)),
            damaged=logs.damaged,
            made={
                "command": command,
                "in": str(Path.cwd()),
                "at": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
                "by": f"parallel-naf {_version()}",
            },
        )
        page = report_html(facts, drawings)
        write_atomically(out, partial(Path.write_bytes, data=page.encode()))
        return [out]


def _episode(path: Path, console: Console) -> EpisodeSummary:
    opened = open_chosen([path], None, console)
    if not path.is_file() or not opened.episodes:
        fail(f"--episode {path}: must be one HDF5 episode", EXIT_CONFIG)
    return opened.episodes[0]


def _command(logs: list[Path], where: list[str] | None, episodes: list[Path] | None, out: Path) -> str:
    words = ["pnaf", "logs", "plot", *map(str, logs), "--out", str(out)]
    for option, values in (("--where", where), ("--episode", episodes)):
        for value in values or ():
            words += [option, str(value)]
    return shlex.join(words)


def _version() -> str:
    try:
        return importlib.metadata.version("parallel-naf")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
