"""What logs are worth, against numbers counted by hand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fleet.messages import Transitions
from fleet.spaces import Space, SpaceSpec
from replay_server.action_histogram import BINS, PLACES, ActionHistogram
from replay_server.episode_file import EpisodeInfo
from replay_server.log_findings import findings
from replay_server.log_statistics import LogStatistics, rolling_mean
from replay_server.log_summary import Rate, summarise
from replay_server.robot_numbers import quantile, robots

SPEC = SpaceSpec(
    Space(("tool/x", "tool/y"), ("m", "m"), (0.0, -1.0), (1.0, 1.0)),
    Space(("joint_1/velocity_command", "joint_2/velocity_command"), ("1", "1"), (-1, -1), (1, 1)),
)


def facts(episode: int = 0, robot: str = "robot1", **changes: Any) -> EpisodeInfo:
    values: dict[str, Any] = dict(
        run_id="run", robot_id=robot, boot_id="b0", episode=episode, rows=4, first_seq=0, last_seq=3,
        first_cursor=4 * episode, last_cursor=4 * episode + 3, received_ns=10**9 * episode,
        spec_hash=SPEC.hash, policy_version=1, evaluation=False, end="time_limit", success=True, metrics={},
        complete=True,
    )  # fmt: skip
    return EpisodeInfo(**(values | changes))


def rows(count: int = 4, **changes: Any) -> Transitions:
    zeros, flags = np.zeros((count, 2), np.float32), np.zeros(count, bool)
    values: dict[str, Any] = dict(
        observation=zeros, action=zeros, policy_action=zeros, reward=np.zeros(count, np.float32),
        next_observation=zeros, terminated=flags, truncated=flags, intervened=flags, clipped=flags,
        policy_version=np.ones(count, np.int64), stamp_ns=50_000_000 * np.arange(count),
    )  # fmt: skip
    return Transitions(**(values | changes))


def add(statistics: LogStatistics, info: EpisodeInfo, transitions: Transitions) -> None:
    statistics.add(info, transitions, info.first_cursor + np.arange(transitions.rows))


def test_one_episode_counted_by_hand() -> None:
    statistics = LogStatistics(SPEC)
    transitions = rows(
        reward=np.array([1, 2, 3, -0.5], np.float32),
        intervened=np.array([True, False, False, False]),
        clipped=np.array([True, True, True, False]),
        action=np.array([[1, 0], [-1, 0], [0.5, 0], [0.99, 0]], np.float32),
        policy_action=np.array([[1, 0], [-1, 0], [1.5, 1], [1, 1]], np.float32),
    )
    add(statistics, facts(), transitions)
    statistics.finish()
    (episode,) = statistics.episodes
    assert (episode.total, episode.intervened, episode.clipped) == (5.5, 0.25, 0.75)
    assert episode.saturated == 2 / 8
    assert episode.seconds == pytest.approx(0.2)
    assert (episode.behind, episode.held_s) == (0, pytest.approx(0.15))
    assert statistics.executed.saturation.tolist() == [0.5, 0]
    assert statistics.asked.saturation.tolist() == [1, 0.5]
    assert statistics.changed == pytest.approx([0.5 + 0.01, 2.0])


def test_the_return_is_what_the_robot_said_it_was() -> None:
    statistics = LogStatistics(SPEC)
    add(statistics, facts(metrics={"return": 7.0}), rows())
    assert statistics.episodes[0].total == 7.0


def test_actions_fall_into_bins_and_what_is_beyond_into_the_outermost() -> None:
    histogram = ActionHistogram(1)
    histogram.add(np.array([[-1.0], [-2.0], [0.0], [0.01], [0.5], [1.0], [9.0], [np.nan]], np.float32))
    counts = histogram.counts[0]
    assert (counts[0], counts[BINS // 2], counts[-1], counts.sum()) == (2, 2, 2, 7)
    assert counts[int(1.5 / 2 * BINS)] == 1  # 0.5
    assert (histogram.rows, histogram.saturated[0]) == (8, 4)


def test_where_the_tool_was_is_counted_by_success() -> None:
    statistics = LogStatistics(SPEC)
    at = rows(observation=np.array([[0, -1], [0.999, 0.999], [5, 5], [np.nan, 0]], np.float32))
    add(statistics, facts(success=True), at)
    add(statistics, facts(1, success=False), rows())
    (coverage,) = statistics.coverage
    assert coverage.axes == ("tool/x", "tool/y")
    assert (coverage.success[0, 0], coverage.success[-1, -1], coverage.success.sum()) == (1, 2, 3)
    assert coverage.other[0, PLACES // 2] == 4
    assert statistics.not_finite == 1


def test_versions_behind_of_two_robots_and_of_what_no_robot_lived() -> None:
    statistics = LogStatistics(SPEC)
    versions = {"robot1": [1, 5, 5, 5], "robot2": [1, 1, 1, 5]}
    for number, (robot, version) in enumerate(versions.items()):
        cursor = number + 2 * np.arange(4)  # robot1 0 2 4 6, robot2 1 3 5 7
        statistics.add(facts(number, robot), rows(policy_version=np.array(version)), cursor)
    add(statistics, facts(9, origin="merged from a, b"), rows())
    statistics.finish()
    assert [e.behind for e in statistics.episodes[:2]] == [0, 2]  # robot2: 0, 4, 4, 0
    assert statistics.behind == {"robot1": Counter({0: 4}), "robot2": Counter({0: 2, 4: 2})}
    assert math.isnan(statistics.episodes[2].behind)


def test_versions_of_another_run_are_other_policies() -> None:
    statistics = LogStatistics(SPEC)
    add(statistics, facts(policy_version=900), rows(policy_version=np.full(4, 900)))
    add(statistics, facts(1, run_id="other"), rows())
    statistics.finish()
    assert [e.behind for e in statistics.episodes] == [0, 0]


def test_robots_are_weighted_by_rows_and_rates_count_what_ended_by_itself() -> None:
    statistics = LogStatistics(SPEC)
    metrics = {"return": 2.0, "guard/position": 3.0, "guard/position_max_rad_s": 0.9}
    add(statistics, facts(0, metrics=metrics), rows(clipped=np.ones(4, bool)))
    add(statistics, facts(1, rows=12, success=False, metrics={"return": 4.0}), rows(12))
    add(statistics, facts(2, end="stopped", success=False, metrics={"return": 0.0}), rows())
    add(statistics, facts(3, end="fault", boot_id="b1", success=False, evaluation=True), rows())
    add(statistics, facts(4, evaluation=True), rows())
    statistics.finish()
    (robot,) = robots(statistics)
    assert (robot.episodes, robot.rows, robot.boots) == (5, 28, 2)
    assert (robot.training, robot.evaluation) == (Rate(1, 2), Rate(1, 1))
    assert robot.mean_return == 2.0
    assert robot.clipped == pytest.approx(4 / 28)
    assert robot.guard == {"position": 3 / 28}
    assert robot.ends == {"time_limit": 3, "stopped": 1, "fault": 1}


def test_a_rate_and_where_the_true_one_lies() -> None:
    # Wilson 1927 by hand for 8 of 10: (0.8 + 0.19208 ∓ 1.96 √(0.016 + 0.009604)) / 1.38416
    assert Rate(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    for n in range(1, 400):
        assert Rate(0, n).interval[0] == 0 and Rate(n, n).interval[1] == 1
    assert Rate().interval == (0, 1) and str(Rate()) == "none"
    assert str(Rate(2, 3)) == "67 % of 3"


def test_a_summary_of_facts() -> None:
    infos = [
        facts(0, task="reach"),
        facts(1, "robot2", policy_version=-1, evaluation=True),
        facts(2, rows=6, complete=False, end="", success=False),
    ]
    summary = summarise(infos)
    assert (summary.episodes, summary.rows, summary.unfinished) == (3, 14, 1)
    assert (summary.robots, summary.tasks, summary.policies) == (("robot1", "robot2"), ("reach",), (-1, 1))
    assert (summary.training, summary.evaluation) == (Rate(1, 1), Rate(1, 1))
    assert (summary.first_ns, summary.last_ns) == (0, 2 * 10**9)
    assert summarise([]).policies is None


def test_quantiles_and_rolling_means() -> None:
    counts = Counter({0: 98, 3: 1, 40: 1})
    assert [quantile(counts, share) for share in (0.5, 0.98, 0.99, 1.0)] == [0, 0, 3, 40]
    assert math.isnan(quantile(Counter(), 0.5))
    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    assert rolling_mean(values, 2).tolist() == [1, 2, 3, 5, 6]
    assert rolling_mean(values[:1], 20).tolist() == [1]
    assert np.isnan(rolling_mean(np.array([np.nan]), 3)).all()


# What stands out -----------------------------------------------------------------------------


def found(*episodes: tuple[EpisodeInfo, Transitions], damaged: int = 0) -> str:
    statistics = LogStatistics(SPEC)
    for info, transitions in episodes:
        add(statistics, info, transitions)
    statistics.finish()
    return "\n".join(findings(statistics, robots(statistics), damaged))


def moving(**changes: Any) -> Transitions:
    return rows(observation=np.array([[0, 0], [1, 1], [0, 0], [1, 1]], np.float32), **changes)


def test_nothing_stands_out_of_healthy_logs() -> None:
    assert found(*((facts(i, f"robot{i % 2}"), moving()) for i in range(40))) == ""


def test_what_stands_out_is_said() -> None:
    frozen = rows(observation=np.array([[0.5, 0], [0.5, 1], [0.5, 0], [0.5, 1]], np.float32))
    late = moving(policy_version=np.full(4, 60))
    bad = [
        (facts(2 * i, "robot1", success=i < 2, end="fault" if i == 9 else "time_limit"), frozen)
        for i in range(30)
    ]
    good = [(facts(2 * i + 1, "robot2"), late) for i in range(30)]
    text = found(*sorted([*bad, *good], key=lambda pair: pair[0].episode), damaged=3)
    for line in (
        "listed below: 3.",
        "robot1: 1 of 30 episodes ended with a fault.",
        "robot1 succeeded in only 7 % of 29 training episodes, the other robots in 100 % of 30",
        "robot1: tool/x never changed",
        "robot1 acted 59 or more versions behind",
    ):
        assert line in text, line
    assert "robot2 succeeded" not in text and "robot2 acted" not in text and "robot2: tool" not in text


def test_actions_that_are_not_controlled_and_a_person_stand_out() -> None:
    asked = np.tile(np.array([1, 0.5], np.float32), (4, 1))
    text = found((facts(success=False), moving(policy_action=asked, intervened=np.arange(4) == 0)))
    assert "joint_1/velocity_command: asked for at ±1" in text
    assert "joint_1/velocity_command (1.00), joint_2/velocity_command (0.50): so much the guard" in text
    assert "a person moved it in 25 % of its steps" in text
    assert "No episode succeeded." in text


def test_a_limit_that_one_robot_meets_more_often_stands_out() -> None:
    often, seldom = ({"guard/workspace": n, "return": 0.0} for n in (3.0, 1.0))
    text = found(
        (facts(0, "robot1", metrics=often), moving()), (facts(1, "robot2", metrics=seldom), moving())
    )
    assert "robot1: the guard's limit workspace changed 75 % of its commands, 25 % of the other" in text
    assert "robot2: the guard" not in text


def test_infinities_and_missing_ends_stand_out() -> None:
    broken = replace(moving(), reward=np.array([0, np.nan, 0, np.inf], np.float32))
    text = found((facts(end="", complete=False), broken))
    assert "Rows with NaN or infinity, from a sensor or a task: 2." in text
    assert "Episodes without an end, that go on or whose robot was cut off: 1." in text
