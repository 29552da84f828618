"""Starts gzserver: as a fleet's process, or as a private one for evaluation and tests."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import NoReturn

from fleet.config import FleetConfig
from fleet.ready import READY_FD_VARIABLE
from robot_nodes.gazebo.installation import GazeboError, GazeboInstallation, find_gazebo
from robot_nodes.gazebo.server_state import lock_file, world_folder
from robot_nodes.gazebo.server_state import read_state as read_state
from robot_nodes.gazebo.server_state import state_file as state_file
from robot_nodes.gazebo.world import world_sdf

logger = logging.getLogger(__name__)

STATE_VARIABLE = "PNAF_GAZEBO_STATE"


def run_server(fleet: FleetConfig, world: str, run_dir: Path) -> NoReturn:
    """Become the gzserver of a world.

    The world plugin says when it is ready, to the supervisor and in `state_file`.

    Raises:
        GazeboError: There is no Gazebo, the plugin cannot be built, or the world has a gzserver already.
        ValueError: The fleet has no such world, or the world cannot be built.
    """
    gazebo = find_gazebo()
    _lock(run_dir, world)
    argv, environment = prepare(fleet, world, run_dir, gazebo)
    logger.info("gzserver of world %s: %s", world, environment["GAZEBO_MASTER_URI"])
    os.execve(argv[0], argv, environment)


def prepare(
    fleet: FleetConfig, world: str, run_dir: Path, gazebo: GazeboInstallation
) -> tuple[list[str], dict[str, str]]:
    """Write the world's files; returns gzserver's command and its whole environment."""
    folder = world_folder(run_dir, world).absolute()
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    plugin = gazebo.plugin()
    file = folder / "world.sdf"
    file.write_text(world_sdf(fleet, world, plugin.name))
    state = state_file(run_dir.absolute(), world)
    state.unlink(missing_ok=True)  # of a gzserver that was killed
    environment = gazebo.environment(home, plugin.parent)
    environment |= {
        "GAZEBO_MASTER_URI": f"http://127.0.0.1:{_free_port()}",
        STATE_VARIABLE: str(state),
        "ALSOFT_DRIVERS": "null",  # worlds are silent: no messages about missing sound cards
    }
    if ready := os.environ.get(READY_FD_VARIABLE):
        environment[READY_FD_VARIABLE] = ready
    argv = [str(gazebo.gzserver), "--verbose", "--seed", str(_seed(fleet)), str(file)]
    return argv, environment


def _lock(run_dir: Path, world: str) -> None:
    """Keep the world's folder for this process, as long as it lives: also as gzserver.

    Raises:
        GazeboError: Another process has it.
    """
    file = lock_file(run_dir, world)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise GazeboError(
            f"Gazebo world {world!r} in {file.parent} has a gzserver already: end that one first, or start "
            "this one, and all that belongs to it, with another --run-dir"
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}".encode())
    os.set_inheritable(lock, True)  # the kernel gives it back when gzserver ends, however that happens


def _seed(fleet: FleetConfig) -> int:
    return fleet.seed % 2**31


def _free_port() -> int:
    """A port for Gazebo's own transport; whoever loses it to another process is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
