from __future__ import annotations

import numpy as np
import pytest

from replay_server.sampler import UniformSampler


def test_every_row_of_the_ring_and_no_other_is_equally_likely() -> None:
    cursors = UniformSampler(np.random.default_rng(0)).sample(100, 110, 50_000)
    found, counts = np.unique(cursors, return_counts=True)
    assert found.tolist() == list(range(100, 110))
    assert counts.min() > 4700 and counts.max() < 5300  # 5000 ± 4.5 standard deviations


def test_the_seed_decides() -> None:
    first, second = (UniformSampler(np.random.default_rng(3)).sample(0, 10**6, 20) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_an_empty_ring_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to sample"):
        UniformSampler(np.random.default_rng(0)).sample(5, 5, 1)
