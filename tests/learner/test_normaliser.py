from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.normaliser import Normaliser


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_batches_give_the_mean_and_std_of_all_rows(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(loc=[100.0, -3.0], scale=[0.5, 20.0], size=(sum(sizes), 2)).astype("f4")
    normaliser = Normaliser(2)
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        normaliser.extend(batch)
    assert normaliser.count == len(rows)
    if len(rows) >= 2:
        np.testing.assert_allclose(normaliser.mean, rows.mean(axis=0, dtype="f8"), rtol=1e-5)
        expected = 1 / np.maximum(rows.std(axis=0, dtype="f8"), 1e-3)
        np.testing.assert_allclose(normaliser.scale, expected, rtol=1e-4)


def test_nothing_seen_changes_nothing() -> None:
    normaliser = Normaliser(3)
    assert normaliser.mean.tolist() == [0, 0, 0]
    assert normaliser.scale.tolist() == [1, 1, 1]


def test_a_constant_dimension_has_a_finite_scale() -> None:
    normaliser = Normaliser(1)
    normaliser.extend(np.full((10, 1), 0.7, "f4"))
    assert normaliser.scale.tolist() == [pytest.approx(1000.0)]


def test_state_round_trip_is_exact() -> None:
    first, second = Normaliser(2), Normaliser(2)
    first.extend(np.random.default_rng(0).normal(size=(7, 2)))
    second.load_state(first.state())
    more = np.random.default_rng(1).normal(size=(5, 2))
    first.extend(more)
    second.extend(more)
    assert first.state() == second.state()


def test_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Normaliser(1).extend(np.array([[np.nan]]))
