"""Robots and a trainer on virtual time: who does how much in a second of it, and who waits for whom."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.common.in_process_fleet import InProcessFleet, with_robots
from benchmarks.common.paper_cell import Cell, Results, configure, reached, run_cell
from benchmarks.common.virtual_time import Asynchronous, Synchronous
from fleet.config import FleetConfig
from fleet.config_file import load_fleet

ROOT = Path(__file__).resolve().parents[2]
EPISODE_TICKS = 10
SMALL = ("task.episode_s=0.5", "learner.hidden_sizes=[8]", "learner.batch_size=4", "learner.warmup_rows=20")
REACH, DOOR = (str(ROOT / "hardware_configs" / "fleets" / name) for name in ("sim2.yaml", "door2.yaml"))


def small_fleet(robots: int, *overrides: str) -> FleetConfig:
    # Homes are exact and always the same: a reset takes as long for every robot.
    still = [f"robots.{i}.robot.reset.randomise_rad=0" for i in range(2)]
    return with_robots(load_fleet(REACH, [*SMALL, *still, *overrides]), robots)


def watch_updates(fleet: InProcessFleet) -> list[int]:
    """The updates of each call of `train`, from now on."""
    calls: list[int] = []
    train: Callable[[int], None] = fleet.train

    def watched(updates: int) -> None:
        calls.append(updates)
        train(updates)

    fleet.train = watched  # type: ignore[method-assign]
    return calls


def test_every_robot_makes_twenty_ticks_a_second_and_the_trainer_its_updates() -> None:
    with InProcessFleet(small_fleet(3, "learner.updates_per_row=1000"), seed=0) as fleet:
        calls = watch_updates(fleet)
        time = Asynchronous(fleet, updates_per_s=50.0)
        while fleet.mirror.cursor < 20:
            time.advance()
        updates, began_s = fleet.trainer.updates, time.now_s
        ticks = [robot._loop.ticks for robot in fleet.robots]
        for _ in range(40):
            time.advance()
        assert [robot._loop.ticks for robot in fleet.robots] == [tick + 40 for tick in ticks]
        assert time.now_s - began_s == pytest.approx(2.0)
        assert fleet.trainer.updates - updates == 100, "50 a second for 2 seconds"
        assert set(calls[-40:]) == {2, 3}, "2.5 a tick"
        assert time.waited_s == 0.0


def test_an_asynchronous_trainer_that_has_caught_up_idles_and_saves_no_time() -> None:
    with InProcessFleet(small_fleet(1, "learner.updates_per_row=2"), seed=0) as fleet:
        calls = watch_updates(fleet)
        time = Asynchronous(fleet, updates_per_s=400.0)  # 20 a tick; 2 x 20 rows/s are 40 a second
        while fleet.trainer.updates < 200:
            time.advance()
        assert fleet.trainer.updates == 2 * fleet.mirror.cursor
        assert max(calls) == 20


def test_robots_change_their_policy_at_the_publish_period() -> None:
    busy = small_fleet(1, "learner.updates_per_row=1000", "learner.publish_period_s=0.25")
    with InProcessFleet(busy, seed=0) as fleet:
        time, versions = Asynchronous(fleet, updates_per_s=50.0), []
        while fleet.mirror.cursor < 40:
            time.advance()
        for _ in range(20):
            time.advance()
            versions.append(fleet.robots[0]._policy.policy.version)
        swaps = [i for i in range(1, 20) if versions[i] != versions[i - 1]]
        assert len(swaps) in (3, 4)
        assert {b - a for a, b in itertools.pairwise(swaps)} == {5}, "0.25 s are five ticks"


def test_synchronous_robots_stand_still_while_the_trainer_updates() -> None:
    with InProcessFleet(small_fleet(2, "learner.updates_per_row=4"), seed=0) as fleet:
        time = Synchronous(fleet, updates_per_s=100.0)
        time.advance()
        assert fleet.mirror.cursor == 2 * EPISODE_TICKS
        assert fleet.trainer.updates == 80, "4 for each of the 20 rows"
        assert time.waited_s == pytest.approx(0.8)
        moving = time.now_s - time.waited_s
        assert moving >= EPISODE_TICKS / 20, "the way home and an episode of half a second"
        assert moving == pytest.approx(max(robot._loop.ticks for robot in fleet.robots) / 20)
        versions = {robot._policy.policy.version for robot in fleet.robots}
        assert versions == {80}, "all go on with the new policy"
        time.advance()
        assert time.waited_s == pytest.approx(1.6)


def a_cell(**changes: object) -> Cell:
    values = {
        "experiment": "workers",
        "fleet": REACH,
        "algorithm": "naf",
        "workers": 2,
        "mode": "asynchronous",
        "updates_per_s": 100.0,
        "seed": 3,
        "rows": 60,
        "until_goal": True,
        "every": 30,
        "episodes": 1,
        "overrides": SMALL,
    }
    return Cell(**(values | changes))  # type: ignore[arg-type]


def test_a_run_is_the_same_again_and_is_not_repeated(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "results.jsonl")
    first = run_cell(a_cell(), tell=lambda line: None)
    again = run_cell(a_cell(), tell=lambda line: None)
    assert len(first["curve"]) == 2 and first["curve"] == again["curve"]
    results.add(first)
    path = tmp_path / "new" / "results.jsonl"
    path.write_text(path.read_text() + '{"cell": {"exp')  # the next one: killed while it wrote
    assert results.missing([a_cell(), a_cell(seed=4)]) == [a_cell(seed=4)]
    results.add(first | {"settings": first["settings"] | {"gamma": 0.5}})
    assert len(results.read()) == 2
    assert results.missing([a_cell()]) == []
    path.write_text(path.read_text().splitlines()[-1])
    assert results.missing([a_cell()]) == [a_cell()], "learned with settings that are no longer those"


def test_the_goal_is_reached_at_the_first_of_two_good_measurements_in_a_row() -> None:
    curve = [{"rows": i, "success": s} for i, s in enumerate([0.5, 0.95, 0.9, 1.0, 0.95, 0.5])]
    point = reached(curve)
    assert point is not None and point["rows"] == 3
    assert reached(curve[:4]) is None


def test_the_task_keeps_its_settings_and_the_algorithm_its_own(tmp_path: Path) -> None:
    published = configure(REACH, "naf_2016", 1, []).learner
    assert published.gamma == 0.8, "the fleet's YAML knows the task"
    assert (published.values, published.learning_rate) == (1, 1e-3), "all else is the preset's"
    tuned = tmp_path / "tuned.yaml"
    text = Path(DOOR).read_text().replace("../", f"{Path(DOOR).parents[1]}/")
    tuned.write_text(text.replace("learner: ", "learner:\n  learning_rate: 0.0002\n  values: 3 "))
    assert configure(str(tuned), "naf", 1, []).learner.learning_rate == 0.0002
    ddpg = configure(str(tuned), "ddpg", 4, []).learner
    assert (ddpg.algorithm, ddpg.learning_rate, ddpg.gamma) == ("ddpg", 0.001, 0.95)
    assert configure(str(tuned), "ddpg", 1, ["learner.learning_rate=0.01"]).learner.learning_rate == 0.01
