"""Opens gzclient, Gazebo's window, on a world that runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

from fleet.ready import notify_ready
from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.installation import find_gazebo
from robot_nodes.gazebo.server_state import read_state, state_file


def run_gui(world: str, run_dir: Path, timeout_s: float = 60.0) -> NoReturn:
    """Become the window of a world.

    Args:
        world: Its name.
        run_dir: Of the run whose gzserver is meant.
        timeout_s: How long to wait for that.

    Raises:
        GazeboError: There is no Gazebo, no display, or no such gzserver.
    """
    gazebo = find_gazebo()
    if not gazebo.gzclient.exists():
        raise GazeboError(f"{gazebo.gzclient} is missing: install the package gazebo of your distribution")
    if not os.environ.get("DISPLAY"):  # its 3D view draws through GLX: on Wayland through Xwayland
        raise GazeboError(
            "no window can open without an X display (DISPLAY is not set): run this in a desktop session or "
            "through ssh -X. The simulation needs none"
        )
    environment = gazebo.environment(Path.home()) | {  # whose settings of the window stay
        "GAZEBO_MASTER_URI": _master_uri(state_file(run_dir, world), timeout_s),
        "QT_QPA_PLATFORM": "xcb",
    }
    notify_ready()
    os.execve(gazebo.gzclient, [str(gazebo.gzclient), "--verbose"], environment)


def _master_uri(file: Path, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        if file.exists():
            state = read_state(file)
            if Path(f"/proc/{state['pid']}").exists():  # else it was killed and left its file
                return str(state["master_uri"])
        if time.monotonic() > deadline:
            raise GazeboError(f"no gzserver runs there: {file} did not come within {timeout_s:g} s")
        time.sleep(0.1)
