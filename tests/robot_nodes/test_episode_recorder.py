"""Tables of ticks in, literal batches out."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.messages import TransitionBatch, row_dtype
from fleet.spaces import Space, SpaceSpec
from robot_nodes.batch_former import BatchFormer, EpisodeEnd
from robot_nodes.episode_recorder import EpisodeRecorder

SPEC = SpaceSpec(
    observation=Space(("a", "b"), ("1", "1"), (-1.0, -1.0), (1.0, 1.0)),
    action=Space(("u",), ("1",), (-1.0,), (1.0,)),
)


def row(i: int, terminated: bool = False) -> dict[str, object]:
    return {
        "observation": [i, i],
        "action": [0.5],
        "policy_action": [0.7],
        "reward": float(i),
        "next_observation": [i + 1, i + 1],
        "terminated": terminated,
        "truncated": False,
        "intervened": False,
        "clipped": True,
        "policy_version": 3,
        "stamp_ns": 1000 + i,
    }


class Sink:
    """Keeps what the recorder says."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def add_row(self, seq: int, episode: int, evaluation: bool, row: bytes) -> None:
        packed = np.frombuffer(row, row_dtype(2, 1))
        self.heard.append(("row", seq, episode, evaluation, float(packed["reward"][0])))

    def end_episode(self, seq: int, episode: int, end: EpisodeEnd) -> None:
        self.heard.append(("end", seq, episode, end))


@pytest.fixture
def batches() -> list[TransitionBatch]:
    return []


@pytest.fixture
def former(batches: list[TransitionBatch]) -> BatchFormer:
    return BatchFormer("robot1", "boot", SPEC.hash, 2, 1, emit=batches.append, max_rows=4)


@pytest.fixture
def recorder(former: BatchFormer) -> EpisodeRecorder:
    return EpisodeRecorder(SPEC, former)


def seqs(batches: list[TransitionBatch]) -> list[tuple[int, int, str]]:
    return [(b.first_seq, b.rows, b.end) for b in batches]


# The recorder --------------------------------------------------------------------------------


def test_each_step_is_told_at_once_and_numbered():
    sink = Sink()
    recorder = EpisodeRecorder(SPEC, sink)
    recorder.begin(evaluation=True)
    recorder.add(**row(7))
    assert sink.heard == [("row", 0, 0, True, 7.0)]
    recorder.add(**row(8))
    recorder.end("failure", success=False, metrics={"return": np.float32(15.0)})
    recorder.begin(evaluation=False)
    recorder.add(**row(9))
    assert sink.heard[1:] == [
        ("row", 1, 0, True, 8.0),
        ("end", 1, 0, EpisodeEnd(reason="failure", success=False, metrics={"return": 15.0})),
        ("row", 2, 1, False, 9.0),
    ]
    assert (recorder.episode, recorder.rows_produced) == (1, 3)


def test_every_column_of_a_row_is_packed(recorder, batches):
    recorder.begin(evaluation=False)
    recorder.add(**row(5, terminated=True))
    recorder.end("success", success=True, metrics={})
    (batch,) = batches
    assert batch.observation.tolist() == [[5, 5]] and batch.next_observation.tolist() == [[6, 6]]
    assert batch.action.tolist() == [[0.5]] and batch.policy_action.tolist() == [[np.float32(0.7)]]
    assert batch.reward.tolist() == [5.0]
    assert batch.policy_version.tolist() == [3] and batch.stamp_ns.tolist() == [1005]
    flags = ("terminated", "truncated", "intervened", "clipped")
    assert [getattr(batch, name).tolist() for name in flags] == [[True], [False], [False], [True]]


def test_an_episode_without_a_row_leaves_nothing(recorder, batches):
    recorder.begin(evaluation=False)
    recorder.end("stopped", success=False, metrics={})
    recorder.begin(evaluation=False)
    recorder.add(**row(0))
    recorder.end("stopped", success=False, metrics={})
    recorder.end("fault", success=False, metrics={})  # over already
    assert [(b.episode, b.first_seq, b.rows, b.end) for b in batches] == [(1, 0, 1, "stopped")]


# Batches -------------------------------------------------------------------------------------


def test_batches_leave_on_the_way_and_seq_has_no_gap(recorder, batches):
    recorder.begin(evaluation=True)
    for i in range(10):
        recorder.add(**row(i))
    recorder.end("time_limit", success=True, metrics={"return": 45.0})
    assert seqs(batches) == [(0, 4, ""), (4, 4, ""), (8, 2, "time_limit")]
    assert np.concatenate([b.reward for b in batches]).tolist() == list(range(10))
    assert all(b.evaluation and b.episode == 0 for b in batches)
    assert (batches[-1].success, batches[-1].metrics) == (True, {"return": 45.0})


def test_a_flush_keeps_the_newest_row_back(recorder, former, batches):
    recorder.begin(evaluation=False)
    for i in range(3):
        recorder.add(**row(i))
    former.flush(min_rows=3)
    assert batches == [], "two rows and the newest"
    recorder.add(**row(3))
    former.flush(min_rows=3)
    assert seqs(batches) == [(0, 3, "")]
    recorder.end("stopped", success=False, metrics={})
    assert seqs(batches) == [(0, 3, ""), (3, 1, "stopped")]


def test_a_time_limit_truncates_only_the_last_row(recorder, batches):
    recorder.begin(evaluation=False)
    for i in range(5):
        recorder.add(**row(i))
    recorder.end("time_limit", success=False, metrics={})
    truncated = np.concatenate([b.truncated for b in batches])
    assert truncated.tolist() == [False] * 4 + [True]
    assert not np.concatenate([b.terminated for b in batches]).any()


def test_a_terminated_row_is_not_truncated(recorder, batches):
    recorder.begin(evaluation=False)
    recorder.add(**row(0))
    recorder.add(**row(1, terminated=True))
    recorder.end("success", success=True, metrics={})
    assert batches[0].terminated.tolist() == [False, True]
    assert batches[0].truncated.tolist() == [False, False]


def test_a_fault_after_a_full_batch_still_has_a_last_row(recorder, batches):
    recorder.begin(evaluation=False)
    for i in range(4):
        recorder.add(**row(i))
    recorder.end("fault", success=False, metrics={})
    assert batches[-1].end == "fault"
    assert batches[-1].truncated[-1]


def add(former: BatchFormer, seq: int, episode: int = 0) -> None:
    packed = np.zeros(1, row_dtype(2, 1))
    former.add_row(seq, episode, False, packed.tobytes())


def test_an_episode_whose_end_is_missing_ends_in_a_fault(former, batches):
    add(former, 0)
    add(former, 1)
    add(former, 2, episode=1)  # the robot died before it could say how episode 0 ended
    former.close()
    assert seqs(batches) == [(0, 2, "fault"), (2, 1, "fault")]
    assert [b.truncated.tolist() for b in batches] == [[False, True], [True]]


def test_a_missing_row_parts_two_batches_and_not_the_episode(former, batches):
    add(former, 0)
    add(former, 1)
    add(former, 3)
    former.end_episode(3, 0, EpisodeEnd(reason="time_limit"))
    assert seqs(batches) == [(0, 2, ""), (3, 1, "time_limit")]
    assert not batches[0].truncated.any()


def test_the_newest_row_there_is_ends_an_episode_whose_last_row_is_missing(former, batches):
    add(former, 0)
    former.end_episode(1, 0, EpisodeEnd(reason="success", success=True))
    assert seqs(batches) == [(0, 1, "success")]


def test_an_end_without_rows_says_nothing(former, batches):
    former.end_episode(1, 0, EpisodeEnd(reason="success"))
    add(former, 2, episode=1)
    former.end_episode(1, 0, EpisodeEnd(reason="success"))
    assert batches == []


def test_a_sent_batch_does_not_change_afterwards(recorder, batches):
    recorder.begin(evaluation=False)
    for i in range(5):
        recorder.add(**row(i))
    before = batches[0].observation.copy()
    for i in range(5, 20):
        recorder.add(**row(i))
    assert np.array_equal(batches[0].observation, before)
