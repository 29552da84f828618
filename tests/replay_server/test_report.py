"""What a report says about a run, from episode files that were really written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_file import EpisodeInfo
from replay_server.episode_store import read_episode, write_episode
from replay_server.report import Report, count_rows, describe_columns, plot_learning_curve
from replay_server.verify import verify_run

Store = Callable[..., EpisodeInfo]


@pytest.fixture
def store(tmp_path: Path, make_transitions: Callable[..., Any], make_spec: Callable[..., Any]) -> Store:
    """`store(robot, episode, seqs)` writes one episode file with these sequence numbers."""

    def write(
        robot: str, episode: int, seqs: range | list[int], boot_id: str = "b0", **facts: Any
    ) -> EpisodeInfo:
        builder = EpisodeBuilder(
            run_id="run", robot_id=robot, boot_id=boot_id, episode=episode, spec=make_spec()
        )
        for seq in seqs:
            builder.extend(make_transitions(1, seq), np.array([seq]), np.array([100 * episode + seq]))
        sealed = builder.seal(end="time_limit", success=False, metrics={}, received_ns=0)
        write_episode(tmp_path, sealed)
        return sealed.info

    return write


def counts(tmp_path: Path, produced: dict[str, int]) -> tuple[int, int, int]:
    found = count_rows(verify_run(tmp_path), produced)
    return found.stored, found.lost, found.duplicated


# Counting ------------------------------------------------------------------------------------


def test_all_there(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 5))
    store("arm1", 1, range(5, 9))
    store("arm2", 0, range(0, 3))
    assert counts(tmp_path, {"arm1:b0": 9, "arm2:b0": 3}) == (12, 0, 0)


@pytest.mark.parametrize(
    ("seqs", "lost"),
    [([0, 1, 3, 4], 1), ([1, 2, 3, 4], 1), ([0, 1, 2, 3], 1), ([2], 4)],
    ids=["in the middle", "the first", "the last", "four"],
)
def test_a_lost_row_is_counted_wherever_it_was(
    tmp_path: Path, store: Store, seqs: list[int], lost: int
) -> None:
    store("arm1", 0, seqs)
    assert counts(tmp_path, {"arm1:b0": 5}) == (len(seqs), lost, 0)


def test_a_lost_episode_is_counted(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 5))
    store("arm1", 2, range(10, 15))
    assert counts(tmp_path, {"arm1:b0": 20}) == (10, 10, 0)


def test_a_duplicated_row_is_counted(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 5))
    store("arm1", 1, range(4, 8))
    assert counts(tmp_path, {"arm1:b0": 8}) == (8, 0, 1)


def test_a_duplicate_does_not_hide_a_loss(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, [0, 1, 1, 3])
    assert counts(tmp_path, {"arm1:b0": 4}) == (3, 1, 1)


def test_a_robot_that_never_said_its_count(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, [0, 1, 2, 4])
    assert counts(tmp_path, {}) == (4, 1, 0)


def test_a_robot_of_which_nothing_is_stored(tmp_path: Path) -> None:
    assert counts(tmp_path, {"arm1:b0": 17}) == (0, 17, 0)
    assert counts(tmp_path, {"arm1:b0": 0}) == (0, 0, 0)


def test_what_is_stored_beyond_the_last_heartbeat_is_no_loss(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 9))
    assert counts(tmp_path, {"arm1:b0": 5}) == (9, 0, 0)


def test_a_restarted_robot_counts_from_zero_again(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 4), boot_id="b0")
    store("arm1", 0, range(0, 4), boot_id="b1")
    assert counts(tmp_path, {"arm1:b0": 4, "arm1:b1": 5}) == (8, 1, 0)


def test_a_row_in_a_spool_is_not_lost(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 5))
    found = count_rows(verify_run(tmp_path, {("arm1", "b0"): [(3, 7)]}), {"arm1:b0": 9})
    assert (found.stored, found.spooled, found.lost) == (5, 3, 1)


# Picture -------------------------------------------------------------------------------------


def info(number: int, **changes: Any) -> EpisodeInfo:
    facts: dict[str, Any] = {
        "run_id": "run", "robot_id": "arm1", "boot_id": "b0", "episode": number, "rows": 80,
        "first_seq": 80 * number, "last_seq": 80 * number + 79,
        "first_cursor": 80 * number, "last_cursor": 80 * number + 79,
        "received_ns": 10**18 + number * 4 * 10**9, "spec_hash": "x", "policy_version": number,
        "evaluation": True, "end": "time_limit", "success": number > 20, "complete": True,
        "metrics": {"final_distance_m": 1 / (number + 1)},
    }  # fmt: skip
    return EpisodeInfo(**(facts | changes))


def dark(path: Path) -> int:
    """Pixels that are not white."""
    picture = matplotlib.image.imread(path)
    assert picture.shape == (720, 960, 4)
    return int((picture[:, :, :3].min(axis=2) < 0.9).sum())


@pytest.mark.parametrize(
    "episodes",
    [
        [],
        [info(0)],
        [info(0, evaluation=False)],
        [info(i) for i in range(50)],
        [info(i, end="fault", success=False) for i in range(3)],
        [info(i, metrics={}) for i in range(30)],
        [info(0), info(1, received_ns=10**18)],
    ],
    ids=["none", "one", "only training", "many", "only faults", "no distance", "at one time"],
)
@pytest.mark.parametrize("goal", [0.9, None])
def test_the_learning_curve_is_drawn_whatever_there_is(
    tmp_path: Path, episodes: list[EpisodeInfo], goal: float | None
) -> None:
    plot_learning_curve(episodes, tmp_path / "curve.png", goal)
    assert dark(tmp_path / "curve.png") > 1000


def test_episodes_are_in_the_picture_in_order_of_arrival(tmp_path: Path) -> None:
    episodes = [info(i) for i in range(50)]
    plot_learning_curve([], tmp_path / "empty.png", 0.9)
    plot_learning_curve(episodes, tmp_path / "ordered.png", 0.9)
    plot_learning_curve(episodes[::-1], tmp_path / "reversed.png", 0.9)
    assert dark(tmp_path / "ordered.png") > dark(tmp_path / "empty.png") + 1000
    assert (tmp_path / "ordered.png").read_bytes() == (tmp_path / "reversed.png").read_bytes()


# The rest ------------------------------------------------------------------------------------


def test_report_json_has_the_keys_that_are_promised(tmp_path: Path) -> None:
    report = Report(
        success_rate=0.95, robots=2, transitions_produced=100, transitions_stored=99,
        transitions_spooled=0, transitions_lost=1, transitions_duplicated=0, updates=400,
        wall_time_s=12.5, policy_versions=7, seed=3, ended_by="goal",
        final_evaluation={"success_rate": 0.94},
    )  # fmt: skip
    report.write(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    promised = {
        "success_rate", "robots", "transitions_produced", "transitions_stored",
        "transitions_spooled", "transitions_lost", "transitions_duplicated", "updates",
        "wall_time_s", "policy_versions", "seed",
    }  # fmt: skip
    assert promised <= data.keys()
    assert (data["transitions_lost"], data["final_evaluation"]) == (1, {"success_rate": 0.94})


def test_columns_are_described_with_names_units_and_ranges(tmp_path: Path, store: Store) -> None:
    store("arm1", 0, range(0, 4))
    episode = read_episode(next((tmp_path / "episodes").rglob("*.h5")))
    described = {column["name"]: column for column in describe_columns(episode)}
    assert described["observation/a"] == {
        "name": "observation/a", "unit": "rad", "min": 0.0, "mean": 1.5, "max": 3.0,
    }  # fmt: skip
    assert (described["action/v"]["unit"], described["action/v"]["min"]) == ("1", -3.0)
    assert (described["clipped"]["mean"], described["clipped"]["unit"]) == (0.5, "")
    assert np.isfinite([column[key] for column in described.values() for key in ("min", "mean", "max")]).all()
