"""What `ros2 bag record` would have written beside a robot of ours, and what its control loop recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.bag_file import BagFile, Storage
from benchmarks.common.fleet_logs import START_NS
from fleet.config import FleetConfig
from fleet.messages import PolicyMessage, TransitionBatch
from fleet.scene_config import OBJECT_JOINTS
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulated_arm import SimulatedArm
from robot_nodes.sim.simulators import simulated_arm

Write = Callable[..., None]
"""Called with a bag and `arrival_ns`."""

MARKER = "/episode"
"""A std_msgs/Bool: true at the beginning of each episode, false at its end."""

GOAL = "/goal"
"""A geometry_msgs/PoseStamped at the beginning of each episode, if its task has targets."""


@dataclass
class Recording:
    """One robot's life: messages for a bag, and the transitions that it sent.

    Attributes:
        messages: Stamp (ns), order among those of one stamp, and what writes the message at its arrival.
        batches: What the control loop recorded.
    """

    messages: list[tuple[int, int, Write]] = field(default_factory=list)
    batches: list[TransitionBatch] = field(default_factory=list)

    def write(self, path: Path, storage: Storage) -> None:
        """As a bag; 0.1 ms between messages of one stamp."""
        with BagFile(path, storage) as bag:
            for stamp_ns, order, write in sorted(self.messages, key=lambda message: message[:2]):
                write(bag, arrival_ns=START_NS + stamp_ns + 100_000 * order)

    def episodes(self) -> list[list[TransitionBatch]]:
        """The batches of each episode that has ended."""
        episodes: list[list[TransitionBatch]] = [[]]
        for batch in self.batches:
            episodes[-1].append(batch)
            if batch.end:
                episodes.append([])
        return episodes[:-1]


class _RecordedArm:
    """An arm between its control loop and its simulator, whose topics are written down."""

    def __init__(
        self, arm: SimulatedArm, fleet: FleetConfig, robot_id: str, recording: Recording, period_s: float
    ) -> None:
        self._arm, self._recording, self._period_s = arm, recording, period_s
        robot, scene = fleet.entry(robot_id).robot, fleet.task.scene
        self._names = robot.joints[::-1]  # never in the order of the config
        self._prefix, self._topics = f"/{robot_id}/", robot.topics
        self._scene_topics = scene.topics if scene is not None else {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arm, name)

    def _note(self, order: int, write: Write) -> None:
        self._recording.messages.append((self._arm.time_ns, order, write))

    def _publish(self) -> None:
        arm, stamp_ns, names = self._arm, self._arm.time_ns, self._names
        q, qd, scene_q, scene_qd = (a.copy() for a in (arm.q[::-1], arm.qd[::-1], arm.scene_q, arm.scene_qd))
        topic = self._prefix + self._topics.joint_states
        state = {"names": names, "q": q, "qd": qd}
        self._note(0, partial(BagFile.joint_state, topic=topic, stamp_ns=stamp_ns, **state))
        joints = arm.scene_joints
        for name in self._scene_topics:
            where = self._prefix + name
            if joints == OBJECT_JOINTS:
                self._note(1, partial(BagFile.pose, topic=where, stamp_ns=stamp_ns, position=scene_q))
            else:
                state = {"names": joints, "q": scene_q, "qd": scene_qd}
                self._note(1, partial(BagFile.joint_state, topic=where, stamp_ns=stamp_ns, **state))

    def command(self, values: Any) -> None:
        if not self._recording.messages:
            self._publish()
        velocity = np.array(values)
        topic = self._prefix + self._topics.command
        self._note(4, partial(BagFile.array, topic=topic, values=velocity))
        self._arm.command(values)

    def step(self, seconds: float) -> None:
        for _ in range(round(seconds / self._period_s)):
            self._arm.step(self._period_s)
            self._publish()


def record_bag(
    fleet: FleetConfig,
    robot_id: str,
    message: PolicyMessage,
    episodes: int,
    seed: int,
    joint_state_rate_hz: float = 20.0,
) -> Recording:
    """Let a policy act, with its noise, and keep all that was said on the robot's topics.

    Args:
        fleet: With robot and task.
        robot_id: Which robot.
        message: The policy.
        episodes: How many.
        seed: Of targets, starts and noise.
        joint_state_rate_hz: Of joint states and of the scene's topics.
    """
    recording = Recording()
    with simulated_arm(fleet, robot_id, seed + 1) as arm:
        recorded = _RecordedArm(arm, fleet, robot_id, recording, 1.0 / joint_state_rate_hz)
        rollout = Rollout(
            fleet, robot_id, message, seed, recorded, on_batch=recording.batches.append, explore=True
        )
        for _ in range(episodes):
            rollout.episode()
    period_ns = round(1e9 / fleet.entry(robot_id).robot.control_rate_hz)
    for batches in recording.episodes():
        first_ns, last_ns = int(batches[0].stamp_ns[0]), int(batches[-1].stamp_ns[-1]) + period_ns
        recording.messages.append((last_ns, 2, partial(BagFile.flag, topic=MARKER, value=False)))
        recording.messages.append((first_ns, 3, partial(BagFile.flag, topic=MARKER, value=True)))
        metrics = batches[-1].metrics
        if "target_x_m" in metrics:
            goal = [metrics[f"target_{axis}_m"] for axis in "xyz"]
            pose = partial(BagFile.pose, topic=GOAL, stamp_ns=first_ns, position=goal)
            recording.messages.append((first_ns, 2, pose))
    return recording
