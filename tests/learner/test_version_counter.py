from __future__ import annotations

from pathlib import Path

import pytest

from learner.version_counter import VersionCounter


def test_counts_from_zero(tmp_path: Path) -> None:
    counter = VersionCounter(tmp_path / "checkpoints" / "policy_version")
    assert counter.last == -1
    assert [counter.take() for _ in range(3)] == [0, 1, 2]
    assert counter.last == 2


def test_after_a_crash_every_version_is_new(tmp_path: Path) -> None:
    path, highest = tmp_path / "policy_version", -1
    for takes in (3, 1500, 1):
        counter = VersionCounter(path)
        versions = [counter.take() for _ in range(takes)]
        assert versions[0] > highest
        assert versions == list(range(versions[0], versions[0] + takes))
        highest = versions[-1]


@pytest.mark.parametrize("damage", [b"", b"10x0", b"\xff\xfe\x00", None])
def test_an_unreadable_file_is_reported_and_no_version_comes_twice(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy_version"
    counter = VersionCounter(path)
    highest = [counter.take() for _ in range(2500)][-1]
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert VersionCounter(path, published=2400).take() > highest
    assert "policy_version: cannot be read" in caplog.text


def test_a_file_that_is_behind_the_checkpoints_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "policy_version"
    path.write_text("1000")
    assert VersionCounter(path, published=4321).take() == 4322
    assert VersionCounter(path, published=4322).take() == 5322


def test_a_full_disk_hands_out_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "checkpoints"
    blocked.touch()
    counter = VersionCounter(blocked / "policy_version", published=-1)
    last = counter.last
    with pytest.raises(OSError):
        counter.take()
    assert counter.last == last
    blocked.unlink()
    assert counter.take() == last + 1
