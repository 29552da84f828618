"""A killed server: what was acknowledged is there again, once, whatever happened to the journal's end."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.codec import encode
from fleet.messages import TransitionBatch
from fleet.records import read_records
from replay_server.episode_store import EpisodeStore, list_episodes, read_episode
from replay_server.experience_log import ExperienceLog


class Server:
    """A log over a run folder; `killed` gives another over a copy of the folder as it is now."""

    def __init__(self, run_dir: Path, spec: Any, capacity_rows: int = 1000) -> None:
        self.run_dir, self._spec, self._capacity = run_dir, spec, capacity_rows
        self._hold = threading.Event()
        self._hold.set()
        self.store = EpisodeStore(run_dir)
        self.log = ExperienceLog(
            capacity_rows=capacity_rows, spec=spec, run_id="run1", store=self.store, wall_ns=lambda: 7
        )
        self.log.recover()

    def append(self, batch: TransitionBatch) -> int:
        self.log.stage(batch, encode(batch))
        assert self.log.commit(10)
        self.log.tend()
        return self.log.stream(batch.robot_id, batch.boot_id).durable_seq

    def wait_for_files(self, wait_until: Callable[..., None]) -> None:
        wait_until(lambda: self.store.backlog == 0 and not self.store._waiting)
        self.log.tend()

    def killed(self, copy: Path, damage: Callable[[Path], None] = lambda folder: None) -> Server:
        shutil.copytree(self.run_dir, copy, ignore=shutil.ignore_patterns(".*.tmp"))
        damage(copy)
        return Server(copy, self._spec, self._capacity)

    def close(self) -> None:
        self.log.seal_all()
        assert self.store.close() == []
        self.log.close()

    def stored(self) -> dict[tuple[str, str], list[int]]:
        """After close: every seq on disk by robot and boot, in the order of the episodes."""
        found: dict[tuple[str, str], list[int]] = {}
        for summary in sorted(list_episodes(self.run_dir), key=lambda s: s.info.episode):
            episode = read_episode(summary.path)
            assert episode.transitions.reward.tolist() == episode.seq.tolist()
            found.setdefault((summary.info.robot_id, summary.info.boot_id), []).extend(episode.seq.tolist())
        return found


@pytest.fixture
def start(tmp_path: Path, make_spec) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start_(**fields: Any) -> Server:
        servers.append(Server(tmp_path / "run", make_spec(), **fields))
        return servers[-1]

    yield start_
    for server in servers:
        server.close()


def test_rows_of_an_unfinished_episode_survive_a_kill(start, make_batch, tmp_path) -> None:
    it = start()
    it.append(make_batch(3, 0, tag=1))
    it.append(make_batch(4, 0, robot_id="arm2", tag=2))
    it.append(make_batch(2, 3, tag=1))
    before = it.log.ring.tail(0, 99)[1]

    again = it.killed(tmp_path / "copy")
    np.testing.assert_array_equal(again.log.ring.tail(0, 99)[1], before)
    assert again.log.stream("arm1", "b0").durable_seq == 4
    assert again.log.stream("arm1", "b0").sealed_seq == -1
    assert again.log.rows_by_robot == {"arm1": 5, "arm2": 4}
    assert again.append(make_batch(4, 3, end="success", success=True, tag=1)) == 6
    again.close()
    assert again.stored() == {("arm1", "b0"): list(range(7)), ("arm2", "b0"): list(range(4))}
    (first, second) = list_episodes(again.run_dir)
    assert (first.info.complete, first.info.success, second.info.complete) == (True, True, False)
    assert list((again.run_dir / "journal").iterdir()) == []


def test_episodes_that_ended_but_had_no_file_yet_get_one(start, make_batch, tmp_path, wait_until) -> None:
    it = start()
    it.append(make_batch(3, 0, evaluation=True, end="success", success=True, metrics={"return": 2.0}))
    it.wait_for_files(wait_until)

    def lose_the_file(copy: Path) -> None:
        shutil.rmtree(copy / "episodes")

    it.append(make_batch(2, 3, episode=1))  # keeps the segment
    again = it.killed(tmp_path / "copy", lose_the_file)
    again.wait_for_files(wait_until)
    assert again.log.stream("arm1", "b0").sealed_seq == 2
    assert [e["metrics"] for e in again.log.evaluations] == [{"return": 2.0}]
    (summary,) = list_episodes(again.run_dir)
    assert (summary.info.rows, summary.info.success, summary.info.received_ns) == (3, True, 7)
    again.close()
    assert again.stored() == {("arm1", "b0"): list(range(5))}


def test_rows_that_are_in_hdf5_and_in_the_journal_are_there_once(
    start, make_batch, tmp_path, wait_until
) -> None:
    it = start()
    for episode in range(3):
        it.append(make_batch(5, 5 * episode, episode, end="time_limit"))
    it.append(make_batch(2, 15, 3))
    it.wait_for_files(wait_until)
    assert len(list((tmp_path / "run/journal").iterdir())) == 1
    again = it.killed(tmp_path / "copy")
    assert (again.log.rows_inserted, again.log.ring.rows, again.log.ring.end_cursor) == (17, 17, 17)
    assert again.log.stream("arm1", "b0").sealed_seq == 14
    assert again.append(make_batch(5, 14, 3, end="time_limit")) == 18
    again.close()
    assert again.stored() == {("arm1", "b0"): list(range(19))}


def test_a_second_kill_right_after_the_first_loses_nothing_either(start, make_batch, tmp_path) -> None:
    it = start()
    it.append(make_batch(3, 0))
    second = it.killed(tmp_path / "second")
    third = second.killed(tmp_path / "third")
    second.append(make_batch(3, 3))
    fourth = second.killed(tmp_path / "fourth")
    assert third.log.ring.tail(0, 9)[1]["reward"].tolist() == [0, 1, 2]
    assert fourth.log.ring.tail(0, 9)[1]["reward"].tolist() == [0, 1, 2, 3, 4, 5]
    for server in (second, third, fourth):
        server.close()
    assert fourth.stored() == {("arm1", "b0"): list(range(6))}


def test_rows_given_up_stay_given_up(start, make_batch, tmp_path) -> None:
    it = start()
    it.append(make_batch(3, 0))
    it.log.give_up_before("arm1", "b0", 10)
    it.append(make_batch(3, 10))
    assert it.log.rows_lost == 7
    again = it.killed(tmp_path / "copy")
    assert again.log.stream("arm1", "b0").durable_seq == 12
    again.close()
    assert again.stored() == {("arm1", "b0"): [0, 1, 2, 10, 11, 12]}


def test_rows_behind_damage_are_asked_for_again(start, make_batch, tmp_path) -> None:
    it = start()
    for i in range(6):
        it.append(make_batch(2, 2 * i, robot_id="arm1"))
        it.append(make_batch(2, 2 * i, robot_id="arm2"))

    def flip(copy: Path) -> None:
        (segment,) = (copy / "journal").glob("*.journal")
        content = bytearray(segment.read_bytes())
        content[read_records(bytes(content))[0][4].offset + 30] ^= 0xFF  # arm1's third batch
        segment.write_bytes(content)

    again = it.killed(tmp_path / "copy", flip)
    assert again.log.journal_damage == 1
    assert len(list((again.run_dir / "journal").glob("*.damaged"))) == 1
    assert again.log.stream("arm1", "b0").durable_seq == 3
    assert again.log.stream("arm2", "b0").durable_seq == 11, "the other robot's rows behind it are good"
    assert again.append(make_batch(8, 4, robot_id="arm1", end="time_limit")) == 11
    third = again.killed(tmp_path / "third")
    assert third.log.stream("arm1", "b0").durable_seq == 11
    third.close()
    assert third.stored() == {("arm1", "b0"): list(range(12)), ("arm2", "b0"): list(range(12))}
    again.close()


def test_rows_that_were_left_out_once_do_not_come_before_those_they_waited_for(
    start, make_batch, tmp_path, wait_until
) -> None:
    it = start()
    for episode in range(3):
        it.append(make_batch(4, 4 * episode, episode))

    def flip(copy: Path) -> None:
        (segment,) = (copy / "journal").glob("*.journal")
        content = bytearray(segment.read_bytes())
        content[read_records(bytes(content))[0][1].offset + 30] ^= 0xFF  # episode 1
        segment.write_bytes(content)
        shutil.rmtree(copy / "episodes", ignore_errors=True)  # none of them was written yet

    again = it.killed(tmp_path / "copy", flip)
    assert again.log.stream("arm1", "b0").durable_seq == 3
    assert again.append(make_batch(4, 4, 1, end="time_limit")) == 7
    again.wait_for_files(wait_until)
    third = again.killed(tmp_path / "third")
    # The rows of episode 2 lie in the first journal, below the cursors that episode 1 has now.
    assert third.log.stream("arm1", "b0").durable_seq == 7
    assert third.append(make_batch(4, 8, 2, end="time_limit")) == 11
    third.close()
    episodes = sorted((e.info for e in list_episodes(third.run_dir)), key=lambda info: info.first_seq)
    assert [info.first_seq for info in episodes] == [0, 4, 8]
    assert [info.first_cursor for info in episodes] == sorted(info.first_cursor for info in episodes)
    again.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_torn_end_costs_unacknowledged_rows_only(make_batch, make_spec, tmp_path_factory, data) -> None:
    """Batches of two robots, some ending episodes; the journal is cut anywhere behind an acknowledgement."""
    folder = tmp_path_factory.mktemp("torn")
    it = Server(folder / "run", make_spec())
    steps = st.tuples(st.sampled_from(["arm1", "arm2"]), st.booleans())
    sent: dict[str, list[TransitionBatch]] = {"arm1": [], "arm2": []}
    episode = {"arm1": 0, "arm2": 0}
    acked: list[tuple[dict[str, int], int]] = []  # batches by robot, and the journal's size with them
    for robot, ends in data.draw(st.lists(steps, min_size=1, max_size=8)):
        end = "time_limit" if ends else ""
        batch = make_batch(2, 2 * len(sent[robot]), episode[robot], robot_id=robot, end=end)
        it.append(batch)
        sent[robot].append(batch)
        episode[robot] += ends
        acked.append(({name: len(batches) for name, batches in sent.items()}, it.log.journal.bytes_written))
    durable, size = data.draw(st.sampled_from(acked))
    cut = data.draw(st.integers(size, it.log.journal.bytes_written))

    def tear(copy: Path) -> None:
        shutil.rmtree(copy / "episodes", ignore_errors=True)  # no file was written in time
        for segment in (copy / "journal").glob("*.journal"):
            segment.write_bytes(segment.read_bytes()[:cut])

    again = it.killed(folder / "copy", tear)
    for robot, batches in sent.items():
        found = (again.log.stream(robot, "b0").durable_seq + 1) // 2
        assert found >= durable[robot]
        for batch in batches[found:]:  # the robot sends the rest again
            again.append(batch)
    again.close()
    it.close()
    assert again.stored() == {
        (robot, "b0"): list(range(2 * len(batches))) for robot, batches in sent.items() if batches
    }


def test_a_catalog_is_only_a_cache(start, make_batch, tmp_path, wait_until) -> None:
    it = start(capacity_rows=50)
    for episode in range(8):
        it.append(make_batch(5, 5 * episode, episode, end="time_limit"))
    it.wait_for_files(wait_until)
    before = it.log.ring.tail(0, 99)[1]

    def damage(copy: Path) -> None:
        catalog = copy / "episodes/catalog"
        content = catalog.read_bytes()
        catalog.write_bytes(content[: len(content) // 2])
        files = sorted((copy / "episodes/arm1").iterdir())
        content = files[1].read_bytes()
        files[1].write_bytes(content)  # another modification time
        shutil.copy2(files[3], files[2])  # another episode's rows under a known name

    for name, how in (("whole", lambda copy: None), ("damaged", damage)):
        again = it.killed(tmp_path / name, how)
        if name == "whole":
            np.testing.assert_array_equal(again.log.ring.tail(0, 99)[1], before)
        assert again.log.files_unreadable == 0
        again.close()


def test_a_damaged_episode_file_is_noticed_without_hdf5(start, make_batch, tmp_path, wait_until) -> None:
    it = start()
    it.append(make_batch(40, 0, end="time_limit"))
    it.append(make_batch(40, 40, 1, end="time_limit"))
    it.wait_for_files(wait_until)

    def flip_a_row(copy: Path) -> None:
        path = sorted((copy / "episodes/arm1").iterdir())[0]
        stat = path.stat()
        content = bytearray(path.read_bytes())
        at = content.find(np.float32(17.25).tobytes())  # an observation
        content[at] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    again = it.killed(tmp_path / "copy", flip_a_row)
    assert again.log.files_unreadable == 1
    assert again.log.ring.rows == 40
    again.close()
