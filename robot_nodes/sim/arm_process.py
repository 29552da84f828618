"""One simulated arm's process: the simulator of its config behind the topics of a real arm."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from fleet.config import ConfigError, FleetConfig
from fleet.ready import stop_on_signals
from robot_nodes.sim.arm_node import ArmNode

logger = logging.getLogger(__name__)


def run_arm(fleet: FleetConfig, robot_id: str, run_dir: Path) -> None:
    """Simulate one robot's arm until a signal ends it.

    Args:
        fleet: With the robot, its scene and its world.
        robot_id: Which robot.
        run_dir: Where a gzserver says how to reach it.

    Raises:
        ConfigError: The robot is not simulated, or its model and rates do not fit.
    """
    stop = stop_on_signals()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    try:
        if robot_id in fleet.in_gazebo:
            # Only here: who stays in MuJoCo needs nothing of Gazebo, and the other way round.
            from robot_nodes.gazebo.driver import run_in_gazebo

            run_in_gazebo(fleet, robot_id, run_dir, executor, stop)
        else:
            _run_in_mujoco(fleet, robot_id, executor, stop)
    finally:
        executor.shutdown()
        rclpy.try_shutdown()


def _run_in_mujoco(
    fleet: FleetConfig, robot_id: str, executor: SingleThreadedExecutor, stop: threading.Event
) -> None:
    from robot_nodes.sim.mujoco_arm import MujocoArm

    config, scene = fleet.entry(robot_id).robot, fleet.task.scene
    try:
        arm = MujocoArm(config, np.random.default_rng(fleet.seed), scene)
        node = ArmNode(config, robot_id, scene, fleet.seed, executor)
    except ValueError as error:
        raise ConfigError(f"cannot simulate {robot_id}: {error}") from error
    try:
        arm.reset()
        logger.info("%s: simulated arm, joint order %s", robot_id, node.joint_order)
        node.run(arm, stop)
    finally:
        node.destroy_node()
