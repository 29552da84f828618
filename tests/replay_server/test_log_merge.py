"""Copies of an episode count once; different episodes of one name are told apart or told of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fleet.messages import COLUMNS, Transitions
from replay_server.episode_file import EpisodeInfo, read_episode
from replay_server.log_edits import write_edited
from replay_server.log_merge import without_copies
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.verify import verify_run


@pytest.fixture
def write(tmp_path, make_spec, make_transitions):
    """`write("a", episode=(rows, tag, changes), …)`: a folder with these episodes of one boot."""

    def write(folder, *episodes, boot="b0"):
        with LogWriter(tmp_path / folder, make_spec(), "", as_lived=True) as writer:
            for number, rows, tag, changes in episodes:
                facts = dict(
                    run_id="", robot_id="robot1", boot_id=boot, episode=number, rows=0, first_seq=0,
                    last_seq=0, first_cursor=0, last_cursor=0, received_ns=number, spec_hash="",
                    policy_version=0, evaluation=False, end="time_limit", success=True, metrics={},
                    complete=True,
                )  # fmt: skip
                transitions = make_transitions(9, 100 * number, tag)
                columns = {name: getattr(transitions, name)[:rows] for name in COLUMNS}
                writer.add(EpisodeInfo(**(facts | changes)), Transitions(**columns))
        return tmp_path / folder

    return write


UNFINISHED = {"complete": False, "end": "", "success": False}


def kept(*folders, **options):
    merged = without_copies(open_logs(list(folders)), **options)
    found = [
        (s.path.parents[2].name, s.info.boot_id, s.info.episode, rows.rows) for s, rows in merged.logs.read()
    ]
    return found, merged


def test_overlapping_copies_count_once(write):
    a = write("a", (0, 5, 0.0, {}), (1, 5, 0.0, {}))
    b = write("b", (1, 5, 0.0, {"metrics": {"more": 1.0}}), (2, 5, 0.0, {}))
    found, merged = kept(a, b)
    assert found == [("a", "b0", 0, 5), ("a", "b0", 1, 5), ("b", "b0", 2, 5)]
    assert (merged.copies, merged.renamed) == (1, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_of_an_unfinished_copy_the_longer_one_stays(write, first):
    folders = [write("short", (0, 3, 0.0, UNFINISHED)), write("whole", (0, 9, 0.0, {}))]
    found, merged = kept(folders[first], folders[1 - first])
    assert found == [("whole", "b0", 0, 9)]
    assert merged.copies == 1


@pytest.mark.parametrize("first", [0, 1])
def test_with_the_same_rows_the_one_with_an_end_stays(write, first):
    folders = [write("open", (0, 9, 0.0, UNFINISHED)), write("ended", (0, 9, 0.0, {}))]
    found, _ = kept(folders[first], folders[1 - first])
    assert found == [("ended", "b0", 0, 9)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 5, 0.0, {}), (0, 5, 1.0, {})),  # other rows
        ((0, 5, 0.0, {}), (0, 9, 0.0, {})),  # shorter, and yet it ended: trimmed
        ((0, 5, 0.0, UNFINISHED), (0, 9, 1.0, {})),  # not the beginning of the other
        ((0, 5, 0.0, {}), (0, 5, 0.0, {"success": False})),  # another verdict
    ],
)
def test_different_episodes_of_one_name_are_an_error_that_names_both_or_both_stay(write, one, other):
    a, b = write("a", one), write("b", other)
    with pytest.raises(LogsError, match=r"a/episodes/robot1/b0-000000\.h5 and .*b/.*different.*--keep-both"):
        kept(a, b)
    found, merged = kept(a, b, keep_both=True)
    assert found == [("a", "b0", 0, one[1]), ("b", "b0-2", 0, other[1])]
    assert (merged.copies, merged.renamed) == (0, 1)


def test_three_folders_with_the_same_names_are_three_boots_of_a_whole_run(write, tmp_path):
    folders = [write(name, (0, 5, tag, {}), (1, 5, tag, {})) for tag, name in enumerate("abc")]
    folders.append(write("d", (0, 5, 9.0, {}), boot="b0-2"))  # has the name already
    found, merged = kept(*folders, keep_both=True)
    assert merged.renamed == 4
    assert {(folder, boot) for folder, boot, _, _ in found} == {
        ("a", "b0"), ("b", "b0-2x"), ("c", "b0-3"), ("d", "b0-2"),
    }  # fmt: skip
    with LogWriter(tmp_path / "out", merged.logs.spec, "", as_lived=True) as writer:
        write_edited(writer, merged.logs)
    assert (writer.episodes, verify_run(tmp_path / "out").ok) == (7, True)


def test_a_damaged_copy_is_named_and_the_other_one_stays(write):
    a, b = write("a", (0, 5, 0.0, {})), write("b", (0, 5, 0.0, {}))
    (file,) = a.glob("episodes/robot1/*.h5")
    content = bytearray(file.read_bytes())
    content[content.find(read_episode(file).transitions.observation.tobytes()) + 3] ^= 255
    file.write_bytes(content)
    found, merged = kept(a, b)
    assert found == [("b", "b0", 0, 5)]
    assert merged.copies == 0 and "damaged" in merged.logs.damaged[file]


def test_rows_are_compared_bit_for_bit(write, make_transitions, tmp_path, make_spec):
    a = write("a", (0, 5, 0.0, {}))
    (summary,) = open_logs([a]).episodes
    rows = read_episode(summary.path).transitions
    for name, value in [("nan", np.nan), ("zero", -0.0)]:
        reward = rows.reward.copy()
        reward[0] = value
        for copy in (name, name + "2"):
            with LogWriter(tmp_path / copy, make_spec(), "", as_lived=True) as writer:
                writer.add(summary.info, replace(rows, reward=reward))
        assert kept(tmp_path / name, tmp_path / f"{name}2")[1].copies == 1
        with pytest.raises(LogsError, match="different episodes"):
            kept(a, tmp_path / name)
