"""Where a world's files are, and how its gzserver says where it can be reached."""

from __future__ import annotations

import json
from pathlib import Path

from robot_nodes.gazebo.connection import GazeboConnection, GazeboConnectionError


def world_folder(run_dir: Path, world: str) -> Path:
    """Where a world's files are: world.sdf, server.json and what gzserver itself writes."""
    return run_dir / "gazebo" / world


def state_file(run_dir: Path, world: str) -> Path:
    """The file in which a running gzserver says where it is: JSON with port, pid, master_uri and world."""
    return world_folder(run_dir, world) / "server.json"


def lock_file(run_dir: Path, world: str) -> Path:
    """The file that a gzserver keeps locked from before it starts until it ends; its process id is in it."""
    return world_folder(run_dir, world) / "lock"


def read_state(file: Path) -> dict[str, str | int]:
    """What a running gzserver says of itself."""
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def connect(run_dir: Path, world: str) -> GazeboConnection:
    """Connect to the gzserver of a world.

    Raises:
        GazeboConnectionError: There is none.
    """
    file = state_file(run_dir, world)
    try:
        port = int(read_state(file)["port"])
    except (OSError, ValueError, KeyError) as error:
        raise GazeboConnectionError(
            f"Gazebo world {world!r}: no {file} ({type(error).__name__}): its gzserver is not up; "
            f"`pnaf gazebo server FLEET.yaml --world {world} --run-dir {run_dir}` starts it"
        ) from error
    return GazeboConnection(port, world)
