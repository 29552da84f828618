"""Starts gzserver: as a fleet's process, or as a private one for evaluation and tests."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import NoReturn

from fleet.config import FleetConfig
from fleet.ready import READY_FD_VARIABLE
from robot_nodes.gazebo.installation import GazeboInstallation, find_gazebo
from robot_nodes.gazebo.server_state import read_state as read_state
from robot_nodes.gazebo.server_state import state_file as state_file
from robot_nodes.gazebo.server_state import world_folder
from robot_nodes.gazebo.world import world_sdf

logger = logging.getLogger(__name__)

STATE_VARIABLE = "PNAF_GAZEBO_STATE"


def run_server(fleet: FleetConfig, world: str, run_dir: Path) -> NoReturn:
    """Become the gzserver of a world.

    The world plugin says when it is ready, to the supervisor and in `state_file`.

    Raises:
        GazeboError: There is no Gazebo, or the plugin cannot be built.
        ValueError: The fleet has no such world, or the world cannot be built.
    """
    gazebo = find_gazebo()
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


def _seed(fleet: FleetConfig) -> int:
    return fleet.seed % 2**31


def _free_port() -> int:
    """A port for Gazebo's own transport; whoever loses it to another process is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
