"""What rank 0 of a data-parallel learner tells the other ranks, and how they do it.

Only rank 0 has sockets, checkpoints and curves. The others hold a mirror and a trainer of their own and
do with them, order by order, what rank 0 does with its own: the same rows come in, the same updates are
done, and each rank computes the gradient of its part of every minibatch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from fleet.config import LearnerConfig
from fleet.spaces import SpaceSpec
from learner.log_tail import Arrival
from learner.mirror import ReplayMirror
from learner.normaliser import Normaliser
from learner.packed_rows import PackedRows
from learner.ranks import RankError, Ranks
from learner.reward_statistics import RewardStatistics
from learner.trainer import Trainer

log = logging.getLogger(__name__)

_WAIT_PERIOD_S = 5.0  # well below the time after which a silent rank counts as lost


class Order(IntEnum):
    """The first number of an order; two more follow, and the tensors that belong to it."""

    WAIT = 0
    BEGIN = 1
    ROWS = 2
    UPDATE = 3
    END = 4


class Leader:
    """Rank 0's voice.

    leader.begin(trainer, mirror)
    leader.rows(arrival);   …                           # as rank 0 takes them up itself
    leader.update(100);     trainer.update_many(mirror, 100)
    leader.wait()                                       # often, while there is nothing to do
    leader.end()

    Attributes:
        ranks: All of them.
    """

    def __init__(self, ranks: Ranks) -> None:
        """Lead these ranks."""
        self.ranks = ranks
        self._last_s = time.monotonic()

    def _order(self, order: Order, *numbers: int) -> None:
        self._last_s = time.monotonic()
        self._send(torch.tensor([order, *numbers, 0, 0, 0][:4], dtype=torch.int64))

    def _send(self, tensor: Tensor) -> None:
        self.ranks.broadcast_(tensor)

    def begin(self, trainer: Trainer, mirror: ReplayMirror) -> None:
        """Make the others' trainers equal to this one, their mirrors empty as this one is."""
        facts = {
            "learner": trainer.config.model_dump(mode="json"),
            "spec": trainer.spec.to_json(),
            "capacity_rows": mirror.capacity,
            "trainer": trainer.facts(),
        }
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        state = trainer.generator.get_state()
        self._order(Order.BEGIN, len(text), len(state))
        for tensor in (text, state, *trainer.tensors().values()):
            self._send(tensor)

    def rows(self, arrival: Arrival) -> None:
        """Give the others what has come of the log."""
        rows = arrival.rows
        self._order(Order.ROWS, arrival.first_cursor, len(rows), len(rows.demonstrations))
        if len(rows):
            self._send(torch.from_numpy(rows.values))
            self._send(torch.from_numpy(rows.demonstrations))
            self._send(torch.from_numpy(_pack_statistics(arrival.normaliser, arrival.rewards)))

    def update(self, updates: int) -> None:
        """Let the others do so many updates, as this rank is about to."""
        self._order(Order.UPDATE, updates)

    def wait(self) -> None:
        """Let the others know that this rank is there."""
        if time.monotonic() - self._last_s > _WAIT_PERIOD_S:
            self._order(Order.WAIT)

    def end(self) -> None:
        """Let the others end; those that are gone already need not hear it."""
        with contextlib.suppress(RankError):
            self._order(Order.END)


@dataclass
class _Follower:
    """A rank's mirror and trainer, once there is something to do."""

    trainer: Trainer
    mirror: ReplayMirror


def follow(ranks: Ranks, device: str) -> None:
    """Do what rank 0 says until it ends.

    Args:
        ranks: All of them; this one is not the first.
        device: Where this rank computes.

    Raises:
        RankError: Rank 0 is gone.
    """
    follower: _Follower | None = None
    while True:
        numbers = torch.zeros(4, dtype=torch.int64)
        ranks.broadcast_(numbers)
        order, *arguments = numbers.tolist()
        if order == Order.END:
            return
        if order == Order.BEGIN:
            follower = _begin(ranks, device, *arguments[:2])
            log.info("rank %d of %d begins at update %d", ranks.rank, ranks.world, follower.trainer.updates)
        elif order == Order.ROWS:
            assert follower is not None
            _take_rows(ranks, follower, *arguments)
        elif order == Order.UPDATE:
            assert follower is not None
            follower.trainer.update_many(follower.mirror, arguments[0])


def _begin(ranks: Ranks, device: str, text_bytes: int, state_bytes: int) -> _Follower:
    text, state = (torch.zeros(size, dtype=torch.uint8) for size in (text_bytes, state_bytes))
    ranks.broadcast_(text)
    ranks.broadcast_(state)
    facts = json.loads(text.numpy().tobytes())
    config = LearnerConfig(**facts["learner"] | {"device": device})
    spec = SpaceSpec.from_json(facts["spec"])
    trainer = Trainer(config, spec, ranks=ranks)
    for tensor in trainer.tensors().values():
        ranks.broadcast_(tensor)
    trainer.load_facts(facts["trainer"])
    trainer.generator.set_state(state)
    nx, nu = spec.observation.size, spec.action.size
    return _Follower(trainer, ReplayMirror(nx, nu, facts["capacity_rows"], device))


def _take_rows(ranks: Ranks, follower: _Follower, first_cursor: int, rows: int, demonstrations: int) -> None:
    mirror, trainer = follower.mirror, follower.trainer
    mirror.seek(first_cursor)
    if not rows:
        return
    nx = mirror.layout.nx
    values = torch.zeros(rows, mirror.layout.width)
    shown = torch.zeros(demonstrations, dtype=torch.int64)
    statistics = torch.zeros(_statistics_size(nx), dtype=torch.float64)
    for tensor in (values, shown, statistics):
        ranks.broadcast_(tensor)
    mirror.append(PackedRows(values.numpy(), shown.numpy(), np.empty(0, np.int64)))
    trainer.adopt(*_unpack_statistics(statistics.numpy(), nx))


def _statistics_size(nx: int) -> int:
    return 1 + 2 * nx + len(RewardStatistics().state())


def _pack_statistics(normaliser: Normaliser, rewards: RewardStatistics) -> np.ndarray:
    """All numbers of both, exactly: counts stay below 2^53."""
    state = normaliser.state()
    return np.array(
        [state["count"], *state["mean"], *state["squares"], *rewards.state().values()], np.float64
    )


def _unpack_statistics(numbers: np.ndarray, nx: int) -> tuple[Normaliser, RewardStatistics]:
    normaliser, rewards = Normaliser(nx), RewardStatistics()
    count, mean, squares, rest = (
        numbers[0],
        numbers[1 : 1 + nx],
        numbers[1 + nx : 1 + 2 * nx],
        numbers[1 + 2 * nx :],
    )
    normaliser.load_state({"count": count, "mean": mean, "squares": squares})
    rewards.load_state(dict(zip(rewards.state(), rest, strict=True)))
    return normaliser, rewards
