"""Episodes on the simulated arm without ROS: the robot's own control loop, straight on MuJoCo.

What `pnaf eval` measures a policy with, and what the film of the learned arm is made from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fleet.config import ConfigError, FleetConfig
from fleet.messages import PolicyMessage, TransitionBatch
from robot_nodes.actor import NewestPolicy
from robot_nodes.batch_former import BatchFormer
from robot_nodes.control_loop import ControlLoop
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.joint_states import JointReading
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.tasks.task import make_task
from robot_nodes.urdf_source import load_urdf


class RolloutError(RuntimeError):
    """The robot cannot act: its own words say why."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One finished episode.

    Attributes:
        success: The task's verdict.
        metrics: The task's numbers and the return.
        rows: Number of steps.
        joints: Joint positions at each tick of the episode [rows, nq] (rad).
    """

    success: bool
    metrics: dict[str, float]
    rows: int
    joints: np.ndarray


class Rollout:
    """One simulated robot, driven by the loop that drives the real one.

    rollout = Rollout(fleet, robot_id, message, seed=0)
    result = rollout.episode()
    """

    def __init__(
        self,
        fleet: FleetConfig,
        robot_id: str,
        message: PolicyMessage,
        seed: int,
        *,
        on_batch: Callable[[TransitionBatch], None] = lambda batch: None,
        explore: bool = False,
    ) -> None:
        entry = fleet.entry(robot_id)
        if entry.robot.sensors:
            names = ", ".join(sensor.name for sensor in entry.robot.sensors)
            raise ConfigError(
                f"{robot_id}: its policy needs extra sensors ({names}), which only ROS topics have: it "
                "cannot be evaluated in simulation alone"
            )
        # In simulation nobody answers a reset service, follows trajectories or is there to be asked.
        by_motion = entry.robot.reset.model_copy(update={"steps": ["velocity"], "service": None})
        self._robot = entry.robot.model_copy(update={"reset": by_motion})
        task = make_task(fleet, robot_id)
        self._policy = NewestPolicy(NumpyPolicy.from_message(message, task.spec), time.monotonic())
        self._batches: list[TransitionBatch] = []
        self._on_batch = on_batch
        self._arm = MujocoArm(entry.robot, np.random.default_rng(seed + 1))
        sizes = task.spec.observation.size, task.spec.action.size
        former = BatchFormer(robot_id, "rollout", task.spec.hash, *sizes, emit=self._collect)
        self._loop = ControlLoop(
            self._robot,
            task,
            Kinematics(load_urdf(entry.robot.urdf), entry.robot.joints, entry.robot.tool_link),
            EpisodeRecorder(task.spec, sink=former),
            lambda: self._policy,
            np.random.default_rng(seed),
            evaluate_every=0 if explore else 1,
        )
        self._nq = len(entry.robot.joints)

    def set_policy(self, policy: NumpyPolicy) -> None:
        """Act with another policy from the next tick on."""
        self._policy = NewestPolicy(policy, time.monotonic())

    def _collect(self, batch: TransitionBatch) -> None:
        self._batches.append(batch)
        self._on_batch(batch)

    def episode(self) -> EpisodeResult:
        """Reset by motion, then one episode.

        Raises:
            RolloutError: The robot went into a fault.
        """
        self._batches.clear()
        period_s = 1.0 / self._robot.control_rate_hz
        while not (self._batches and self._batches[-1].end):
            reading = JointReading(self._arm.q, self._arm.qd, self._arm.time_ns)
            command = self._loop.tick(reading, self._policy.received_s)
            if self._loop.phase == "fault":
                raise RolloutError(self._loop.note)
            self._arm.command(command)
            self._arm.step(period_s)
        last = self._batches[-1]
        return EpisodeResult(
            success=last.success,
            metrics=dict(last.metrics),
            rows=sum(batch.rows for batch in self._batches),
            joints=np.concatenate([batch.observation[:, : self._nq] for batch in self._batches]),
        )
