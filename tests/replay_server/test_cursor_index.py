from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay_server.cursor_index import CursorIndex


def test_cursors_come_and_go_by_hand() -> None:
    index = CursorIndex()
    assert (len(index), index.cursors.tolist()) == (0, [])
    index.extend(np.array([3, 7, 8, 20]))
    index.drop_before(7)
    assert index.cursors.tolist() == [7, 8, 20]
    index.drop_before(7)
    index.drop_from(20)
    index.extend(np.array([11]))
    assert (len(index), index.cursors.tolist()) == (3, [7, 8, 11])
    index.drop_before(100)
    assert len(index) == 0


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("extend"), st.lists(st.booleans(), max_size=100)),
            st.tuples(st.just("drop_before"), st.integers(0, 400)),
            st.tuples(st.just("drop_from"), st.integers(0, 400)),
        ),
        max_size=12,
    )
)
def test_it_is_a_sorted_list(steps) -> None:
    index, model, end = CursorIndex(), [], 0
    for name, value in steps:
        if name == "extend":
            marked = end + np.array(value, bool).nonzero()[0]
            index.extend(marked)
            model += marked.tolist()
            end += len(value)
        elif name == "drop_before":
            index.drop_before(value)
            model = [cursor for cursor in model if cursor >= value]
        else:
            index.drop_from(value)
            model = [cursor for cursor in model if cursor < value]
            end = min(end, value)
        assert index.cursors.tolist() == model


def test_a_window_that_moves_needs_no_more_room() -> None:
    index = CursorIndex()
    for first in range(0, 100_000, 10):
        index.extend(np.arange(first, first + 10))
        index.drop_before(first - 500)
    assert len(index) == 510
    assert len(index.buffer) < 4 * 510
