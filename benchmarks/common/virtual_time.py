"""Robots and a trainer of given speed on a clock of their own: what a run would take, not what it takes here.

A control period of every robot, its resets included, takes one control period of virtual time: 0.05 s at
20 Hz. An update takes 1 / updates_per_s. Evaluations take none. All of it is the same for the same seed,
whatever else this machine does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.common.in_process_fleet import InProcessFleet


class VirtualTime(Protocol):
    """How robots and trainer share time.

    while in_process.mirror.cursor < rows:
        time.advance()

    Attributes:
        now_s: Virtual time since the start (s).
        waited_s: How much of it the robots stood still for the trainer (s).
    """

    now_s: float
    waited_s: float

    def advance(self) -> None:
        """Let some time pass."""


@dataclass
class Asynchronous:
    """Nobody waits for anybody (arXiv:1610.00633, Algorithm 1), as a fleet of `pnaf fleet up` does.

    Each period every robot makes a tick, and the trainer does the updates that it has time for and that the
    rows allow: it idles when it has caught up, and updates per row fall when it has not. Robots change their
    policy wherever they are, each `publish_period_s`.

    Attributes:
        in_process: Robots and trainer.
        updates_per_s: Of the trainer, while it has something to do.
    """

    in_process: InProcessFleet
    updates_per_s: float
    now_s: float = 0.0
    waited_s: float = 0.0
    _ticks: int = 0
    _budget: float = 0.0  # updates that there was time for and that were not done yet
    _publish_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._publish_s = self.in_process.config.publish_period_s

    def advance(self) -> None:
        """One control period."""
        fleet = self.in_process
        for robot in fleet.robots:
            robot.tick()
        self._ticks += 1
        self.now_s = self._ticks / fleet.control_rate_hz
        allowed = fleet.allowed()
        self._budget += self.updates_per_s / fleet.control_rate_hz
        if self._budget >= allowed:
            fleet.train(allowed)
            self._budget = 0.0  # the rest of the time it idled
        else:
            updates = math.floor(self._budget)
            fleet.train(updates)
            self._budget -= updates
        if self.now_s >= self._publish_s:
            self._publish_s = self.now_s + fleet.config.publish_period_s
            fleet.publish()


@dataclass
class Synchronous:
    """Robots and trainer take turns, with a barrier at each.

    Each robot does an episode; when the slowest is done, all of them stand still until the trainer has done
    the updates that the new rows allow, and begin the next episode with the same new policy.

    Attributes:
        in_process: Robots and trainer.
        updates_per_s: Of the trainer.
    """

    in_process: InProcessFleet
    updates_per_s: float
    now_s: float = 0.0
    waited_s: float = 0.0

    def advance(self) -> None:
        """An episode of each robot, then the updates."""
        fleet = self.in_process
        ticks = 0
        for robot in fleet.robots:
            took = 1
            while robot.tick() is None:
                took += 1
            ticks = max(ticks, took)
        updates = fleet.allowed()
        fleet.train(updates)
        fleet.publish()
        pause_s = updates / self.updates_per_s
        self.now_s += ticks / fleet.control_rate_hz + pause_s
        self.waited_s += pause_s
