from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.codec import encode
from fleet.messages import TransitionBatch
from replay_server.episode_store import EpisodeStore, list_episodes, read_episode
from replay_server.experience_log import ExperienceLog
from replay_server.refused import RefusedError


class AppendingLog(ExperienceLog):
    """One batch at a time, durable when `append` returns."""

    def append(self, batch: TransitionBatch) -> int:
        self.stage(batch, encode(batch))
        assert self.commit(10)
        return self.durable_seq(batch.robot_id, batch.boot_id)

    def durable_seq(self, robot_id: str, boot_id: str) -> int:
        return self.stream(robot_id, boot_id).durable_seq


@pytest.fixture
def open_log(tmp_path: Path, make_spec) -> Callable[..., Any]:
    """`log, close = open_log()`; `close()` seals and writes, and the folder can be opened again."""

    def open_(capacity_rows: int = 1000, run_dir: Path = tmp_path) -> Any:
        store = EpisodeStore(run_dir)
        log = AppendingLog(
            capacity_rows=capacity_rows, spec=make_spec(), run_id="run1", store=store, wall_ns=lambda: 7
        )
        log.recover()

        def close(seal: bool = True) -> None:
            if seal:
                log.seal_all()
            assert store.close() == []
            log.close()

        return log, close

    return open_


def stored_seqs(run_dir: Path) -> dict[tuple[str, str], list[int]]:
    """Every seq on disk, by stream, in order of episode and row."""
    found: dict[tuple[str, str], list[int]] = {}
    for summary in sorted(list_episodes(run_dir), key=lambda s: s.info.episode):
        seqs = found.setdefault((summary.info.robot_id, summary.info.boot_id), [])
        seqs += read_episode(summary.path).seq.tolist()
    return found


def test_rows_are_acknowledged_in_order(open_log, make_batch) -> None:
    log, close = open_log()
    assert log.durable_seq("arm1", "b0") == -1
    assert log.append(make_batch(3, 0)) == 2
    assert log.append(make_batch(2, 3)) == 4
    assert log.durable_seq("arm1", "b0") == 4
    assert log.ring.tail(0, 99)[1]["reward"].tolist() == [0, 1, 2, 3, 4]
    close()


def test_duplicates_are_dropped_and_partly_duplicate_batches_are_trimmed(
    open_log, make_batch, tmp_path
) -> None:
    log, close = open_log()
    log.append(make_batch(5, 0))
    assert log.append(make_batch(5, 0)) == 4
    assert log.append(make_batch(6, 2, end="time_limit")) == 7
    assert log.duplicates == 5 + 3
    assert log.append(make_batch(6, 2, end="time_limit")) == 7, "the end may be sent again too"
    assert log.ring.tail(0, 99)[1]["reward"].tolist() == list(range(8))
    close()
    assert stored_seqs(tmp_path) == {("arm1", "b0"): list(range(8))}


def test_a_gap_is_not_taken_but_answered_with_where_to_go_on(open_log, make_batch) -> None:
    log, close = open_log()
    assert log.append(make_batch(2, 5)) == -1
    log.append(make_batch(3, 0))
    assert log.append(make_batch(2, 4)) == 2
    assert (log.gaps, log.rows_inserted) == (2, 3)
    close()


def test_boots_and_robots_count_for_themselves(open_log, make_batch) -> None:
    log, close = open_log()
    assert log.append(make_batch(3, 0, tag=1)) == 2
    assert log.append(make_batch(4, 0, boot_id="b1", tag=2)) == 3
    assert log.append(make_batch(5, 0, robot_id="arm2", tag=3)) == 4
    assert log.rows_by_robot == {"arm1": 7, "arm2": 5}
    assert log.ring.tail(0, 12)[1]["observation"][:, 2].tolist() == [1] * 3 + [2] * 4 + [3] * 5
    close()


def test_an_episode_may_end_after_its_last_row(open_log, make_batch, tmp_path) -> None:
    log, close = open_log()
    log.append(make_batch(3, 0))
    assert log.append(make_batch(0, 3, end="stopped")) == 2
    assert log.append(make_batch(0, 3, end="stopped")) == 2
    close()
    (summary,) = list_episodes(tmp_path)
    assert (summary.info.end, summary.info.rows, summary.info.complete) == ("stopped", 3, True)


def test_rows_of_an_ended_episode_are_refused(open_log, make_batch) -> None:
    log, close = open_log()
    log.append(make_batch(3, 0, episode=1, end="success"))
    with pytest.raises(RefusedError, match="episode 1 has ended"):
        log.append(make_batch(3, 3, episode=1))
    with pytest.raises(RefusedError, match="episode 0 has ended"):
        log.append(make_batch(3, 3, episode=0))
    assert log.rows_inserted == 3
    close()


def test_an_episode_without_an_end_is_sealed_incomplete_when_the_next_begins(
    open_log, make_batch, tmp_path
) -> None:
    log, close = open_log()
    log.append(make_batch(3, 0, episode=0))
    log.append(make_batch(3, 3, episode=1, end="success", success=True))
    close()
    first, second = list_episodes(tmp_path)
    assert (first.info.complete, first.info.end, first.info.rows) == (False, "", 3)
    assert (second.info.complete, second.info.end, second.info.success) == (True, "success", True)


def test_finished_noise_free_episodes_are_remembered(open_log, make_batch) -> None:
    log, close = open_log()
    log.append(make_batch(20, 0, evaluation=True))
    log.append(make_batch(20, 20, evaluation=True, end="time_limit", success=True, metrics={"return": -3.5}))
    log.append(make_batch(20, 40, episode=1, end="time_limit", success=True))
    assert list(log.evaluations) == [
        {"robot_id": "arm1", "episode": 0, "success": True, "policy_version": 0, "metrics": {"return": -3.5}}
    ]
    close()
    log, close = open_log()
    assert [e["episode"] for e in log.evaluations] == [0], "and again after a restart"
    close()


def test_rows_wait_with_the_robot_while_the_disk_is_full(open_log, make_batch, monkeypatch) -> None:
    log, close = open_log()
    log.append(make_batch(3, 0))
    monkeypatch.setattr(EpisodeStore, "accepting", property(lambda self: False))
    assert log.append(make_batch(3, 3)) == 2
    assert (log.deferred, log.rows_inserted) == (1, 3)
    monkeypatch.undo()
    assert log.append(make_batch(3, 3)) == 5
    close()


def test_a_restart_serves_the_same_rows_under_the_same_cursors(open_log, make_batch) -> None:
    log, close = open_log()
    log.append(make_batch(4, 0, robot_id="arm1", tag=1))
    log.append(make_batch(3, 0, robot_id="arm2", tag=2))
    log.append(make_batch(4, 4, robot_id="arm1", tag=1, end="time_limit"))
    log.append(make_batch(2, 3, robot_id="arm2", tag=2, end="time_limit"))
    before = log.ring.tail(0, 99)
    close()

    log, close = open_log()
    after = log.ring.tail(0, 99)
    assert before[0] == after[0] == 0
    np.testing.assert_array_equal(after[1], before[1])
    assert (log.durable_seq("arm1", "b0"), log.durable_seq("arm2", "b0")) == (7, 4)
    assert log.rows_by_robot == {"arm1": 8, "arm2": 5}
    assert after[1]["observation"][:, 2].tolist() == [1] * 4 + [2] * 3 + [1] * 4 + [2] * 2
    assert log.append(make_batch(2, 8, episode=1)) == 9
    close()


def test_a_restart_in_mid_episode_continues_its_file(open_log, make_batch, tmp_path) -> None:
    log, close = open_log()
    log.append(make_batch(5, 0, evaluation=True))
    close()
    assert list_episodes(tmp_path)[0].info.complete is False

    log, close = open_log()
    assert log.append(make_batch(6, 2, end="time_limit")) == 7, "the robot re-sends what was not acknowledged"
    close()
    (summary,) = list_episodes(tmp_path)
    assert (summary.info.rows, summary.info.complete, summary.info.evaluation) == (8, True, True)
    episode = read_episode(summary.path)
    assert episode.seq.tolist() == episode.cursor.tolist() == list(range(8))
    assert episode.transitions.reward.tolist() == list(range(8))


def test_the_ring_takes_the_newest_rows_after_a_restart(open_log, make_batch) -> None:
    log, close = open_log()
    for episode in range(6):
        log.append(make_batch(10, 10 * episode, episode=episode, end="time_limit"))
    close()
    log, close = open_log(capacity_rows=25)
    assert (log.ring.oldest_cursor, log.ring.end_cursor) == (35, 60)
    assert log.ring.tail(0, 99)[1]["reward"].tolist() == list(range(35, 60))
    assert log.rows_inserted == 60
    close()


def test_without_a_journal_the_ring_has_no_holes_and_the_robot_can_give_up_lost_rows(
    open_log, make_batch, tmp_path
) -> None:
    log, close = open_log()
    log.append(make_batch(4, 0, end="time_limit"))
    log.append(make_batch(3, 0, robot_id="arm2"))
    log.append(make_batch(2, 4, episode=1, end="time_limit"))
    close(seal=False)
    for segment in (tmp_path / "journal").iterdir():  # arm2's three rows, cursors 4 … 6, were only there
        segment.unlink()

    log, close = open_log()
    assert (log.ring.oldest_cursor, log.ring.end_cursor) == (3, 9)
    assert log.ring.tail(0, 99)[1]["reward"].tolist() == [0, 1, 2, 3, 4, 5]
    assert log.append(make_batch(2, 3, robot_id="arm2")) == -1
    log.give_up_before("arm2", "b0", 3)
    assert log.append(make_batch(2, 3, robot_id="arm2")) == 4
    log.give_up_before("arm2", "b0", 5)
    assert log.rows_lost == 3
    close()


def test_an_unreadable_file_is_counted_and_left_out(open_log, make_batch, tmp_path) -> None:
    log, close = open_log()
    log.append(make_batch(4, 0, end="time_limit"))
    log.append(make_batch(4, 4, episode=1, end="time_limit"))
    close()
    list_episodes(tmp_path)[0].path.write_bytes(b"torn")
    log, close = open_log()
    assert (log.files_unreadable, log.rows_inserted, log.ring.rows) == (1, 4, 4)
    close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_any_order_of_sends_and_resends_stores_every_row_once(open_log, make_batch, data, lengths) -> None:
    """A sender that may send any stretch of its rows, again and again, and restarts of the server."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    total = int(starts[-1])

    def stretch(first: int, rows: int) -> Any:
        episode = int(np.searchsorted(starts, first, side="right")) - 1
        end = int(starts[episode + 1])
        last = min(first + rows, end)
        return make_batch(last - first, first, episode, end="time_limit" if last == end else "")

    with tempfile.TemporaryDirectory() as folder:
        log, close = open_log(run_dir=Path(folder))
        for _ in range(data.draw(st.integers(0, 25))):
            if data.draw(st.integers(0, 9)) == 0:
                close()
                log, close = open_log(run_dir=Path(folder))
            before = log.durable_seq("arm1", "b0")
            batch = stretch(data.draw(st.integers(0, total - 1)), data.draw(st.integers(1, 12)))
            acked = log.append(batch)
            assert acked == max(
                before, batch.first_seq + batch.rows - 1 if batch.first_seq <= before + 1 else -1
            )
        while (next_seq := log.durable_seq("arm1", "b0") + 1) < total:
            log.append(stretch(next_seq, 4))
        assert log.ring.tail(0, 10**6)[1]["reward"].tolist() == list(range(total))
        close()
        assert stored_seqs(Path(folder)) == {("arm1", "b0"): list(range(total))}
        assert [s.info.complete for s in list_episodes(Path(folder))] == [True] * len(lengths)
