"""A process of a chaos run: killed, stopped, started again, kept from writing to its files."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_TAIL_LINES = 12

# PR_SET_PDEATHSIG and SIGKILL: also a process that is stopped must not outlive the run. Set by the child
# itself, as code between fork and exec is not safe where other threads run.
_DIE_WITH_PARENT = (
    sys.executable,
    *("-S", "-c"),
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
)


class Victim:
    """One process that can be started any number of times; start it from the main thread only.

    Attributes:
        name: Shown, and the name of its log file.
    """

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._argv, self._env, self._log = list(argv), os.environ | dict(env or {}), log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        assert not self.running, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_DIE_WITH_PARENT, *self._argv],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended, or been killed, since."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs or before its first start."""
        return self._process.poll() if self._process else None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def limit_files(self, size: int | None) -> None:
        """Let no file of its grow beyond `size` bytes: writes fail as on a full disk; None: no limit."""
        if self._process is not None and self._process.poll() is None:
            soft = resource.RLIM_INFINITY if size is None else size
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    def log_tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        return "\n".join(f"    {line}" for line in lines)
