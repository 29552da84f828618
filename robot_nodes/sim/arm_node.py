"""A simulated arm whose process lets time pass: by the wall clock, or in lock-step with a controller."""

from __future__ import annotations

import logging
import threading
import time

from rclpy.executors import SingleThreadedExecutor

from fleet.ready import notify_ready
from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig
from robot_nodes.sim.arm_topics import ArmTopics, whole_ratio
from robot_nodes.sim.simulated_arm import SimulatedArm

logger = logging.getLogger(__name__)

_LONGEST_SPIN_S = 0.1  # a signal is seen within this
_REALIGN_PERIODS, _REALIGN_S = 200, 0.005
_LONGEST_LAG_S = 0.2  # after a longer stall the schedule starts anew instead of catching up in a burst


class ArmNode(ArmTopics):
    """The topics of a simulated arm, and the time that passes for it.

    With `sim.lockstep_timeout_s` the arm waits, at each multiple of the control period, for the command
    that answers the joint states just published, so runs faster than real time keep its timing. A
    controller that ticks between these instants makes every wait time out: publish joint states at the
    control rate then. An arm nobody commands runs in real time, so that an idle simulation costs little.

        node = ArmNode(robot, "robot_1", scene, seed=0, executor=executor)
        node.run(MujocoArm(robot), stop)
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
        if config.sim is not None:  # without one there are no topics
            ratio = config.sim.joint_state_rate_hz / config.control_rate_hz
            self._states_per_period = whole_ratio(ratio, "joint_state_rate_hz", "control_rate_hz")
        super().__init__(config, robot_id, scene, seed)
        if self.sim.lockstep_timeout_s > 0 and self._states_per_period > 1:
            logger.warning(
                "%s: in lock-step with %d joint states per control period, a controller on ROS time may tick "
                "between two periods and never be waited for; set sim.joint_state_rate_hz to control_rate_hz",
                robot_id,
                self._states_per_period,
            )
        self._state_period_s = 1.0 / self.sim.joint_state_rate_hz
        self._periods = 0
        self._due_s = time.monotonic()
        self._spinner = executor
        executor.add_node(self)

    def run(self, arm: SimulatedArm, stop: threading.Event) -> None:
        """Let time pass for this arm until `stop` is set.

        Raises:
            OSError: The simulator is gone.
        """
        self.arm = arm
        try:
            while not stop.is_set():
                self.run_control_period(stop)
                notify_ready()  # with the first states published
        finally:
            self.arm = None

    def run_control_period(self, stop: threading.Event) -> None:
        """Advance by one control period: publish on the way, obey commands, keep to the set speed."""
        assert self.arm is not None, "no simulator, no time"
        lockstep = self.sim.lockstep_timeout_s > 0 and self.has_commander()
        # Free or in lock-step, an arm is as fast as it can be only for somebody who commands it.
        speed = self.sim.speed if self.has_commander() else self.sim.speed or 1.0
        for i in range(self._states_per_period):
            self.arm.step(self._state_period_s)
            at_boundary = i == self._states_per_period - 1
            if lockstep and at_boundary:
                self._drop_late_answers(stop)
            self.publish()
            if lockstep and at_boundary:
                self._wait_for_command(stop)
            self._pace(speed, stop)
            if stop.is_set():
                return

    def _drop_late_answers(self, stop: threading.Event) -> None:
        """Obey what has arrived: it answers an earlier state, so it is not the command to wait for.

        One command too many (a stop, say) ends a wait early, and from then on each wait would end with
        the answer to the state before. So now and then this waits for an answer that is on its way.
        """
        self._periods += 1
        self.spin_until(
            time.monotonic() + (_REALIGN_S if self._periods % _REALIGN_PERIODS == 0 else 0.0), stop
        )

    def _wait_for_command(self, stop: threading.Event) -> None:
        self.spin_until(time.monotonic() + self.sim.lockstep_timeout_s, stop, until_command=True)

    def _pace(self, speed: float, stop: threading.Event) -> None:
        """Obey what has arrived; with a speed, until the wall time of the next joint states."""
        now_s = time.monotonic()
        if speed == 0.0:
            self._due_s = now_s
            if self.sim.lockstep_timeout_s == 0.0:  # in lock-step the wait has spun already
                self.spin_until(now_s, stop)
            return
        self._due_s = max(self._due_s + self._state_period_s / speed, now_s - _LONGEST_LAG_S)
        self.spin_until(self._due_s, stop)

    def spin_until(self, until_s: float, stop: threading.Event, *, until_command: bool = False) -> None:
        """Obey commands until the steady time `until_s` (s), at least those which have arrived already."""
        before = self.commands
        self._spinner.spin_once(timeout_sec=0)
        while not stop.is_set() and not (until_command and self.commands > before):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            self._spinner.spin_once(timeout_sec=min(left_s, _LONGEST_SPIN_S))
