"""`pnaf logs merge`, `split` and `trim`: run folders out of others' episodes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.cli_output import Json, fail
from fleet.logs_edit_output import (
    Out,
    config_of,
    names,
    refuse_existing,
    tell_written,
)
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen, progress_bar, tell_damaged
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from replay_server.logs import Logs

_PART = re.compile(r"[A-Za-z0-9_-]{1,40}")
_ROUNDED = 0.011  # three parts of 0.33 are meant to be all


def logs_merge(
    logs: LogPaths,
    out: Out,
    where: Where = None,
    keep_both: Annotated[
        bool,
        typer.Option(
            "--keep-both",
            help="Different episodes of the same robot, boot and number all stay, later folders' as of "
            "another boot: original and relabelled logs in one, say.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put the episodes of several runs into one run folder, in order of arrival.

    The same episode in several folders counts once; of one that a folder has only the beginning of, the
    longer copy. Different episodes of one name are an error, unless --keep-both. config.yaml is that of the
    first folder that has one.
    """
    from replay_server.log_edits import write_edited
    from replay_server.log_merge import without_copies
    from replay_server.log_writer import LogWriter

    errors = Console(stderr=True)
    refuse_existing(out)
    with clear_log_errors():
        found = open_chosen(logs, where, errors)
        known, spec = len(found.damaged), found.spec
        with progress_bar(errors, "comparing episodes of the same name") as on_progress:
            merged = without_copies(found, keep_both=keep_both, on_progress=on_progress)
        config, notes = config_of(merged.logs)
        made = f"merged from {names(logs, where)}"
        with (
            LogWriter(out, spec, made, config, as_lived=True) as writer,
            progress_bar(errors, "writing episodes") as on_progress,
        ):
            write_edited(writer, merged.logs, on_progress=on_progress)
        tell_damaged(found, errors, known)
        facts = {"copies_counted_once": merged.copies, "episodes_of_another_boot": merged.renamed}
        tell_written([writer], found, notes, facts, as_json)


def logs_split(
    logs: LogPaths,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="PREFIX", help="The new run folders are PREFIX-NAME; none may exist."),
    ],
    into: Annotated[
        list[str] | None,
        typer.Option(
            "--into", metavar="NAME=SHARE", help="One part, as in --into train=0.8 --into test=0.2."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Instead: one part per robot, task, success or evaluation."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of which episode goes where, with --into.")] = 0,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Deal whole episodes out to several run folders, each episode to one.

    With shares, episodes are drawn at random from each robot's. The same seed gives the same parts.
    """
    from replay_server.log_edits import VALUES, by_share, by_value, only, write_edited
    from replay_server.log_writer import LogWriter

    errors = Console(stderr=True)
    if bool(into) == bool(by):
        fail("say how to split: --into NAME=SHARE for each part, or --by KEY", EXIT_CONFIG)
    if by and by not in VALUES:
        fail(f"--by {by}: must be one of {', '.join(VALUES)}", EXIT_CONFIG)
    shares = _shares(into or [])
    with clear_log_errors():
        found = open_chosen(logs, where, errors)
        known = len(found.damaged)
        parts = by_value(found.episodes, by) if by else by_share(found.episodes, shares, seed)
        if not found.episodes or not all(parts.values()):
            empty = ", ".join(name for name, part in parts.items() if not part) or "no part"
            fail(f"{len(found.episodes)} episodes are too few: nothing would be in {empty}", EXIT_CONFIG)
        made = f"split from {names(logs, where)} by " + (by or f"shares {', '.join(into or [])}, seed {seed}")
        notes: list[str] = []
        todo: list[tuple[LogWriter, Logs]] = []
        with ExitStack() as stack, progress_bar(errors, "writing episodes") as on_progress:
            for name, part in parts.items():
                chosen = only(found, part)
                config, more = config_of(chosen)
                notes += (note for note in more if note not in notes)
                folder = _part_folder(out, name)
                writer = LogWriter(folder, chosen.spec, f"{made}: {name}", config, as_lived=True)
                todo.append((stack.enter_context(writer), chosen))
            for writer, chosen in todo:
                write_edited(writer, chosen, on_progress=on_progress)
        tell_damaged(found, errors, known)
        tell_written([writer for writer, _ in todo], found, notes, {}, as_json)


def logs_trim(
    logs: LogPaths,
    out: Out,
    where: Where = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first so many episodes.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last so many episodes.")] = None,
    skip_steps: Annotated[int, typer.Option(min=0, help="Of each episode: leave out the first ones.")] = 0,
    keep_steps: Annotated[
        int | None, typer.Option(min=1, help="Of each episode: of the others, only so many.")
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop before the episode that would bring more rows; with --last: newest first."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a part of some logs: some episodes, or some steps of each.

    An episode that loses its last steps ends as if it had been stopped there: truncated, no success, and the
    metrics of its end are gone. One that loses its first steps keeps its end.
    """
    from replay_server.log_edits import Cut, limit, only, write_edited
    from replay_server.log_writer import LogWriter

    errors = Console(stderr=True)
    options = {"first": first, "last": last, "skip-steps": skip_steps, "keep-steps": keep_steps}
    options["max-rows"] = max_rows
    asked = [f"--{name} {value}" for name, value in options.items() if value]
    if first and last:
        fail("--first and --last: say one of them", EXIT_CONFIG)
    if not asked and not where:
        fail(
            "say what to keep: --where, --first, --last, --skip-steps, --keep-steps or --max-rows",
            EXIT_CONFIG,
        )
    refuse_existing(out)
    with clear_log_errors():
        found = open_chosen(logs, where, errors)
        known, spec = len(found.damaged), found.spec
        cut = Cut(skip_steps, keep_steps)
        chosen = only(found, limit(found.episodes, cut, first, last, max_rows))
        if not chosen.episodes:
            fail(f"nothing is left of {len(found.episodes)} episodes with {' '.join(asked)}", EXIT_CONFIG)
        config, notes = config_of(chosen)
        made = f"trimmed from {names(logs, where)}{'; ' if asked else ''}{' '.join(asked)}"
        with (
            LogWriter(out, spec, made, config, as_lived=True) as writer,
            progress_bar(errors, "writing episodes") as on_progress,
        ):
            write_edited(writer, chosen, cut, on_progress)
        tell_damaged(found, errors, known)
        facts = {
            "episodes_dropped": len(found.episodes) - writer.episodes,
            "rows_dropped": found.rows - writer.rows,
        }
        tell_written([writer], found, notes, facts, as_json)


def _shares(into: list[str]) -> Mapping[str, float]:
    shares: dict[str, float] = {}
    for text in into:
        name, separator, value = text.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not separator or not _PART.fullmatch(name) or not 0.0 < share <= 1.0:
            fail(
                f"--into {text!r}: must be NAME=SHARE with a share above 0 and at most 1, as train=0.8",
                EXIT_CONFIG,
            )
        if name in shares:
            fail(f"--into {text!r}: there is a part {name} already", EXIT_CONFIG)
        shares[name] = share
    total = sum(shares.values())
    if shares and abs(total - 1.0) > _ROUNDED:
        fail(f"--into: the shares must add up to 1, they add up to {total:g}", EXIT_CONFIG)
    return {name: share / total for name, share in shares.items()}


def _part_folder(prefix: Path, name: str) -> Path:
    if not _PART.fullmatch(name):
        fail(f"{name!r} cannot be part of a folder's name: choose with --where instead", EXIT_CONFIG)
    return prefix.parent / f"{prefix.name}-{name}"
