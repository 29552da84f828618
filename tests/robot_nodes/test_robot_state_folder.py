"""Files that a real arm's node leaves on its computer: who drives the arm, and whether it ended in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from robot_nodes.robot_state_folder import ArmLock, ArmTakenError, RunningMarker, arm_name, real_arms_folder

HOLD = """
import sys
from pathlib import Path
from robot_nodes.robot_state_folder import ArmLock
lock = ArmLock(Path(sys.argv[1]), "arm")
print("held", flush=True)
sys.stdin.read()
"""


def test_the_folder_is_this_user_s_and_never_relative(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("", "not/absolute"):
        monkeypatch.setenv("XDG_STATE_HOME", name)
        assert real_arms_folder() == tmp_path / ".local/state/parallel-naf"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/elsewhere")
    assert real_arms_folder() == Path("/var/elsewhere/parallel-naf")
    assert arm_name(42, "/fr3/a_b/commands") == "domain42-fr3-a_b-commands"


def test_one_process_drives_an_arm_until_it_ends_even_by_kill(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ArmTakenError, match=f"drives this arm already, process {holder.pid} "):
            ArmLock(folder, "arm")
        ArmLock(folder, "another_arm").release()
        holder.kill()
    lock = ArmLock(folder, "arm")
    with pytest.raises(ArmTakenError):
        ArmLock(folder, "arm")
    lock.release()
    ArmLock(folder, "arm").release()


def test_only_an_orderly_end_takes_the_marker_away(tmp_path: Path) -> None:
    marker = RunningMarker(tmp_path / "state", "arm")
    assert not marker.found
    marker.clear()  # nothing to clear, no folder yet
    marker.set()
    marker.set()
    assert RunningMarker(tmp_path / "state", "arm").found
    assert not RunningMarker(tmp_path / "state", "another_arm").found
    marker.clear()
    assert not RunningMarker(tmp_path / "state", "arm").found
