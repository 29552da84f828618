"""`pnaf logs`: what a run has stored."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleet.bag_cli import import_bag
from fleet.cli_output import Json, fail, print_json
from fleet.logs_edit_cli import edit_app
from fleet.logs_exchange_cli import add_exchange_commands
from fleet.logs_relabel_cli import relabel_app
from fleet.logs_upgrade_cli import upgrade_app
from fleet.ready import EXIT_CONFIG

logs_app = typer.Typer(help="Look at the episodes of a run.", no_args_is_help=True)
logs_app.add_typer(edit_app)  # its commands stand beside these
logs_app.add_typer(relabel_app)
logs_app.add_typer(upgrade_app)
logs_app.command("import-bag")(import_bag)


@logs_app.command("ls")
def logs_ls(run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """List the stored episodes."""
    from replay_server.episode_store import list_episodes

    if not run.is_dir():
        fail(f"{run}: no such run folder", EXIT_CONFIG)
    episodes = list_episodes(run)
    if as_json:
        print_json([{"path": e.path, **asdict(e.info)} for e in episodes])
        return
    table = Table(
        title=f"{run}: {len(episodes)} episodes, {sum(e.info.rows for e in episodes):,} rows",
        caption="one episode: pnaf logs show RUN/episodes/ROBOT/BOOT-EPISODE.h5",
        box=None,
    )
    for name in ("robot", "boot", "episode", "rows", "policy", "eval", "end", "ok", "return"):
        table.add_column(name, no_wrap=True)
    for info in (episode.info for episode in episodes):
        table.add_row(
            info.robot_id,
            info.boot_id,
            f"{info.episode:06d}",
            str(info.rows),
            f"v{info.policy_version}",
            "yes" if info.evaluation else "",
            info.end or "unfinished",
            "[green]yes[/]" if info.success else "no",
            f"{info.metrics.get('return', float('nan')):.2f}",
        )
    Console().print(table)


@logs_app.command("show")
def logs_show(file: Annotated[Path, typer.Argument(help="One HDF5 episode.")], as_json: Json = False) -> None:
    """Show one episode: its attributes and the range of every column."""
    from replay_server.episode_file import EpisodeFileError, read_episode
    from replay_server.report import describe_columns

    try:
        episode = read_episode(file)
    except EpisodeFileError as error:
        fail(str(error), 1)
    facts, columns = asdict(episode.info), describe_columns(episode)
    if as_json:
        print_json({"attributes": facts, "columns": columns})
        return
    table = Table(title=str(file), show_header=False)
    for key, value in facts.items():
        if key != "metrics":
            table.add_row(key, str(value))
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
def logs_verify(run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """Prove from the files that no row is missing, doubled or damaged; changes nothing.

    Exit status 0 only if all is well. A run that is going on may be looked at, too.
    """
    from fleet.run_verdict import check_run, print_verdict

    if not run.is_dir():
        fail(f"{run}: no such run folder", EXIT_CONFIG)
    check = check_run(run, Console(stderr=True))
    if as_json:
        print_json(
            asdict(check)
            | {"ok": check.ok, "rows": check.rows, "missing": check.missing}
            | {"doubled": check.doubled, "disordered": check.disordered}
        )
    else:
        print_verdict(run, check, Console())
    raise typer.Exit(0 if check.ok else 1)


add_exchange_commands(logs_app)
