"""The e-stop's file: it outlives the process, and whatever is wrong with it counts as e-stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from robot_nodes.estop_latch import EstopLatch


def test_it_holds_for_the_next_process_until_cleared(tmp_path: Path) -> None:
    latch = EstopLatch(tmp_path / "spool", "robot1")
    assert latch.reason == ""
    latch.clear()  # nothing to clear, no folder yet
    latch.set("a hand in the cell")
    latch.set("another reason")
    again = EstopLatch(tmp_path / "spool", "robot1")
    assert again.reason.startswith("a hand in the cell (20")
    assert EstopLatch(tmp_path / "spool", "robot2").reason == ""
    again.clear()
    assert latch.reason == ""


def test_its_presence_counts_whatever_is_in_it(tmp_path: Path) -> None:
    latch = EstopLatch(tmp_path, "robot1")
    latch.path.touch()  # a power cut before the text
    assert latch.reason == "e-stopped before the last restart"
    latch.path.write_bytes(b"\xff\xfe cut")
    assert latch.reason
    latch.clear()
    latch.path.mkdir()  # cannot be read
    assert "taken as e-stopped" in latch.reason


@pytest.mark.parametrize("step", ["touch", "write_text"])
def test_killed_on_the_way_it_holds_from_the_first_step(tmp_path: Path, step: str) -> None:
    code = f"""
import os, pathlib
from robot_nodes.estop_latch import EstopLatch
real = pathlib.Path.{step}
def last(self, *args, **kwargs):
    real(self, *args, **kwargs)
    os._exit(9)
pathlib.Path.{step} = last
EstopLatch(pathlib.Path({str(tmp_path)!r}), "robot1").set("stop")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert EstopLatch(tmp_path, "robot1").reason


def test_a_disk_that_refuses_is_told_and_it_holds_all_the_same(tmp_path: Path, monkeypatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fleet.durable_files.fsync_path", refuse)
    latch = EstopLatch(tmp_path, "robot1")
    with pytest.raises(OSError, match="No space"):
        latch.set("stop")
    assert latch.reason
