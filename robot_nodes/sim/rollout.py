"""Episodes on a simulated arm without ROS: the robot's own control loop, straight on the simulator.

What `pnaf eval` measures a policy with, and what the film of the learned arm is made from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from fleet.config import ConfigError, FleetConfig
from fleet.messages import PolicyMessage, TransitionBatch
from fleet.scene_config import OBJECT_JOINTS
from robot_nodes.actor import NewestPolicy
from robot_nodes.batch_former import BatchFormer
from robot_nodes.control_loop import ControlLoop
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.joint_states import JointReading
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy
from robot_nodes.sensors import sensor_values
from robot_nodes.sim.simulated_arm import SimulatedArm
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
        scene: Positions of the scene's joints then [rows, ns] (rad).
    """

    success: bool
    metrics: dict[str, float]
    rows: int
    joints: np.ndarray
    scene: np.ndarray


class Rollout:
    """One simulated robot, driven by the loop that drives the real one.

    with simulated_arm(fleet, robot_id, seed=0) as arm:
        rollout = Rollout(fleet, robot_id, message, seed=0, arm=arm)
        result = rollout.episode()
    """

    def __init__(
        self,
        fleet: FleetConfig,
        robot_id: str,
        message: PolicyMessage,
        seed: int,
        arm: SimulatedArm,
        *,
        on_batch: Callable[[TransitionBatch], None] = lambda batch: None,
        explore: bool = False,
        batch_rows: int = 64,
    ) -> None:
        """Put a policy in charge of an arm.

        Args:
            fleet: With the robot and the task.
            robot_id: Which robot.
            message: The policy.
            seed: Of homes, goals and exploration.
            arm: Where it acts.
            on_batch: Gets the transitions, as a replay server would.
            explore: Add the policy's noise, scaled as the fleet says for this robot.
            batch_rows: Most transitions of one batch.

        Raises:
            ConfigError: The robot has sensors that are not of its scene.
            PolicyError: The policy is not one for this robot and task.
        """
        entry = fleet.entry(robot_id)
        _check_sensors(fleet, robot_id)
        # In simulation nobody follows trajectories or is there to be asked; the only service is the scene's.
        after = {"steps": ["velocity", "service"], "service": "reset_scene"}
        alone = {"steps": ["velocity"], "service": None}
        reset = entry.robot.reset.model_copy(update=after if arm.scene_joints else alone)
        self._robot = entry.robot.model_copy(update={"reset": reset})
        task = make_task(fleet, robot_id)
        self._policy = NewestPolicy(NumpyPolicy.from_message(message, task.spec), time.monotonic())
        self._batches: list[TransitionBatch] = []
        self._on_batch = on_batch
        self._arm = arm
        sizes = task.spec.observation.size, task.spec.action.size
        former = BatchFormer(robot_id, "rollout", task.spec.hash, *sizes, self._collect, batch_rows)
        self._loop = ControlLoop(
            self._robot,
            task,
            Kinematics(load_urdf(entry.robot.urdf), entry.robot.joints, entry.robot.tool_link),
            EpisodeRecorder(task.spec, sink=former),
            lambda: self._policy,
            np.random.default_rng(seed),
            evaluate_every=0 if explore else 1,
            exploration_scale=fleet.exploration_scale(robot_id),
        )
        self._nq = len(entry.robot.joints)
        self._scene: list[np.ndarray] = []

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
        while (result := self.tick()) is None:
            pass
        return result

    def tick(self) -> EpisodeResult | None:
        """One control period; the episode that ended at its start, if one did.

        Raises:
            RolloutError: The robot went into a fault.
        """
        reading = JointReading(self._arm.q, self._arm.qd, self._arm.time_ns)
        self._scene.append(self._arm.scene_q)
        command = self._loop.tick(reading, self._policy.received_s, self._sensors())
        if self._loop.phase == "fault":
            raise RolloutError(self._loop.note)
        if self._loop.take_service_call():
            self._arm.reset_scene()
            self._loop.service_done(True, "")
        self._arm.command(command)
        self._arm.step(1.0 / self._robot.control_rate_hz)
        return self._result() if self._batches and self._batches[-1].end else None

    def _result(self) -> EpisodeResult:
        batches, scene = self._batches, self._scene
        self._batches, self._scene = [], []
        last, rows = batches[-1], sum(batch.rows for batch in batches)
        return EpisodeResult(
            success=last.success,
            metrics=dict(last.metrics),
            rows=rows,
            joints=np.concatenate([batch.observation[:, : self._nq] for batch in batches]),
            scene=np.array(scene[-1 - rows : -1]),  # the newest tick is the next episode's
        )

    def _sensors(self) -> np.ndarray:
        """Values of the extra sensors [ns], out of the message that the scene's topic would have."""
        message = _scene_message(self._arm)
        return np.concatenate([np.zeros(0), *(sensor_values(s, message) for s in self._robot.sensors)])


def _scene_message(arm: SimulatedArm) -> SimpleNamespace:
    """What ArmTopics publishes of the scene: a PoseStamped of an object, the JointState of a door."""
    if arm.scene_joints == OBJECT_JOINTS:
        x, y, z = arm.scene_q
        upright = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        return SimpleNamespace(
            pose=SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=z), orientation=upright)
        )
    return SimpleNamespace(name=arm.scene_joints, position=arm.scene_q, velocity=arm.scene_qd, effort=())


def _check_sensors(fleet: FleetConfig, robot_id: str) -> None:
    topics = fleet.task.scene.topics if fleet.task.scene is not None else {}
    others = [
        sensor.name
        for sensor in fleet.entry(robot_id).robot.sensors
        if topics.get(sensor.topic) != sensor.type
    ]
    if others:
        raise ConfigError(
            f"{robot_id}: its policy needs extra sensors ({', '.join(others)}), which only ROS topics have: "
            "it cannot be evaluated in simulation alone"
        )
