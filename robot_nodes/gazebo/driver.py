"""The driver of one arm in Gazebo: its world behind the arm's topics.

    gzserver ── state, joint_state_rate_hz times a second ──▶ joint_states, clock
             ◀── each command, at once ────────────────────── forward_velocity_controller/commands

A world in lock-step waits for its arms (`ArmNode`), any other runs on its own. A gzserver that has died is
waited for, for ever: meanwhile nothing is published, as by hardware that is off.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rclpy.executors import SingleThreadedExecutor

from fleet.config import ConfigError, FleetConfig
from fleet.ready import notify_ready
from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig
from robot_nodes.gazebo.connection import GazeboConnection, GazeboConnectionError
from robot_nodes.gazebo.gazebo_arm import GazeboArm
from robot_nodes.gazebo.server_state import connect
from robot_nodes.sim.arm_node import ArmNode
from robot_nodes.sim.arm_topics import ArmTopics

logger = logging.getLogger(__name__)

_RETRY_S = 0.2  # between two attempts to reach a gzserver
_REFUSED_S = 2.0  # and to take over an arm that it has refused: each refusal is a line in its log
_LONGEST_WAIT_S = 0.1  # a signal is seen within this


class FreeArm(GazeboArm):
    """An arm in a world that runs on its own: commands act at once, states come by themselves.

    One thread waits for states and another one commands: all but `wait` locks, with `lock`.
    """

    def __init__(
        self,
        config: RobotConfig,
        robot_id: str,
        scene: SceneConfig | None,
        connection: GazeboConnection,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Take over the arm, as GazeboArm does, and let the world run on."""
        super().__init__(config, robot_id, scene, connection, rng)
        assert config.sim is not None, "GazeboArm has looked"
        self.lock = threading.RLock()
        steps = round(1e9 / (self._timestep_ns * config.sim.joint_state_rate_hz))
        self._state = connection.free(steps)

    def wait(self, seconds: float) -> bool:
        """Wait for the next state; returns whether one has come, or the world has gone."""
        try:
            return self._connection.readable(seconds)
        except (OSError, ValueError):  # closed by the other thread meanwhile: `receive` says why
            return True

    def receive(self) -> bool:
        """Take the newest state that has come, if any; returns whether one has.

        Raises:
            GazeboConnectionError: The world is gone.
        """
        with self.lock:
            came = False
            while self._connection.readable():
                self._state = self._connection.receive()
                came = True
            return came

    def command(self, values: ArrayLike) -> None:
        """Ask for joint velocities [nq] (rad/s), or torques (N m), from now on."""
        with self.lock:
            super().command(values)
            self._connection.command(self._command)

    def reset(self, q: ArrayLike | None = None) -> None:
        """Put the arm at rest at q [nq] (rad), or near home, and the scene as it is at first."""
        with self.lock:
            super().reset(q)

    def reset_scene(self) -> None:
        """Put the scene as it is at first: the door closed. The arm stays, with its command."""
        with self.lock:
            super().reset_scene()


class FreeArmNode(ArmTopics):
    """The topics of an arm in a world that runs on its own.

    node = FreeArmNode(robot, "robot1", scene, seed=0, executor=executor)
    node.run(FreeArm(robot, "robot1", scene, connection), stop)
    """

    def __init__(
        self,
        config: RobotConfig,
        robot_id: str,
        scene: SceneConfig | None,
        seed: int,
        executor: SingleThreadedExecutor,
    ) -> None:
        """Make the topics in the namespace `robot_id` and let the executor serve them.

        Raises:
            ValueError: The config has no `sim`, or rates that do not divide each other.
        """
        super().__init__(config, robot_id, scene, seed)
        self._spinner = executor
        executor.add_node(self)

    def run(self, arm: FreeArm, stop: threading.Event) -> None:
        """Publish each state as it comes and pass on each command as it comes, until `stop` is set.

        The executor, which cannot wait for sockets, has a thread of its own. It could also be woken for
        each state, but then spends twice the CPU.

        Raises:
            GazeboConnectionError: The world is gone.
        """
        self.arm = arm
        ended = threading.Event()
        try:
            with ThreadPoolExecutor(1, "topics") as pool:
                serving = pool.submit(self._serve, ended)
                try:
                    while not (stop.is_set() or serving.done()):
                        if arm.wait(_LONGEST_WAIT_S):
                            self._publish_newest(arm)
                finally:
                    ended.set()
                serving.result()  # raises what went wrong there
        finally:
            self.arm = None

    def _publish_newest(self, arm: FreeArm) -> None:
        with arm.lock:
            if arm.receive():
                self.publish()
                notify_ready()  # with the first states published

    def _serve(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._spinner.spin_once(timeout_sec=_LONGEST_WAIT_S)


def run_in_gazebo(
    fleet: FleetConfig, robot_id: str, run_dir: Path, executor: SingleThreadedExecutor, stop: threading.Event
) -> None:
    """Drive one arm in its world until `stop` is set.

    Raises:
        ConfigError: The robot's rates do not fit.
    """
    config, scene, seed = fleet.entry(robot_id).robot, fleet.task.scene, fleet.seed
    assert config.sim is not None, "it is in a Gazebo world"
    lockstep = config.sim.lockstep_timeout_s > 0
    world = next(name for name, robot_ids in fleet.gazebo_worlds.items() if robot_id in robot_ids)
    try:
        node: Any = (ArmNode if lockstep else FreeArmNode)(config, robot_id, scene, seed, executor)
    except ValueError as error:
        raise ConfigError(f"cannot simulate {robot_id}: {error}") from error
    rng, said = np.random.default_rng(seed), ""
    try:
        while not stop.is_set():
            connection, retry_s = None, _RETRY_S
            try:
                with connect(run_dir, world) as connection:
                    retry_s = _REFUSED_S
                    arm = (GazeboArm if lockstep else FreeArm)(config, robot_id, scene, connection, rng)
                    logger.info("%s: in Gazebo world %r, joint order %s", robot_id, world, node.joint_order)
                    said, retry_s = "", _RETRY_S
                    node.run(arm, stop)
            except GazeboConnectionError as error:
                if not said or (connection is not None and str(error) != said):
                    said = str(error)
                    logger.error("%s: %s. Nothing is published until it is there", robot_id, said)
            retry_at_s = time.monotonic() + retry_s
            while not stop.is_set() and (left_s := retry_at_s - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=min(left_s, _LONGEST_WAIT_S))  # commands are dropped
    finally:
        node.destroy_node()
