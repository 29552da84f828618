from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_server.rate_limiter import UNLIMITED, RateLimiter
from replay_server.rate_meter import RateMeter


@pytest.mark.parametrize(
    ("per_row", "min_rows", "max_burst", "inserted", "done", "allowed"),
    [
        (4.0, 1000, UNLIMITED, 999, 0, 0),
        (4.0, 1000, UNLIMITED, 1000, 0, 4000),
        (4.0, 1000, UNLIMITED, 1000, 3999, 1),
        (4.0, 1000, UNLIMITED, 1000, 4001, 0),
        (4.0, 1000, 32, 1000, 0, 32),
        (0.25, 1, UNLIMITED, 7, 0, 1),
        (0.25, 1, UNLIMITED, 8, 1, 1),
        (None, 10, UNLIMITED, 9, 0, 0),
        (None, 10, 50, 10, 10**9, 50),
    ],
)
def test_allowed_by_hand(per_row, min_rows, max_burst, inserted, done, allowed) -> None:
    assert RateLimiter(per_row, min_rows, max_burst).allowed(inserted, done) == allowed


@given(
    per_row=st.floats(0.01, 50), steps=st.lists(st.integers(0, 100), max_size=30), burst=st.integers(1, 500)
)
def test_doing_all_that_is_allowed_never_exceeds_the_ratio_and_reaches_it(per_row, steps, burst) -> None:
    limiter, inserted, done = RateLimiter(per_row, 5, burst), 0, 0
    for rows in steps:
        inserted += rows
        allowed = limiter.allowed(inserted, done)
        assert 0 <= allowed <= burst
        done += allowed
        assert done <= per_row * inserted
    while allowed := limiter.allowed(inserted, done):
        done += allowed
    assert done == (int(per_row * inserted) if inserted >= 5 else 0)


@pytest.mark.parametrize("per_row", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_ratio_is_refused(per_row: float) -> None:
    with pytest.raises(ValueError, match="per_row must be positive"):
        RateLimiter(per_row)


def test_meter_counts_the_last_seconds_only() -> None:
    meter = RateMeter(window_s=5.0)
    assert meter.per_s(0.0) == 0.0
    for tenth in range(50):
        meter.add(tenth / 10, 2)
    assert meter.per_s(5.0) == pytest.approx(20.0)
    assert meter.per_s(20.0) == 0.0


def test_meter_does_not_claim_a_huge_rate_from_one_early_batch() -> None:
    meter = RateMeter(window_s=5.0)
    meter.add(10.0, 64)
    assert meter.per_s(10.001) == pytest.approx(64.0)
