from __future__ import annotations

import logging

import numpy as np
import pytest

from learner.rounds import Rounds


def extend(rounds: Rounds, first: int, rows: int, *ends: int, now: float = 0.0) -> int:
    rounds.extend(first, rows, np.array(ends, np.int64), now)
    return rounds.closed


def test_a_round_ends_with_the_last_robots_episode() -> None:
    rounds = Rounds(2, timeout_s=10.0)
    assert extend(rounds, 0, 5) == 0
    assert extend(rounds, 5, 5, 1) == 0, "one of two"
    assert extend(rounds, 10, 6, 3) == 14, "after the end's own row"
    assert extend(rounds, 16, 10, 0, 2, 4, 6, 8) == 23, "two more rounds, and one robot's episode"
    assert extend(rounds, 26, 1, 0) == 27


def test_where_rows_are_cut_into_pieces_makes_no_difference() -> None:
    ends = np.array([3, 4, 11, 12, 13, 29])
    for size in (1, 2, 7, 30):
        rounds = Rounds(3, timeout_s=10.0)
        for first in range(0, 30, size):
            piece = ends[(ends >= first) & (ends < first + size)] - first
            extend(rounds, first, min(size, 30 - first), *piece)
        assert rounds.closed == 30


def test_silence_ends_a_round_without_the_missing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rounds = Rounds(2, timeout_s=10.0)
    rounds.tend(1e9)
    assert not caplog.text, "nothing has come that could wait"
    extend(rounds, 0, 5, 4, now=100.0)
    extend(rounds, 5, 0, now=109.0)  # an empty reply is no sign of life
    rounds.tend(109.9)
    assert rounds.closed == 0
    rounds.tend(110.0)
    assert rounds.closed == 5
    assert "1 of 2 robots have ended their episodes, and no row came for 10 s" in caplog.text
    assert extend(rounds, 5, 4, 3, now=111.0) == 5, "the next round needs both again"


def test_a_server_that_lost_rows_is_followed() -> None:
    rounds = Rounds(1, timeout_s=10.0)
    assert extend(rounds, 0, 10, 9) == 10
    assert extend(rounds, 6, 2) == 6
    assert extend(rounds, 8, 2, 1) == 10
