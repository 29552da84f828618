"""A fleet's robots and its learner in one process: no ROS, no sockets, no clock.

The real control loop, guard, simulated arms, replay mirror and trainer. `benchmarks/common/virtual_time.py`
says who does how much when.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from fleet.config import FleetConfig
from fleet.messages import PolicyMessage, TransitionBatch
from learner.mirror import ReplayMirror
from learner.publisher import policy_message
from learner.trainer import Trainer
from replay_server.rate_limiter import RateLimiter
from robot_nodes.policy import NumpyPolicy
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulated_arm import SimulatedArm
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import make_task

BATCH_ROWS = 16  # a running episode leaves a robot in such batches
_JUDGE_SEED = 999


@dataclass(frozen=True, slots=True)
class Measurement:
    """Noise-free episodes of one policy.

    Attributes:
        success: Share of them that succeeded.
        metrics: Means of the task's numbers and of the return.
    """

    success: float
    metrics: dict[str, float]


def with_robots(fleet: FleetConfig, number: int) -> FleetConfig:
    """The same fleet with so many robots, all like its first."""
    entries = [fleet.robots[0].model_copy(update={"id": f"robot{i + 1}"}) for i in range(number)]
    return fleet.model_copy(update={"robots": entries})


class InProcessFleet:
    """Robots that explore, a trainer, and a robot of its own that measures policies.

        with InProcessFleet(fleet, seed=0) as in_process:
            for robot in in_process.robots:
                robot.tick()                          # its rows go to the trainer's mirror
            in_process.train(in_process.allowed())
            in_process.publish()                      # the newest policy to every robot
            print(in_process.measure(40).success)

    Attributes:
        trainer: Learns.
        mirror: Holds all rows.
        robots: One for each of the fleet's.
        train_cpu_s: CPU time of all updates (s).
    """

    def __init__(self, fleet: FleetConfig, seed: int) -> None:
        """Draw a network and put the robots at their homes."""
        self.config = fleet.learner
        first = fleet.robots[0]
        self.control_rate_hz = first.robot.control_rate_hz
        spec = make_task(fleet, first.id).spec
        self.trainer = Trainer(self.config, spec, seed=seed)
        sizes = spec.observation.size, spec.action.size
        self.mirror = ReplayMirror(*sizes, fleet.replay_server.capacity_rows, self.config.device)
        self.train_cpu_s = 0.0
        self._limiter = RateLimiter(self.config.updates_per_row, self.config.warmup_rows)
        self._published = 0
        start = self._message()
        self._arms = ExitStack()
        seeds = [1000 * seed + i for i in range(len(fleet.robots))]
        self.robots = [
            Rollout(
                fleet,
                entry.id,
                start,
                robot_seed,
                self._arm(fleet, entry.id, robot_seed + 1),
                on_batch=self.take,
                explore=True,
                batch_rows=BATCH_ROWS,
            )
            for entry, robot_seed in zip(fleet.robots, seeds, strict=True)
        ]
        judged = self._arm(fleet, first.id, _JUDGE_SEED + 1)
        self._judge = Rollout(fleet, first.id, start, _JUDGE_SEED, judged)

    def _arm(self, fleet: FleetConfig, robot_id: str, seed: int) -> SimulatedArm:
        return self._arms.enter_context(simulated_arm(fleet, robot_id, seed))

    def __enter__(self) -> InProcessFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._arms.close()

    def _message(self) -> PolicyMessage:
        std = self.config.exploration_std if self.trainer.updates else self.config.warmup_exploration_std
        return policy_message(self.trainer, "benchmark", self.trainer.updates, std, 0)

    def take(self, batch: TransitionBatch) -> None:
        """Learn from these rows, too."""
        self.mirror.extend(batch)
        self.trainer.observe(batch)

    def allowed(self) -> int:
        """Updates that the rows allow (`updates_per_row`, `warmup_rows`)."""
        return self._limiter.allowed(self.mirror.cursor, self.trainer.updates)

    def train(self, updates: int) -> None:
        """Do so many updates."""
        started = time.process_time()
        self.trainer.update_many(self.mirror, updates)
        self.train_cpu_s += time.process_time() - started

    def publish(self) -> None:
        """Give every robot the newest policy, if there is a newer one.

        Raises:
            learner.trainer.DivergedError: It is not finite.
        """
        if self.trainer.updates == self._published:
            return
        self._published = self.trainer.updates
        policy = NumpyPolicy.from_message(self._message(), self.trainer.spec)
        for robot in self.robots:
            robot.set_policy(policy)

    def measure(self, episodes: int) -> Measurement:
        """What the newest policy is worth, whatever the robots have."""
        self._judge.set_policy(NumpyPolicy.from_message(self._message(), self.trainer.spec))
        results = [self._judge.episode() for _ in range(episodes)]
        keys = results[0].metrics
        return Measurement(
            success=float(np.mean([r.success for r in results])),
            metrics={key: float(np.mean([r.metrics.get(key, 0.0) for r in results])) for key in keys},
        )
