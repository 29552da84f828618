"""`pnaf logs export` and `pnaf logs import`: logs to the datasets of other projects and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.cli_output import Json, escape, fail, print_json, tell
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen, progress_bar, tell_damaged
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from fleet.spaces import SpaceSpec
    from replay_server.exchange.importing import Imported, Source

_SHOWN = 5
_SHOWN_NAMES = 12


class ExportFormat(str, Enum):
    """What `pnaf logs export` writes."""

    robomimic = "robomimic"
    minari = "minari"
    lerobot = "lerobot"


class ImportFormat(str, Enum):
    """What `pnaf logs import` reads."""

    robomimic = "robomimic"
    minari = "minari"


def logs_export(
    logs: LogPaths,
    file_format: Annotated[
        ExportFormat,
        typer.Option("--format", help="robomimic: one HDF5 file. minari, lerobot (v3.0): a folder."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="What to write, as in reach.hdf5 (robomimic), datasets/lab/reach-v0 (Minari: "
            "NAMESPACE/NAME-vN), datasets/reach (LeRobot). It must not exist."
        ),
    ],
    where: Where = None,
    instruction: Annotated[
        str, typer.Option(help="lerobot: the task in words, for policies that read. Default: its kind.")
    ] = "",
    fps: Annotated[
        float | None, typer.Option(help="lerobot: steps per second. Default: as the stamps say.", min=0.001)
    ] = None,
    seed: Annotated[int, typer.Option(help="robomimic: draws the one in ten for validation.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Write episodes as a dataset of robomimic, Minari or LeRobot.

    Actions are those that the robot executed. What a format has no name for lies beside the rest, so that
    `pnaf logs import` (robomimic, Minari) gives back exactly what was exported.
    """
    console = Console(stderr=True)
    with clear_log_errors(), _clear_disk_errors(out):
        from replay_server.exchange.lerobot import export_lerobot
        from replay_server.exchange.minari import export_minari
        from replay_server.exchange.robomimic import export_robomimic

        chosen = open_chosen(logs, where, console)
        known = len(chosen.damaged)
        with progress_bar(console, "writing") as on_progress:
            if file_format is ExportFormat.robomimic:
                exported = export_robomimic(chosen, out, seed=seed, on_progress=on_progress)
            elif file_format is ExportFormat.minari:
                exported = export_minari(chosen, out, on_progress=on_progress)
            else:
                exported = export_lerobot(
                    chosen, out, instruction=instruction, fps=fps, on_progress=on_progress
                )
    tell_damaged(chosen, console, known)
    if as_json:
        left_out = {str(path): reason for path, reason in chosen.damaged.items()}
        print_json(vars(exported) | {"left_out": left_out})
        return
    screen = Console(highlight=False, soft_wrap=True)
    screen.print(f"{escape(str(out))}: {exported.episodes:,} episodes, {exported.rows:,} rows")
    screen.print(f"{file_format.value} reads it with {escape(exported.hint)}")


def logs_import(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="robomimic: HDF5 files. Minari: folders NAMESPACE/NAME-vN."),
    ],
    file_format: Annotated[ImportFormat, typer.Option("--format", help="What SOURCE is.")],
    out: Annotated[Path, typer.Option(help="The run folder to make. It must not exist.")],
    fleet: Annotated[
        Path | None,
        typer.Option(
            metavar="FLEET.yaml",
            help="Keep this config beside the episodes; they must fit its task. Needed to use them beside "
            "those of its robots, or to serve them.",
        ),
    ] = None,
    robot: Annotated[str, typer.Option(help="Foreign data: whose episodes they become.")] = "imported",
    obs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="Foreign data: take only this observation; repeatable, in the order given."
        ),
    ] = None,
    rate_hz: Annotated[
        float | None,
        typer.Option(help="Foreign data: steps per second. Default: what it says, else 20.", min=0.001),
    ] = None,
    action_range: Annotated[
        str,
        typer.Option(
            metavar="LOW..HIGH",
            help="Foreign data: what its actions range over, to be mapped to [-1, 1]. Default: the bounds it "
            "declares, else -1..1.",
        ),
    ] = "",
    done_is_time_limit: Annotated[
        bool,
        typer.Option(
            "--done-is-time-limit",
            help="Foreign data: its ends are only time limits, after which a robot could have gone on.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a run folder out of datasets of robomimic or Minari.

    What `pnaf logs export` wrote comes back bit for bit. Of foreign datasets observations are flattened and
    named, and ids are made from a hash of the file. An episode that cannot be used is named and left out.
    """
    console = Console(stderr=True)
    with clear_log_errors(), _clear_disk_errors(out):
        from fleet.config_file import load_fleet
        from replay_server.episode_file import is_safe_id
        from replay_server.exchange.foreign_episodes import Foreign
        from replay_server.exchange.importing import import_datasets
        from replay_server.exchange.minari_source import open_minari
        from replay_server.exchange.robomimic_source import open_robomimic
        from replay_server.exchange.source import ForeignSource

        if not is_safe_id(robot):
            fail(f"--robot {robot!r}: must be 1 to 64 of A-Z a-z 0-9 _ -", EXIT_CONFIG)
        foreign = Foreign(
            robot_id=robot,
            rate_hz=rate_hz,
            action_range=_range(action_range) if action_range else None,
            done_is_time_limit=done_is_time_limit,
        )
        config = load_fleet(fleet) if fleet is not None else None
        spec: SpaceSpec | None = None
        if config is not None:
            from robot_nodes.tasks.task import make_task

            spec = make_task(config, config.robots[0].id).spec
        open_source = open_robomimic if file_format is ImportFormat.robomimic else open_minari
        opened: list[Source] = [open_source(path, tuple(obs or ())) for path in dict.fromkeys(sources)]
        for source in opened:
            if isinstance(source, ForeignSource) and source.skipped:
                tell(console, "left out", f"{source.path}: no vectors: {', '.join(source.skipped)}")
        with progress_bar(console, "reading") as on_progress:
            imported = import_datasets(
                opened, out, foreign=foreign, spec=spec, config=config, on_progress=on_progress
            )
    _print_imported(imported, console, as_json)
    if not as_json and any(isinstance(source, ForeignSource) for source in opened):
        _print_spaces(imported.spec)


def _print_imported(imported: Imported, console: Console, as_json: bool) -> None:
    left_out = list(imported.left_out.items())
    for where, reason in left_out[:_SHOWN]:
        tell(console, "left out", f"{where}: {reason}")
    if len(left_out) > _SHOWN:
        tell(console, "left out", f"{len(left_out) - _SHOWN} more episodes")
    if as_json:
        print_json(vars(imported) | {"spec": imported.spec.to_json()})
        return
    screen = Console(highlight=False, soft_wrap=True)
    screen.print(f"{escape(str(imported.path))}: {imported.episodes:,} episodes, {imported.rows:,} rows")


def _print_spaces(spec: SpaceSpec) -> None:
    """How the numbers of a foreign dataset are called now."""
    for side, names in (("observation", spec.observation.names), ("action", spec.action.names)):
        more = f", … ({len(names)})" if len(names) > _SHOWN_NAMES else ""
        screen = Console(highlight=False, soft_wrap=True)
        screen.print(f"{side}: {escape(', '.join(names[:_SHOWN_NAMES]))}{more}")


@contextmanager
def _clear_disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fail(f"{out}: cannot be written: {error}", 1)


def _range(text: str) -> tuple[float, float]:
    first, dots, last = text.partition("..")
    try:
        low, high = float(first), float(last)
    except ValueError:
        low, high = 0.0, 0.0
    if not dots or not low < high or abs(low) == float("inf") or abs(high) == float("inf"):
        fail(f"--action-range {text!r}: must be LOW..HIGH, as in -0.5..0.5", EXIT_CONFIG)
    return low, high
