"""Checks that cannot fail prove nothing: bad recordings are found, good ones are not blamed."""

from __future__ import annotations

import pytest
from command_checks import Command, stop_problems, stream_problems


def stream(*velocities: float, period_s: float = 0.05) -> list[Command]:
    return [Command(i * period_s, (v, *[0.0] * 6)) for i, v in enumerate(velocities)]


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        (stream(0.3, 0.6, 0.9, 1.2), "command 3 is too fast"),
        (stream(0.3, 0.7), "command 1 is 0.400 rad/s from"),
        (stream(0.4), "command 0 is 0.400 rad/s from"),
        (stream(0.3, float("nan"), 0.3), "command 1: "),
        (stream(0.3, float("inf")), "command 1: "),
        ([Command(0.0, (0.1, 0.1))], "command 0: "),
    ],
)
def test_a_bad_command_is_found(commands, problem):
    assert stream_problems(commands)[0].startswith(problem)


def test_a_good_stream_is_not_blamed():
    assert stream_problems(stream(0.3, 0.6, 0.9, 1.0, 0.7, 0.4, 0.1, -0.2, 0.0, 0.3)) == []
    assert stream_problems(stream(0.3, 0.6, 0.0)) == [], "a stop may be sudden"


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        (stream(0.3, 0.3, 0.3, 0.3), "no zero command"),
        (stream(0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.0), "the first zero came after 0.25 s"),
        (stream(0.3, 0.3, 0.0, 0.3), "it moved again 0.05 s after the first zero"),
        (stream(0.3, 0.0, 0.0, 0.0), "it did not move before"),
    ],
)
def test_a_bad_stop_is_found(commands, problem):
    assert stop_problems(commands, since_s=0.051, limit_s=0.2, until_s=1.0)[0].startswith(problem)


def test_a_good_stop_is_not_blamed():
    assert stop_problems(stream(0.3, 0.3, 0.3, 0.0, 0.0, 0.3), since_s=0.051, limit_s=0.2, until_s=0.24) == []
