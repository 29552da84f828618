"""The journal: groups durable in order, disks that refuse, segments that go when they are not needed."""

from __future__ import annotations

import errno
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.codec import encode
from fleet.records import Damage
from replay_server import journal as journal_module
from replay_server.journal import Journal, JournalBatch, keep_damage_aside, read_journal


@pytest.fixture
def entry(make_batch) -> Callable[..., JournalBatch]:
    def make(rows: int, first_seq: int = 0, episode: int = 0, **fields: Any) -> JournalBatch:
        batch = make_batch(rows, first_seq, episode, **fields)
        return JournalBatch(batch, encode(batch), known=0, first_cursor=first_seq, received_ns=7)

    return make


class Opened:
    """A journal whose groups can be waited for."""

    def __init__(self, run_dir: Path, **settings: Any) -> None:
        self.commits: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.journal = Journal(run_dir, lambda: self.commits.put(None), retry_s=0.01, **settings)

    def write(self, *entries: JournalBatch) -> None:
        self.journal.submit(entries)
        self.commits.get(timeout=10)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    made: list[Opened] = []

    def open_(**settings: Any) -> Opened:
        made.append(Opened(tmp_path, **settings))
        return made[-1]

    yield open_
    for it in made:
        it.journal.close()


def files(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "journal").iterdir())


def stored(run_dir: Path) -> list[tuple[int, int]]:
    """First seq and rows of every batch in the journal."""
    return [(e.batch.first_seq, e.batch.rows) for s in read_journal(run_dir) for e in s.batches]


def test_what_is_written_is_read_back(opened, entry, tmp_path) -> None:
    it = opened()
    it.write(entry(3, 0), entry(2, 3, robot_id="arm2"))
    it.write(entry(4, 5, end="time_limit", metrics={"return": 1.5}))
    (segment,) = read_journal(tmp_path)
    assert segment.damage == []
    assert [(e.batch.robot_id, e.batch.first_seq, e.batch.rows) for e in segment.batches] == [
        ("arm1", 0, 3),
        ("arm2", 3, 2),
        ("arm1", 5, 4),
    ]
    last = segment.batches[-1]
    assert (last.first_cursor, last.received_ns, last.known) == (5, 7, 0)
    assert (last.batch.end, last.batch.metrics) == ("time_limit", {"return": 1.5})
    assert last.batch.reward.tolist() == [5, 6, 7, 8]
    assert bytes(last.frame) == encode(last.batch)


def test_every_group_is_synced_once_before_it_counts(opened, entry, monkeypatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(journal_module.os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    it = opened()
    it.write(entry(3, 0), entry(3, 3))
    it.write(entry(3, 6))
    size = len(b"".join(entry(3, 0).record()))
    assert synced == [2 * size, 3 * size]
    assert (it.journal.groups, it.journal.bytes_written) == (2, 3 * size)


def test_a_large_group_is_written_whole(opened, entry, tmp_path) -> None:
    it = opened()
    it.write(*(entry(1, i) for i in range(1000)))  # more buffers than one writev takes
    assert stored(tmp_path) == [(i, 1) for i in range(1000)]


def test_a_segment_goes_when_all_its_episodes_are_in_hdf5(opened, entry, tmp_path) -> None:
    it = opened(segment_bytes=1)  # a group each
    it.write(entry(2, 0, episode=0))
    it.write(entry(2, 2, episode=0), entry(2, 0, robot_id="arm2"))
    it.write(entry(2, 4, episode=1))
    assert files(tmp_path) == [f"00000000{i}.journal" for i in (1, 2, 3)]
    it.journal.forget(("arm1", "b0", 0))
    assert files(tmp_path) == ["000000002.journal", "000000003.journal"], "arm2's episode is in the second"
    it.journal.forget(("arm2", "b0", 0))
    assert files(tmp_path) == ["000000003.journal"]
    it.journal.forget(("arm1", "b0", 1))
    assert files(tmp_path) == ["000000003.journal"], "it is being written"
    it.journal.close()
    assert files(tmp_path) == []


def test_a_restart_begins_a_new_segment_and_takes_the_old_over(opened, entry, tmp_path) -> None:
    first = opened()
    first.write(entry(2, 0))
    first.journal.close()
    second = opened()
    second.write(entry(2, 2))
    assert files(tmp_path) == ["000000001.journal", "000000002.journal"]
    second.journal.adopt(tmp_path / "journal/000000001.journal", {("arm1", "b0", 0)})
    assert stored(tmp_path) == [(0, 2), (2, 2)]
    second.journal.forget(("arm1", "b0", 0))
    assert files(tmp_path) == ["000000002.journal"]


@pytest.mark.parametrize("call", ["writev", "fdatasync", "open"])
def test_a_disk_that_refuses_holds_the_group_back_and_loses_none(
    call: str, opened, entry, tmp_path, monkeypatch, wait_until
) -> None:
    it = opened()
    it.write(entry(2, 0))
    if call == "open":
        it.journal._segment_bytes = 1
    real, full = getattr(os, call), [True]

    def refuse(*arguments: Any, **more: Any) -> Any:
        mine = call != "open" or str(arguments[0]).endswith(".journal")
        if full[0] and mine:
            if call == "writev":  # what a full disk does: some of it fits
                real(arguments[0], [b"".join(arguments[1])[:100]])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **more)

    monkeypatch.setattr(journal_module.os, call, refuse)
    it.journal.submit([entry(2, 2), entry(2, 4)])
    wait_until(lambda: "No space left" in it.journal.error)
    assert it.commits.empty()
    full[0] = False
    it.commits.get(timeout=10)
    assert it.journal.error == ""
    assert stored(tmp_path) == [(0, 2), (2, 2), (4, 2)]
    assert not any(segment.damage for segment in read_journal(tmp_path))


def test_a_journal_that_cannot_be_written_does_not_hold_up_the_end(opened, entry, monkeypatch) -> None:
    it = opened()

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal_module.os, "writev", refuse)
    it.journal.submit([entry(2, 0)])
    it.journal.close()
    assert it.commits.empty()


def test_a_torn_end_is_reported_and_kept_aside_once(opened, entry, tmp_path) -> None:
    it = opened()
    it.write(entry(2, 0))
    it.write(entry(2, 2))
    it.journal.close()
    path = tmp_path / "journal/000000001.journal"
    record = len(path.read_bytes()) // 2
    path.write_bytes(path.read_bytes()[:-10])
    (segment,) = read_journal(tmp_path)
    assert [e.batch.first_seq for e in segment.batches] == [0]
    assert segment.damage == [Damage(record, 2 * record - 10)]
    copy = keep_damage_aside(segment)
    assert copy is not None and copy.read_bytes() == path.read_bytes()[record:]
    assert keep_damage_aside(segment) is None
    assert [s.path for s in read_journal(tmp_path)] == [path], "the copy is not taken for a segment"
    again = opened()
    again.write(entry(2, 4))
    assert "000000002.journal" in files(tmp_path)


def test_a_record_that_is_not_a_batch_is_damage(opened, entry, tmp_path) -> None:
    it = opened()
    it.write(entry(2, 0))
    it.journal.close()
    from fleet.records import pack_record

    path = tmp_path / "journal/000000001.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b"".join(pack_record(b"something else, long enough")))
    (segment,) = read_journal(tmp_path)
    assert len(segment.batches) == 1 and segment.damage[0].offset == len(whole)
