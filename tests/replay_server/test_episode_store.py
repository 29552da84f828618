from __future__ import annotations

import resource
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from fleet.messages import COLUMNS
from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_file import Episode, EpisodeFileError, episode_path, read_episode, write_episode
from replay_server.episode_store import EpisodeStore, StoreError, list_episodes


@pytest.fixture
def make_episode(make_transitions, make_spec):
    def make(episode: int = 0, rows: int = 6, end: str = "time_limit", first_cursor: int = 100) -> Episode:
        builder = EpisodeBuilder(
            run_id="run1", robot_id="arm1", boot_id="b0", episode=episode, spec=make_spec()
        )
        builder.evaluation = True
        seq, cursor = np.arange(20, 20 + rows), first_cursor + np.arange(rows)
        cursor[-2:] += 52 - rows
        builder.extend(make_transitions(rows - 2, 20), seq[:-2], cursor[:-2])
        builder.extend(make_transitions(2, 18 + rows), seq[-2:], cursor[-2:])
        return builder.seal(end=end, success=True, metrics={"final_distance_m": 0.031}, received_ns=7)

    return make


def test_what_is_written_is_read_back(tmp_path: Path, make_episode, make_spec) -> None:
    written = make_episode()
    path = write_episode(tmp_path, written)
    assert path == tmp_path / "episodes" / "arm1" / "b0-000000.h5"
    read = read_episode(path)
    assert read.info == written.info
    assert read.spec == make_spec()
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(read.transitions, name), getattr(written.transitions, name))
        assert getattr(read.transitions, name).dtype == COLUMNS[name]["dtype"]
    assert read.seq.tolist() == [20, 21, 22, 23, 24, 25]
    assert read.cursor.tolist() == [100, 101, 102, 103, 150, 151]
    assert read.info.policy_version == 2  # rows 20 … 25 were made by versions 2 (the reward // 10)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_attributes_are_plain_hdf5(tmp_path: Path, make_episode) -> None:
    with h5py.File(write_episode(tmp_path, make_episode())) as file:
        assert file.attrs["robot_id"] == "arm1"
        assert file.attrs["end"] == "time_limit"
        assert bool(file.attrs["success"]) and bool(file.attrs["complete"])
        assert file.attrs["metrics"] == '{"final_distance_m": 0.031}'
        assert (file.attrs["first_seq"], file.attrs["first_cursor"]) == (20, 100)
        assert file["reward"].dtype == np.float32 and file["terminated"].dtype == bool


@pytest.mark.parametrize("robot_id", ["", "..", "../x", "a/b", "a.b", "x" * 65, "ä", "a\n", "a\0"])
def test_ids_that_could_leave_the_folder_are_refused(tmp_path: Path, robot_id: str) -> None:
    with pytest.raises(ValueError, match="robot_id must be 1 to 64 of"):
        episode_path(tmp_path, robot_id, "b0", 0)
    with pytest.raises(ValueError, match="boot_id must be 1 to 64 of"):
        episode_path(tmp_path, "arm1", robot_id, 0)


def test_wherever_the_disk_is_full_the_file_is_absent(tmp_path: Path, make_episode) -> None:
    size = write_episode(tmp_path, make_episode(episode=0)).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(0, size, 400):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            with pytest.raises(OSError, match="File too large"):
                write_episode(tmp_path, make_episode(episode=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b0-000000.h5"]


def test_a_truncated_file_says_so(tmp_path: Path, make_episode) -> None:
    path = write_episode(tmp_path, make_episode())
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(EpisodeFileError, match=r"b0-000000\.h5: not a whole episode file: "):
            read_episode(path)


def test_foreign_and_incomplete_files_say_what_is_wrong(tmp_path: Path, make_episode) -> None:
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["data"] = [1, 2]
    with pytest.raises(EpisodeFileError, match="no schema_version: some other program wrote it"):
        read_episode(foreign)
    with pytest.raises(EpisodeFileError, match="no such file"):
        read_episode(tmp_path / "missing.h5")

    path = write_episode(tmp_path, make_episode())
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(
        EpisodeFileError, match="schema_version is 99, of a newer parallel-naf: this one reads 1 to"
    ):
        read_episode(path)
    path = write_episode(tmp_path, make_episode())
    with h5py.File(path, "a") as file:
        del file["reward"]
    with pytest.raises(EpisodeFileError, match="dataset 'reward' is missing"):
        read_episode(path)
    path = write_episode(tmp_path, make_episode())
    with h5py.File(path, "a") as file:
        del file.attrs["boot_id"]
    with pytest.raises(EpisodeFileError, match="attribute 'boot_id' is missing"):
        read_episode(path)
    path = write_episode(tmp_path, make_episode())
    with h5py.File(path, "a") as file:
        del file["action"]
        file["action"] = np.zeros((6, 9), "<f4")
    with pytest.raises(EpisodeFileError, match="checksum in its attribute crc32: the file is damaged"):
        read_episode(path)


def test_episodes_are_listed_in_order_of_arrival_without_the_broken_ones(
    tmp_path: Path, make_episode
) -> None:
    write_episode(tmp_path, make_episode(episode=0, first_cursor=500))
    write_episode(tmp_path, make_episode(episode=1, first_cursor=20))
    write_episode(tmp_path, make_episode(episode=2)).write_bytes(b"torn")
    broken: list[EpisodeFileError] = []
    listed = list_episodes(tmp_path, on_error=broken.append)
    assert [summary.info.episode for summary in listed] == [1, 0]
    assert [summary.info.rows for summary in listed] == [6, 6]
    assert "b0-000002.h5" in str(broken[0]) and len(broken) == 1


def test_the_store_writes_all_before_it_closes(tmp_path: Path, make_episode) -> None:
    store = EpisodeStore(tmp_path)
    for episode in range(20):
        store.submit(make_episode(episode=episode))
    assert store.close() == []
    assert [s.info.episode for s in list_episodes(tmp_path)] == list(range(20))
    assert store.episodes_written == 20


def test_a_full_disk_holds_episodes_back_and_loses_none(tmp_path: Path, make_episode, wait_until) -> None:
    disk_full = threading.Event()
    disk_full.set()

    def write(run_dir: Path, episode: Episode) -> Path:
        if disk_full.is_set():
            raise OSError(28, "No space left on device")
        return write_episode(run_dir, episode)

    store = EpisodeStore(tmp_path, max_backlog=3, retry_s=0.01, write=write)
    for episode in range(5):
        store.submit(make_episode(episode=episode))
    wait_until(lambda: store.write_errors >= 3)
    assert not store.accepting
    assert store.episodes_written == 0
    disk_full.clear()
    wait_until(lambda: store.episodes_written == 5)
    assert store.accepting
    assert store.close() == []


def test_what_cannot_be_written_at_the_end_is_named(tmp_path: Path, make_episode) -> None:
    def write(run_dir: Path, episode: Episode) -> Path:
        raise OSError(28, "No space left on device")

    store = EpisodeStore(tmp_path, retry_s=60.0, write=write)
    store.submit(make_episode(episode=3))
    assert store.close() == [tmp_path / "episodes" / "arm1" / "b0-000003.h5"]


def test_a_folder_belongs_to_one_server(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    with pytest.raises(StoreError, match="in use by another replay server"):
        EpisodeStore(tmp_path)
    store.close()
    EpisodeStore(tmp_path).close()


def test_leftovers_of_a_killed_server_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "episodes" / "arm1" / ".b0-000000.h5.tmp"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    EpisodeStore(tmp_path).close()
    assert not leftover.exists()


def test_the_spec_survives_and_a_damaged_one_is_named(tmp_path: Path, make_spec) -> None:
    store = EpisodeStore(tmp_path)
    assert store.load_spec() is None
    store.save_spec(make_spec())
    assert store.load_spec() == make_spec()
    for damage in ("{", "{}", '{"observation": 3, "action": []}'):
        (tmp_path / "spec.json").write_text(damage)
        with pytest.raises(StoreError, match=r"spec\.json is damaged"):
            store.load_spec()
    store.close()


def test_only_unfinished_episodes_are_taken_up_again_also_before_they_are_on_disk(
    tmp_path: Path, make_episode
) -> None:
    may_write = threading.Event()

    def write(run_dir: Path, episode: Episode) -> Path:
        may_write.wait(10)
        return write_episode(run_dir, episode)

    store = EpisodeStore(tmp_path, write=write)
    store.submit(make_episode(episode=1, end=""))
    store.submit(make_episode(episode=2))
    waiting = store.load_unfinished("arm1", "b0", 1)
    assert waiting is not None and waiting.info.rows == 6 and not waiting.info.complete
    may_write.set()
    store.close()
    on_disk = store.load_unfinished("arm1", "b0", 1)
    assert on_disk is not None and on_disk.seq.tolist() == [20, 21, 22, 23, 24, 25]
    assert store.load_unfinished("arm1", "b0", 2) is None
    assert store.load_unfinished("arm1", "b0", 3) is None
