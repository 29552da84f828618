"""How a process learns that it must stop: real signals to a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from fleet.ready import LINGER_S_VARIABLE

CODE = """
import sys
from fleet.ready import stop_on_signals
stop = stop_on_signals()
print("up", flush=True)
stop.wait()
"""


def seconds_until_end(number: signal.Signals, linger_s: str) -> float:
    environment = os.environ | {LINGER_S_VARIABLE: linger_s}
    with subprocess.Popen(
        [sys.executable, "-c", CODE], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        began_s = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        return time.monotonic() - began_s


@pytest.mark.parametrize(
    ("number", "linger_s", "at_least_s"),
    [(signal.SIGINT, "0.5", 0.5), (signal.SIGINT, "0", 0.0), (signal.SIGTERM, "60", 0.0)],
)
def test_who_serves_others_lingers_after_ctrl_c_only(
    number: signal.Signals, linger_s: str, at_least_s: float
) -> None:
    took_s = seconds_until_end(number, linger_s)
    assert at_least_s <= took_s < 30
