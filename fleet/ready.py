"""How a process tells its supervisor that it is ready, and how it learns that it must stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

READY_FD_VARIABLE = "PNAF_READY_FD"
RESTARTS_VARIABLE = "PNAF_RESTARTS"
LINGER_S_VARIABLE = "PNAF_LINGER_S"
"""How long a process that serves others goes on after SIGINT (s): Ctrl-C reaches all at once."""

EXIT_CONFIG = 2
"""Exit status of a process that a restart cannot help: its config or its surroundings are wrong."""


def notify_ready() -> None:
    """Tell the supervisor, if there is one; to be called once, when the process can serve."""
    descriptor = os.environ.pop(READY_FD_VARIABLE, "")
    if descriptor:
        with contextlib.suppress(OSError, ValueError):  # no supervisor listens any more
            os.write(int(descriptor), b"1")
            os.close(int(descriptor))


def stop_on_signals() -> threading.Event:
    """An event that a wish to end this process sets; it then ends in order, by itself.

    SIGHUP is among them: it comes when the terminal or the ssh session that started a robot is gone.
    """
    stop = threading.Event()
    linger_s = float(os.environ.get(LINGER_S_VARIABLE, "0"))

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and linger_s > 0:
            timer = threading.Timer(linger_s, stop.set)
            timer.daemon = True
            timer.start()
        else:
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, handle)
    return stop
