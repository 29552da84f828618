from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.config import ConfigError
from fleet.messages import Transitions
from learner.mirror import ReplayMirror

MakeRows = Callable[..., Transitions]


def held_rewards(mirror: ReplayMirror) -> list[float]:
    rows = mirror.sample(torch.Generator().manual_seed(0), 200 * len(mirror))
    return sorted(set(rows[:, mirror.layout.reward].tolist()))


@pytest.mark.parametrize("batches", [[10], [3, 3, 4], [7, 3], [1] * 10, [25], [4, 13]])
def test_the_newest_rows_are_kept_when_the_ring_wraps(batches: list[int], make_rows: MakeRows) -> None:
    mirror = ReplayMirror(3, 2, capacity=8)
    first = 0
    for n in batches:
        mirror.extend(make_rows(n, first))
        first += n
    assert len(mirror) == 8
    assert (mirror.oldest_cursor, mirror.cursor) == (first - 8, first)
    assert held_rewards(mirror) == list(range(first - 8, first))


def test_a_row_holds_its_transition(make_rows: MakeRows) -> None:
    mirror = ReplayMirror(3, 2, capacity=100)
    rows = make_rows(50)
    mirror.extend(rows)
    layout = mirror.layout
    for row in mirror.sample(torch.Generator().manual_seed(1), 64).numpy():
        i = int(row[layout.reward])
        expected = np.concatenate((rows.observation[i], rows.next_observation[i]))
        np.testing.assert_array_equal(row[layout.observations], expected)
        np.testing.assert_array_equal(row[layout.action], rows.action[i])
        assert row[layout.bootstrap] == (0.0 if i % 3 == 0 else 1.0)


def test_truncated_rows_bootstrap(make_rows: MakeRows) -> None:
    columns = vars(make_rows(4, 1)) | {"terminated": np.zeros(4, bool), "truncated": np.ones(4, bool)}
    mirror = ReplayMirror(3, 2, capacity=4)
    mirror.extend(Transitions(**columns))
    assert mirror.sample(torch.Generator(), 32)[:, mirror.layout.bootstrap].tolist() == [1.0] * 32


def row(make_rows: MakeRows, cursor: int) -> Transitions:
    """Row `cursor` of a log that was written in batches of 3."""
    place = cursor % 3
    return Transitions.from_packed(make_rows(3, cursor - place).packed()[place : place + 1])


@pytest.mark.parametrize("capacity", [8, 13, 100])
def test_who_joined_later_draws_the_same_rows(capacity: int, make_rows: MakeRows) -> None:
    """One mirror followed the log from row 0; the other began with the oldest row of the server's ring."""
    early, late = ReplayMirror(3, 2, capacity), ReplayMirror(3, 2, capacity)
    for first in range(0, 27, 3):
        early.extend(make_rows(3, first))
    oldest = max(0, 27 - capacity)
    late.seek(oldest)
    for first in range(oldest, 27):
        late.extend(row(make_rows, first))
    assert (late.oldest_cursor, late.cursor) == (early.oldest_cursor, early.cursor) == (oldest, 27)
    samples = [mirror.sample(torch.Generator().manual_seed(5), 50) for mirror in (early, late)]
    assert torch.equal(*samples)


@pytest.mark.parametrize(
    ("before", "cursor", "after", "held"),
    [
        (5, 9, 3, range(9, 12)),  # rows 5 … 8 were overwritten unread
        (5, 9, 6, range(9, 15)),  # and these wrap around the end of the ring
        (5, 9, 10, range(11, 19)),
        (5, 3, 4, range(7)),  # the server lost 3 and 4: others have these cursors now
        (20, 15, 1, range(12, 16)),  # 12 … 14 are all that is left of what was before row 15
        (20, 2, 2, range(2, 4)),  # nothing is left of it
        (20, 20, 0, range(12, 20)),
    ],
)
def test_a_jump_of_the_log_is_followed(
    before: int, cursor: int, after: int, held: range, make_rows: MakeRows
) -> None:
    mirror = ReplayMirror(3, 2, capacity=8)
    mirror.extend(make_rows(before))
    mirror.seek(cursor)
    mirror.extend(make_rows(after, cursor))
    assert (mirror.oldest_cursor, mirror.cursor) == (held.start, held.stop)
    assert held_rewards(mirror) == list(held)


def test_rows_that_have_not_come_take_up_no_memory(make_rows: MakeRows) -> None:
    before = resident_bytes()
    mirror = ReplayMirror(3, 2, capacity=50_000_000)
    mirror.extend(make_rows(5000))
    assert held_rewards(mirror)[-1] == 4999
    assert resident_bytes() - before < 2e8 < 50_000_000 * 4 * mirror.layout.width


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_more_rows_than_memory_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"capacity_rows 1000000000000000: 40000000\.0 GB .* lower it"):
        ReplayMirror(3, 2, capacity=10**15)


def test_wrong_sizes_and_an_empty_mirror_are_errors(make_rows: MakeRows) -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\), this mirror holds \(4, 2\)"):
        ReplayMirror(4, 2, capacity=8).extend(make_rows(1))
    with pytest.raises(ValueError, match="empty"):
        ReplayMirror(3, 2, capacity=8).sample(torch.Generator(), 1)


def demonstrated(make_rows: MakeRows, n: int, first: int = 0, every: int = 3) -> Transitions:
    """Rows whose cursors are multiples of `every` are of a person who moved the robot."""
    return Transitions(**vars(make_rows(n, first)) | {"intervened": (first + np.arange(n)) % every == 0})


def drawn(mirror: ReplayMirror, demonstrations: int, rows: int = 8) -> np.ndarray:
    """Cursors of 500 minibatches [500, rows]; rewards are cursors."""
    index = torch.empty(500 * rows, dtype=torch.int64)
    mirror.draw(torch.Generator().manual_seed(1), torch.split(index, rows), demonstrations)
    out = torch.empty(len(index), mirror.layout.width)
    mirror.gather(index, out)
    return out[:, mirror.layout.reward].numpy().astype(int).reshape(500, rows)


def test_a_part_of_each_minibatch_is_demonstrated(make_rows: MakeRows) -> None:
    mirror = ReplayMirror(3, 2, capacity=8)
    mirror.extend(demonstrated(make_rows, 10))
    mirror.extend(demonstrated(make_rows, 9, 10))  # 11 … 18 are here, at 3 … 7, 0 … 2
    assert mirror.demonstration_rows == 3
    cursors = drawn(mirror, demonstrations=3)
    found, counts = np.unique(cursors[:, :3], return_counts=True)
    assert found.tolist() == [12, 15, 18]
    assert counts.min() > 400 and counts.max() < 600  # 500 ± 5.5 standard deviations
    found, counts = np.unique(cursors[:, 3:], return_counts=True)
    assert found.tolist() == list(range(11, 19))
    assert counts.min() > 220 and counts.max() < 410  # 312.5 ± 5.6 standard deviations
    assert set(drawn(mirror, demonstrations=8).ravel().tolist()) == {12, 15, 18}


@pytest.mark.parametrize(("every", "demonstrations"), [(1000, 4), (3, 0)])
def test_without_demonstrations_nothing_changes(every: int, demonstrations: int, make_rows: MakeRows) -> None:
    plain, other = ReplayMirror(3, 2, 100), ReplayMirror(3, 2, 100)
    plain.extend(make_rows(50, 1))
    other.extend(demonstrated(make_rows, 50, 1, every))
    np.testing.assert_array_equal(drawn(plain, 0), drawn(other, demonstrations))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(0, 20)),
        st.tuples(st.just("seek"), st.integers(-15, 15)),
    ),
    max_size=12,
)


@given(capacity=st.integers(1, 12), steps=STEPS)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_demonstrations_are_those_of_the_rows_held(make_rows: MakeRows, capacity: int, steps) -> None:
    """However the log went on, broke off or jumped; and who joins late draws the same."""
    mirror, model = ReplayMirror(3, 2, capacity), []
    for name, value in steps:
        if name == "extend":
            model += range(mirror.cursor, mirror.cursor + value)
            mirror.extend(demonstrated(make_rows, value, mirror.cursor))
        else:
            cursor = max(0, mirror.cursor + value)
            model = [] if value > 0 else [c for c in model if mirror.oldest_cursor <= c < cursor]
            mirror.seek(cursor)
        model = model[-capacity:]
        expected = [c for c in model if c % 3 == 0]
        assert mirror.demonstration_rows == len(expected)
    if expected := [c for c in model if c % 3 == 0]:
        assert set(drawn(mirror, 8).ravel().tolist()) == set(expected)
    if model:
        late = ReplayMirror(3, 2, capacity)
        late.seek(mirror.oldest_cursor)
        for cursor in model:
            late.extend(demonstrated(make_rows, 1, cursor))
        np.testing.assert_array_equal(drawn(late, 4), drawn(mirror, 4))
