from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.messages import COLUMNS
from replay_server.columns import row_bytes
from replay_server.ring import Ring

NX, NU = 3, 2


def test_a_row_is_the_sum_of_its_columns() -> None:
    # observation, next_observation 3 × 4; action, policy_action 2 × 4; reward 4; 4 bools; 2 × int64
    assert row_bytes(NX, NU) == 12 + 12 + 8 + 8 + 4 + 4 + 16


def test_rows_come_back_by_cursor_after_the_ring_wrapped(make_transitions) -> None:
    ring = Ring(5, NX, NU)
    assert ring.extend(make_transitions(4, 0)) == 0
    assert ring.extend(make_transitions(3, 4)) == 4
    assert (ring.oldest_cursor, ring.end_cursor, ring.rows) == (2, 7, 5)
    got = ring.gather(np.array([6, 2, 4, 6]))
    np.testing.assert_array_equal(got["reward"], [6, 2, 4, 6])
    np.testing.assert_array_equal(got["observation"][:, 1], [6.25, 2.25, 4.25, 6.25])
    np.testing.assert_array_equal(got["stamp_ns"], [300_000_000, 100_000_000, 200_000_000, 300_000_000])


def test_a_batch_larger_than_the_ring_leaves_its_newest_rows(make_transitions) -> None:
    ring = Ring(4, NX, NU)
    ring.extend(make_transitions(3, 0))
    assert ring.extend(make_transitions(11, 3)) == 3
    first, columns = ring.tail(0, 100)
    assert first == 10
    np.testing.assert_array_equal(columns["reward"], [10, 11, 12, 13])


@pytest.mark.parametrize("cursor", [-1, 1, 7])
def test_rows_that_are_not_there_are_an_error(cursor: int, make_transitions) -> None:
    ring = Ring(5, NX, NU)
    ring.extend(make_transitions(7))
    with pytest.raises(IndexError, match="2 … 6 are here"):
        ring.gather(np.array([3, cursor]))


def test_a_tail_beyond_the_end_goes_back_to_the_end(make_transitions) -> None:
    ring = Ring(5, NX, NU)
    ring.extend(make_transitions(3))
    first, columns = ring.tail(10, 4)
    assert (first, len(columns["reward"])) == (3, 0)


def test_wrong_shapes_are_named_and_not_broadcast(make_transitions) -> None:
    wrong = vars(make_transitions(4)) | {"observation": np.zeros((4, 1), "<f4")}
    with pytest.raises(ValueError, match="next_observation: nx is 3 here but 1 in an earlier column"):
        Ring(8, NX, NU).extend(type(make_transitions(1))(**wrong))


def test_restored_rows_lie_at_their_cursors_and_the_oldest_are_left_out(make_transitions) -> None:
    ring = Ring(4, NX, NU, first_cursor=10)
    assert ring.reserve(6) == 10
    ring.restore(np.array([11, 14, 15]), make_transitions(3, 100).packed())
    ring.restore(np.array([10, 12, 13]), make_transitions(3, 200).packed())
    assert (ring.oldest_cursor, ring.end_cursor) == (12, 16)
    np.testing.assert_array_equal(ring.tail(0, 9)[1]["reward"], [201, 202, 101, 102])
    assert ring.demonstrations.tolist() == [12, 15]  # rows 201 and 102 are multiples of 3
    ring.extend(make_transitions(3, 300))
    assert ring.demonstrations.tolist() == [15, 16]


@given(
    capacity=st.integers(1, 12),
    first_cursor=st.integers(0, 30),
    batches=st.lists(st.integers(0, 30), max_size=8),
    cursor=st.integers(0, 200),
    max_rows=st.integers(0, 20),
)
def test_the_ring_is_the_end_of_a_list(
    make_transitions, capacity, first_cursor, batches, cursor, max_rows
) -> None:
    ring = Ring(capacity, NX, NU, first_cursor)
    model: list[tuple[int, float]] = []  # cursor, reward
    for rows in batches:
        begun = len(model)
        assert ring.extend(make_transitions(rows, begun)) == first_cursor + begun
        model += [(first_cursor + begun + i, float(begun + i)) for i in range(rows)]
        if rows % 2:  # also when nobody asks for them between inserts
            assert len(ring.demonstrations) == sum(reward % 3 == 0 for _, reward in model[-capacity:])
    kept = model[-capacity:]
    assert ring.end_cursor == first_cursor + len(model)
    assert ring.rows == len(kept)
    assert ring.oldest_cursor == (kept[0][0] if kept else first_cursor)

    first, columns = ring.tail(cursor, max_rows)
    expected = [row for row in kept if row[0] >= cursor][:max_rows]
    assert columns["reward"].tolist() == [reward for _, reward in expected]
    assert set(columns.dtype.names) == set(COLUMNS)
    if expected:
        assert first == expected[0][0]
    # Every third row is of a person who moved the robot.
    assert ring.demonstrations.tolist() == [cursor for cursor, reward in kept if reward % 3 == 0]
    if kept:
        cursors = np.array([row[0] for row in reversed(kept)])
        assert ring.gather(cursors)["action"][:, 1].tolist() == [-row[1] for row in reversed(kept)]


def test_a_large_ring_costs_no_memory_until_rows_arrive() -> None:
    # In a process of its own: the peak of this one may already be high.
    code = (
        "import resource\n"
        "from replay_server.ring import Ring\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ring = Ring(1_000_000, 30, 7)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown_kib = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert grown_kib < 30_000, f"{grown_kib} KiB touched by an empty ring"


def test_a_ring_that_wraps_forgets_demonstrations_with_their_rows(make_transitions) -> None:
    ring = Ring(5, NX, NU)
    assert ring.demonstrations.tolist() == []
    ring.extend(make_transitions(7))
    assert ring.demonstrations.tolist() == [3, 6]
    ring.extend(make_transitions(2, 7))
    assert ring.demonstrations.tolist() == [6]
    ring.extend(make_transitions(23, 9))
    assert ring.demonstrations.tolist() == [27, 30]
