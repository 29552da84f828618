"""Steps to episodes, with a task that can end."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from robot_nodes.bag_episodes import BagEpisode, EpisodeMaker
from robot_nodes.bag_steps import Step, Tick
from robot_nodes.joint_states import JointReading


class Threshold:
    """Ends where the joint passes a multiple of 10; a success at 20."""

    def observe(self, state: Any, goal: Any) -> np.ndarray:
        return np.array([state.q[0], goal[0]], np.float32)

    def reward(self, next_state: Any, goal: Any, action: Any) -> float:
        return float(next_state.q[0] - action[0])

    def terminated(self, next_state: Any, goal: Any) -> bool:
        return bool(next_state.q[0] % 10 == 0)

    def success(self, last_state: Any, goal: Any) -> bool:
        return bool(last_state.q[0] == 20)

    def metrics(self, last_state: Any, goal: Any) -> dict[str, float]:
        return {"end": last_state.q[0]}


def made(end: str, positions: range) -> list[BagEpisode]:
    episodes: list[BagEpisode] = []
    maker = EpisodeMaker(
        Threshold(),  # type: ignore[arg-type]
        SimpleNamespace(tool_position=lambda q: q),  # type: ignore[arg-type]
        np.array([2.0]),
        SimpleNamespace(of_episode=lambda last: last.q),  # type: ignore[arg-type]
        0.05,
        1000,
        episodes.append,
    )
    ticks = [
        Tick(JointReading(np.array([float(q)]), np.zeros(1), 100 + q), np.zeros(0), 1000 + q)
        for q in positions
    ]
    for before, after in pairwise(ticks):
        maker.step(Step(before, np.array([3.0 if after.reading.q[0] == 3 else 1.0]), after))
    maker.end(end)  # type: ignore[arg-type]
    return episodes


def test_where_the_task_ends_an_episode_ends_and_the_next_begins() -> None:
    first, second, third = made("fault", range(1, 25))
    assert [len(e.transitions.reward) for e in (first, second, third)] == [9, 10, 4]
    assert [(e.end, e.success) for e in (first, second, third)] == [
        ("failure", False),
        ("success", True),
        ("fault", False),
    ]
    assert first.transitions.terminated.tolist() == [False] * 8 + [True]
    assert not first.transitions.truncated.any()
    assert third.transitions.truncated.tolist() == [False] * 3 + [True]
    assert not third.transitions.terminated.any()
    assert second.received_ns == 1020
    assert second.transitions.stamp_ns.tolist() == list(range(110, 120))


def test_rewards_are_of_the_next_state_and_the_action_as_cut_to_the_limits() -> None:
    (episode,) = made("time_limit", range(1, 5))
    rows = episode.transitions
    assert rows.observation[:, 0].tolist() == [1, 2, 3]
    assert rows.next_observation.tolist() == [[2, 4], [3, 4], [4, 4]]
    assert rows.action[:, 0].tolist() == [0.5, 1.0, 0.5]  # of 3 rad/s where 2 are the limit
    assert rows.clipped.tolist() == [False, True, False]
    assert rows.reward.tolist() == [1.5, 2.0, 3.5]
    assert episode.metrics == {"end": 4.0, "return": 7.0}
