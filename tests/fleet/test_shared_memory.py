from __future__ import annotations

import mmap
import time
from pathlib import Path

import pytest

from fleet.shared_memory import SHARED_MEMORY, remove_stale_segments

STALE, USED = "fastdds_00000000deadbeef", "fastdds_00000000cafecafe"


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes on by a minute, so that fresh files are old ones."""
    real = time.time
    monkeypatch.setattr("fleet.shared_memory.time.time", lambda: real() + 60)


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"\0" * 4096)


def test_what_nobody_maps_is_removed_with_its_companions(tmp_path: Path, old: None) -> None:
    port = "fastdds_port64321"
    make(tmp_path, STALE, f"{STALE}_el", port, f"sem.{port}_mutex", "other", "fastdds_x")
    assert remove_stale_segments(tmp_path) == [STALE, port]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fastdds_x", "other"]


def test_what_a_process_has_mapped_stays(tmp_path: Path, old: None) -> None:
    make(tmp_path, USED, f"{USED}_el")
    with (tmp_path / USED).open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert remove_stale_segments(tmp_path) == []
    assert remove_stale_segments(tmp_path) == [USED]


def test_young_files_stay_because_their_owner_may_just_be_starting(tmp_path: Path) -> None:
    make(tmp_path, STALE)
    assert remove_stale_segments(tmp_path) == []


def test_no_folder_is_no_error(tmp_path: Path) -> None:
    assert remove_stale_segments(tmp_path / "none") == []
    assert Path("/dev/shm") == SHARED_MEMORY
