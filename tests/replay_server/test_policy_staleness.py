"""How old policies were, against numbers counted by hand and against a plain reading of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_server.policy_staleness import HeldPolicy, StalenessSweep


def sweep(*episodes: tuple[list[int], list[int]]) -> dict[int, list[int]]:
    """Versions behind of episodes given as (cursors, versions), by their place."""
    it: StalenessSweep[int] = StalenessSweep()
    found = {}
    for key, (cursor, version) in enumerate(episodes):
        found |= dict(it.add(key, np.array(cursor), np.array(version)))
    found |= dict(it.finish())
    return {key: found[key].tolist() for key in sorted(found)}


def test_versions_behind_counted_by_hand() -> None:
    # Log: A B A B A B, where B goes on with version 1 while A gets 2 and 5, and then has 4.
    a = [0, 2, 4], [1, 2, 5]
    b = [1, 3, 5], [1, 1, 4]
    assert sweep(a, b) == {0: [0, 0, 0], 1: [0, 1, 1]}


def test_a_row_before_the_first_policy_is_behind_once_another_robot_has_one() -> None:
    assert sweep(([0, 1], [-1, -1]), ([2], [3]), ([3, 4], [-1, 3])) == {0: [0, 0], 1: [0], 2: [4, 0]}


def test_a_newer_policy_counts_for_all_later_episodes() -> None:
    assert sweep(([0], [9]), ([1], [2]), ([2], [9]), ([3], [8]))[3] == [1]
    assert sweep(([0], [9]), ([1], [2])) == {0: [0], 1: [7]}


def test_an_episode_is_settled_and_forgotten_as_soon_as_no_row_can_come_before_its_last() -> None:
    it: StalenessSweep[str] = StalenessSweep()
    assert list(it.add("a", np.array([0, 5]), np.array([1, 1]))) == []
    assert list(it.add("b", np.array([2, 3]), np.array([4, 4]))) == []
    settled = {key: behind.tolist() for key, behind in it.add("c", np.array([7]), np.array([4]))}
    assert settled == {"a": [0, 3], "b": [0, 0]}
    assert {key: behind.tolist() for key, behind in it.finish()} == {"c": [0]}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 9), st.booleans()), min_size=1, max_size=60))
def test_any_interleaving_of_robots_is_as_the_definition_says(log: list[tuple[int, int, bool]]) -> None:
    """Each entry of the log: which robot, its version, and whether this row ends its episode."""
    episodes: list[tuple[list[int], list[int]]] = []
    running: dict[int, tuple[list[int], list[int]]] = {}
    for cursor, (robot, version, ends) in enumerate(log):
        if robot not in running:
            running[robot] = [], []
            episodes.append(running[robot])
        running[robot][0].append(cursor)
        running[robot][1].append(version)
        if ends:
            del running[robot]
    versions = [version for _, version, _ in log]
    expected = {
        key: [max(max(versions[:c], default=v) - v, 0) for c, v in zip(cursors, acted, strict=True)]
        for key, (cursors, acted) in enumerate(episodes)
    }
    assert sweep(*episodes) == expected


def test_how_long_a_version_was_held_goes_on_over_episodes() -> None:
    held = HeldPolicy()
    seconds = 1_000_000_000 * np.arange(10)
    first = held.add(np.array([3, 3, 4]), seconds[:3])
    assert first == pytest.approx([0, 1, 0])
    assert held.add(np.array([4, 4, 5]), seconds[5:8]) == pytest.approx([3, 4, 0])
    assert held.add(np.array([6, 6]), seconds[8:]) == pytest.approx([0, 1])


def test_a_clock_that_was_set_back_starts_anew() -> None:
    held = HeldPolicy()
    held.add(np.array([1, 1]), np.array([100, 101]) * 10**9)
    assert held.add(np.array([1, 1]), np.array([5, 6]) * 10**9) == pytest.approx([0, 1])
