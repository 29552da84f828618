"""Tables of ticks in, literal batches out."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.messages import TransitionBatch
from fleet.spaces import Space, SpaceSpec
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


@pytest.fixture
def batches() -> list[TransitionBatch]:
    return []


@pytest.fixture
def recorder(batches: list[TransitionBatch]) -> EpisodeRecorder:
    return EpisodeRecorder("robot1", "boot", SPEC, batches.append, batch_rows=4)


def test_batches_leave_on_the_way_and_seq_has_no_gap(recorder, batches):
    recorder.begin(evaluation=True)
    for i in range(10):
        recorder.add(**row(i))
    recorder.end("time_limit", success=True, metrics={"return": 45.0})
    assert [(b.first_seq, b.rows, b.end) for b in batches] == [(0, 3, ""), (3, 3, ""), (6, 4, "time_limit")]
    assert np.concatenate([b.reward for b in batches]).tolist() == list(range(10))
    assert all(b.evaluation and b.episode == 0 for b in batches)
    assert (batches[-1].success, batches[-1].metrics) == (True, {"return": 45.0})


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


def test_an_episode_without_a_row_leaves_no_batch(recorder, batches):
    recorder.begin(evaluation=False)
    recorder.end("stopped", success=False, metrics={})
    recorder.begin(evaluation=False)
    recorder.add(**row(0))
    recorder.end("stopped", success=False, metrics={})
    assert [(b.episode, b.first_seq, b.rows) for b in batches] == [(1, 0, 1)]


def test_a_sent_batch_does_not_change_afterwards(recorder, batches):
    recorder.begin(evaluation=False)
    for i in range(5):
        recorder.add(**row(i))
    before = batches[0].observation.copy()
    for i in range(5, 20):
        recorder.add(**row(i))
    assert np.array_equal(batches[0].observation, before)
