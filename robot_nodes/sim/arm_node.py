"""The simulated arm's process: the topics that ros2_control offers for a real arm, and a clock.

    <robot_id>/joint_states ◀── MujocoArm ◀── <robot_id>/<topics.command>
    <robot_id>/clock        ◀──┘

Each robot has its own clock, so each can run as fast as its own machine allows: a node of this robot is
started with the remapping `/clock:=/<robot_id>/clock` and `use_sim_time`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from fleet.config import ConfigError
from fleet.ready import notify_ready, stop_on_signals
from fleet.robot_config import RobotConfig
from robot_nodes.sim.mujoco_arm import MujocoArm

logger = logging.getLogger(__name__)

_COMPLAINT_PERIOD_S = 5.0  # one line per this long about bad commands, however many there are
_MATCH_PERIOD_S = 0.2  # how often to look whether somebody commands the arm
_LONGEST_SPIN_S = 0.1  # a signal is seen within this
_REALIGN_PERIODS, _REALIGN_S = 200, 0.005
_LONGEST_LAG_S = 0.2  # after a longer stall the schedule starts anew instead of catching up in a burst


class ArmNode(Node):
    """A `MujocoArm` behind the topics of a joint_state_broadcaster and a ForwardCommandController.

    As with the real controller the last command stays in force for ever. With
    `sim.lockstep_timeout_s` the arm waits, at each multiple of the control period, for the command that
    answers the joint states just published, so runs faster than real time keep its timing. A controller
    that ticks between these instants makes every wait time out: publish joint states at the control
    rate then. An arm nobody commands runs in real time, so that an idle simulation costs little.

        node = ArmNode(robot, "robot_1", seed=0, executor=executor)
        while not stop.is_set():
            node.run_control_period(stop)
    """

    def __init__(
        self, config: RobotConfig, robot_id: str, seed: int, executor: SingleThreadedExecutor
    ) -> None:
        """Make the topics in the namespace `robot_id`; the arm starts near home, at a place drawn by seed.

        Raises:
            ValueError: The config has no `sim`, rates that do not divide each other, or a bad URDF.
        """
        sim = config.sim
        if sim is None:
            raise ValueError(f"robot {config.name!r} has no sim group in its config: it is real hardware")
        self._states_per_period = _ratio(
            sim.joint_state_rate_hz / config.control_rate_hz, "joint_state_rate_hz", "control_rate_hz"
        )
        _ratio(1.0 / (sim.timestep_s * sim.joint_state_rate_hz), "1 / timestep_s", "joint_state_rate_hz")
        if sim.lockstep_timeout_s > 0 and self._states_per_period > 1:
            logger.warning(
                "%s: in lock-step with %d joint states per control period, a controller on ROS time may tick "
                "between two periods and never be waited for; set sim.joint_state_rate_hz to control_rate_hz",
                robot_id,
                self._states_per_period,
            )
        # Neither rosout nor parameter services: fewer entities in each wait, a faster loop.
        super().__init__("sim_arm", namespace=robot_id, enable_rosout=False, start_parameter_services=False)
        self._sim, self._nq = sim, len(config.joints)
        self._state_period_s = 1.0 / sim.joint_state_rate_hz
        rng = np.random.default_rng(seed)
        self.arm = MujocoArm(config, rng)
        self.arm.reset()
        self._order = _shuffled(self._nq, rng) if sim.shuffle_joint_order else np.arange(self._nq)
        self._spinner = executor
        executor.add_node(self)

        self.commands = 0
        self.ignored_commands = 0
        self._periods = 0
        self._complained_s = -math.inf
        self._commanded = False
        self._looked_s = -math.inf
        self._due_s = time.monotonic()

        self._clock_message = Clock()
        self._joint_states = JointState(
            name=[config.joints[i] for i in self._order],
            position=[0.0] * self._nq,
            velocity=[0.0] * self._nq,
            effort=[0.0] * self._nq,
        )
        # Views of the message's own memory: filling them makes no lists and skips the setters' checks.
        self._position = np.frombuffer(self._joint_states.position)
        self._velocity = np.frombuffer(self._joint_states.velocity)
        self._effort = np.frombuffer(self._joint_states.effort)
        # A reliable publisher and a best-effort subscriber match every combination of ros2_control.
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._state_publisher = self.create_publisher(JointState, config.topics.joint_states, 1)
        self._clock_publisher = self.create_publisher(Clock, "clock", 1)
        self._subscription = self.create_subscription(
            Float64MultiArray, config.topics.command, self._on_command, best_effort
        )

    def run_control_period(self, stop: threading.Event) -> None:
        """Advance by one control period: publish on the way, obey commands, keep to the set speed."""
        lockstep = self._sim.lockstep_timeout_s > 0 and self._has_commander()
        # Free or in lock-step, an arm is as fast as it can be only for somebody who commands it.
        speed = self._sim.speed if self._has_commander() else self._sim.speed or 1.0
        for i in range(self._states_per_period):
            self.arm.step(self._state_period_s)
            at_boundary = i == self._states_per_period - 1
            if lockstep and at_boundary:
                self._drop_late_answers(stop)
            self._publish()
            if lockstep and at_boundary:
                self._wait_for_command(stop)
            self._pace(speed, stop)
            if stop.is_set():
                return

    def _publish(self) -> None:
        """Joint states, then the clock of the same instant: whoever hears the time has the states."""
        seconds, nanoseconds = divmod(self.arm.time_ns, 1_000_000_000)
        self._position[:] = self.arm.q[self._order]
        self._velocity[:] = self.arm.qd[self._order]
        self._effort[:] = self.arm.effort[self._order]
        for stamp in (self._joint_states.header.stamp, self._clock_message.clock):
            stamp.sec, stamp.nanosec = seconds, nanoseconds
        self._state_publisher.publish(self._joint_states)
        self._clock_publisher.publish(self._clock_message)

    def _on_command(self, message: Float64MultiArray) -> None:
        velocity: NDArray[np.float64] = np.asarray(message.data, dtype=np.float64)
        if velocity.size != self._nq:
            self._complain(f"command has {velocity.size} values but the arm has {self._nq} joints")
        elif not np.isfinite(velocity).all():
            self._complain(f"command is not finite: {velocity.tolist()}")
        else:
            self.arm.command(velocity)
            self.commands += 1

    def _complain(self, what: str) -> None:
        self.ignored_commands += 1
        now_s = time.monotonic()
        if now_s - self._complained_s >= _COMPLAINT_PERIOD_S:
            self._complained_s = now_s
            logger.error("%s; ignored (%d so far)", what, self.ignored_commands)

    def _has_commander(self) -> bool:
        """Somebody publishes commands; looked up a few times a second of wall time."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _MATCH_PERIOD_S:
            self._looked_s = now_s
            self._commanded = self.count_publishers(self._subscription.topic_name) > 0
        return self._commanded

    def _drop_late_answers(self, stop: threading.Event) -> None:
        """Obey what has arrived: it answers an earlier state, so it is not the command to wait for.

        One command too many (a stop, say) ends a wait early, and from then on each wait would end with
        the answer to the state before. So now and then this waits for an answer that is on its way.
        """
        self._periods += 1
        self._spin_until(
            time.monotonic() + (_REALIGN_S if self._periods % _REALIGN_PERIODS == 0 else 0.0), stop
        )

    def _wait_for_command(self, stop: threading.Event) -> None:
        self._spin_until(time.monotonic() + self._sim.lockstep_timeout_s, stop, until_command=True)

    def _pace(self, speed: float, stop: threading.Event) -> None:
        """Obey what has arrived; with a speed, until the wall time of the next joint states."""
        now_s = time.monotonic()
        if speed == 0.0:
            self._due_s = now_s
            if self._sim.lockstep_timeout_s == 0.0:  # in lock-step the wait has spun already
                self._spin_until(now_s, stop)
            return
        self._due_s = max(self._due_s + self._state_period_s / speed, now_s - _LONGEST_LAG_S)
        self._spin_until(self._due_s, stop)

    def _spin_until(self, until_s: float, stop: threading.Event, *, until_command: bool = False) -> None:
        """Obey commands until the steady time `until_s` (s), at least those which have arrived already."""
        before = self.commands
        self._spinner.spin_once(timeout_sec=0)
        while not stop.is_set() and not (until_command and self.commands > before):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            self._spinner.spin_once(timeout_sec=min(left_s, _LONGEST_SPIN_S))


def _ratio(ratio: float, fast: str, slow: str) -> int:
    """The ratio of two rates as a whole number."""
    if ratio < 0.999 or abs(ratio - round(ratio)) > 1e-6 * ratio:
        raise ValueError(f"{fast} must be a whole multiple of {slow}, but is {ratio:g} times as high")
    return round(ratio)


def _shuffled(n: int, rng: np.random.Generator) -> NDArray[Any]:
    """A permutation of range(n) that moves something, if n allows."""
    order = rng.permutation(n)
    return np.roll(order, 1) if n > 1 and (order == np.arange(n)).all() else order


def run_arm(config: RobotConfig, robot_id: str, seed: int) -> None:
    """Run one simulated arm until a signal ends it.

    Raises:
        ConfigError: The robot is not simulated, or its model and rates do not fit.
    """
    stop = stop_on_signals()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    try:
        try:
            node = ArmNode(config, robot_id, seed, executor)
        except ValueError as error:
            raise ConfigError(f"cannot simulate {robot_id}: {error}") from error
        try:
            notify_ready()
            logger.info("%s: simulated arm ready, joint order %s", robot_id, node._joint_states.name)
            while not stop.is_set():
                node.run_control_period(stop)
        finally:
            executor.remove_node(node)
            node.destroy_node()
    finally:
        executor.shutdown()
        rclpy.try_shutdown()
