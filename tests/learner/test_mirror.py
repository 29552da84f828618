from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

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
    assert mirror.inserted == first
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


def test_memory_grows_with_the_rows(make_rows: MakeRows) -> None:
    mirror = ReplayMirror(3, 2, capacity=1_000_000)
    mirror.extend(make_rows(5000))
    assert len(mirror._rows) < 20_000
    assert held_rewards(mirror)[-1] == 4999


def test_wrong_sizes_and_an_empty_mirror_are_errors(make_rows: MakeRows) -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\), this mirror holds \(4, 2\)"):
        ReplayMirror(4, 2, capacity=8).extend(make_rows(1))
    with pytest.raises(ValueError, match="empty"):
        ReplayMirror(3, 2, capacity=8).sample(torch.Generator(), 1)
