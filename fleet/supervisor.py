"""Starts the processes of a fleet, keeps them alive, and takes them all down again.

    with Supervisor(specs, log_dir) as supervisor:      # leaving the block stops everything
        supervisor.start(timeout_s=60)
        while …:
            supervisor.poll()                           # restarts what crashed

A process is started when all it comes `after` are ready, and is ready when it says so through
`fleet.ready.notify_ready`. One that ends with EXIT_CONFIG is not restarted: nothing would change. One that is
not essential, as a window, is not waited for and may end.
Children are their own process groups and die with this process, even when it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fleet.node_specs import NodeSpec
from fleet.ready import EXIT_CONFIG, READY_FD_VARIABLE, RESTARTS_VARIABLE
from fleet.shared_memory import remove_stale_segments

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 30.0
_TAIL_LINES = 8
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class SupervisorError(RuntimeError):
    """A process cannot be kept running; the text holds its last log lines."""


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class _Child:
    spec: NodeSpec
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    ready_fd: int | None = None
    ready: bool = False
    started_s: float = 0.0
    restarts: int = 0
    quick_failures: int = 0
    restart_at_s: float = 0.0
    finished: bool = False


class Supervisor:
    """The processes of one fleet on this machine."""

    def __init__(self, specs: Sequence[NodeSpec], log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._children = {spec.name: _Child(spec, log_dir / f"{spec.name}.log") for spec in specs}
        for spec in specs:
            if unknown := set(spec.after) - self._children.keys():
                raise ValueError(f"{spec.name} comes after {sorted(unknown)}, which are not in the fleet")
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    # Start and keep alive -------------------------------------------------------------------

    def start(self, timeout_s: float, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start everything in order and wait until all are ready.

        Raises:
            SupervisorError: Something failed for good, or was not ready in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self.all_ready and not cancelled():
            self.poll(wait_s=0.05)
            if time.monotonic() > deadline_s:
                late = self.not_ready
                raise SupervisorError(
                    f"not ready after {timeout_s:g} s: {', '.join(late)}\n{self.log_tail(late[0])}"
                )

    @property
    def all_ready(self) -> bool:
        """Whether every essential process runs and has said that it is ready."""
        return not self.not_ready

    @property
    def not_ready(self) -> list[str]:
        """Essential processes that do not run or have not said that they are ready."""
        return [name for name, child in self._children.items() if child.spec.essential and not child.ready]

    @property
    def restarts(self) -> dict[str, int]:
        """How often each process had to be started again; only those that had to."""
        return {name: child.restarts for name, child in self._children.items() if child.restarts}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what is running now."""
        return {name: child.process.pid for name, child in self._children.items() if child.process}

    def poll(self, wait_s: float = 0.0) -> None:
        """Notice who became ready or ended; start what is due.

        Raises:
            SupervisorError: A process ended and a restart cannot help.
        """
        for key, _ in self._selector.select(wait_s):
            self._read_ready(key.data)
        now_s = time.monotonic()
        for child in self._children.values():
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, now_s)
            if (
                child.process is None
                and not child.finished
                and now_s >= child.restart_at_s
                and self._may_start(child)
            ):
                self._launch(child, now_s)

    def _may_start(self, child: _Child) -> bool:
        # A restart does not wait for others: processes find each other in any order.
        return child.restarts > 0 or all(self._children[name].ready for name in child.spec.after)

    def _launch(self, child: _Child, now_s: float) -> None:
        read_fd, write_fd = os.pipe()
        environment = _child_environment() | child.spec.env
        environment |= {READY_FD_VARIABLE: str(write_fd), RESTARTS_VARIABLE: str(child.restarts)}
        log: IO[bytes]
        with child.log_path.open("ab") as log:
            child.process = subprocess.Popen(
                child.spec.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write_fd,),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        os.close(write_fd)
        child.ready_fd, child.ready, child.started_s = read_fd, False, now_s
        self._selector.register(read_fd, selectors.EVENT_READ, child)

    def _read_ready(self, child: _Child) -> None:
        assert child.ready_fd is not None
        child.ready = child.ready or os.read(child.ready_fd, 1) == b"1"
        self._forget_ready_fd(child)

    def _forget_ready_fd(self, child: _Child) -> None:
        if child.ready_fd is not None:
            self._selector.unregister(child.ready_fd)
            os.close(child.ready_fd)
            child.ready_fd = None

    def _ended(self, child: _Child, now_s: float) -> None:
        assert child.process is not None
        status = child.process.returncode
        name = child.spec.name
        _signal_group(child.process.pid, signal.SIGKILL)  # what it started must not meet its successor
        child.process, child.ready = None, False
        self._forget_ready_fd(child)
        if not child.spec.essential:
            child.finished = True
            text = "%s ended (%s); the fleet goes on without it (its log: %s)"
            logger.log(
                logging.WARNING if status else logging.INFO, text, name, _status_text(status), child.log_path
            )
            return
        if status == EXIT_CONFIG or not child.spec.respawn:
            child.finished = True
            raise SupervisorError(f"{name} ended with status {status}:\n{self.log_tail(name)}")
        if now_s - child.started_s > _STABLE_S:
            child.quick_failures = 0
        delay_s = _BACKOFF_S[min(child.quick_failures, len(_BACKOFF_S) - 1)]
        if child.quick_failures >= len(_BACKOFF_S):
            child.finished = True
            raise SupervisorError(f"{name} keeps ending ({_status_text(status)}):\n{self.log_tail(name)}")
        child.quick_failures += 1
        child.restarts += 1
        child.restart_at_s = now_s + delay_s
        text = "%s ended (%s); starting it again in %.1f s (its log: %s)"
        logger.warning(text, name, _status_text(status), delay_s, child.log_path)

    def log_tail(self, name: str) -> str:
        """The last lines of a process's log, indented, and where the rest is."""
        path = self._children[name].log_path
        try:
            lines = path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        return "\n".join([*(f"    {_COLOURS.sub('', line)}" for line in lines), f"    (all of it: {path})"])

    # Stop -----------------------------------------------------------------------------------

    def stop(self, names: Sequence[str] | None = None, timeout_s: float = 20.0) -> None:
        """SIGTERM to the named processes (default: all, last started first), then SIGKILL to who stays.

        A process ends before those it was started after: robots can still ship to the server.
        """
        left = deque(reversed(list(self._children))) if names is None else deque(names)
        groups: list[list[_Child]] = []
        while left:
            waited_for = {dep for name in left for dep in self._children[name].spec.after}
            group = [name for name in left if name not in waited_for]
            groups.append([self._children[name] for name in group])
            left = deque(name for name in left if name not in group)
        for group_children in groups:
            self._stop_group(group_children, timeout_s)
        if names is None:
            remove_stale_segments()  # of those that did not end by themselves

    def _stop_group(self, children: list[_Child], timeout_s: float) -> None:
        for child in children:
            child.finished = True
            if child.process is not None:
                _signal_group(child.process.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        for child in children:
            process = child.process
            if process is None:
                continue
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("%s did not end within %g s of SIGTERM: killed", child.spec.name, timeout_s)
            _signal_group(process.pid, signal.SIGKILL)  # also whatever it may have started
            process.wait()
            child.process, child.ready = None, False
            self._forget_ready_fd(child)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _child_environment() -> dict[str, str]:
    """This environment without what the ROS wheels' bootstrap left in it: each child does its own.

    Files in the current folder that are called like modules are none (Python 3.11 and newer).
    """
    kept = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    return kept | {"PYTHONSAFEPATH": "1"}


def _status_text(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    return f"killed by {signal.Signals(-status).name}"
