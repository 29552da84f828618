"""Episodes told for another task, against what robots really recorded and numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.fleet_logs import record
from benchmarks.common.pick_script import script_message
from fleet.config_file import load_fleet
from fleet.messages import COLUMNS
from replay_server.logs import open_logs
from robot_nodes.logged_states import RelabelError
from robot_nodes.relabel import Relabel

SHORT = "task.episode_s=1"
FLEETS = {"reach": "fleets/sim2.yaml", "door": "fleets/door2.yaml", "pick_place": "fleets/pick2.yaml"}
TASKS = {"reach": "tasks/reach.yaml", "door": "tasks/door.yaml", "pick_place": "tasks/pick_place.yaml"}
_TASK_FILES = Path(__file__).resolve().parents[2] / "hardware_configs"


def fleet_of(kind, task=None, *overrides):
    """The robots of one task with another."""
    return load_fleet(FLEETS[kind], [f"task={_TASK_FILES / TASKS[task or kind]}", *overrides])


@pytest.fixture(scope="module")
def logs_of(tmp_path_factory):
    """`logs_of("door")`: two episodes of 1 s, recorded by the robots' own control loop; made once."""
    made = {}

    def logs_of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("logs") / kind
            fleet = fleet_of(kind, None, SHORT)
            record(fleet, folder, script_message(fleet, noise_std=0.5), 2, seed=3, robots=["robot1"])
            made[kind] = open_logs([folder])
        return made[kind]

    return logs_of


@pytest.fixture
def episode(logs_of):
    """Facts and rows of one recorded episode of reach."""
    logs = logs_of("reach")
    return logs.episodes[0].info, logs.transitions(logs.episodes[0])


def named(logs, rows, *names):
    return rows[:, [logs.spec.observation.names.index(name) for name in names]].astype(float)


TOOL, TARGET = ("tool/x", "tool/y", "tool/z"), ("target/x", "target/y", "target/z")
OBJECT = ("object/x", "object/y", "object/z")


@pytest.mark.parametrize("kind", FLEETS)
def test_told_for_the_task_it_was_recorded_for_an_episode_is_what_it_was(logs_of, kind):
    logs = logs_of(kind)
    relabel = Relabel(fleet_of(kind, None, SHORT), logs.spec, kind)
    assert relabel.goals == "keep"
    assert relabel.task.spec == logs.spec
    for summary, old in logs.read():
        info, new = relabel(summary.info, old)
        for name in COLUMNS:
            if name != "reward":
                assert getattr(new, name).tobytes() == getattr(old, name).tobytes(), name
        np.testing.assert_allclose(new.reward, old.reward, rtol=0, atol=2e-6)
        assert info.metrics == pytest.approx(summary.info.metrics, abs=1e-5)
        assert replace(info, metrics={}, origin="") == replace(summary.info, metrics={})
        assert info.origin == f"relabelled for {kind} with the logged goal"
    assert (relabel.shortened, relabel.verdicts_dropped) == (0, 0)


def test_other_weights_pay_otherwise(logs_of, episode):
    info, old = episode
    weights = ("task.distance_weight=3", "task.precision_weight=0", "task.action_weight=0.5")
    relabel = Relabel(fleet_of("reach", None, SHORT, *weights), logs_of("reach").spec, "reach")
    told, new = relabel(info, old)
    tool, target = (named(logs_of("reach"), old.next_observation, *names) for names in (TOOL, TARGET))
    expected = -3 * np.linalg.norm(tool - target, axis=1) - 0.5 * (old.action.astype(float) ** 2).mean(axis=1)
    np.testing.assert_allclose(new.reward, expected, atol=1e-5)
    assert told.metrics["return"] == pytest.approx(expected.sum(), abs=1e-5)
    assert new.observation.tobytes() == old.observation.tobytes()


def test_in_hindsight_the_goal_was_where_the_tool_came_to(logs_of, episode):
    info, old = episode
    logs = logs_of("reach")
    told, new = Relabel(fleet_of("reach", None, SHORT), logs.spec, "reach", "final")(info, old)
    tool = named(logs, old.next_observation, *TOOL)
    for column in (new.observation, new.next_observation):
        np.testing.assert_array_equal(named(logs, column, *TARGET), np.tile(tool[-1], (20, 1)))
    np.testing.assert_array_equal(new.observation[:, :17], old.observation[:, :17])
    d = np.linalg.norm(tool - tool[-1], axis=1)
    expected = -d + 0.5 * np.exp(-100 * d**2) - 0.01 * (old.action.astype(float) ** 2).mean(axis=1)
    np.testing.assert_allclose(new.reward, expected, atol=1e-6)
    assert (told.end, told.success, told.metrics["final_distance_m"]) == ("time_limit", True, 0.0)
    assert told.metrics["target_x_m"] == tool[-1, 0]


def test_in_hindsight_the_goal_was_where_the_object_came_to(logs_of):
    logs = logs_of("pick_place")
    relabel = Relabel(fleet_of("pick_place", None, SHORT), logs.spec, "pick_place", "final")
    info, old = logs.episodes[0].info, logs.transitions(logs.episodes[0])
    told, new = relabel(info, old)
    way = named(logs, new.next_observation, *(f"target_from_object/{axis}" for axis in "xyz"))
    thing = named(logs, old.next_observation, *OBJECT)
    np.testing.assert_allclose(way, thing[-1] - thing, atol=1e-7)
    assert told.success and told.metrics["final_distance_m"] == 0.0


def test_random_goals_are_of_the_seed_and_the_episode_alone(logs_of):
    logs = logs_of("reach")

    def targets(seed, episodes):
        relabel = Relabel(fleet_of("reach", None, SHORT), logs.spec, "reach", "sample", seed)
        told = [relabel(summary.info, logs.transitions(summary))[0] for summary in episodes]
        return [info.metrics["target_x_m"] for info in told]

    one, two = targets(0, logs.episodes)
    assert one != two
    assert targets(0, logs.episodes[1:]) == [two]
    assert targets(1, logs.episodes) != [one, two]


def test_a_door_becomes_a_target_and_what_is_beyond_the_new_time_limit_is_cut(logs_of):
    logs = logs_of("door")
    relabel = Relabel(fleet_of("door", "reach", "task.episode_s=0.6"), logs.spec, "door", "final")
    info, old = logs.episodes[0].info, logs.transitions(logs.episodes[0])
    info = replace(info, metrics=info.metrics | {"guard/workspace": 2.0})
    told, new = relabel(info, old)
    assert (info.rows, new.rows, relabel.shortened, relabel.rows_cut) == (20, 12, 1, 8)
    assert (told.task, told.end, told.success) == ("reach", "time_limit", True)
    assert new.truncated.tolist() == [False] * 11 + [True] and not new.terminated.any()
    names = relabel.task.spec.observation.names
    assert names[17:] == (*TARGET, "door/door_hinge", "door/door_handle")
    np.testing.assert_array_equal(new.observation[:, :17], old.observation[:12, :17])
    np.testing.assert_array_equal(new.observation[:, -2:], old.observation[:12, -2:])
    np.testing.assert_array_equal(new.next_observation[-1, 17:20], old.next_observation[11, 14:17])
    # What the guard did was counted in steps that are gone, too.
    assert set(told.metrics) == {"final_distance_m", "target_x_m", "target_y_m", "target_z_m", "return"}


def test_an_episode_ends_where_the_task_terminates_it(logs_of, episode, monkeypatch):
    info, old = episode
    relabel = Relabel(fleet_of("reach", None, SHORT), logs_of("reach").spec, "reach")
    fifth = old.next_observation[4, :7]
    monkeypatch.setattr(relabel.task, "terminated", lambda state, goal: np.array_equal(state.q, fifth))
    told, new = relabel(info, old)
    assert new.rows == 5
    assert new.terminated.tolist() == [False] * 4 + [True] and not new.truncated.any()
    assert (told.end, told.success, told.complete) == ("failure", False, True)
    assert told.metrics["return"] == pytest.approx(old.reward[:5].sum(), abs=1e-5)


LABELS = "robots.0.robot.labels={success_reward: 10, failure_reward: -10}"


def judged(info, old):
    """The episode as if a person had called it a success in its last step."""
    reward, last = old.reward.copy(), np.arange(20) == 19
    reward[-1] += 10
    rows = replace(old, reward=reward, terminated=last, truncated=np.zeros(20, bool))
    return replace(info, end="success", success=True), rows


def test_a_persons_verdict_stands_for_the_same_task_and_goal(logs_of, episode):
    info, old = judged(*episode)
    told, new = Relabel(fleet_of("reach", None, SHORT, LABELS), logs_of("reach").spec, "reach")(info, old)
    np.testing.assert_allclose(new.reward, old.reward, atol=2e-6)
    assert (told.end, told.success) == ("success", True)
    assert new.terminated[-1] and not new.truncated.any()


@pytest.mark.parametrize(("kind", "goals"), [("reach", "sample"), ("reach", "final"), ("", "keep")])
def test_a_persons_verdict_is_not_one_on_another_goal_or_task(logs_of, episode, kind, goals):
    info, old = judged(*episode)
    relabel = Relabel(fleet_of("reach", None, SHORT, LABELS), logs_of("reach").spec, kind, goals)
    told, new = relabel(info, old)
    assert (told.end, told.success, relabel.verdicts_dropped) == ("intervention", False, 1)
    assert new.truncated[-1] and not new.terminated.any()
    assert new.reward.max() < 1.0


@pytest.mark.parametrize(("end", "complete"), [("fault", True), ("", False)])
def test_what_did_not_come_to_its_end_has_no_verdict(logs_of, episode, end, complete):
    info, old = episode
    info = replace(info, end=end, complete=complete, success=False, metrics={})
    old = replace(old, truncated=old.truncated & complete, terminated=np.arange(20) == 7)
    told, new = Relabel(fleet_of("reach", None, SHORT), logs_of("reach").spec, "reach", "final")(info, old)
    assert (told.end, told.success, told.complete) == (end, False, complete)
    assert set(told.metrics) == ({"return"} if complete else set())
    np.testing.assert_array_equal(new.truncated, old.truncated)
    assert not new.terminated.any()  # no task of ours terminates


def test_states_that_do_not_follow_each_other_are_told_each_by_itself(logs_of, episode):
    info, old = episode
    gap = replace(old, observation=np.roll(old.observation, 3, axis=0))
    _, new = Relabel(fleet_of("reach", None, SHORT), logs_of("reach").spec, "reach", "final")(info, gap)
    np.testing.assert_array_equal(new.observation[:, :17], gap.observation[:, :17])
    assert len(np.unique(new.observation[:, 17])) == 1


@pytest.mark.parametrize(
    ("kind", "robots", "task", "known", "goals", "text"),
    [
        ("reach", "door", "door", "reach", None, r"have no door/door_hinge, door/door_handle: sensors"),
        ("reach", "pick_place", "reach", "reach", None, r"have no gripper/position, gripper/velocity: they"),
        ("door", "door", "reach", "door", None, r"of the task door, which has other goals.*--goal final"),
        ("door", "door", "reach", "door", "keep", r"of the task door, which has other goals"),
        ("door", "door", "reach", "", None, r"have no target/x, where the goal of reach would be"),
        ("door", "reach", "reach", "reach", None, r"have no target/x"),
    ],
)
def test_what_cannot_be_told_is_said(logs_of, kind, robots, task, known, goals, text):
    with pytest.raises(RelabelError, match=text):
        Relabel(fleet_of(robots, task), logs_of(kind).spec, known, goals)


def test_a_goal_is_kept_if_the_numbers_are_there_even_if_the_kind_is_not_known(logs_of, episode):
    _, new = Relabel(fleet_of("reach"), logs_of("reach").spec, "")(*episode)
    assert new.observation.tobytes() == episode[1].observation.tobytes()


def test_an_arm_with_other_actions_is_told(logs_of):
    spec = logs_of("reach").spec
    other = replace(spec, action=replace(spec.action, high=(2.0, *spec.action.high[1:])))
    with pytest.raises(RelabelError, match=r"other actions: action\.high\[0\] .*is 1\.0 here and 2\.0 there"):
        Relabel(fleet_of("reach"), other, "reach")
