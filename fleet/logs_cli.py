"""`pnaf logs`: what runs have stored."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.bag_cli import import_bag
from fleet.cli_output import Json, escape, fail, print_json
from fleet.logs_edit_cli import logs_merge, logs_split, logs_trim
from fleet.logs_exchange_cli import logs_export, logs_import
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen
from fleet.logs_plot_cli import logs_plot
from fleet.logs_relabel_cli import logs_relabel
from fleet.logs_table import episode_table, print_summary
from fleet.logs_upgrade_cli import logs_upgrade
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from replay_server.verify import RunCheck

_SHOWN = 20

logs_app = typer.Typer(
    help="Look at the episodes of runs, edit them, take them to other tools.", no_args_is_help=True
)


class Sort(str, Enum):
    """What a list of episodes is ordered by."""

    TIME, RETURN, ROWS = "time", "return", "rows"


@logs_app.command("ls")
def logs_ls(
    logs: LogPaths,
    where: Where = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="So many episodes, the last ones of the order.", show_default="20"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every episode.")] = False,
    sort: Annotated[
        Sort, typer.Option(help="Newest, highest return or longest episodes at the bottom.")
    ] = Sort.TIME,
    as_json: Json = False,
) -> None:
    """Say what episodes there are: a summary, and the newest ones.

    With --json every episode, unless --limit says otherwise. Files that are damaged or of another program
    are named and left out.
    """
    from replay_server.log_summary import summarise

    with clear_log_errors():
        opened = open_chosen(logs, where, Console(stderr=True))
    episodes = opened.episodes  # by time
    if sort is Sort.RETURN:
        episodes = sorted(episodes, key=lambda e: e.info.metrics.get("return", -math.inf))
    elif sort is Sort.ROWS:
        episodes = sorted(episodes, key=lambda e: e.info.rows)
    if limit is None:
        limit = len(episodes) if everything or as_json else _SHOWN
    shown = episodes[len(episodes) - min(limit, len(episodes)) :]
    if as_json:
        _print_array({"path": str(e.path), **vars(e.info)} for e in shown)
        return
    console = Console()
    print_summary(summarise(e.info for e in episodes), len(opened.damaged), console)
    if shown:
        console.print(episode_table(shown))
        more = f"{len(episodes) - len(shown):,} more with --all; " if len(shown) < len(episodes) else ""
        console.print(f"[dim]{more}one: pnaf logs show {escape(str(shown[-1].path))}[/]", soft_wrap=True)


def _print_array(entries: Iterable[dict[str, Any]]) -> None:
    """A JSON array on stdout, entry by entry: there may be a hundred thousand."""
    before = "[\n"
    for entry in entries:
        sys.stdout.write(f"{before}{json.dumps(entry)}")
        before = ",\n"
    sys.stdout.write("\n]\n" if before != "[\n" else "[]\n")


@logs_app.command("show")
def logs_show(
    file: Annotated[Path, typer.Argument(metavar="EPISODE", help="One HDF5 episode.")],
    plot: Annotated[Path | None, typer.Option(help="Draw it, too: PICTURE.png.")] = None,
    as_json: Json = False,
) -> None:
    """Show one episode: its attributes and the range of every column."""
    from replay_server.episode_file import EpisodeFileError, read_episode
    from replay_server.report import describe_columns

    if file.is_dir():
        fail(f"{file}: is a folder: pnaf logs ls {file} names its episodes", EXIT_CONFIG)
    try:
        episode = read_episode(file)
    except EpisodeFileError as error:
        fail(str(error), 1)
    if plot is not None:
        logs_plot([file], out=plot)
    facts, columns = asdict(episode.info), describe_columns(episode)
    if as_json:
        print_json({"attributes": facts, "columns": columns})
        return
    table = Table(title=str(file), show_header=False)
    facts["received"] = datetime.fromtimestamp(episode.info.received_ns / 1e9).isoformat(" ", "seconds")
    for key, value in facts.items():
        if key != "metrics" and value != "":
            table.add_row(key, escape(str(value)))
    for key, value in sorted(episode.info.metrics.items()):
        table.add_row(key, f"{value:.4g}")
    for key in ("clipped", "intervened"):
        share = getattr(episode.transitions, key).mean()
        table.add_row(f"{key} steps", f"{share:.1%}")
    Console().print(table)
    table = Table("column", "unit", "min", "mean", "max")
    for column in columns:
        table.add_row(
            column["name"], column["unit"], *(f"{column[key]:.4g}" for key in ("min", "mean", "max"))
        )
    Console().print(table)


@logs_app.command("verify")
def logs_verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of such.")],
    as_json: Json = False,
) -> None:
    """Prove from the files that no row is missing, doubled or damaged; changes nothing.

    Exit status 0 only if all is well in all of them. A run that is going on may be looked at, too.
    """
    from fleet.run_verdict import check_run, print_verdict
    from replay_server.logs import run_folders

    with clear_log_errors():
        folders = list(dict.fromkeys(folder for run in runs for folder in run_folders(run)))
    checks = {}
    for folder in folders:
        checks[folder] = check = check_run(folder, Console(stderr=True))
        if not as_json:
            print_verdict(folder, check, Console())
    well = all(check.ok for check in checks.values())
    if as_json:
        found = {str(folder): _verdict(check) for folder, check in checks.items()}
        print_json({"ok": well, "runs": found} if len(found) > 1 else found.popitem()[1])
    elif len(checks) > 1:
        bad = [str(folder) for folder, check in checks.items() if not check.ok]
        text = f"[red]NOT OK: {len(bad)} of {len(checks)} runs: {escape(', '.join(bad))}[/]"
        Console().print(
            f"[green]OK: all {len(checks)} runs[/]" if well else text, highlight=False, soft_wrap=True
        )
    raise typer.Exit(0 if well else 1)


def _verdict(check: RunCheck) -> dict[str, Any]:
    return asdict(check) | {
        "ok": check.ok,
        "rows": check.rows,
        "missing": check.missing,
        "doubled": check.doubled,
        "disordered": check.disordered,
    }


COMMANDS: dict[str, Callable[..., None]] = {
    "plot": logs_plot,
    "merge": logs_merge,
    "split": logs_split,
    "trim": logs_trim,
    "relabel": logs_relabel,
    "upgrade": logs_upgrade,
    "export": logs_export,
    "import": logs_import,
    "import-bag": import_bag,
}
"""Those that have files of their own."""
for name, command in COMMANDS.items():
    logs_app.command(name)(command)
