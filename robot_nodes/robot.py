"""One configured robot: everything between its topics, from configure to cleanup.

joint_states ─▶ RobotWatchdogs ─▶ ControlLoop.tick ─▶ CommandChannel ─▶ <controller>/commands
                                      │      ▲
                              uplink ◀┘      └─ uplink
                           (experience)      (policies)
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import JointState

from fleet.config import FleetConfig
from fleet.messages import FleetCommand
from fleet.ready import RESTARTS_VARIABLE
from robot_nodes.command_channel import CommandChannel, DryCommandChannel
from robot_nodes.control_loop import ControlLoop
from robot_nodes.estop import Estop
from robot_nodes.estop_latch import EstopLatch
from robot_nodes.joint_states import JointReading, JointStateError, JointStateReader, OtherJointsError
from robot_nodes.kinematics import Kinematics
from robot_nodes.other_commanders import OtherCommanders
from robot_nodes.people import People
from robot_nodes.polled_topic import PolledTopic
from robot_nodes.reset_topics import ResetTopics
from robot_nodes.robot_state_folder import ArmLock, RunningMarker, arm_name, real_arms_folder
from robot_nodes.robot_stats import RobotStats
from robot_nodes.sensor_topics import SensorTopics
from robot_nodes.tasks.task import make_task
from robot_nodes.uplink import DryUplink, FleetUplink
from robot_nodes.urdf_source import load_urdf
from robot_nodes.watchdog import Surroundings, Watchdog
from robot_nodes.watchdogs import RobotWatchdogs

_FAULT_ZEROS_S = 0.5  # of a latched fault before the node goes inactive: one lost message does not matter
_DRY_FAULT_S = 5.0  # of a latched fault in a dry run before it goes on: time to read it


class Robot:
    """The parts of one robot, and what they do at each tick.

    robot = Robot(node, fleet, robot_id, spool_dir, exploration_scale=1.0)
    robot.start(); every 1/control_rate_hz, in ROS time: robot.tick()      # active
    robot.stop("node deactivated")                                         # zeros, inactive
    robot.end_in_order(); robot.close()

    Attributes:
        loop: The control loop.
        reading: The newest usable joint state; none before the first.
        policies: Hears the learner.
        watchdogs: What stops the robot besides the guard.
        stats: The robot in numbers.
        active: Control ticks run, and commands leave.
        on_fault: Called when a latched fault has been told with zeros for a while; not in a dry run.
        on_operator: Called with what an operator wants of the node as a whole: `resume` or `stop`.
    """

    def __init__(
        self,
        node: LifecycleNode,
        fleet: FleetConfig,
        robot_id: str,
        spool_dir: Path,
        *,
        exploration_scale: float,
        dry_run: bool = False,
    ) -> None:
        """Load the model, open the spool, connect to replay server and learner, make the topics.

        Raises:
            ValueError, OSError, SpoolError: It cannot be done; the text says why.
        """
        self._node = node
        config = fleet.entry(robot_id).robot
        self.reading: JointReading | None = None
        self.active = False
        self._moves_arm = not dry_run
        self.on_fault: Callable[[], object] = lambda: None
        self._fault_shown_s = _DRY_FAULT_S if dry_run else _FAULT_ZEROS_S
        self.on_operator: Callable[[FleetCommand, str], None] = lambda command, note: None
        self._fault_s: float | None = None
        self._ticked_s = 0.0  # steady time of the newest tick
        self._operator: queue.SimpleQueue[FleetCommand] = queue.SimpleQueue()
        self._marker: RunningMarker | None = None
        state_folder, state_name = spool_dir, robot_id
        with ExitStack() as parts:
            if config.sim is None and not dry_run:
                topic = node.resolve_topic_name(config.topics.command)
                state_folder = real_arms_folder()
                state_name = arm_name(node.context.get_domain_id(), topic)
                parts.callback(ArmLock(state_folder, state_name).release)  # before a publisher exists
                self._marker = RunningMarker(state_folder, state_name)
            # Early, because its process takes as long to start as everything else.
            self._commands = DryCommandChannel(node, config) if dry_run else CommandChannel(node, config)
            parts.callback(self._commands.close)
            self._operator_calls = node.create_guard_condition(self._obey_operator)
            parts.callback(node.destroy_guard_condition, self._operator_calls)
            task = make_task(fleet, robot_id)
            kinematics = Kinematics(load_urdf(config.urdf, robot_id), config.joints, config.tool_link)
            self._uplink: FleetUplink | DryUplink = (
                DryUplink(fleet, robot_id, task.spec)
                if dry_run
                else FleetUplink(
                    fleet, robot_id, spool_dir, task.spec, self._hear_operator, lambda: self.stats.heartbeat()
                )
            )
            parts.callback(self._uplink.close)
            self.policies = self._uplink.policies
            restarts = int(os.environ.get(RESTARTS_VARIABLE, "0"))  # a restarted robot explores afresh
            seed = [fleet.seed, [entry.id for entry in fleet.robots].index(robot_id), restarts]
            self.loop = ControlLoop(
                config,
                task,
                kinematics,
                self._uplink.recorder,
                lambda: self.policies.newest,
                np.random.default_rng(seed),
                evaluate_every=fleet.evaluate_every,
                exploration_scale=exploration_scale,
                learner_behind=self._uplink.learner_behind,
                dry_run=dry_run,
            )
            if restarts and config.sim is None:
                # A fault may have been latched in the process that died.
                self.loop.pause("started again after a crash: look at the robot, then `pnaf fleet resume`")
            elif self._marker is not None and self._marker.found:
                self.loop.pause(
                    "it did not end in order the last time: look at the robot, then `pnaf fleet resume`"
                )
            self._reader = JointStateReader(config.joints, needs_effort=config.limits.max_effort is not None)
            # Not depth 1: a gripper's message on the same topic would push out the arm's.
            self._joint_states = PolledTopic(node, JointState, config.topics.joint_states)
            parts.callback(self._joint_states.close)
            self.watchdogs = RobotWatchdogs(config, self._joint_states.name, self._commands.topic)
            if config.watchdogs.other_commander is not None:
                ours = 0 if dry_run else 1
                self._others: OtherCommanders | None = OtherCommanders(node, self._commands.topic, ours=ours)
            else:
                self._others = None
            self.stats = RobotStats(self.loop, self._uplink, self.watchdogs)
            self._sensors = SensorTopics(node, config.sensors)
            parts.callback(self._sensors.close)
            self._reset_topics = ResetTopics(node, config, self.loop, dry_run=dry_run)
            parts.callback(self._reset_topics.close)
            parts.callback(People(node, self.loop, config.teleop).close)
            latch = None if dry_run else EstopLatch(state_folder, state_name)
            self._estop = Estop(node, config.external_estop, latch, self._stop_latched, self._clear_estop)
            parts.callback(self._estop.close)
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            watch = node.create_timer(self._commands.feed_period_s, self._watch, clock=steady)
            parts.callback(node.destroy_timer, watch)
            self._uplink.start()
            self._parts = parts.pop_all()

    # Ends and beginnings --------------------------------------------------------------------

    def start(self) -> bool:
        """Let the robot move; returns whether the process that commands zeros has found the controller."""
        if self._marker is not None:
            self._marker.set()
        self._commands.renew()
        matched = self._commands.await_match()
        self._fault_s = None
        self.watchdogs.restart()
        self.active = True
        self._commands.feed(on_duty=True)
        return matched

    def stop(self, note: str) -> None:
        """Zero command, and no ticks from now on."""
        self._commands.stop()  # before anything that could fail
        self.active = False
        self.loop.pause(note)
        self._reset_topics.serve()

    def end_in_order(self) -> None:
        """The robot stands still and nobody needs to look at it before it is started again."""
        if self._marker is not None:
            try:
                self._marker.clear()
            except OSError as error:
                self._node.get_logger().error(f"the next start will wait for a resume: {error}")

    def close(self) -> None:
        """Ship what is left, for at most ten seconds, stop the threads and give the topics back."""
        self._parts.close()

    @property
    def refusal(self) -> str:
        """Why the replay server will not have this robot; empty when it will."""
        return self._uplink.refusal

    # Each joint state, each tick ------------------------------------------------------------

    def _read_joint_states(self) -> None:
        """Take the newest joint state of this robot, if there is a new one."""
        for message in self._joint_states.newest_first():
            now_s = time.monotonic()
            try:
                reading = self._reader.read(message)
            except OtherJointsError as error:
                self.watchdogs.other_joints(str(error))
                continue
            except JointStateError as error:
                self.watchdogs.bad_state(str(error), now_s)
                self.stats.bad_joint_states += 1
                self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
            else:
                if self.watchdogs.state(reading, now_s):
                    self.reading = reading
            return

    def tick(self) -> None:
        """Observe, act, guard, command; or command zero when a watchdog trips."""
        began_s, ros_ns, loop = time.monotonic(), self._node.get_clock().now().nanoseconds, self.loop
        self._ticked_s = began_s
        self._read_joint_states()
        reading = self.reading
        if reading is not None:
            moving = self._moves_arm and (loop.phase == "episode" or bool(loop.command.any()))
            self.watchdogs.tick(ros_ns, reading, loop.command, moving=moving)
        sensors, stale = self._sensors.read(began_s)
        tripped = self._check(began_s, ros_ns, stale)
        if tripped is not None or reading is None:
            self._hold(tripped)
        else:
            loop.blocked = self._uplink.blocked
            self._commands.send(loop.tick(reading, began_s, sensors))
            self._reset_topics.serve()
        self.stats.tick(began_s, time.monotonic())

    def _check(self, steady_s: float, ros_ns: int, stale_sensor: str) -> Watchdog | None:
        newest = self.policies.newest
        return self.watchdogs.check(
            Surroundings(
                steady_s=steady_s,
                ros_ns=ros_ns,
                subscribers=self._commands.subscribers,
                zero_problem=self._commands.problem,
                zero_ready=self._commands.ready,
                external_estop=self._estop.missing,
                sensor=stale_sensor,
                spool=self._uplink.spool_full,
                other_commander="" if self._others is None else self._others.look(steady_s),
                policy_age_s=None if newest is None else steady_s - newest.received_s,
            )
        )

    def _hold(self, tripped: Watchdog | None) -> None:
        """Command zero, now; then what the watchdog's action says."""
        self._commands.zero()
        if tripped is not None:
            self.loop.hold(tripped.text, "latch" if tripped.latches else "wait")
        self._reset_topics.serve()

    def _watch(self) -> None:
        """On wall time: ROS time stands still when a simulator dies, and the control ticks with it."""
        now_s = time.monotonic()
        self._commands.feed(on_duty=self.active)
        self._estop.watch(now_s)
        if not self.active or now_s - self._ticked_s > self._commands.feed_period_s:  # ticks do it, too
            self._read_joint_states()
            ros_ns = self._node.get_clock().now().nanoseconds
            tripped = self._check(now_s, ros_ns, self._sensors.read(now_s)[1])
            if self.active and tripped is not None:
                self._hold(tripped)
        if not self.active or self.loop.phase != "fault":
            self._fault_s = None
            return
        self._commands.zero()
        if self._fault_s is None:
            self._fault_s = now_s
        elif now_s - self._fault_s > self._fault_shown_s:
            (self.on_fault if self._moves_arm else self._go_on)()

    def _go_on(self) -> None:
        """After a fault in a dry run, in which nothing can move: nobody has to look at the robot first."""
        self.watchdogs.restart()
        self.loop.resume("dry run: goes on after a fault")

    # People ---------------------------------------------------------------------------------

    def _hear_operator(self, command: FleetCommand) -> None:
        """By the sender's thread."""
        self._operator.put(command)
        self._operator_calls.trigger()

    def _obey_operator(self) -> None:
        """Do what the operator has asked for, active or not."""
        while not self._operator.empty():
            command = self._operator.get()
            note = f"{command.kind} by the operator" + (f": {command.reason}" if command.reason else "")
            self._node.get_logger().info(note)
            if command.kind in ("pause", "stop"):
                self._commands.zero()
                self.loop.pause(note)
            if command.kind == "estop":
                self._estop.trip(note)
            elif command.kind == "resume" and self.active:
                self._commands.renew()
                self.loop.resume(note)
            else:
                self.on_operator(command, note)
            self._reset_topics.serve()

    def _stop_latched(self, reason: str) -> None:
        self._commands.zero()
        self.loop.estop(reason)
        self._reset_topics.serve()

    def _clear_estop(self) -> str:
        self.loop.reset_estop("e-stop cleared; waiting for `pnaf fleet resume`")
        return self.loop.phase
