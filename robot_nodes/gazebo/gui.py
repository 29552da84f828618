"""Opens gzclient, Gazebo's window, on a world that runs."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from pathlib import Path
from typing import NoReturn

from fleet.ready import notify_ready
from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.installation import find_gazebo
from robot_nodes.gazebo.server_state import lock_file, read_state, state_file, world_folder

logger = logging.getLogger(__name__)

_DISPLAY_S = 2.0  # longest wait for an X server's answer
_X_PORT = 6000  # of display 0


def run_gui(world: str, run_dir: Path, timeout_s: float = 10.0) -> NoReturn:
    """Become the window of a world.

    Args:
        world: Its name.
        run_dir: Of the run whose gzserver is meant.
        timeout_s: How long to wait for that; one that is starting is waited for until it is ready.

    Raises:
        GazeboError: There is no Gazebo, no display, or no such gzserver.
    """
    gazebo = find_gazebo()
    if not gazebo.gzclient.exists():
        raise GazeboError(f"{gazebo.gzclient} is missing: install the package gazebo of your distribution")
    _check_display(os.environ.get("DISPLAY", ""))
    master_uri = _master_uri(run_dir, world, timeout_s)
    home = world_folder(run_dir, world).absolute() / "home"  # gzserver's: nothing is left in the user's
    environment = gazebo.environment(home) | {"GAZEBO_MASTER_URI": master_uri, "QT_QPA_PLATFORM": "xcb"}
    cookies = Path.home() / ".Xauthority"
    if cookies.exists():
        environment.setdefault("XAUTHORITY", str(cookies))
    notify_ready()
    os.execve(gazebo.gzclient, [str(gazebo.gzclient), "--verbose"], environment)


def _check_display(display: str) -> None:
    """See that an X server listens there: without one gzclient hangs, or ends without a word.

    Raises:
        GazeboError: None does.
    """
    advice = "run this in a desktop session or through ssh -X. The simulation needs none"
    if not display:  # its 3D view draws through GLX: on Wayland through Xwayland
        raise GazeboError(f"no window can open without an X display (DISPLAY is not set): {advice}")
    match = re.fullmatch(r"(?:unix)?(?P<host>.*):(?P<number>\d+)(?:\.\d+)?", display)
    if match is None:
        return  # a kind that we do not know: gzclient will see
    number = int(match["number"])
    path = f"/tmp/.X11-unix/X{number}"
    # Local displays have a socket in the file system or, on Linux, an abstract one.
    local = [] if match["host"] else [path, f"\0{path}"]
    if not any(_listens(socket.AF_UNIX, address) for address in local) and not _listens(
        socket.AF_INET, (match["host"] or "127.0.0.1", _X_PORT + number)
    ):
        raise GazeboError(f"no X server answers at DISPLAY={display}: {advice}")


def _listens(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        probe.settimeout(_DISPLAY_S)
        try:
            probe.connect(address)
        except (OSError, OverflowError):  # the latter: no such port
            return False
    return True


def _master_uri(run_dir: Path, world: str, timeout_s: float) -> str:
    file, lock = state_file(run_dir, world), lock_file(run_dir, world)
    deadline_s = time.monotonic() + timeout_s
    waiting = False
    while True:
        if file.exists():
            state = read_state(file)
            if _lives(state["pid"]):  # else it was killed and left its file
                return str(state["master_uri"])
        if not waiting:
            waiting = True
            logger.info("waiting for %s …", file)
        if lock.exists() and _lives(lock.read_text()):  # it compiles its plugin, or loads the world
            deadline_s = time.monotonic() + timeout_s
        elif time.monotonic() > deadline_s:
            raise GazeboError(
                f"no gzserver runs there: {file} did not come within {timeout_s:g} s. Is it the --run-dir "
                "that its gzserver has?"
            )
        time.sleep(0.1)


def _lives(pid: str | int) -> bool:
    return bool(pid) and Path(f"/proc/{pid}").exists()
