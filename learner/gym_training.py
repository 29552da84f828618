"""The fleet's trainer on one environment: collect, update, publish, measure, all in turn.

Where rows come from is passed in: this package knows neither robots nor environments.
`fleet.gym_run.train` puts both together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fleet.config import LearnerConfig
from fleet.messages import PolicyMessage, Transitions
from fleet.spaces import SpaceSpec
from learner.mirror import ReplayMirror
from learner.publisher import policy_message
from learner.trainer import Trainer
from replay_server.rate_limiter import RateLimiter

ROWS_PER_POLICY = 10
"""Steps between two policies: those of the fleet's half a second at 20 Hz."""

FIRST_JUDGED_SEED = 1_000_000
"""Noise-free episodes begin with this seed at every point of a curve, and no training does."""


class GymActor(Protocol):
    """What `GymTraining` needs of an environment; `robot_nodes.gym_robot.GymRobot` is one."""

    @property
    def spec(self) -> SpaceSpec:
        """Its spaces."""

    def set_policy(self, message: PolicyMessage) -> None:
        """Act with this policy from now on."""

    def collect(self, rows: int) -> Transitions:
        """The next steps with exploration."""

    def returns(self, seeds: Sequence[int]) -> list[float]:
        """Return of a noise-free episode for each seed."""


@dataclass(frozen=True)
class CurvePoint:
    """One measurement.

    Attributes:
        step: Steps in the environment before it.
        mean: Mean return of the noise-free episodes.
        std: Their standard deviation.
        metrics: Of the trainer, as in `Trainer.metrics`; empty before the first update.
    """

    step: int
    mean: float
    std: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class GymResult:
    """What a training came to.

    Attributes:
        points: The evaluation curve.
        policy: The last policy.
        updates: Updates done.
        wall_s: Duration of everything (s).
        train_s: Of it, in updates (s).
    """

    points: list[CurvePoint]
    policy: PolicyMessage
    updates: int
    wall_s: float
    train_s: float

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """(step, mean, std) of each point."""
        return [(point.step, point.mean, point.std) for point in self.points]

    @property
    def updates_per_s(self) -> float:
        """Updates per second spent in updates; 0 without any."""
        return self.updates / self.train_s if self.updates else 0.0


class GymTraining:
    """Trainer, mirror and rate limiter of the fleet, taking turns with one environment.

    result = GymTraining(config, robot, judge, seed=0).run(10_000, every=1000, episodes=10)
    """

    def __init__(self, config: LearnerConfig, robot: GymActor, judge: GymActor, seed: int) -> None:
        """Draw a network.

        Args:
            config: How to learn.
            robot: Where rows come from.
            judge: Where policies are measured: another environment of the same kind.
            seed: Of the network's first weights and of the minibatches.
        """
        self.config, self.robot, self.judge = config, robot, judge
        self.trainer = Trainer(config, robot.spec, seed=seed)
        self.limiter = RateLimiter(config.updates_per_row, config.warmup_rows)
        self._run_id = f"gym-{seed}"

    def _message(self) -> PolicyMessage:
        updates = self.trainer.updates
        std = self.config.exploration_std if updates else self.config.warmup_exploration_std
        return policy_message(self.trainer, self._run_id, updates, std, 0)

    def run(
        self,
        steps: int,
        every: int,
        episodes: int,
        on_point: Callable[[CurvePoint], None] = lambda point: None,
    ) -> GymResult:
        """Learn for `steps` steps and measure after each `every` of them, and at the end.

        Raises:
            learner.trainer.DivergedError: The network left the finite numbers.
        """
        started, train_s = time.monotonic(), 0.0
        spec = self.robot.spec
        mirror = ReplayMirror(spec.observation.size, spec.action.size, steps, self.config.device)
        points: list[CurvePoint] = []
        policy = self._message()
        while mirror.cursor < steps:
            self.robot.set_policy(policy)
            measure_at = min(steps, (mirror.cursor // every + 1) * every)
            rows = self.robot.collect(min(ROWS_PER_POLICY, measure_at - mirror.cursor))
            mirror.extend(rows)
            self.trainer.observe(rows)
            before = time.monotonic()
            self.trainer.update_many(mirror, self.limiter.allowed(mirror.cursor, self.trainer.updates))
            train_s += time.monotonic() - before
            policy = self._message()
            if mirror.cursor == measure_at:
                points.append(self._measure(mirror, policy, episodes))
                on_point(points[-1])
        return GymResult(points, policy, self.trainer.updates, time.monotonic() - started, train_s)

    def _measure(self, mirror: ReplayMirror, policy: PolicyMessage, episodes: int) -> CurvePoint:
        self.trainer.check_finite()
        self.judge.set_policy(policy)
        returns = self.judge.returns(range(FIRST_JUDGED_SEED, FIRST_JUDGED_SEED + episodes))
        metrics = self.trainer.metrics(mirror) if self.trainer.updates else {}
        return CurvePoint(mirror.cursor, float(np.mean(returns)), float(np.std(returns)), metrics)
