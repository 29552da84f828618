"""The ROS 2 node on each robot: topics in, topics out, and the control loop between.

    joint_states ─▶ JointStateReader ─▶ ControlLoop.tick ─▶ <controller>/commands
                                            │      ▲
                ExperienceSender ◀─ Spool ◀─┘      └── PolicyReceiver

A lifecycle node: configure connects, activate moves, deactivate sends zeros. The forward command
controller has no watchdog, so every way out of here publishes a zero command first.
"""

from __future__ import annotations

import logging
import os
import queue
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from fleet.config import FleetConfig
from fleet.keys import load_credentials
from fleet.messages import FleetCommand
from fleet.ready import EXIT_CONFIG, RESTARTS_VARIABLE, notify_ready, stop_on_signals
from fleet.run_folder import RunFolder
from robot_nodes.control_loop import ControlLoop
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.experience_sender import ExperienceSender
from robot_nodes.joint_states import JointReading, JointStateError, JointStateReader
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy_receiver import PolicyReceiver
from robot_nodes.spool import Spool, SpoolError
from robot_nodes.tasks.task import make_task

logger = logging.getLogger(__name__)

_WATCH_PERIOD_S = 0.1
_FLUSH_TIMEOUT_S = 10.0


class RobotNode(LifecycleNode):
    """One robot of the fleet."""

    def __init__(self, fleet: FleetConfig, robot_id: str, run_dir: Path) -> None:
        entry = fleet.entry(robot_id)
        super().__init__(
            "robot_node",
            namespace=robot_id,
            parameter_overrides=[Parameter("use_sim_time", value=entry.robot.sim is not None)],
        )
        self._fleet, self._entry, self._robot = fleet, entry, entry.robot
        self._spool_dir = RunFolder(run_dir).spool
        self._commands: queue.SimpleQueue[FleetCommand] = queue.SimpleQueue()
        self._reading: JointReading | None = None
        self._reading_arrived_s = time.monotonic()
        self._bad_joint_states = 0
        self._last_tick_s = 0.0
        self._tick_ms: deque[float] = deque(maxlen=512)
        self._interval_ms: deque[float] = deque(maxlen=512)
        self._timers_running: list[Any] = []
        self._configured = False
        self._held_by_lifecycle = False
        self.stop_requested = False

    # Lifecycle ------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the robot's model, open its spool, connect to replay server and learner, make the topics."""
        try:
            self._configure()
        except (ValueError, OSError, SpoolError) as error:
            logger.error("cannot configure %s: %s", self._entry.id, error)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        robot, robot_id = self._robot, self._entry.id
        credentials = load_credentials(self._fleet, "robot", robot_id)
        self._boot_id = uuid.uuid4().hex[:12]
        self._reading = None
        self._reader = JointStateReader(robot.joints)
        task = make_task(self._fleet.task, robot)
        kinematics = Kinematics(robot.urdf, robot.joints, robot.tool_link)
        self._spool = Spool(self._spool_dir, robot_id, self._boot_id, task.spec, self._fleet.spool)
        self._sender = ExperienceSender(
            self._fleet.replay_server.endpoint,
            self._spool,
            task.spec,
            on_command=self._commands.put,
            heartbeat=self._heartbeat,
            credentials=credentials,
        )
        self._receiver = PolicyReceiver(self._fleet.learner.policy_endpoint, task.spec, credentials)
        self._recorder = EpisodeRecorder(task.spec, sink=self._spool)
        restarts = int(os.environ.get(RESTARTS_VARIABLE, "0"))  # a restarted robot explores afresh
        seed = [self._fleet.seed, [entry.id for entry in self._fleet.robots].index(robot_id), restarts]
        self._loop = ControlLoop(
            robot,
            task,
            kinematics,
            self._recorder,
            lambda: self._receiver.newest,
            np.random.default_rng(seed),
            evaluate_every=self._fleet.evaluate_every,
            exploration_scale=self._entry.exploration_scale,
        )
        if restarts and robot.sim is None:
            # A fault or an e-stop may have been latched in the process that died.
            self._loop.pause("started again after a crash: look at the robot, then `pnaf fleet resume`")
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._message = Float64MultiArray(data=[0.0] * len(robot.joints))
        self._publisher = self.create_publisher(Float64MultiArray, robot.topics.command, 1)
        self._subscription = self.create_subscription(
            JointState, robot.topics.joint_states, self._on_joint_states, best_effort
        )
        self._estop_services = [
            self.create_service(Trigger, "~/estop", self._on_estop),
            self.create_service(Trigger, "~/reset_estop", self._on_reset_estop),
        ]
        self._receiver.start()
        self._sender.start()
        self._configured = True
        logger.info("%s configured (boot %s)", robot_id, self._boot_id)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the control loop on ROS time and its watchdog on wall time."""
        if self._held_by_lifecycle:
            self._loop.resume("node activated")
            self._held_by_lifecycle = False
        self._timers_running = [
            self.create_timer(1.0 / self._robot.control_rate_hz, self._on_tick),
            self.create_timer(_WATCH_PERIOD_S, self._on_watch, clock=Clock(clock_type=ClockType.STEADY_TIME)),
        ]
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop moving: zero command, no more ticks."""
        self._publish_zero()
        self._stop_timers()
        self._held_by_lifecycle = self._loop.phase in ("waiting", "resetting", "episode")
        self._loop.pause("node deactivated")
        return TransitionCallbackReturn.SUCCESS

    def _stop_timers(self) -> None:
        for timer in self._timers_running:
            self.destroy_timer(timer)
        self._timers_running = []

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ship what is left, disconnect and give the topics back."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop moving and end the process."""
        self.stop_moving()
        self.stop_requested = True
        return TransitionCallbackReturn.SUCCESS

    # Topics ---------------------------------------------------------------------------------

    def _on_joint_states(self, message: JointState) -> None:
        try:
            self._reading = self._reader.read(message)
        except JointStateError as error:
            self._bad_joint_states += 1
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        self._reading_arrived_s = time.monotonic()

    def _on_tick(self) -> None:
        started_s = time.monotonic()
        if self._reading is None:
            return
        age_s = (self.get_clock().now().nanoseconds - self._reading.stamp_ns) * 1e-9
        if abs(age_s) > self._robot.limits.max_state_age_s:  # below zero: the driver's clock is ahead
            self._publish_zero()
            self._loop.lose_state(f"joint states are {age_s:.2f} s old")
            return
        self._loop.blocked = self._sender.blocked
        velocity = self._loop.tick(self._reading.q, self._reading.qd, self._reading.stamp_ns, started_s)
        self._message.data = velocity.tolist()
        self._publisher.publish(self._message)
        if self._last_tick_s:
            self._interval_ms.append((started_s - self._last_tick_s) * 1e3)
        self._last_tick_s = started_s
        self._tick_ms.append((time.monotonic() - started_s) * 1e3)

    def _on_watch(self) -> None:
        """ROS time stands still when a simulator dies, and the control timer with it: look at wall time."""
        silence_s = time.monotonic() - self._reading_arrived_s
        if self._reading is not None and silence_s > self._robot.limits.max_state_silence_s:
            self._publish_zero()
            self._loop.lose_state(f"no joint states for {silence_s:.1f} s")

    def _publish_zero(self) -> None:
        self._message.data = [0.0] * len(self._robot.joints)
        self._publisher.publish(self._message)

    # Commands -------------------------------------------------------------------------------

    def obey_commands(self) -> None:
        """Do what the operator has asked for since the last call, active or not."""
        while not self._commands.empty():
            command = self._commands.get()
            note = f"{command.kind} by the operator" + (f": {command.reason}" if command.reason else "")
            self.get_logger().info(note)
            if command.kind in ("pause", "stop", "estop"):
                self._publish_zero()
            match command.kind:
                case "pause":
                    self._loop.pause(note)
                case "resume":
                    self._loop.resume(note)
                case "stop":
                    self._loop.pause(note)
                    self.stop_requested = True
                case "estop":
                    self._loop.estop(note)
                case _:
                    self.get_logger().error(f"unknown fleet command {command.kind!r}: ignored")

    def _on_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._publish_zero()
        self._loop.estop("e-stop by ROS service")
        response.success, response.message = True, "latched; clear it with ~/reset_estop, then resume"
        return response

    def _on_reset_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._loop.reset_estop("e-stop cleared; waiting for `pnaf fleet resume`")
        response.success, response.message = True, self._loop.phase
        return response

    # Numbers --------------------------------------------------------------------------------

    def _heartbeat(self) -> tuple[str, dict[str, Any]]:
        """State and stats for the status; called by the sender's thread, reads only."""
        loop, newest = self._loop, self._receiver.newest
        stats: dict[str, Any] = {
            "robot/note": loop.note,
            "robot/steps": self._recorder.rows_produced,
            "robot/unacked": self._sender.waiting_rows,
            "robot/spool_mb": self._spool.used_bytes / 1e6,
            "robot/rows_dropped": self._spool.rows_dropped,
            "robot/episodes": loop.episodes,
            "robot/success_rate": _rate(loop.training_outcomes),
            "robot/evaluation_success_rate": _rate(loop.evaluation_outcomes),
            "robot/interventions": loop.stopped_commands,
            "robot/smoothed_share": loop.smoothed_commands / max(1, loop.ticks),
            "robot/late_ticks": loop.late_ticks,
            "robot/bad_joint_states": self._bad_joint_states,
            "robot/policy_version": newest.policy.version if newest else -1,
            "robot/policy_age_s": time.monotonic() - newest.received_s if newest else -1.0,
            "robot/policies_refused": self._receiver.refused,
            "robot/policy_latency_p50_ms": _percentile(self._receiver.latencies_ms, 50),
            "robot/policy_latency_p99_ms": _percentile(self._receiver.latencies_ms, 99),
            "robot/tick_p50_ms": _percentile(self._tick_ms, 50),
            "robot/tick_p99_ms": _percentile(self._tick_ms, 99),
            "robot/tick_jitter_p99_ms": _jitter(self._interval_ms),
        }
        stats |= {f"robot/interventions/{name}": count for name, count in loop.interventions.copy().items()}
        return loop.phase, stats

    @property
    def refusal(self) -> str:
        """Why the replay server will not have this robot; empty when it will."""
        return self._sender.refusal if self._configured else ""

    # Ends -----------------------------------------------------------------------------------

    def stop_moving(self) -> None:
        """Zero command on every way out."""
        if self._configured:
            self._publish_zero()  # before anything that could fail
            self._publisher.wait_for_all_acked(Duration(seconds=0.2))
            self._stop_timers()
            self._loop.pause("node stopped")

    def close(self) -> None:
        """Ship what is left, for at most ten seconds, stop the threads and give the topics back."""
        if not self._configured:
            return
        self._configured = False
        left = self._sender.close(_FLUSH_TIMEOUT_S)
        self._receiver.close()
        self._spool.close()
        if left:
            logger.warning(
                "%d steps are not stored by the replay server yet: they stay in %s until the next start",
                left,
                self._spool.path,
            )
        self.destroy_subscription(self._subscription)
        self.destroy_publisher(self._publisher)
        for service in self._estop_services:
            self.destroy_service(service)


def _rate(outcomes: deque[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else -1.0


def _percentile(values: deque[float], percent: float) -> float:
    return float(np.percentile(list(values), percent)) if values else -1.0


def _jitter(intervals_ms: deque[float]) -> float:
    """99th percentile of the distance of tick intervals from their median (ms)."""
    if not intervals_ms:
        return -1.0
    intervals = np.array(list(intervals_ms))
    return float(np.percentile(np.abs(intervals - np.median(intervals)), 99))


def run_robot(fleet: FleetConfig, robot_id: str, run_dir: Path, ros_args: list[str] | None = None) -> int:
    """Run one robot until SIGINT, SIGTERM or a fleet stop; returns the exit status.

    Args:
        fleet: The loaded config.
        robot_id: Which robot of it.
        run_dir: Where its spool lies; on the robot's own disk.
        ros_args: What goes to ROS.
    """
    remap = ["-r", f"/clock:=/{robot_id}/clock"] if fleet.entry(robot_id).robot.sim else []
    stop = stop_on_signals()
    rclpy.init(args=["--ros-args", *remap, *(ros_args or [])], signal_handler_options=SignalHandlerOptions.NO)
    node = RobotNode(fleet, robot_id, run_dir)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return EXIT_CONFIG
        node.trigger_activate()
        notify_ready()
        while not stop.is_set() and not node.stop_requested:
            executor.spin_once(timeout_sec=0.1)
            node.obey_commands()
            if node.refusal:
                return EXIT_CONFIG
    finally:
        node.stop_moving()
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
