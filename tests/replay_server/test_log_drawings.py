"""Pictures of logs that are not as one would like them; numpy's and matplotlib's warnings are errors here."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fleet.messages import Transitions
from fleet.spaces import Space, SpaceSpec
from replay_server.episode_file import EpisodeInfo
from replay_server.log_drawings import draw_logs, examples, read_statistics
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.robot_numbers import robots

ARM = SpaceSpec(
    Space(("j/position", "tool/x", "tool/y"), ("rad", "m", "m"), (-1, -1, -1), (1, 1, 1)),
    Space(("j/velocity_command",), ("1",), (-1,), (1,)),
)
PLAIN = SpaceSpec(
    Space((*(f"s{i}" for i in range(9)), "reward"), ("1",) * 10, (-1,) * 10, (1,) * 10),
    Space(tuple(f"u{i}" for i in range(30)), ("1",) * 30, (-1,) * 30, (1,) * 30),
)


def rows(spec: SpaceSpec, count: int, seed: int, **changes: Any) -> Transitions:
    rng = np.random.default_rng(seed)
    flags = np.zeros(count, bool)
    observation = rng.uniform(-1, 1, (count, spec.observation.size)).astype(np.float32)
    action = rng.uniform(-1, 1, (count, spec.action.size)).astype(np.float32)
    values: dict[str, Any] = dict(
        observation=observation, action=action, policy_action=action, next_observation=observation,
        reward=rng.normal(size=count).astype(np.float32), terminated=flags, truncated=flags, intervened=flags,
        clipped=flags, policy_version=np.full(count, seed, np.int64),
        stamp_ns=50_000_000 * np.arange(count, dtype=np.int64),
    )  # fmt: skip
    return Transitions(**(values | changes))


def write(
    folder: Path, spec: SpaceSpec, lengths: list[int], *, made: str = "", fleet: int = 1, **changes: Any
) -> Path:
    with LogWriter(folder, spec, made) as writer:
        for episode, length in enumerate(lengths):
            info = EpisodeInfo(
                run_id="", robot_id=f"robot{episode % fleet}", boot_id="b", episode=episode, rows=0,
                first_seq=0, last_seq=0, first_cursor=0, last_cursor=0, received_ns=10**9 * (episode + 1),
                spec_hash="", policy_version=0, evaluation=False, end="time_limit", success=False, metrics={},
                complete=True,
            )  # fmt: skip
            writer.add(info, rows(spec, length, episode, **changes))
    return folder


def draw(folder: Path) -> dict[str, tuple[int, int]]:
    """Name and size of each picture."""
    logs = open_logs([folder])
    statistics = read_statistics(logs, lambda done, total: None)
    sizes = {}
    for drawing in draw_logs(logs, statistics, robots(statistics), examples(logs, statistics)):
        with Image.open(io.BytesIO(drawing.png())) as image:
            sizes[drawing.name] = image.size
    return sizes


def test_two_episodes_of_one_row(tmp_path: Path) -> None:
    names = list(draw(write(tmp_path / "a", ARM, [1, 1])))
    assert names[:4] == ["returns", "success", "ends", "staleness"]
    assert sum("episode" in name for name in names) == 2


def test_numbers_that_are_none(tmp_path: Path) -> None:
    bad = np.array([np.nan, np.inf, -np.inf, 0], np.float32)
    folder = write(
        tmp_path / "a", ARM, [4] * 3,
        reward=bad, observation=np.tile(bad[:, None], 3), action=bad[:, None], policy_action=bad[::-1, None],
    )  # fmt: skip
    assert [name for name in draw(folder) if "episode" in name] == ["newest-episode-b-000002"]


def test_more_robots_than_colours_and_names_without_joints(tmp_path: Path) -> None:
    sizes = draw(write(tmp_path / "a", PLAIN, [3] * 30, fleet=30))
    assert "coverage" not in sizes and "persons" not in sizes and "guard" not in sizes
    assert max(height for _, height in sizes.values()) < 3000


def test_what_no_robot_lived_has_no_old_policies(tmp_path: Path) -> None:
    assert "staleness" not in draw(write(tmp_path / "a", ARM, [3, 3], made="merged from b, c"))


def test_one_episode_is_all_three_and_has_no_curves(tmp_path: Path) -> None:
    assert list(draw(write(tmp_path / "a", ARM, [5]))) == [
        "actions", "coverage", "best-and-worst-and-newest-episode-b-000000",
    ]  # fmt: skip


def test_the_best_and_the_worst_ran_to_their_end(tmp_path: Path) -> None:
    logs = open_logs([write(tmp_path / "a", ARM, [5, 5, 5])])
    statistics = read_statistics(logs, lambda done, total: None)
    for number, (total, end) in zip(
        statistics.episodes, [(9.0, "stopped"), (1.0, "success"), (0.0, "failure")], strict=True
    ):
        number.total = total
        object.__setattr__(number.info, "end", end)
    found = {title: summary.info.episode for title, summary in examples(logs, statistics)}
    assert found == {"best": 1, "worst and newest": 2}


def test_logs_of_which_no_row_can_be_read(tmp_path: Path) -> None:
    logs = open_logs([write(tmp_path / "a", ARM, [5])])
    logs.spec  # noqa: B018
    logs.episodes[0].path.write_bytes(b"")
    with pytest.raises(LogsError, match="all files are damaged"):
        read_statistics(logs, lambda done, total: None)


def test_how_old_policies_were_is_not_known_once_runs_are_merged(tmp_path: Path) -> None:
    lived = open_logs([write(tmp_path / "a", ARM, [3, 3])])
    with LogWriter(tmp_path / "b", ARM, "", as_lived=True) as writer:
        for summary, transitions in lived.read():
            writer.add(summary.info, transitions)
    behind = [
        [episode.behind for episode in read_statistics(logs, lambda done, total: None).episodes]
        for logs in (lived, open_logs([tmp_path / "b"]))
    ]
    assert behind[0] == [0, 0] and all(map(math.isnan, behind[1]))


def test_folders_of_one_run_have_cursors_of_their_own(tmp_path: Path) -> None:
    lived = open_logs([write(tmp_path / "a", ARM, [3, 3])])
    for name, version in (("b", 0), ("c", 9)):
        with LogWriter(tmp_path / name, ARM, "", as_lived=True) as writer:
            for summary, transitions in lived.read():
                versions = np.full(transitions.rows, version)
                writer.add(replace(summary.info, run_id="run"), replace(transitions, policy_version=versions))
        (tmp_path / name / "run_id").write_text("run\n")
    statistics = read_statistics(open_logs([tmp_path / "b", tmp_path / "c"]), lambda done, total: None)
    assert [episode.behind for episode in statistics.episodes] == [0] * 4
