"""When logged rows are due; every number here is computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robot_nodes.log_timeline import BootSpans, Span, episode_starts, row_offsets

S = 10**9


def boot(robot: str, *episodes: tuple[float, float, float]) -> BootSpans:
    """Episodes as (first stamp, duration, wall time at the end), in seconds."""
    return BootSpans(robot, [Span(int(a * S), b, int(c * S)) for a, b, c in episodes])


@pytest.mark.parametrize(
    ("stamps_s", "offsets_s"),
    [
        ([5.0, 5.05, 5.1], [0.0, 0.05, 0.1]),
        ([5.0], [0.0]),
        ([5.0, 5.05, 905.05, 905.1], [0.0, 0.05, 10.05, 10.1]),  # a jump of the clock: the longest gap
        ([5.0, 5.05, 2.0, 2.05], [0.0, 0.05, 0.05, 0.1]),  # a step back: none
    ],
)
def test_rows_of_an_episode_are_as_far_apart_as_their_stamps(
    stamps_s: list[float], offsets_s: list[float]
) -> None:
    stamps = (np.array(stamps_s) * S).astype(np.int64)
    np.testing.assert_allclose(row_offsets(stamps, 10.0), offsets_s, atol=1e-9)


def test_episodes_of_a_boot_are_as_far_apart_as_their_stamps() -> None:
    # 4 s long, 2 s of reset between them; the wall clock ran ten times slower than the simulated one
    lived = boot("a", (16.0, 4.0, 100.4), (22.0, 4.0, 101.0), (28.0, 3.0, 101.6))
    assert episode_starts([lived], 10.0) == [[0.0, 6.0, 12.0]]


def test_stamps_that_begin_anew_in_each_episode_follow_each_other() -> None:
    assert episode_starts([boot("a", (0.0, 4.0, 4.0), (0.0, 4.0, 9.0))], 10.0) == [[0.0, 4.0]]


def test_robots_begin_as_far_apart_as_they_did() -> None:
    first = boot("a", (50.0, 4.0, 104.0), (55.0, 4.0, 109.0))  # began at 100
    second = boot("b", (7.0, 3.0, 104.5))  # began at 101.5
    assert episode_starts([first, second], 10.0) == [[0.0, 5.0], [1.5]]


def test_boots_of_one_robot_follow_each_other_whatever_their_clocks_say() -> None:
    # simulated ten times as fast: 40 s were lived in 4 s, and then it started again
    first, second = boot("a", (0.0, 40.0, 104.0)), boot("a", (0.0, 20.0, 100.0))
    assert episode_starts([first, second], 10.0) == [[0.0], [40.0]]


def test_runs_that_did_not_overlap_follow_each_other() -> None:
    # both 40 simulated seconds in 4 s of wall time, 3 s apart; the second run has another robot
    first = boot("a", (0.0, 40.0, 140.0))  # from 100 to 140
    second = boot("b", (0.0, 40.0, 183.0))  # from 143 to 183
    assert episode_starts([first, second], 10.0) == [[0.0], [43.0]]


def test_time_in_which_nobody_did_anything_is_cut() -> None:
    evening = boot("a", (0.0, 4.0, 104.0), (3600.0, 4.0, 3704.0))  # an hour's pause, in which b worked on
    beside = boot("b", (0.0, 3000.0, 3100.0))
    morning = boot("a", (0.0, 4.0, 40_004.0))  # began at 40 000
    # a again at 3600: b ended at 3000, so 600 s of nobody become 10; the night after 3604 becomes 10, too
    assert episode_starts([evening, beside, morning], 10.0) == [[0.0, 3010.0], [0.0], [3024.0]]
    assert episode_starts([evening, beside, morning], 0.0) == [[0.0, 3000.0], [0.0], [3004.0]]


def test_nothing_takes_no_time() -> None:
    assert episode_starts([], 10.0) == []
