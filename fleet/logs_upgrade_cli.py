"""`pnaf logs upgrade`: files of older versions, rewritten in place."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console

from fleet.cli_output import Json, escape, print_json
from fleet.logs_options import LogPaths, clear_log_errors, open_chosen, progress_bar, tell_damaged


def logs_upgrade(logs: LogPaths, as_json: Json = False) -> None:
    """Bring episode files of older parallel-naf to the newest schema version, in place.

    Rows stay as they are, bit for bit: each file is written anew beside the old one, compared with it, and
    only then takes its place. Old files can be read without this, too. Exit status 1 if a file could not be
    upgraded; the others are.
    """
    from replay_server.episode_file import SCHEMA_VERSION
    from replay_server.upgrade import upgrade

    errors = Console(stderr=True)
    with clear_log_errors():
        found = open_chosen(logs, None, errors)
        known = len(found.damaged)
        with progress_bar(errors, "upgrading files") as on_progress:
            result = upgrade(found, on_progress)
        found.damaged.update(result.failed)
        tell_damaged(found, errors, known)
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, **asdict(result)})
    else:
        line = (
            f"{len(result.upgraded):,} files upgraded to schema version {SCHEMA_VERSION}, "
            f"{result.current:,} had it already, {len(result.failed):,} could not be read"
        )
        Console().print(escape(line), highlight=False, soft_wrap=True)
    raise typer.Exit(1 if result.failed else 0)
