from __future__ import annotations

import numpy as np
import pytest

from replay_server.sampler import MixedSampler, UniformSampler, demonstrations_in


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


@pytest.mark.parametrize(
    ("batch_size", "fraction", "rows"),
    [(256, 0.5, 128), (64, 0.25, 16), (10, 0.3, 3), (8, 0.0, 0), (8, 1.0, 8), (8, 0.01, 1), (1, 0.5, 1)],
)
def test_a_share_of_a_minibatch(batch_size: int, fraction: float, rows: int) -> None:
    assert demonstrations_in(batch_size, fraction) == rows


def mixed(demonstrations: list[int], batches: int, batch_size: int, fraction: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return MixedSampler(UniformSampler(rng), rng).sample(
        100, 110, np.array(demonstrations), batches=batches, batch_size=batch_size, fraction=fraction
    )


def test_half_of_each_minibatch_is_demonstrated_and_half_is_of_all_rows() -> None:
    cursors = mixed([101, 108], 5000, 8, 0.5)
    assert cursors.shape == (40_000,)
    shown, rest = cursors.reshape(5000, 8)[:, :4], cursors.reshape(5000, 8)[:, 4:]
    found, counts = np.unique(shown, return_counts=True)
    assert found.tolist() == [101, 108]
    assert abs(counts[0] - 10_000) < 320  # 4.5 standard deviations
    found, counts = np.unique(rest, return_counts=True)
    assert found.tolist() == list(range(100, 110))
    assert counts.min() > 1800 and counts.max() < 2200


def test_all_of_a_minibatch_can_be_demonstrated() -> None:
    assert mixed([103], 2, 3, 1.0).tolist() == [103] * 6


@pytest.mark.parametrize(("demonstrations", "fraction"), [([], 0.5), ([101, 108], 0.0)])
def test_without_demonstrations_the_rows_are_the_other_samplers(demonstrations, fraction) -> None:
    uniform = UniformSampler(np.random.default_rng(0)).sample(100, 110, 24)
    assert mixed(demonstrations, 3, 8, fraction).tolist() == uniform.tolist()
