"""`pnaf gazebo …`: Gazebo on this machine, and its part in a fleet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleet.cli_options import ConfigPath, Overrides, RunDir
from fleet.cli_output import Json, clear_errors, fail, log_to_stderr, print_json
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.ready import EXIT_CONFIG

gazebo_app = typer.Typer(help="Gazebo: install it, look at it, run a fleet's worlds.", no_args_is_help=True)

World = Annotated[str, typer.Option("--world", help="Which world; may be left out if there is only one.")]

_LINE_PERIOD_S = 10.0


@contextmanager
def _clear_errors() -> Iterator[None]:
    """What Gazebo, a URDF or a config lacks is one message and exit status 2."""
    with clear_errors():
        try:
            yield
        except ValueError as error:  # of which all their errors are
            fail(str(error), EXIT_CONFIG)


# Gazebo on this machine ---------------------------------------------------------------------


@gazebo_app.command()
def install(
    prefix: Annotated[
        Path | None,
        typer.Option(help="Folder to install into; default: .gazebo in a checkout, else ~/.local/share."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Install even if there is one, or again.")] = False,
) -> None:
    """Get Gazebo 11 without root, unless this machine has it, and build our plugin for it.

    Debian 11's packages are unpacked into a folder: about 260 MB to download, 1 GB on the disk. The system's
    packages stay as they are. Works on Debian and Ubuntu; needs g++.
    """
    log_to_stderr()
    with _clear_errors():
        from robot_nodes.gazebo.debian_prefix import install_prefix
        from robot_nodes.gazebo.installation import (
            PREFIX_VARIABLE,
            GazeboError,
            find_gazebo,
            in_prefix,
            install_target,
        )

        console = Console(stderr=True)
        target = (prefix or install_target()).expanduser().absolute()
        try:
            gazebo = in_prefix(target) if prefix else find_gazebo()
        except GazeboError:
            gazebo = None
        if gazebo is not None and not force:
            console.print(f"Gazebo {gazebo.version} is there: {gazebo.gzserver}", highlight=False)
        else:
            with _progress(console) as report:
                gazebo = install_prefix(target, report)
            console.print(f"Gazebo {gazebo.version} is installed in {target}", highlight=False)
        console.print(f"world plugin: {gazebo.plugin()}", highlight=False)
        try:
            found = find_gazebo()
        except GazeboError:
            found = None
        if found != gazebo:
            console.print(f"It is used when {PREFIX_VARIABLE}={target} is set", highlight=False)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Hears what is going on; shows bars on a terminal and now and then a line elsewhere."""
    if not console.is_terminal:
        said = ("", 0.0)

        def line(what: str, done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            if what != said[0] or now > said[1] + _LINE_PERIOD_S:
                said = (what, now)
                console.print(f"{what}: {done} of {total}", highlight=False)

        yield line
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=done, total=total)

        yield bar


@gazebo_app.command()
def status(as_json: Json = False) -> None:
    """Say which Gazebo is used on this machine, and whether our plugin has been built for it."""
    with _clear_errors():
        from robot_nodes.gazebo.installation import find_gazebo

        gazebo = find_gazebo()
        plugin = gazebo.plugin_path()
        if as_json:
            built = str(plugin) if plugin.exists() else None
            print_json({"version": gazebo.version, "gzserver": str(gazebo.gzserver), "plugin": built})
            return
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"Gazebo {gazebo.version}: {gazebo.gzserver}")
        console.print(f"world plugin: {plugin if plugin.exists() else 'will be built when it is needed'}")


# A fleet's worlds ---------------------------------------------------------------------------


def _load(config: Path, world: str, overrides: list[str] | None) -> tuple[FleetConfig, str]:
    """The fleet, and the name of the world that is meant."""
    fleet = load_fleet(config, overrides or ())
    worlds = list(fleet.gazebo_worlds)
    if not worlds:
        raise ConfigError(
            f"no robot of fleet {fleet.name!r} is in Gazebo: set sim.simulator: gazebo, for all robots with "
            "override: {sim: {simulator: gazebo}}"
        )
    if len(worlds) == 1:
        world = world or worlds[0]
    if world not in worlds:
        meant = f"no Gazebo world {world!r} in" if world else "--world is missing: which world of"
        raise ConfigError(f"{meant} fleet {fleet.name!r}; it has: {', '.join(worlds)}")
    return fleet, world


@gazebo_app.command()
def server(
    config: ConfigPath,
    world: World = "",
    run_dir: RunDir = Path("runs/by-hand"),
    overrides: Overrides = None,
) -> None:
    """Simulate one world of a fleet: becomes gzserver."""
    log_to_stderr()
    with _clear_errors():
        from robot_nodes.gazebo.server import run_server

        run_server(*_load(config, world, overrides), run_dir)


@gazebo_app.command()
def gui(
    config: ConfigPath,
    world: World = "",
    run_dir: RunDir = Path("runs/by-hand"),
    overrides: Overrides = None,
) -> None:
    """Open Gazebo's window on a world that runs; closing it ends nothing else."""
    log_to_stderr()
    with _clear_errors():
        from robot_nodes.gazebo.gui import run_gui

        run_gui(_load(config, world, overrides)[1], run_dir)


@gazebo_app.command()
def world(config: ConfigPath, world: World = "", overrides: Overrides = None) -> None:
    """Print the SDF of one world of a fleet."""
    with _clear_errors():
        from robot_nodes.gazebo.world import PLUGIN_NAME, world_sdf

        sys.stdout.write(world_sdf(*_load(config, world, overrides), f"lib{PLUGIN_NAME}.so"))


@gazebo_app.command("export-gz-sim")
def export_gz_sim(
    config: ConfigPath,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the files go; made if it is missing.")
    ],
    overrides: Overrides = None,
) -> None:
    """Write a fleet's files for modern Gazebo (gz sim) with gz_ros2_control; docs/gz_sim.md goes on."""
    with _clear_errors():
        from robot_nodes.gazebo.gz_sim import export

        fleet = load_fleet(config, overrides or ())
        try:
            files = export(fleet, folder)
        except OSError as error:
            fail(f"{error.filename or folder}: cannot be written: {error.strerror}", EXIT_CONFIG)
        Console().print(f"{files.world}", highlight=False, soft_wrap=True)
