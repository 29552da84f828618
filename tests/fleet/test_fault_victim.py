"""Processes that are hurt: what is done to them, and that they do not outlive who hurts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.fault_victim import Victim

WRITER = """
import sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    print("up", flush=True)
    while True:
        try:
            file.write(b"x" * 100)
            print("wrote", flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
        time.sleep(0.01)
"""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim("writer", (sys.executable, "-c", WRITER, str(tmp_path / "data")), tmp_path / "log")
    yield made
    made.kill()


def test_its_files_can_be_kept_from_growing(
    victim: Victim, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    log = tmp_path / "log"
    victim.start()
    wait_until(lambda: "wrote" in log.read_text(), what="a first write")
    # Where the limit lies within a write, the kernel writes a part of it; its log is a file, too.
    limit = (tmp_path / "data").stat().st_size + 2050
    victim.limit_files(limit)
    wait_until(lambda: (tmp_path / "data").stat().st_size == limit, what="the limit")
    wait_until(lambda: "File too large" in log.read_text(), what="the error")
    victim.limit_files(None)
    wait_until(lambda: (tmp_path / "data").stat().st_size > limit, what="writing again")


def test_kill_and_start_again(victim: Victim, tmp_path: Path, wait_until: Callable[..., None]) -> None:
    assert (victim.running, victim.status) == (False, None)
    victim.start()
    assert victim.running
    victim.kill()
    assert (victim.running, victim.status) == (False, -signal.SIGKILL)
    victim.start()
    wait_until(lambda: "up" in victim.log_tail(), what="its second start")
    assert victim.running


HOLDER = """
import sys
from pathlib import Path
from fleet.fault_victim import Victim
victim = Victim("sleeper", (sys.executable, "-c", sys.argv[1]), Path(sys.argv[2]))
victim.start()
sys.stdin.read()
"""
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def test_even_stopped_it_does_not_outlive_a_killed_parent(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    log = tmp_path / "log"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, SLEEPER, str(log)], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: log.exists() and log.read_text().strip(), what="the sleeper")
        pid = int(log.read_text())
        os.kill(pid, signal.SIGSTOP)
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdin
        holder.stdin.close()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(gone, what="the end of the sleeper")
