"""What this computer remembers of an arm, whichever run folder its node is started with.

A simulated robot is another one in each run: its files lie there. A real arm is the same in every run, so
its files lie in a folder of this user: `$XDG_STATE_HOME/parallel-naf`, or `~/.local/state/parallel-naf`.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path

from fleet.durable_files import lower_flag, raise_flag


class ArmTakenError(ValueError):
    """Another process drives this arm; the text says which."""


def real_arms_folder() -> Path:
    """Where the files of real arms lie.

    Raises:
        OSError: Nobody knows where this user's home is.
    """
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state_home):  # others are to be ignored, says the XDG base directory specification
        return Path(state_home) / "parallel-naf"
    try:
        return Path.home() / ".local/state/parallel-naf"
    except RuntimeError as error:
        raise OSError(f"no folder for the robot's state: {error}; set XDG_STATE_HOME") from error


def arm_name(domain: int, command_topic: str) -> str:
    """What tells one real arm from another on this computer, as the beginning of a file's name."""
    return f"domain{domain}-{command_topic.strip('/').replace('/', '-')}"


class ArmLock:
    """`<folder>/<arm>.lock`: at most one process of this user drives an arm. The kernel frees it with us."""

    def __init__(self, folder: Path, arm: str) -> None:
        """Take it.

        Raises:
            ArmTakenError: Another process has it.
            OSError: The folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{arm}.lock"
        with ExitStack() as undo:
            self._handle = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
            undo.callback(os.close, self._handle)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(self._handle, 20).decode(errors="replace").strip() or "unknown"
                raise ArmTakenError(
                    f"another robot node on this computer drives this arm already, process {pid} "
                    f"({self._path}): end it first"
                ) from None
            os.truncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()}\n".encode())
            undo.pop_all()

    def release(self) -> None:
        """Let others drive it."""
        os.close(self._handle)


class RunningMarker:
    """`<folder>/<arm>.running`: there from the first activation on until an orderly end.

    marker = RunningMarker(folder, arm)
    if marker.found: …                # the last process was killed, or the power failed: a person looks first
    marker.set(); …; marker.clear()   # activated; ended in order
    """

    def __init__(self, folder: Path, arm: str) -> None:
        self.path = folder / f"{arm}.running"
        self.found = self.path.exists()

    def set(self) -> None:
        """From now on only `clear` is an orderly end; durable.

        Raises:
            OSError: The disk refuses.
        """
        if not self.path.exists():
            raise_flag(self.path, f"process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")

    def clear(self) -> None:
        """It ends in order.

        Raises:
            OSError: The disk refuses.
        """
        lower_flag(self.path)
