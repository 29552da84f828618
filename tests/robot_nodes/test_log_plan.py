"""What is replayed, under which names, and that the same rows get the same numbers every time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.messages import Transitions, row_dtype
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from robot_nodes.boot_search import BootSearch
from robot_nodes.log_plan import ReplayPlan, plan_replay
from robot_nodes.synthetic_rows import SPEC

Write = Callable[..., Path]


def episode(
    number: int, rows: int = 5, robot: str = "robot1", boot: str = "b0", reward: float = 0.0, **facts: Any
) -> tuple[EpisodeInfo, Transitions]:
    """Rows that say which episode they are of, 50 ms apart; each episode begins at its number, in seconds."""
    packed = np.zeros(rows, row_dtype(3, 2))
    packed["observation"] = number
    packed["reward"] = reward
    packed["stamp_ns"] = number * 10**9 + np.arange(rows) * 50_000_000
    info = EpisodeInfo(
        run_id="", robot_id=robot, boot_id=boot, episode=number, rows=0, first_seq=0, last_seq=0,
        first_cursor=0, last_cursor=0, received_ns=(100 + number) * 10**9, spec_hash="", policy_version=0,
        evaluation=False, success=False, metrics={}, **({"end": "time_limit", "complete": True} | facts),
    )  # fmt: skip
    return info, Transitions.from_packed(packed)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("a", episode(0), …)` makes a run folder of that name, anew."""

    def make(name: str, *episodes: tuple[EpisodeInfo, Transitions]) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        with LogWriter(tmp_path / name, SPEC, "by a test") as writer:
            for info, transitions in episodes:
                writer.add(info, transitions)
        return tmp_path / name

    return make


def plan(*folders: Path) -> ReplayPlan:
    return plan_replay(open_logs(folders), longest_gap_s=10.0)


def names(*folders: Path) -> list[list[str]]:
    return [list(boot.names) for robot in plan(*folders).robots for boot in robot.boots]


def test_rows_of_a_boot_are_numbered_without_a_gap(write: Write) -> None:
    folder = write("a", episode(0, 5), episode(3, 7), episode(0, 4, robot="robot2"))
    made = plan(folder)
    assert [robot.robot_id for robot in made.robots] == ["robot1", "robot2"]
    (boot,) = made.robots[0].boots
    assert [(e.summary.info.episode, e.first_seq, e.end_seq) for e in boot.episodes] == [
        (0, 0, 5),
        (3, 5, 12),
    ]
    assert (made.rows, boot.rows, made.robots[0].episodes) == (16, 12, 2)
    rows, due_s = made.read(boot.episodes[1])
    assert rows["observation"][:, 0].tolist() == [3.0] * 7
    assert due_s[:3] == pytest.approx([3.0, 3.05, 3.1])


def test_the_same_logs_have_the_same_names_wherever_they_lie(write: Write, tmp_path: Path) -> None:
    folder = write("a", episode(0), episode(1), episode(0, boot="b1"), episode(0, robot="robot2"))
    before = names(folder)
    own = [each[0] for each in before]
    assert len(set(own)) == 3
    assert all(name.startswith("replay-") and len(name) == 19 for name in own)
    shutil.move(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "episodes" / "catalog").unlink()
    assert names(tmp_path / "elsewhere") == before


def test_a_log_that_has_grown_knows_the_names_it_had(write: Write) -> None:
    short = names(write("a", episode(0), episode(1)))[0]
    long = names(write("a", episode(0), episode(1), episode(2)))[0]
    assert long[0] not in short
    assert short[0] in long[1:]


def test_an_episode_that_was_still_open_may_grow_too(write: Write) -> None:
    (info, rows) = episode(1, 5)
    begun = Transitions.from_packed(rows.packed()[:3])
    (opened, _) = episode(1, end="", complete=False)
    short = names(write("a", episode(0), (opened, begun)))[0]
    assert short[0] in names(write("a", episode(0), (info, rows)))[0]
    assert short[0] in names(write("a", episode(0), (opened, begun), episode(2)))[0]


@pytest.mark.parametrize(
    "other",
    [
        [episode(0), episode(2)],  # the middle is left out
        [episode(1), episode(2)],  # the beginning is
        [episode(0), episode(1, rows=6), episode(2)],
        [episode(0), episode(1, reward=1.0), episode(2)],  # relabelled
        [episode(0), episode(1, end="fault"), episode(2)],
    ],
)
def test_other_episodes_are_another_replay(
    write: Write, other: list[tuple[EpisodeInfo, Transitions]]
) -> None:
    replayed = names(write("a", episode(0), episode(1), episode(2)))[0][0]
    assert replayed not in names(write("a", *other, episode(3)))[0]


def test_copies_in_another_folder_are_played_once(write: Write) -> None:
    whole = write("whole", episode(0), episode(1), episode(2))
    alone = names(whole)
    made = plan(whole, write("copy", episode(1)))
    assert (made.rows, made.copies) == (15, 1)
    assert [list(boot.names) for boot in made.robots[0].boots] == alone


def test_two_boots_of_one_name_in_two_runs_are_two(write: Write) -> None:
    made = plan(write("a", episode(0)), write("b", episode(0, reward=1.0)))
    assert (made.rows, made.copies, len(made.robots[0].boots)) == (10, 0, 2)
    assert len({boot.names[0] for boot in made.robots[0].boots}) == 2


def test_two_files_that_claim_one_place_are_refused(write: Write, tmp_path: Path) -> None:
    files = []
    for number in range(2):
        folder = write("a", episode(0, reward=number))
        (file,) = (folder / "episodes" / "robot1").glob("*.h5")
        files.append(file.rename(tmp_path / f"{number}.h5"))
    logs = open_logs(files)
    logs.episodes = [
        type(each)(each.path, type(each.info)(**(vars(each.info) | {"run_id": "r"})))
        for each in logs.episodes
    ]
    with pytest.raises(
        LogsError, match=r"0\.h5 and .*1\.h5 are different, but both say .* episode 0 of robot1"
    ):
        plan_replay(logs, 10.0)


def test_a_damaged_episode_is_found_before_anything_is_numbered(write: Write) -> None:
    folder = write("a", episode(0), episode(1), episode(2))
    without = names(write("b", episode(0), episode(2)))
    (file,) = (folder / "episodes" / "robot1").glob("*-000001.h5")
    content = bytearray(file.read_bytes())
    content[content.find(episode(1)[1].observation.tobytes())] ^= 255
    file.write_bytes(content)
    made = plan(folder)
    assert list(made.logs.damaged) == [file]
    assert [list(boot.names) for boot in made.robots[0].boots] == without


def test_nothing_to_replay_is_said(write: Write) -> None:
    with pytest.raises(LogsError, match="no episodes are there"):
        plan(write("a"))


def test_the_server_is_asked_for_all_names_until_one_is_there(write: Write) -> None:
    folder = write("a", *(episode(n) for n in range(20)), *(episode(n, boot="b1") for n in range(30)))
    boots = plan(folder).robots[0].boots
    known = {boots[1].names[25]: 99}
    search = BootSearch(boots)
    asked = []
    while ask := search.ask():
        assert len(ask) <= 32
        asked += ask
        search.answer({name: known.get(name, -1) for name in ask})
    assert len(asked) == len(set(asked))
    assert search.found(0) == (boots[0].names[0], -1)
    assert search.found(1) == (boots[1].names[25], 99)


def test_merged_logs_are_of_the_run_that_their_folder_is_too(tmp_path: Path) -> None:
    info, transitions = episode(0)
    with LogWriter(tmp_path / "merged", SPEC, "", as_lived=True) as writer:
        writer.add(replace(info, run_id="lived"), transitions)
    assert plan(tmp_path / "merged").run_ids == {"lived", (tmp_path / "merged/run_id").read_text().strip()}
