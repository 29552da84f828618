"""One robot's process: the node, its executor, and an orderly end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from fleet.config import FleetConfig
from fleet.ready import EXIT_CONFIG, notify_ready, stop_on_signals
from robot_nodes.robot import Robot
from robot_nodes.robot_node import RobotNode


def run_robot(
    fleet: FleetConfig,
    robot_id: str,
    run_dir: Path,
    ros_args: list[str] | None = None,
    *,
    dry_run: bool = False,
    on_tick: Callable[[Robot], None] | None = None,
) -> int:
    """Run one robot until SIGINT, SIGTERM or a fleet stop; returns the exit status.

    Args:
        fleet: The loaded config.
        robot_id: Which robot of it.
        run_dir: Where its spool lies; on the robot's own disk.
        ros_args: What goes to ROS.
        dry_run: Hear everything, but command, record and call nothing.
        on_tick: Called after each control tick, and once a second.
    """
    remap = ["-r", f"/clock:=/{robot_id}/clock"] if fleet.entry(robot_id).robot.sim else []
    stop = stop_on_signals()
    rclpy.init(args=["--ros-args", *remap, *(ros_args or [])], signal_handler_options=SignalHandlerOptions.NO)
    node = RobotNode(fleet, robot_id, run_dir, dry_run)
    node.on_tick = on_tick
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return EXIT_CONFIG
        if node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
            return 1
        # What is there now stays: looking at all of it again would take a tenth of a second, in some tick.
        gc.collect()
        gc.freeze()
        notify_ready()
        while not stop.is_set() and not node.stop_requested:
            executor.spin_once(timeout_sec=0.1)
            if node.robot is not None and node.robot.refusal:
                return EXIT_CONFIG
    except BaseException:
        node.stop_moving()
        node.close(orderly=False)
        raise
    finally:
        node.stop_moving()
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
