"""Rows that say which they are: what a synthetic robot records, and how to read it in the store.

Row i of a robot, counted over all its starts, says so: observation[0] and [1] are i (its lower 20 bits
and the rest, as float32 is exact to 2^24), observation[2] is the robot's number, reward is i % 1000.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fleet.messages import Array
from fleet.spaces import Space, SpaceSpec

SPEC = SpaceSpec(
    observation=Space(
        names=("index_low", "index_high", "robot"), units=("1",) * 3, low=(0.0,) * 3, high=(2.0**24,) * 3
    ),
    action=Space(names=("u", "v"), units=("1", "1"), low=(-1.0, -1.0), high=(1.0, 1.0)),
)

_INDEX_BASE = 2**20


def row_index(observation: Array) -> Array:
    """The running index of each row, from its observations [N, 3]."""
    return observation[:, 0].astype(np.int64) + _INDEX_BASE * observation[:, 1].astype(np.int64)


def row_of(index: int, robot_number: int, policy_version: int) -> dict[str, Any]:
    """All columns of a robot's row `index`."""
    observation = np.array([index % _INDEX_BASE, index // _INDEX_BASE, robot_number], "<f4")
    following = np.array([(index + 1) % _INDEX_BASE, (index + 1) // _INDEX_BASE, robot_number], "<f4")
    action = np.array([index % 7 / 7, -(index % 5) / 5], "<f4")
    return {
        "observation": observation,
        "action": action,
        "policy_action": action,
        "reward": index % 1000,
        "next_observation": following,
        "terminated": False,
        "truncated": False,
        "intervened": False,
        "clipped": False,
        "policy_version": policy_version,
        "stamp_ns": time.time_ns(),
    }
