from __future__ import annotations

from pathlib import Path

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


def test_an_unreadable_file_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "policy_version"
    path.write_text("")
    assert VersionCounter(path).take() == 0
