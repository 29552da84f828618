"""A gzserver of one's own with one robot in it, as fast as it can: for evaluation and tests."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from fleet.config import FleetConfig
from fleet.ready import READY_FD_VARIABLE
from robot_nodes.gazebo.connection import GazeboConnection
from robot_nodes.gazebo.gazebo_arm import GazeboArm
from robot_nodes.gazebo.installation import GazeboError, find_gazebo
from robot_nodes.gazebo.server import prepare, read_state, state_file
from robot_nodes.gazebo.world import sim_of

_READY_S = 60.0
_TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class PrivateGazebo:
    """One robot of a fleet and its scene, in lock-step with whoever asks.

        with PrivateGazebo(fleet, "robot1") as gazebo:
            arm = gazebo.arm()
            arm.reset()
            arm.command(velocity)
            arm.step(0.05)

    Whether the fleet's robot is simulated in Gazebo does not matter; it needs a `sim` group. Its process
    ends with the block, and with this process.
    """

    def __init__(self, fleet: FleetConfig, robot_id: str, seed: int = 0, ready_s: float = _READY_S) -> None:
        """Choose the robot; nothing is started.

        Args:
            fleet: Its config, and the task with the scene.
            robot_id: Which one.
            seed: Of Gazebo's physics.
            ready_s: Longest wait for gzserver to be ready (s, wall time).

        Raises:
            ConfigError: The fleet has no such robot.
            ValueError: That robot has no `sim` group.
        """
        entry = fleet.entry(robot_id)
        sim = sim_of(entry.robot).model_copy(update={"simulator": "gazebo", "speed": 0.0})
        robot = entry.robot.model_copy(update={"sim": sim})
        self._entry = entry.model_copy(update={"robot": robot})
        gazebo = fleet.gazebo.model_copy(update={"worlds": "own"})
        alone = {"robots": [self._entry], "gazebo": gazebo, "seed": seed}
        self._fleet = fleet.model_copy(update=alone)
        self._ready_s = ready_s
        self._state: dict[str, str | int] = {}
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Start gzserver and wait until it is ready.

        Raises:
            GazeboError: It does not start; the text has the end of its log.
        """
        with ExitStack() as resources:
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="pnaf-")))
            log = folder / "log"
            ready_fd = self._start(folder, log, resources)
            self._wait(ready_fd, log)
            self._state = read_state(state_file(folder, self._entry.id))
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of gzserver, while it runs."""
        return int(self._state["pid"])

    def arm(self, rng: np.random.Generator | None = None) -> GazeboArm:
        """A new connection to the arm; it must be closed before the next.

        Args:
            rng: Where its `reset()` draws offsets from home; none: home exactly.
        """
        scene = self._fleet.task.scene
        connection = GazeboConnection(int(self._state["port"]), self._entry.id)
        return GazeboArm(self._entry.robot, self._entry.id, scene, connection, rng)

    def close(self) -> None:
        """End gzserver and remove its files; can be called twice."""
        self._resources.close()

    def _start(self, folder: Path, log: Path, resources: ExitStack) -> int:
        """Start gzserver; returns where it will say that it is ready."""
        argv, environment = prepare(self._fleet, self._entry.id, folder, find_gazebo())
        read_fd, write_fd = os.pipe()
        resources.callback(os.close, read_fd)
        environment[READY_FD_VARIABLE] = str(write_fd)
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    argv,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write_fd,),
                    start_new_session=True,  # Ctrl-C is for whoever started this
                    preexec_fn=_die_with_parent,
                )
        finally:
            os.close(write_fd)
        resources.callback(process.wait)
        resources.callback(process.kill)  # it has nothing to save, and takes seconds to end in order
        return read_fd

    def _wait(self, ready_fd: int, log: Path) -> None:
        deadline_s = time.monotonic() + self._ready_s
        readable, _, _ = select.select([ready_fd], [], [], deadline_s - time.monotonic())
        if readable and os.read(ready_fd, 1) == b"1":
            return
        what = "ended" if readable else f"was not ready within {self._ready_s:g} s"
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))  # without colours
        lines = [line for line in text.splitlines() if line.strip()]
        raise GazeboError("\n    ".join([f"gzserver {what}; the end of its log:", *lines[-_TAIL_LINES:]]))


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
