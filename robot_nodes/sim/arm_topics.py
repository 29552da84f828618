"""The topics and services of a simulated arm, whichever simulator it is in.

    <robot_id>/joint_states        ◀── SimulatedArm ◀── <robot_id>/<topics.command>, or <sim.effort_command>
    <robot_id>/<door.joint_states> ◀──┤            ◀── <robot_id>/reset_arm, reset_scene
    <robot_id>/<object.pose>       ◀──┤
    <robot_id>/clock               ◀──┘

Each robot has its own clock, so each can run as fast as its own machine allows: a node of this robot is
started with the remapping `/clock:=/<robot_id>/clock` and `use_sim_time`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from fleet.robot_config import RobotConfig
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, SceneConfig
from robot_nodes.quiet_topics import QUIET_PUBLISHER, QUIET_SUBSCRIPTION
from robot_nodes.sim.simulated_arm import SimulatedArm

logger = logging.getLogger(__name__)

_COMPLAINT_PERIOD_S = 5.0  # one line per this long about bad commands, however many there are
_MATCH_PERIOD_S = 0.2  # how often to look whether somebody commands the arm
_MOVES_RAD_S = 1e-9  # commands below this are zero

Array = NDArray[np.float64]


class ArmTopics(Node):
    """What a joint_state_broadcaster and a ForwardCommandController show of an arm, and two resets.

        topics = ArmTopics(robot, "robot_1", scene, seed=0)
        topics.arm = MujocoArm(robot)
        while True:
            executor.spin_once()  # commands and calls reach the arm
            topics.publish()

    As with the real controller the last command stays in force for ever. While somebody moves the arm by
    velocities, resets are refused: the jump would look like a step of the episode.

    Attributes:
        sim: The `sim` group of the robot's config.
        arm: The arm; None while its simulator is gone: commands are dropped then and calls answered so.
        commands: How many commands the arm was given.
        ignored_commands: How many were of a wrong length or not finite.
    """

    def __init__(self, config: RobotConfig, robot_id: str, scene: SceneConfig | None, seed: int) -> None:
        """Make the topics in the namespace `robot_id`; the seed draws the order of joint_states.

        Raises:
            ValueError: The config has no `sim`, or rates that do not divide each other.
        """
        if config.sim is None:
            raise ValueError(f"robot {config.name!r} has no sim group in its config: it is real hardware")
        self.sim = sim = config.sim
        whole_ratio(1.0 / (sim.timestep_s * sim.joint_state_rate_hz), "1 / timestep_s", "joint_state_rate_hz")
        # Neither rosout nor parameter services: fewer entities in each wait, a faster loop.
        super().__init__("sim_arm", namespace=robot_id, enable_rosout=False, start_parameter_services=False)
        self.arm: SimulatedArm | None = None
        self.commands = 0
        self.ignored_commands = 0
        self._nq = len(config.joints)
        order = np.arange(self._nq)
        self._order = _shuffled(self._nq, np.random.default_rng(seed)) if sim.shuffle_joint_order else order
        self._complained_s = -math.inf
        self._commanded = False
        self._moved: SimulatedArm | None = None  # the arm whose last command is not zero
        self._looked_s = -math.inf

        self._clock_message = Clock()
        self._clock_publisher = self._publisher(Clock, "clock")
        self._joints = _JointStates([config.joints[i] for i in self._order])
        self._state_publisher = self._publisher(JointState, config.topics.joint_states)
        self._door: _JointStates | None = None
        if scene is not None and scene.door is not None:
            self._door = _JointStates([HINGE_JOINT, HANDLE_JOINT])
            self._door_publisher = self._publisher(JointState, scene.door.joint_states)
        self._object: PoseStamped | None = None
        if scene is not None and scene.object is not None:
            self._object = PoseStamped()  # never turned: a new message's quaternion is (0, 0, 0, 1)
            self._object_publisher = self._publisher(PoseStamped, scene.object.pose)
        self._subscription = self.create_subscription(
            Float64MultiArray,
            config.topics.command if sim.command_interface == "velocity" else sim.effort_command,
            self._on_command,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            event_callbacks=QUIET_SUBSCRIPTION,
        )
        self.create_service(Trigger, "reset_arm", self._on_reset_arm)
        self.create_service(Trigger, "reset_scene", self._on_reset_scene)

    def _publisher(self, message_type: Any, topic: str) -> Any:
        """Reliable, as subscriptions of ours are best effort: that matches every combination elsewhere."""
        return self.create_publisher(message_type, topic, 1, event_callbacks=QUIET_PUBLISHER)

    @property
    def joint_order(self) -> Sequence[str]:
        """Names of the joints as joint_states has them."""
        return self._joints.message.name  # type: ignore[no-any-return]

    def publish(self) -> None:
        """Joint states, then the clock of the same instant: whoever hears the time has the states."""
        arm = self.arm
        assert arm is not None, "no simulator, nothing to publish"
        stamp = divmod(arm.time_ns, 1_000_000_000)
        self._joints.fill(stamp, arm.q[self._order], arm.qd[self._order], arm.effort[self._order])
        self._state_publisher.publish(self._joints.message)
        if self._door is not None:
            self._door.fill(stamp, arm.scene_q, arm.scene_qd)
            self._door_publisher.publish(self._door.message)
        if self._object is not None:
            self._object.header.stamp.sec, self._object.header.stamp.nanosec = stamp
            position = self._object.pose.position
            position.x, position.y, position.z = arm.scene_q.tolist()
            self._object_publisher.publish(self._object)
        self._clock_message.clock.sec, self._clock_message.clock.nanosec = stamp
        self._clock_publisher.publish(self._clock_message)

    def has_commander(self) -> bool:
        """Somebody publishes commands; looked up a few times a second of wall time."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _MATCH_PERIOD_S:
            self._looked_s = now_s
            self._commanded = self._is_commanded()
        return self._commanded

    def _is_commanded(self) -> bool:
        return self.count_publishers(self._subscription.topic_name) > 0

    def _on_command(self, message: Float64MultiArray) -> None:
        values: Array = np.asarray(message.data, dtype=np.float64)
        if values.size != self._nq:
            self._complain(f"command has {values.size} values but the arm has {self._nq} joints")
        elif not np.isfinite(values).all():
            self._complain(f"command is not finite: {values.tolist()}")
        elif (arm := self.arm) is not None:
            arm.command(values)
            self._moved = arm if np.abs(values).max() > _MOVES_RAD_S else None
            self.commands += 1

    def _complain(self, what: str) -> None:
        self.ignored_commands += 1
        now_s = time.monotonic()
        if now_s - self._complained_s >= _COMPLAINT_PERIOD_S:
            self._complained_s = now_s
            logger.error("%s; ignored (%d so far)", what, self.ignored_commands)

    def _on_reset_arm(self, _request: Any, response: Any) -> Any:
        def reset(arm: SimulatedArm) -> str:
            arm.reset()
            self._moved = None
            return f"arm put to rest at {[round(q, 4) for q in arm.q.tolist()]} rad, scene as at first"

        return self._answer(response, reset)

    def _on_reset_scene(self, _request: Any, response: Any) -> Any:
        def reset(arm: SimulatedArm) -> str:
            arm.reset_scene()
            joints = zip(arm.scene_joints, arm.scene_q.tolist(), strict=True)
            unit = "rad" if self._object is None else "m"
            told = ", ".join(f"{name} {round(q, 4) + 0.0} {unit}" for name, q in joints)
            return f"scene as at first: {told or 'nothing in it moves'}"

        return self._answer(response, reset)

    def _answer(self, response: Any, reset: Callable[[SimulatedArm], str]) -> Any:
        try:
            arm = self.arm
            if arm is None:
                raise OSError("the arm's simulator is not running")
            if arm is self._moved and self.sim.command_interface == "velocity" and self._is_commanded():
                raise OSError("the arm is commanded to move: pause the robot first (`pnaf fleet pause`)")
            response.success, response.message = True, reset(arm)
        except OSError as error:
            response.success, response.message = False, str(error)
        logger.info("%s", response.message)
        return response


class _JointStates:
    """A JointState whose arrays are filled in place: no lists are made, the setters' checks are skipped."""

    def __init__(self, names: list[str]) -> None:
        zeros = [0.0] * len(names)
        self.message = JointState(name=names, position=zeros, velocity=zeros, effort=zeros)
        self._position, self._velocity, self._effort = (
            np.frombuffer(values)
            for values in (self.message.position, self.message.velocity, self.message.effort)
        )

    def fill(self, stamp: tuple[int, int], q: Array, qd: Array, effort: Array | float = 0.0) -> None:
        """Set the time (s, ns) and the values in the order of the names."""
        self.message.header.stamp.sec, self.message.header.stamp.nanosec = stamp
        self._position[:] = q
        self._velocity[:] = qd
        self._effort[:] = effort


def whole_ratio(ratio: float, fast: str, slow: str) -> int:
    """The ratio of two rates as a whole number.

    Raises:
        ValueError: It is none; names both.
    """
    if ratio < 0.999 or abs(ratio - round(ratio)) > 1e-6 * ratio:
        raise ValueError(f"{fast} must be a whole multiple of {slow}, but is {ratio:g} times as high")
    return round(ratio)


def _shuffled(n: int, rng: np.random.Generator) -> NDArray[Any]:
    """A permutation of range(n) that moves something, if n allows."""
    order = rng.permutation(n)
    return np.roll(order, 1) if n > 1 and (order == np.arange(n)).all() else order
