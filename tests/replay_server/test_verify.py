"""`verify_run` finds what is missing, doubled, out of order or damaged, wherever rows lie."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.codec import encode
from fleet.messages import TransitionBatch
from replay_server.episode_file import Episode, EpisodeInfo, write_episode
from replay_server.journal import GIVEN_UP, JournalBatch
from replay_server.spans import missing_spans, span_length, spans
from replay_server.verify import RunCheck, verify_run

ROWS = 10


@pytest.fixture
def store(make_transitions: Callable, make_spec: Callable, tmp_path: Path) -> Callable[..., Path]:
    """`store(episode=2)` writes rows 20 … 29 of arm1 as its episode 2, with cursors of the same numbers."""

    def write(
        episode: int = 0,
        *,
        robot: str = "arm1",
        seq: range | None = None,
        cursor: int = 0,
        end: str = "success",
    ) -> Path:
        seqs = np.array(seq or range(episode * ROWS, (episode + 1) * ROWS))
        info = EpisodeInfo(
            run_id="run1",
            robot_id=robot,
            boot_id="b0",
            episode=episode,
            rows=len(seqs),
            first_seq=int(seqs[0]),
            last_seq=int(seqs[-1]),
            first_cursor=cursor + int(seqs[0]),
            last_cursor=cursor + int(seqs[-1]),
            received_ns=0,
            spec_hash=make_spec().hash,
            policy_version=0,
            evaluation=False,
            end=end,
            success=True,
            metrics={},
            complete=bool(end),
        )
        transitions = make_transitions(len(seqs), int(seqs[0]))
        made = Episode(info=info, spec=make_spec(), transitions=transitions, seq=seqs, cursor=cursor + seqs)
        return write_episode(tmp_path, made)

    return write


@pytest.fixture
def journal(make_batch: Callable[..., TransitionBatch], tmp_path: Path) -> Callable[..., Path]:
    """`journal(range(20, 30), …)` writes a segment with one batch for each range of rows."""

    def write(*batches: range, number: int = 1, known: int = 0, end: str = "") -> Path:
        path = tmp_path / "journal" / f"{number:09d}.journal"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for rows in batches:
                batch = make_batch(len(rows), rows.start, rows.start // ROWS, end=end)
                entry = JournalBatch(batch, encode(batch), known, rows.start, 0)
                file.write(b"".join(entry.record()))
        return path

    return write


def the_stream(check: RunCheck) -> dict[str, object]:
    (stream,) = check.streams
    return {name: getattr(stream, name) for name in ("rows", "in_episodes", "in_journal", "in_spool")}


def test_rows_are_counted_once_wherever_they_lie(store: Callable, journal: Callable, tmp_path: Path) -> None:
    store(0), store(1)
    journal(range(15, 20), range(20, 30), range(30, 35))
    check = verify_run(tmp_path, {("arm1", "b0"): [(12, 12), (33, 39)]})
    assert check.ok
    assert the_stream(check) == {"rows": 40, "in_episodes": 20, "in_journal": 15, "in_spool": 5}
    assert check.streams[0].unfinished == [2, 3]
    assert (check.rows, check.episodes, check.notes) == (40, 2, [])


def test_an_empty_run_and_one_without_journal(store: Callable, tmp_path: Path) -> None:
    assert verify_run(tmp_path) == RunCheck(streams=[], episodes=0, damaged={}, notes=[])
    store(0), store(0, robot="arm2")
    check = verify_run(tmp_path)
    assert check.ok
    assert [(s.robot_id, s.rows, s.first_seq, s.last_seq) for s in check.streams] == [
        ("arm1", 10, 0, 9),
        ("arm2", 10, 0, 9),
    ]


def test_missing_rows_are_named(store: Callable, journal: Callable, tmp_path: Path) -> None:
    for episode in (1, 3):
        store(episode)
    journal(range(45, 50))
    check = verify_run(tmp_path, {("arm1", "b0"): [(20, 22)]})
    assert not check.ok
    assert check.streams[0].missing == [(0, 9), (23, 29), (40, 44)]
    assert check.missing == 22


def test_a_file_that_is_gone_is_missed(store: Callable, tmp_path: Path) -> None:
    store(0), store(2)
    store(1).unlink()
    assert verify_run(tmp_path).streams[0].missing == [(10, 19)]


def test_doubled_rows_are_named(store: Callable, tmp_path: Path) -> None:
    store(0), store(1, seq=range(8, 20))
    check = verify_run(tmp_path)
    assert not check.ok
    assert (check.streams[0].doubled, check.doubled, check.missing) == ([(8, 9)], 2, 0)


def test_rows_out_of_order_are_named(store: Callable, tmp_path: Path) -> None:
    store(0, cursor=100), store(1)
    check = verify_run(tmp_path)
    assert not check.ok
    assert (check.streams[0].disordered, check.missing, check.doubled) == ([(10, 19)], 0, 0)


def test_an_unfinished_episode_is_no_fault(store: Callable, tmp_path: Path) -> None:
    store(0, end="")
    check = verify_run(tmp_path)
    assert check.ok
    assert check.streams[0].unfinished == [0]


def test_changed_rows_are_damage(store: Callable, tmp_path: Path) -> None:
    store(0)
    path = store(1)
    with h5py.File(path, "r+") as file:
        file["reward"][3] += 1
    check = verify_run(tmp_path)
    assert not check.ok
    assert "crc32" in check.damaged[str(path)]
    assert check.episodes == 1


def test_a_truncated_file_is_damage(store: Callable, tmp_path: Path) -> None:
    path = store(0)
    path.write_bytes(path.read_bytes()[:3000])
    check = verify_run(tmp_path)
    assert list(check.damaged) == [str(path)]
    assert check.streams == []


def test_a_journal_record_cut_short_is_no_fault(store: Callable, journal: Callable, tmp_path: Path) -> None:
    store(0)
    path = journal(range(10, 15), range(15, 18))
    path.write_bytes(path.read_bytes()[:-50])
    check = verify_run(tmp_path)
    assert check.ok
    assert check.rows == 15
    assert len(check.notes) == 1 and "cut short" in check.notes[0]


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_journal_is_a_fault(
    store: Callable, journal: Callable, tmp_path: Path, number: int
) -> None:
    store(0)
    journal(range(15, 20), number=2)
    path = journal(*(range(start, start + 5) for start in (10, 15, 20)), number=number)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check = verify_run(tmp_path)
    assert not check.ok
    assert list(check.damaged) == [str(path)]
    assert check.missing == (5 if number == 2 else 0)


def test_damage_kept_aside_is_mentioned(store: Callable, tmp_path: Path) -> None:
    store(0)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "000000001.journal.damaged").write_bytes(b"x" * 77)
    check = verify_run(tmp_path)
    assert check.ok
    assert len(check.notes) == 1 and "77 bytes" in check.notes[0]


def test_rows_given_up_are_missing_and_explained(
    store: Callable, journal: Callable, make_batch: Callable[..., TransitionBatch], tmp_path: Path
) -> None:
    store(0), store(2)
    path = journal()
    batch = make_batch(0, 20, 0)
    path.write_bytes(b"".join(JournalBatch(batch, encode(batch), GIVEN_UP, 10, 0).record()))
    check = verify_run(tmp_path)
    assert check.streams[0].missing == [(10, 19)]
    assert len(check.notes) == 1 and "before seq 20" in check.notes[0]


def test_many_files_are_read_in_several_processes(
    store: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for episode in range(6):
        store(episode)
    damaged = store(6)
    damaged.write_bytes(b"not HDF5")
    one_process = verify_run(tmp_path)
    monkeypatch.setattr("replay_server.episode_numbers._FILES_FOR_A_POOL", 2)
    progress: list[tuple[int, int]] = []
    several = verify_run(tmp_path, on_progress=lambda done, total: progress.append((done, total)))
    assert several == one_process
    assert several.rows == 60 and list(several.damaged) == [str(damaged)]
    assert progress == [(done, 7) for done in range(1, 8)]


@given(st.sets(st.integers(0, 40)))
def test_spans_and_holes_tile_the_numbers(numbers: set[int]) -> None:
    rising = np.array(sorted(numbers), np.int64)
    there, holes = spans(rising), missing_spans(rising)
    assert [n for first, last in there for n in range(first, last + 1)] == sorted(numbers)
    assert span_length(there) == len(numbers)
    assert sorted([*there, *holes]) == sorted({*there, *holes})
    covered = {n for first, last in (*there, *holes) for n in range(first, last + 1)}
    assert covered == set(range(max(numbers, default=-1) + 1))
    assert all(b + 1 < c for (_, b), (c, _) in itertools.pairwise(there))
