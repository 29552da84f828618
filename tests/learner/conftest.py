"""Rows and spaces for the learner's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fleet.messages import TailReply, Transitions
from fleet.spaces import Space, SpaceSpec

NX, NU = 3, 2

torch.set_num_threads(1)  # two threads on a busy machine are many times slower than one


def make_space(n: int, letter: str) -> Space:
    return Space(tuple(f"{letter}{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)


@pytest.fixture
def spec() -> SpaceSpec:
    return SpaceSpec(make_space(NX, "x"), make_space(NU, "u"))


def make_columns(n: int, first: int = 0) -> dict[str, Any]:
    """Row i is recognisable: its reward is first + i, a third of them end the task."""
    number = np.arange(first, first + n)
    rng = np.random.default_rng(first)
    no = np.zeros(n, bool)
    return {
        "observation": rng.normal(size=(n, NX)).astype("f4"),
        "action": rng.uniform(-1, 1, (n, NU)).astype("f4"),
        "policy_action": rng.uniform(-1, 1, (n, NU)).astype("f4"),
        "reward": number.astype("f4"),
        "next_observation": rng.normal(size=(n, NX)).astype("f4"),
        "terminated": number % 3 == 0,
        "truncated": no,
        "intervened": no,
        "clipped": no,
        "policy_version": np.zeros(n, "i8"),
        "stamp_ns": number.astype("i8"),
    }


@pytest.fixture
def make_rows() -> Callable[..., Transitions]:
    return lambda n, first=0: Transitions(**make_columns(n, first))


@pytest.fixture
def make_reply() -> Callable[[int, int, int], TailReply]:
    """TailReply of the rows first … next − 1 of a log that ends at `end`."""

    def make(first: int, next_cursor: int, end: int) -> TailReply:
        columns = make_columns(next_cursor - first, first)
        return TailReply(request_id=0, first_cursor=first, next_cursor=next_cursor, end_cursor=end, **columns)

    return make
