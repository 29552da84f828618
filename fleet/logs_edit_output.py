"""What the commands that make new logs have in common: their config, progress, errors and last line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fleet.cli_output import escape, fail, print_json, tell
from fleet.config import ConfigError, FleetConfig
from fleet.ready import EXIT_CONFIG
from fleet.run_folder import RunFolder

if TYPE_CHECKING:
    from replay_server.log_writer import LogWriter
    from replay_server.logs import Logs

_SHOWN = 5

Out = Annotated[Path, typer.Option("--out", metavar="RUN", help="The new run folder; it must not exist.")]


def refuse_existing(out: Path) -> None:
    """Exit if there is something of that name: now, not when all has been read."""
    if out.exists():
        fail(f"{out} exists already: name another folder, or remove that first", EXIT_CONFIG)


def names(paths: Sequence[Path], where: Sequence[str] | None = None) -> str:
    """Which logs were given, for people."""
    conditions = f" where {', '.join(where)}" if where else ""
    return ", ".join(map(str, paths)) + conditions


def config_of(logs: Logs) -> tuple[FleetConfig | None, list[str]]:
    """The config that goes with the logs, the first folder's that has one, and what does not fit it."""
    found: list[tuple[Path, FleetConfig]] = []
    notes = []
    for folder in logs.folders:
        if RunFolder(folder).config.is_file():
            try:
                found.append((folder, RunFolder(folder).load()))
            except ConfigError as error:
                notes.append(f"the config of {folder} cannot be used: {error}")
    if not found:
        return None, [*notes, "no config.yaml comes along, as none of these logs has one"]
    first, config = found[0]
    for folder, other in found[1:]:
        if difference := _difference(config.task, other.task):
            notes.append(f"config.yaml is that of {first}; the task of {folder} differs: {difference}")
    known = {entry.id for entry in config.robots}
    if strangers := sorted({summary.info.robot_id for summary in logs.episodes} - known):
        notes.append(f"config.yaml is that of {first}; it does not know {', '.join(strangers)}")
    return config, notes


def _difference(here: Any, there: Any) -> str:
    """What two tasks' configs have differently, in words; empty if nothing."""
    if here.kind != there.kind:
        return f"it is {there.kind}, not {here.kind}"
    mine, theirs = here.model_dump(), there.model_dump()
    return ", ".join(
        key if isinstance(mine[key], dict) else f"{key} is {theirs[key]}, not {mine[key]}"
        for key in mine
        if mine[key] != theirs[key]
    )


def tell_written(
    writers: Sequence[LogWriter], logs: Logs, notes: Sequence[str], facts: dict[str, Any], as_json: bool
) -> None:
    """What was written and what was left out: one line per folder, or JSON.

    Args:
        writers: Of the folders that were written.
        logs: What they were made from.
        notes: What is worth knowing.
        facts: What else the JSON holds; what is not zero of it stands in the line, too.
        as_json: Whether to print JSON.
    """
    folders = [
        {"out": str(writer.folder.path), "episodes": writer.episodes, "rows": writer.rows}
        for writer in writers
    ]
    left_out = {str(path): reason for path, reason in logs.damaged.items()}
    if as_json:
        print_json({"written": folders, **facts, "left_out": left_out, "notes": list(notes)})
        return
    console, errors = Console(), Console(stderr=True)
    for note in notes[:_SHOWN]:
        tell(errors, "note", note)
    if len(notes) > _SHOWN:
        tell(errors, "note", f"{len(notes) - _SHOWN} more such notes")
    extra = [f"{value:,} {key.replace('_', ' ')}" for key, value in facts.items() if _counts(value)]
    extra += [f"{len(left_out):,} files left out"] if left_out else []
    for folder in folders:
        line = f"{folder['out']}: {folder['episodes']:,} episodes, {folder['rows']:,} rows"
        more = f" ({', '.join(extra)})" if extra and folder is folders[-1] else ""
        console.print(escape(line + more), highlight=False, soft_wrap=True)


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
