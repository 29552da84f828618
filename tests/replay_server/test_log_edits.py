"""Logs out of logs: no row is lost, doubled or made up, and a replay server serves what comes out."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.messages import COLUMNS, TailRequest, Transitions
from replay_server.episode_file import EpisodeInfo, read_episode
from replay_server.episode_store import EpisodeSummary
from replay_server.log_edits import Cut, by_share, by_value, in_order, limit, only, write_edited
from replay_server.log_merge import without_copies
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.verify import verify_run


def info(episode, robot="robot1", boot="b0", **changes):
    values = dict(
        run_id="", robot_id=robot, boot_id=boot, episode=episode, rows=10, first_seq=0, last_seq=0,
        first_cursor=0, last_cursor=0, received_ns=1000 + episode, spec_hash="", policy_version=0,
        evaluation=False, end="time_limit", success=True, complete=True, task="reach",
        metrics={"return": 1.0, "final_distance_m": 0.1, "guard/workspace": 2.0},
    )  # fmt: skip
    return EpisodeInfo(**(values | changes))


def summaries(*infos):
    return [EpisodeSummary(Path(f"{i.robot_id}/{i.boot_id}-{i.episode}.h5"), i) for i in infos]


def episodes_of(found):
    return [(s.info.robot_id, s.info.episode) for s in found]


@pytest.fixture(scope="session")
def write(make_spec, make_transitions):
    """`write(folder, infos)` makes a run folder; each episode's rows hold numbers of their own."""

    def write(folder, infos, edit=lambda i, rows: rows, tag=0.0):
        with LogWriter(folder, make_spec(), "made by a test", as_lived=True) as writer:
            for each in infos:
                rows = make_transitions(each.rows, 1000 * each.episode, tag)
                flags = np.zeros(each.rows, bool)
                last = np.arange(each.rows) == each.rows - 1
                writer.add(each, edit(each, replace(rows, terminated=flags, truncated=last & each.complete)))
        return folder

    return write


def rows_of(*folders):
    """The bytes of each episode's rows, by whose it is."""
    logs = open_logs(list(folders))
    return {
        (s.info.robot_id, s.info.boot_id, s.info.episode): rows.packed().tobytes() for s, rows in logs.read()
    }


# Order --------------------------------------------------------------------------------------


def test_an_episode_that_arrived_late_is_written_in_its_boots_order(tmp_path, write):
    late = summaries(info(1), info(0, "robot2"), info(0), info(2), info(0, boot="b1"))
    assert [(s.info.robot_id, s.info.boot_id, s.info.episode) for s in in_order(late)] == [
        ("robot1", "b0", 0), ("robot2", "b0", 0), ("robot1", "b0", 1), ("robot1", "b0", 2),
        ("robot1", "b1", 0),
    ]  # fmt: skip
    folder = write(tmp_path / "a", [info(0, received_ns=5000), info(1, received_ns=1000)])
    logs = open_logs([folder])
    assert [s.info.episode for s in logs.episodes] == [1, 0]
    with LogWriter(tmp_path / "b", logs.spec, "", as_lived=True) as writer:
        write_edited(writer, logs)
    assert verify_run(tmp_path / "b").ok
    assert rows_of(tmp_path / "b") == rows_of(folder)


def test_what_is_damaged_is_left_out_and_if_nothing_is_whole_nothing_is_left(tmp_path, write):
    folder = write(tmp_path / "a", [info(0), info(1)])
    files = sorted((folder / "episodes" / "robot1").glob("*.h5"))
    for number, kept in [(0, [1]), (1, [])]:
        content = bytearray(files[number].read_bytes())  # facts stay readable, a row does not
        content[content.find(read_episode(files[number]).transitions.reward.tobytes()) + 5] ^= 255
        files[number].write_bytes(content)
        logs, out = open_logs([folder]), tmp_path / f"out{number}"
        try:
            with LogWriter(out, logs.spec, "", as_lived=True) as writer:
                write_edited(writer, logs)
        except LogsError as error:
            assert "nothing is left to write" in str(error) and not kept
        assert files[number] in logs.damaged
        assert out.exists() == bool(kept)
        if kept:
            assert [s.info.episode for s in open_logs([out]).episodes] == kept
            assert verify_run(out).ok


# Parts --------------------------------------------------------------------------------------

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=5)
SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(COUNTS, SHARES, st.integers(0, 5))
def test_parts_are_disjoint_and_complete_and_as_large_as_asked(counts, shares, seed):
    episodes = summaries(*(info(e, f"robot{r}") for r, count in enumerate(counts) for e in range(count)))
    wanted = {f"part{i}": share / sum(shares) for i, share in enumerate(shares)}
    parts = by_share(episodes, wanted, seed)
    dealt = [s for part in parts.values() for s in part]
    assert len(dealt) == len(episodes)
    assert {s.path for s in dealt} == {s.path for s in episodes}
    for name, part in parts.items():
        assert abs(len(part) - wanted[name] * len(episodes)) < len(shares)
        assert [s for s in episodes if s in part] == part  # in their order
        for robot, count in enumerate(counts):
            mine = sum(s.info.robot_id == f"robot{robot}" for s in part)
            assert abs(mine - wanted[name] * count) < 2 * len(shares)
    assert by_share(episodes, wanted, seed) == parts


def test_another_seed_deals_otherwise_and_not_every_fifth_is_a_test():
    episodes = summaries(*(info(e) for e in range(100)))
    tests = [
        [s.info.episode for s in by_share(episodes, {"train": 0.8, "test": 0.2}, seed)["test"]]
        for seed in (0, 1)
    ]
    assert [len(test) for test in tests] == [20, 20]
    assert tests[0] != tests[1]
    assert len(set(np.diff(tests[0]))) > 3


def test_parts_by_value():
    episodes = summaries(info(0), info(1, success=False), info(0, "robot2", task="", evaluation=True))
    told = {
        key: {value: episodes_of(part) for value, part in by_value(episodes, key).items()}
        for key in ("robot", "task", "success", "evaluation")
    }
    one, two, other = ("robot1", 0), ("robot1", 1), ("robot2", 0)
    assert told == {
        "robot": {"robot1": [one, two], "robot2": [other]},
        "task": {"reach": [one, two], "unknown": [other]},
        "success": {"success": [one, other], "failure": [two]},
        "evaluation": {"training": [one, two], "evaluation": [other]},
    }


@settings(max_examples=5)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 6)), min_size=1, max_size=6), st.integers(0, 3))
def test_parts_that_are_merged_are_the_same_rows_again(write, make_spec, episodes, seed):
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        infos = [info(e, f"robot{robot}", rows=rows) for e, (robot, rows) in enumerate(episodes)]
        source = write(tmp / "all", infos)
        logs = open_logs([source])
        folders = []
        for part, those in by_share(logs.episodes, {"a": 0.6, "b": 0.4}, seed).items():
            if those:
                folders.append(tmp / part)
                with LogWriter(tmp / part, make_spec(), "", as_lived=True) as writer:
                    write_edited(writer, only(logs, those))
                assert verify_run(tmp / part).ok
        parts = open_logs([*folders, source])  # and the whole: all of it is there twice
        merged = without_copies(parts)
        assert (merged.copies, merged.renamed) == (len(infos), 0)
        with LogWriter(tmp / "back", make_spec(), "", as_lived=True) as writer:
            write_edited(writer, merged.logs)
        assert verify_run(tmp / "back").ok
        assert rows_of(tmp / "back") == rows_of(source)
        before, after = (open_logs([folder]).episodes for folder in (source, tmp / "back"))
        for a, b in zip(before, after, strict=True):
            assert replace(b.info, run_id=a.info.run_id) == a.info  # seq and cursors, too


# Pieces -------------------------------------------------------------------------------------


def cut_of(make_transitions, cut, rows=10, **changes):
    transitions = make_transitions(rows, 100)
    flags = np.zeros(rows, bool)
    ended = replace(transitions, terminated=flags, truncated=np.arange(rows) == rows - 1)
    return ended, cut(info(0, rows=rows, **changes), ended)


def test_an_episode_that_loses_its_end_was_stopped_there(make_transitions):
    source, (cut, rows) = cut_of(make_transitions, Cut(2, 3))
    assert rows.reward.tolist() == [102.0, 103.0, 104.0]
    assert rows.truncated.tolist() == [False, False, True] and not rows.terminated.any()
    assert (cut.end, cut.success, cut.complete) == ("stopped", False, True)
    assert cut.metrics == {"return": 309.0}
    assert cut.origin == "steps 2 to 4 of 10"
    assert source.truncated.tolist() == [False] * 9 + [True]  # the source is as it was


def test_an_episode_that_loses_its_start_keeps_its_end(make_transitions):
    _, (cut, rows) = cut_of(make_transitions, Cut(7), origin="imported from x.bag")
    assert rows.reward.tolist() == [107.0, 108.0, 109.0]
    assert rows.truncated.tolist() == [False, False, True]
    assert (cut.end, cut.success) == ("time_limit", True)
    assert cut.metrics == {"return": 324.0, "final_distance_m": 0.1}  # the guard's counts were of all steps
    assert cut.origin == "imported from x.bag; steps 7 to 9 of 10"


def test_a_row_that_terminated_stays_so_and_an_episode_that_is_not_cut_stays_as_it_is(make_transitions):
    rows = make_transitions(10)  # rows 4 and 9 terminated
    _, cut = Cut(0, 5)(info(0), rows)
    assert (cut.terminated[-1], cut.truncated[-1]) == (True, False)
    assert Cut(0, 10)(info(0), rows) == (info(0), rows)
    assert Cut(10)(info(0), rows) is None
    unfinished = info(0, complete=False, end="")
    assert Cut(0, None)(unfinished, rows) == (unfinished, rows)
    assert Cut(0, 3)(unfinished, rows)[0].complete


@given(st.integers(1, 12), st.integers(0, 14), st.none() | st.integers(1, 14))
def test_no_cut_makes_a_row_that_was_not_there(make_transitions, rows, skip, keep):
    source, cut = cut_of(make_transitions, Cut(skip, keep), rows)
    taken = list(range(rows))[skip:][:keep]
    if not taken:
        assert cut is None
        return
    _, left = cut
    for name in COLUMNS:
        expected = getattr(source, name)[taken]
        if name == "truncated":
            assert not getattr(left, name)[:-1].any() and getattr(left, name)[-1]
        else:
            np.testing.assert_array_equal(getattr(left, name), expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"first": 2}, [0, 1]),
        ({"last": 2}, [2, 3]),
        ({"max_rows": 25}, [0, 1]),  # the next would bring 30
        ({"max_rows": 30}, [0, 1, 2]),
        ({"last": 4, "max_rows": 25}, [2, 3]),
        ({"max_rows": 9}, []),
        ({"cut": Cut(0, 4), "max_rows": 9}, [0, 1]),
        ({"cut": Cut(10)}, []),
    ],
)
def test_as_many_episodes_as_asked(options, expected):
    episodes = summaries(*(info(e) for e in range(4)))
    chosen = limit(episodes, **({"cut": Cut()} | options))
    assert [s.info.episode for s in chosen] == expected


# What comes out -----------------------------------------------------------------------------


def test_a_replay_server_serves_what_was_merged(tmp_path, write, fleet, make_spec):
    a = write(tmp_path / "a", [info(e, received_ns=e) for e in range(3)])
    b = write(tmp_path / "b", [info(e, "robot2", received_ns=e, rows=7) for e in range(4)], tag=1.0)
    merged = without_copies(open_logs([a, b])).logs
    with LogWriter(tmp_path / "run", merged.spec, "", as_lived=True) as writer:
        write_edited(writer, merged)
    assert (writer.episodes, writer.rows) == (7, 58)
    with fleet() as it:
        peer = it.peer(b"reader")
        peer.hello("robot9")
        reply = peer.ask(TailRequest(request_id=1, cursor=0, max_rows=1000))
    expected = [rows for _, rows in merged.read()]
    assert (reply.first_cursor, reply.end_cursor) == (0, 58)
    for name in COLUMNS:
        together = np.concatenate([getattr(rows, name) for rows in expected])
        assert getattr(reply, name).tobytes() == together.tobytes()
    assert isinstance(reply, Transitions)
