"""What a robot recorded is on its disk, whatever was killed, torn, flipped or full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.config import SpoolConfig
from fleet.messages import TransitionBatch, row_dtype
from fleet.records import read_records
from fleet.spaces import Space, SpaceSpec
from robot_nodes.batch_former import EpisodeEnd
from robot_nodes.spool import Spool, SpoolError
from robot_nodes.spool_boot import SpoolBoot
from robot_nodes.spool_file import read_spool, row_bytes
from robot_nodes.spool_reader import SpoolReader

WaitUntil = Callable[..., None]


def spec_of(nx: int) -> SpaceSpec:
    names = tuple(f"x{i}" for i in range(nx))
    return SpaceSpec(
        observation=Space(names, ("1",) * nx, (-1e6,) * nx, (1e6,) * nx),
        action=Space(("u",), ("1",), (-1.0,), (1.0,)),
    )


SPEC = spec_of(2)
WIDE = spec_of(1000)  # 8 kB a row: a spool of 1 MB is full after about a hundred


def packed(seq: int, nx: int = 2) -> bytes:
    row = np.zeros(1, row_dtype(nx, 1))
    row["reward"] = row["stamp_ns"] = seq
    return row.tobytes()


def make_spool(folder: Path, boot_id: str = "boot", spec: SpaceSpec = SPEC, **settings: Any) -> Spool:
    segment_bytes = settings.pop("segment_bytes", 400)  # three narrow rows
    return Spool(folder, "robot1", boot_id, spec, SpoolConfig(**settings), segment_bytes=segment_bytes)


def add(spool: Spool, first: int, count: int = 1, episode: int = 0) -> None:
    nx = spool.current.head.nx
    for seq in range(first, first + count):
        spool.add_row(seq, episode, False, packed(seq, nx))


def end(spool: Spool, seq: int, episode: int = 0, reason: str = "time_limit") -> None:
    spool.end_episode(seq, episode, EpisodeEnd(reason=reason, success=True, metrics={"return": 1.5}))


def kill(spool: Spool) -> None:
    """The kernel's part of SIGKILL: files are closed, nothing is tidied up."""
    os.close(spool._lock_handle)


def batches_of(boot: SpoolBoot, from_seq: int = 0) -> list[TransitionBatch]:
    reader = SpoolReader(boot, max_rows=4, min_rows=1)
    reader.seek(from_seq)
    return list(iter(reader.next_batch, None))


def rows_of(boot: SpoolBoot, from_seq: int = 0) -> list[tuple[int, int, bool, str]]:
    """(seq, episode, truncated, end with it) of each row read back; its content is that of its seq."""
    found = []
    for batch in batches_of(boot, from_seq):
        assert batch.reward.tolist() == batch.stamp_ns.tolist() == list(range(*span(batch)))
        ends = [""] * (batch.rows - 1) + [batch.end]
        for seq, truncated, why in zip(range(*span(batch)), batch.truncated.tolist(), ends, strict=True):
            found.append((seq, batch.episode, truncated, why))
    return found


def span(batch: TransitionBatch) -> tuple[int, int]:
    return batch.first_seq, batch.first_seq + batch.rows


# One boot ------------------------------------------------------------------------------------


def test_rows_are_there_as_soon_as_they_are_recorded(tmp_path):
    spool = make_spool(tmp_path)
    for count in range(1, 8):
        add(spool, count - 1)
        (boot,) = read_spool(tmp_path)
        assert (boot.robot_id, boot.boot_id, boot.run_id) == ("robot1", "boot", "")
        assert (boot.spans, boot.first_seq, boot.last_seq, boot.rows) == (
            ((0, count - 1),),
            0,
            count - 1,
            count,
        )
    assert boot.damaged == 0
    assert len(spool.current.segments) == 3
    spool.close()


def test_batches_are_of_one_episode_and_hold_the_newest_row_back(tmp_path):
    spool = make_spool(tmp_path)
    add(spool, 0, 5)
    end(spool, 4)
    add(spool, 5, 3, episode=1)
    first, second, third = batches_of(spool.current)
    assert [(b.first_seq, b.rows, b.episode, b.end) for b in (first, second, third)] == [
        (0, 4, 0, ""),
        (4, 1, 0, "time_limit"),
        (5, 2, 1, ""),
    ]
    assert (second.success, second.metrics, second.truncated.tolist()) == (True, {"return": 1.5}, [True])
    assert (first.robot_id, first.boot_id, first.spec_hash) == ("robot1", "boot", SPEC.hash)
    spool.close()


def test_a_reader_goes_on_where_new_rows_come(tmp_path):
    spool = make_spool(tmp_path)
    reader = SpoolReader(spool.current, max_rows=4, min_rows=2)
    seen = []
    for seq in range(20):
        add(spool, seq)
        while (batch := reader.next_batch()) is not None:
            seen.append(span(batch))
    end(spool, 19)
    seen.append(span(reader.next_batch()))
    assert seen == [(i, i + 2) for i in range(0, 18, 2)] + [(18, 20)]
    assert reader.next_batch() is None
    spool.close()


def test_seeking_goes_back_and_forth(tmp_path):
    spool = make_spool(tmp_path)
    add(spool, 0, 10)
    end(spool, 9)
    reader = SpoolReader(spool.current)
    for seq in (7, 0, 9, 3):
        reader.seek(seq)
        assert span(reader.next_batch()) == (seq, 10)
    reader.seek(10)
    assert reader.next_batch() is None, "the end of what was sent before is not sent alone"
    spool.close()


def test_a_reader_stays_small_in_front_of_a_large_backlog(tmp_path):
    spool = make_spool(tmp_path, spec=WIDE, segment_bytes=10**6)
    add(spool, 0, 100)
    end(spool, 99)
    reader = SpoolReader(spool.current, max_rows=4)
    assert span(reader.next_batch()) == (0, 4)
    held = len(reader._ready) * 4 + len(reader._former._rows)
    assert held * row_bytes(1000, 1) < 2**18
    spool.close()


def test_sealed_segments_go_and_the_growing_one_stays(tmp_path):
    spool = make_spool(tmp_path)
    add(spool, 0, 8)
    spool.current.durable_seq = 6
    spool.trim()
    assert read_spool(tmp_path)[0].first_seq == 0, "acknowledged is not sealed"
    spool.current.sealed_seq = 4
    spool.trim()
    assert read_spool(tmp_path)[0].first_seq == 3
    spool.current.sealed_seq = spool.current.durable_seq = 7
    spool.trim()
    assert read_spool(tmp_path)[0].spans == ((6, 7),)
    assert spool.used_bytes == disk_bytes(spool)
    spool.close()
    assert read_spool(tmp_path) == []


def disk_bytes(spool: Spool) -> int:
    return sum(path.stat().st_size for path in spool.path.rglob("*.spool"))


def test_closing_keeps_what_the_server_lacks(tmp_path):
    spool = make_spool(tmp_path)
    add(spool, 0, 8)
    spool.current.durable_seq = 6
    spool.close()
    spool.close()
    assert read_spool(tmp_path)[0].last_seq == 7


def test_a_spool_has_one_owner(tmp_path):
    spool = make_spool(tmp_path)
    with pytest.raises(SpoolError, match=f"in use by process {os.getpid()}: .* stop the other one"):
        make_spool(tmp_path, "second")
    assert [boot.boot_id for boot in read_spool(tmp_path)] == ["boot"]
    spool.close()
    make_spool(tmp_path, "second").close()


def test_a_place_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SpoolError, match="--run-dir"):
        make_spool(tmp_path / "spool")


def test_others_may_read_while_it_is_written(tmp_path):
    spool = make_spool(tmp_path, segment_bytes=2000)
    written = 0

    def write() -> None:
        nonlocal written
        for seq in range(3000):
            add(spool, seq)
            written = seq + 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while thread.is_alive():
            before = written
            (boot,) = read_spool(tmp_path)
            assert boot.damaged == 0
            assert before <= boot.rows <= written + 1
            assert boot.spans == ((0, boot.last_seq),) or boot.rows == 0
    finally:
        thread.join()
        spool.close()


# Earlier boots -------------------------------------------------------------------------------


def test_a_killed_boot_is_found_again_and_its_episode_ends_in_a_fault(tmp_path):
    spool = make_spool(tmp_path, "b")
    add(spool, 0, 3)
    end(spool, 2)
    add(spool, 3, 4, episode=1)
    spool.current.join_run("run-x")
    kill(spool)
    spool = make_spool(tmp_path, "a")
    assert [boot.head.boot_id for boot in spool.boots] == ["b", "a"], "in the order of their starts"
    old = spool.boots[0]
    assert (old.closed, old.run_id, old.waiting_rows) == (True, "run-x", 7)
    assert rows_of(old) == [
        (0, 0, False, ""), (1, 0, False, ""), (2, 0, True, "time_limit"),
        (3, 1, False, ""), (4, 1, False, ""), (5, 1, False, ""), (6, 1, True, "fault"),
    ]  # fmt: skip
    spool.close()


def test_boots_without_rows_leave_no_trace(tmp_path):
    for boot_id in "abc":
        kill(make_spool(tmp_path, boot_id))
    spool = make_spool(tmp_path, "d")
    assert spool.boots == [spool.current]
    spool.close()
    assert read_spool(tmp_path) == []


def test_a_delivered_boot_goes_as_a_whole(tmp_path):
    spool = make_spool(tmp_path, "a")
    add(spool, 0, 8)
    kill(spool)
    spool = make_spool(tmp_path, "b")
    add(spool, 0, 1)
    spool.boots[0].durable_seq = spool.boots[0].sealed_seq = 7
    spool.trim()
    assert spool.boots == [spool.current]
    assert not (tmp_path / "robot1/a").exists()
    assert spool.used_bytes == disk_bytes(spool)
    spool.close()


def test_another_spec_is_told(tmp_path, caplog):
    spool = make_spool(tmp_path, "a")
    add(spool, 0, 8)
    kill(spool)
    spool = make_spool(tmp_path, "b", spec=WIDE)
    assert f"8 rows in {tmp_path / 'robot1/a'} were recorded with another spec" in caplog.text
    spool.close()


def test_a_boot_that_died_at_once_leaves_no_trace(tmp_path, caplog):
    (tmp_path / "robot1/a").mkdir(parents=True)
    (tmp_path / "robot1/b").mkdir()
    (tmp_path / "robot1/b/000001.spool").touch()
    make_spool(tmp_path).close()
    assert read_spool(tmp_path) == [] and caplog.text == ""


def test_a_folder_that_nobody_understands_stays(tmp_path, caplog):
    strange = tmp_path / "robot1/strange"
    strange.mkdir(parents=True)
    (strange / "000001.spool").write_bytes(b"not a record" * 10)
    spool = make_spool(tmp_path)
    assert "holds nothing readable" in caplog.text
    spool.close()
    assert (strange / "000001.spool").read_bytes() == b"not a record" * 10
    assert read_spool(tmp_path)[0].rows == 0


# Damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_boot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments; the newest holds rows 6 and 7 and the end of the episode."""
    folder = tmp_path_factory.mktemp("whole")
    spool = make_spool(folder)
    add(spool, 0, 8)
    end(spool, 7)
    assert len(spool.current.segments) == 3
    kill(spool)
    return folder / "robot1/boot"


def copy_of(boot: Path, folder: Path) -> Path:
    return Path(shutil.copytree(boot, folder / "robot1/boot", dirs_exist_ok=True))


def test_a_tail_torn_anywhere_costs_its_last_record_only(tmp_path, whole_boot, caplog):
    newest = (whole_boot / "000003.spool").read_bytes()
    record = row_bytes(2, 1)
    head_end = newest.index(b"PNR1", 1)
    last = read_records(newest)[0][-1]
    end_written = last.offset + 16 + len(last.payload)  # without the zeros that fill up to 8 bytes
    for cut in range(len(newest)):
        boot = SpoolBoot.recover(make_torn(tmp_path, whole_boot, newest[:cut]))
        found = rows_of(boot)
        rows = 6 + (cut >= head_end + record) + (cut >= head_end + 2 * record)
        assert [seq for seq, *_ in found] == list(range(rows)), cut
        assert found[-1][2:] == (True, "time_limit" if cut >= end_written else "fault"), cut
        assert boot.end_seq == rows
        left = boot.segments[-1].size if len(boot.segments) == 3 else 0
        aside = list((tmp_path / "robot1/damaged").glob("*"))
        assert b"".join(path.read_bytes() for path in aside) == newest[left:cut]
        shutil.rmtree(tmp_path / "robot1")
    assert "ended in a torn record" in caplog.text


def make_torn(folder: Path, whole: Path, newest: bytes) -> Path:
    boot = copy_of(whole, folder)
    (boot / "000003.spool").write_bytes(newest)
    return boot


@settings(max_examples=150)
@given(st.sampled_from(["000001.spool", "000002.spool", "000003.spool"]), st.data())
def test_a_flipped_byte_costs_one_record_and_makes_nothing_up(whole_boot, name, data):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = copy_of(whole_boot, folder)
        content = bytearray((path / name).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (path / name).write_bytes(content)
        (seen,) = read_spool(folder)
        boot = SpoolBoot.recover(path)
        seqs = [seq for seq, *_ in rows_of(boot)]
        assert seqs == sorted(set(seqs)) and set(seqs) <= set(range(8))
        assert len(seqs) >= 7
        assert seen.rows == len(seqs)
        assert sum(last - first + 1 for first, last in seen.spans) == len(seqs)
        if len(seqs) < 8 and seqs[-1] == 7:
            assert seen.damaged == 1
            assert list((folder / "robot1/damaged").iterdir()), "kept aside"


def test_a_whole_segment_of_garbage_leaves_a_gap(tmp_path, whole_boot):
    path = copy_of(whole_boot, tmp_path)
    (path / "000002.spool").write_bytes(b"\xff" * 400)
    boot = SpoolBoot.recover(path)
    assert [span(batch) for batch in batches_of(boot)] == [(0, 3), (6, 8)]
    assert read_spool(tmp_path)[0].spans == ((0, 2), (6, 7))


def test_damage_in_the_middle_of_a_large_segment_is_passed_over(tmp_path):
    spool = make_spool(tmp_path, segment_bytes=4 * 2**20)
    add(spool, 0, 10_000)
    end(spool, 9_999)
    kill(spool)
    path = tmp_path / "robot1/boot/000001.spool"
    content = bytearray(path.read_bytes())
    content[10**5 : 7 * 10**5] = bytes(6 * 10**5)  # longer than what is read at a time
    path.write_bytes(content)
    boot = SpoolBoot.recover(path.parent)
    seqs = [seq for seq, *_ in rows_of(boot)]
    (seen,) = read_spool(tmp_path)
    assert len(seen.spans) == 2 and seen.damaged == 1
    assert seqs == [seq for first, last in seen.spans for seq in range(first, last + 1)]
    assert 10_000 - len(seqs) == -(-6 * 10**5 // row_bytes(2, 1)) + 1


# A full disk ---------------------------------------------------------------------------------


def full_spool(folder: Path, on_full: str) -> tuple[Spool, int]:
    """A spool of 1 MB and the rows it took until it was full."""
    spool = make_spool(folder, spec=WIDE, segment_bytes=50_000, max_mb=1, on_full=on_full)
    rows = 0
    while not spool._full:
        add(spool, rows)
        rows += 1
    return spool, rows


def test_a_full_spool_stops_the_robot_and_still_takes_the_end(tmp_path):
    spool, rows = full_spool(tmp_path, "stop")
    assert 100 < rows < 125
    assert spool.blocked == (
        f"spool {tmp_path / 'robot1'} is full (spool.max_mb 1): {rows} rows wait in it; "
        "is their replay server up?"
    )
    add(spool, rows)  # the step that was under way
    end(spool, rows, reason="stopped")
    spool.trim()
    assert spool.used_bytes < 10**6
    assert rows_of(spool.current)[-1] == (rows, 0, True, "stopped")
    spool.current.durable_seq = 19  # acknowledged, not sealed: room is needed more
    spool.trim()
    assert spool.blocked == ""
    assert 10 < read_spool(tmp_path)[0].first_seq <= 20
    assert spool.rows_dropped == 0
    spool.close()


def test_drop_oldest_drops_and_counts(tmp_path, caplog):
    spool, rows = full_spool(tmp_path, "drop_oldest")
    assert spool.blocked == ""
    spool.current.durable_seq = 9
    spool.trim()
    first = read_spool(tmp_path)[0].first_seq
    assert 0 < first <= 10 and spool.rows_dropped == 0, "the acknowledged ones go first"
    add(spool, rows, 20)
    spool.trim()
    first = read_spool(tmp_path)[0].first_seq
    assert spool.rows_dropped == first - 10 > 0
    assert f"LOST: {spool.rows_dropped} rows" in caplog.text
    assert not spool._full
    assert [seq for seq, *_ in rows_of(spool.current)] == list(range(first, rows + 19))
    spool.close()


def test_drop_oldest_takes_the_oldest_boot_first(tmp_path):
    spool = make_spool(tmp_path, "a", spec=WIDE, segment_bytes=50_000, max_mb=1)
    add(spool, 0, 10)
    kill(spool)
    spool = make_spool(tmp_path, "b", spec=WIDE, segment_bytes=50_000, max_mb=1, on_full="drop_oldest")
    add(spool, 0, 114)
    spool.trim()
    assert spool.boots == [spool.current] and spool.rows_dropped == 10
    assert read_spool(tmp_path)[0].spans == ((0, 113),)
    spool.close()


LIMITED = textwrap.dedent(
    """
    import resource, sys
    sys.path.insert(0, sys.argv[2])
    import test_spool as t
    from pathlib import Path

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = t.make_spool(Path(sys.argv[1]), segment_bytes=10**6)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5003, limits[1]))
    rows = 0
    while not spool.blocked:
        t.add(spool, rows)
        rows += 1
    assert spool.blocked.startswith(f"spool {spool.current.path} cannot be written: File too large")
    t.add(spool, rows)
    t.end(spool, rows, reason="stopped")
    spool.trim()
    assert spool.blocked and spool.unwritten
    assert t.read_spool(Path(sys.argv[1]))[0].last_seq == rows - 2
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    spool.trim()
    assert not spool.blocked and not spool.unwritten
    assert t.rows_of(spool.current)[-1] == (rows, 0, True, "stopped")
    t.add(spool, rows + 1, episode=1)
    assert spool.current.waiting_rows == rows + 2
    print(rows + 2)
    """
)


def test_a_disk_without_room_loses_nothing(tmp_path):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(here)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    rows = int(done.stdout)
    assert 55 < rows < 65
    (boot,) = read_spool(tmp_path)
    assert (boot.spans, boot.damaged) == (((0, rows - 1),), 0)


def test_a_new_segment_that_cannot_be_made_is_tried_again(tmp_path, monkeypatch):
    spool = make_spool(tmp_path)
    add(spool, 0, 3)
    opened = os.open

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", no_room)
    add(spool, 3, 4)
    assert spool.blocked.endswith("cannot be written: No space left on device")
    monkeypatch.setattr(os, "open", opened)
    spool.trim()
    assert spool.blocked == ""
    spool.end_boot()
    assert [seq for seq, *_ in rows_of(spool.current)] == list(range(7))
    spool.close()


# Killed for real -----------------------------------------------------------------------------

SPOOLING = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, sys.argv[2])
    import numpy as np, test_spool as t
    from pathlib import Path

    count = np.memmap(Path(sys.argv[1]) / "count", "<i8", "r+", shape=(1,))
    spool = t.make_spool(Path(sys.argv[1]) / "spool", "child", segment_bytes=20_000)
    while True:
        seq = int(count[0])
        t.add(spool, seq, episode=seq // 50)
        count[0] = seq + 1
        if seq % 50 == 49:
            t.end(spool, seq, episode=seq // 50)
        if seq % 500 == 0:
            spool.sync()
    """
)


@pytest.mark.parametrize("at_least", [1, 1000, 4321])
def test_sigkill_loses_no_step(tmp_path, wait_until: WaitUntil, at_least):
    count = np.memmap(tmp_path / "count", "<i8", "w+", shape=(1,))
    here = Path(__file__).parent
    child = subprocess.Popen([sys.executable, "-c", SPOOLING, str(tmp_path), str(here)])
    try:
        wait_until(lambda: count[0] >= at_least or child.poll() is not None, timeout_s=30)
    finally:
        child.kill()
        child.wait()
    told = int(count[0])
    assert told >= at_least
    (boot,) = read_spool(tmp_path / "spool")
    assert boot.rows in (told, told + 1)
    assert (boot.spans, boot.damaged) == (((0, boot.rows - 1),), 0)
    spool = make_spool(tmp_path / "spool", "next")
    rows = rows_of(spool.boots[0])
    assert [seq for seq, *_ in rows] == list(range(boot.rows))
    assert all((why == "time_limit") == (seq % 50 == 49) for seq, _, _, why in rows[:-1])
    assert rows[-1][2] and rows[-1][3] in ("fault", "time_limit")
    spool.close()


# Anything, in any order ----------------------------------------------------------------------


class SpoolMachine(RuleBasedStateMachine):
    """A spool of 1 MB with 8 kB rows, next to a list of what should be in it."""

    @initialize(drop=st.booleans())
    def begin(self, drop: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.on_full = "drop_oldest" if drop else "stop"
        self.ends: dict[str, dict[int, str]] = {}  # boot → seq → why the episode ended there
        self.episodes: dict[str, list[int]] = {}  # boot → episode of each row
        self.gone: dict[str, int] = {}  # boot → rows at its begin that need not be there any more
        self.dropped = 0
        self.boots = 0
        self.spool: Spool | None = None
        self.open()

    def open(self) -> None:
        boot_id = f"boot{self.boots}"
        self.boots += 1
        self.spool = make_spool(
            self.folder, boot_id, WIDE, segment_bytes=30_000, max_mb=1, on_full=self.on_full
        )
        self.ends[boot_id], self.episodes[boot_id], self.gone[boot_id] = {}, [], 0
        self.boot_id, self.episode = boot_id, 0
        self.dropped = 0

    @rule(count=st.integers(1, 60))
    def put(self, count: int) -> None:
        rows = self.episodes[self.boot_id]
        for _ in range(count):
            if self.spool.blocked:
                break
            add(self.spool, len(rows), episode=self.episode)
            rows.append(self.episode)

    @rule()
    def end(self) -> None:
        rows = self.episodes[self.boot_id]
        if rows and rows[-1] == self.episode:
            end(self.spool, len(rows) - 1, self.episode)
            self.ends[self.boot_id][len(rows) - 1] = "time_limit"
            self.episode += 1

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        boot = data.draw(st.sampled_from(self.spool.boots))
        boot.durable_seq = data.draw(st.integers(boot.durable_seq, boot.end_seq - 1))
        boot.sealed_seq = data.draw(st.integers(boot.sealed_seq, boot.durable_seq))

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        """The server lost its journal, but not its episode files."""
        boot = data.draw(st.sampled_from(self.spool.boots))
        boot.durable_seq = data.draw(st.integers(boot.sealed_seq, boot.durable_seq))

    @rule()
    def trim(self) -> None:
        boots = {boot.head.boot_id: boot for boot in self.spool.boots}
        was_full = self.spool._full
        before = {name: self.first_on_disk(name) for name in boots}
        dropped = self.spool.rows_dropped
        self.spool.trim()
        lost = 0
        for name, boot in boots.items():
            gone = self.first_on_disk(name) - before[name]
            may_go = boot.durable_seq if was_full else boot.sealed_seq
            lost += max(0, self.first_on_disk(name) - max(before[name], may_go + 1)) if gone else 0
            self.gone[name] = max(self.gone[name], self.first_on_disk(name))
        assert self.spool.rows_dropped - dropped == lost
        assert lost == 0 or (self.on_full == "drop_oldest" and was_full)
        assert not (self.on_full == "drop_oldest" and self.spool._full)

    @rule()
    def kill(self) -> None:
        kill(self.spool)
        self.open()

    @rule()
    def close(self) -> None:
        sealed = self.spool.current.sealed_seq + 1 >= self.spool.current.end_seq
        self.spool.close()
        if sealed:
            self.gone[self.boot_id] = len(self.episodes[self.boot_id])
        self.open()

    def first_on_disk(self, name: str) -> int:
        boot = next((boot for boot in self.spool.boots if boot.head.boot_id == name), None)
        return boot.segments[0].first_seq if boot else len(self.episodes[name])

    @invariant()
    def what_should_be_there_is(self) -> None:
        boots = {boot.head.boot_id: boot for boot in self.spool.boots}
        for name, episodes in self.episodes.items():
            expected = []
            for seq in range(self.gone[name], len(episodes)):
                last = seq + 1 == len(episodes) or episodes[seq + 1] != episodes[seq]
                why = self.ends[name].get(seq, "fault") if last else ""
                expected.append((seq, episodes[seq], last, why))
            boot = boots.get(name)
            if boot is None:
                assert not expected
                continue
            if expected and name == self.boot_id and expected[-1][3] == "fault":
                expected.pop()  # the newest of the running episode
            found = rows_of(boot, self.gone[name])
            assert found == expected
            assert boot.waiting_rows == sum(
                seq > boot.durable_seq for seq in range(self.first_on_disk(name), len(episodes))
            )

    @invariant()
    def it_knows_its_size(self) -> None:
        assert self.spool.used_bytes == disk_bytes(self.spool)
        assert self.on_full == "drop_oldest" or self.spool.used_bytes < 10**6

    def teardown(self) -> None:
        if self.spool is not None:
            self.spool.close()
            shutil.rmtree(self.folder)


SpoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestSpoolMachine = SpoolMachine.TestCase
