"""Counts of a synthetic robot are exact, also when it was killed between spool and count."""

from __future__ import annotations

from pathlib import Path

import pytest

from robot_nodes.spool_file import SpooledBoot
from robot_nodes.tally import Tally, read_tallies, settle


def spooled(boot_id: str, last_seq: int) -> SpooledBoot:
    spans = ((0, last_seq),) if last_seq >= 0 else ()
    return SpooledBoot(robot_id="robot1", boot_id=boot_id, run_id="", spans=spans, damaged=0)


def tally_of(folder: Path, boot_id: str, rows: int, first_index: int = 0) -> Tally:
    tally = Tally(folder, boot_id, first_index)
    for _ in range(rows):
        tally.attempt()
        tally.produce()
    return tally


def test_boots_go_on_counting(tmp_path: Path) -> None:
    tally_of(tmp_path, "a", 3)
    tally_of(tmp_path, "b", 2, first_index=settle(tmp_path, []))
    assert settle(tmp_path, []) == 5
    assert [(t.boot_id, t.first_index, t.produced) for t in read_tallies(tmp_path)] == [
        ("a", 0, 3),
        ("b", 3, 2),
    ]


@pytest.mark.parametrize(("last_seq", "total"), [(2, 3), (1, 2)])
def test_the_spool_decides_about_the_last_row_of_a_killed_robot(
    tmp_path: Path, last_seq: int, total: int
) -> None:
    tally_of(tmp_path, "a", 2).attempt()
    assert settle(tmp_path, [spooled("a", last_seq)]) == total
    # The spool may be delivered and gone later: the decision stays.
    assert settle(tmp_path, []) == total


def test_acknowledged_rows_only_rise(tmp_path: Path) -> None:
    tally = tally_of(tmp_path, "a", 10, first_index=100)
    for waiting in (10, 4, 7, 0):  # a server whose journal was damaged takes three rows back
        tally.wait_for(waiting)
    assert read_tallies(tmp_path)[0].acked == 13
