import dataclasses

import pytest

from replay_server.episode_file import EpisodeInfo
from replay_server.selection import Selection, SelectionError

INFO = EpisodeInfo(
    run_id="run1",
    robot_id="robot1",
    boot_id="b",
    episode=3,
    rows=80,
    first_seq=0,
    last_seq=79,
    first_cursor=0,
    last_cursor=79,
    received_ns=1_767_225_600_000_000_000,  # 2026-01-01T00:00 UTC
    spec_hash="",
    policy_version=12,
    evaluation=False,
    end="time_limit",
    success=True,
    metrics={"return": -3.5},
    complete=True,
    task="reach",
)


@pytest.mark.parametrize(
    "condition",
    [
        "robot=robot1",
        "robot=robot2, robot1",
        "task=reach",
        "run=run1",
        "since=2025-12-30",
        "until=2026-01-03T12:00",
        "since=2026-01-01T00:00+00:00",
        "success=yes",
        "evaluation=no",
        "complete=yes",
        "end=success,time_limit",
        "policy=12",
        "policy=10..12",
        "policy=..12",
        "policy=12..",
        "rows=80..80",
        "return=-4..-3",
    ],
)
def test_conditions_that_an_episode_meets(condition):
    assert Selection.parse([condition]).takes(INFO)


@pytest.mark.parametrize(
    "condition",
    [
        "robot=robot2",
        "task=door",
        "since=2026-01-03",
        "until=2026-01-01T00:00+00:00",
        "success=no",
        "evaluation=yes",
        "end=fault",
        "policy=13..",
        "policy=..11",
        "rows=81..",
        "return=-3..",
    ],
)
def test_conditions_that_it_does_not_meet(condition):
    assert not Selection.parse([condition]).takes(INFO)
    assert Selection.parse([]).takes(INFO)


def test_all_conditions_must_hold():
    assert Selection.parse(["robot=robot1", "success=yes"]).takes(INFO)
    assert not Selection.parse(["robot=robot1", "success=no"]).takes(INFO)


def test_an_episode_without_a_return_is_in_no_range_of_returns():
    info = dataclasses.replace(INFO, metrics={})
    assert not Selection.parse(["return=..1e9"]).takes(info)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("robot", r"'robot': must be KEY=VALUE with a KEY of robot, task"),
        ("colour=red", r"KEY of robot, task"),
        ("success=maybe", r"'success=maybe': yes or no"),
        ("policy=new", r"a number, or a range as in 10\.\.50"),
        ("policy=5..1", r"a range"),
        ("policy=", r"a range"),
        ("policy=nan", r"a range"),
        ("since=yesterday", r"a date or time as in 2026-11-30"),
    ],
)
def test_what_cannot_be_understood_is_named(condition, text):
    with pytest.raises(SelectionError, match=text):
        Selection.parse([condition])
