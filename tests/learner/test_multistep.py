"""Targets over several steps, by hand."""

from __future__ import annotations

import torch

from learner.multistep import Batch, multistep
from learner.naf import NafShape

SHAPE = NafShape(nx=1, nu=1, hidden_sizes=(2,))
ZERO = torch.zeros(SHAPE.parameters)  # V = 0, μ = 0, L = 1: A = −½ u²


def batch(x: float, u: float, reward: float, discount: float, next_x: float) -> Batch:
    return Batch(
        *(torch.tensor(v, dtype=torch.float32) for v in ([[x]], [[u]], [reward], [discount], [[next_x]]))
    )


def values(made: Batch) -> list[float]:
    return [made.reward.item(), round(float(made.discount), 6), float(made.next_x)]


def test_two_steps_and_the_correction_for_the_second_action() -> None:
    """y = 1 + 0.5 (3 + ½ 2²) + 0.25 V′(9); the first action is the row's own and needs no correction."""
    made = multistep(SHAPE, ZERO, [batch(5, 7, 1, 0.5, 6), batch(6, 2, 3, 0.5, 9)])
    assert values(made) == [1 + 0.5 * (3 + 2), 0.25, 9]
    assert float(made.x) == 5 and float(made.u) == 7


def test_three_steps() -> None:
    steps = [batch(5, 0, 1, 0.5, 6), batch(6, 0, 3, 0.5, 9), batch(9, 0, 8, 0.5, 10)]
    assert values(multistep(SHAPE, ZERO, steps)) == [1 + 1.5 + 2, 0.125, 10]


def test_stops_where_the_next_row_is_of_something_else() -> None:
    """Another episode, or another robot: also when the row after that would fit again."""
    steps = [batch(5, 0, 1, 0.5, 6), batch(6.5, 0, 3, 0.5, 6), batch(6, 0, 8, 0.5, 10)]
    assert values(multistep(SHAPE, ZERO, steps)) == [1, 0.5, 6]


def test_stops_where_the_task_ended() -> None:
    first_ends = [batch(5, 0, 1, 0.0, 6), batch(6, 0, 3, 0.5, 9)]
    assert values(multistep(SHAPE, ZERO, first_ends)) == [1, 0, 6]
    second_ends = [batch(5, 0, 1, 0.5, 6), batch(6, 0, 3, 0.0, 9), batch(9, 0, 8, 0.5, 10)]
    assert values(multistep(SHAPE, ZERO, second_ends)) == [1 + 1.5, 0, 9]


def test_nothing_of_rows_that_do_not_follow_gets_in() -> None:
    """Behind the newest row lies the oldest, or memory that was never written."""
    nan = float("nan")
    made = multistep(SHAPE, ZERO, [batch(5, 0, 1, 0.5, 6), batch(nan, nan, nan, nan, nan)])
    assert values(made) == [1, 0.5, 6]
