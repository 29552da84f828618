"""The ROS 2 node on each robot.

A lifecycle node: configure connects (robot_nodes/robot.py), activate moves, deactivate sends zeros. A
forward command controller has no watchdog of its own, so every way out of here commands zeros first; when
this process cannot, the one behind CommandChannel does. A latched fault ends in zeros and an inactive node,
which a person activates again: by `pnaf fleet resume` or as any lifecycle node.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from fleet.config import FleetConfig
from fleet.messages import FleetCommand
from fleet.run_folder import RunFolder
from robot_nodes.diagnostics import Snapshot, diagnose
from robot_nodes.node_names import ROBOT_NODE
from robot_nodes.robot import Robot
from robot_nodes.robot_parameters import RobotParameters
from robot_nodes.spool import SpoolError
from robot_nodes.state_topics import StateTopics

logger = logging.getLogger(__name__)

_DIAGNOSTICS_PERIOD_S = 1.0
_MOVING = ("waiting", "resetting", "episode")

Transition = Callable[["RobotNode", LifecycleState], TransitionCallbackReturn]


def _told(transition: Transition) -> Transition:
    """Log an exception in a transition: rclpy makes an error of it without a word."""

    @functools.wraps(transition)
    def wrapped(node: RobotNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            logger.exception("%s failed", transition.__name__)
            return TransitionCallbackReturn.ERROR

    return wrapped


class RobotNode(LifecycleNode):
    """One robot of the fleet.

    Attributes:
        robot: What configure has made; none before it and after cleanup.
        on_tick: Called after each control tick, and once a second: ROS time may stand still.
        stop_requested: Somebody wants the process to end.
    """

    def __init__(self, fleet: FleetConfig, robot_id: str, run_dir: Path, dry_run: bool = False) -> None:
        """Declare the parameters; everything else comes with configure.

        Args:
            fleet: The loaded config.
            robot_id: Which robot of it.
            run_dir: Where its spool lies; on the robot's own disk.
            dry_run: Hear everything, but command, record and call nothing.
        """
        entry = fleet.entry(robot_id)
        super().__init__(
            ROBOT_NODE,
            namespace=robot_id,
            parameter_overrides=[Parameter("use_sim_time", value=entry.robot.sim is not None)],
        )
        self._fleet, self._robot_id, self._dry_run = fleet, robot_id, dry_run
        self._spool_dir = RunFolder(run_dir).spool
        self._rate_hz = entry.robot.control_rate_hz
        scale = fleet.exploration_scale(robot_id)
        self._settings = RobotParameters(self, entry.robot, scale, self._explore)
        self._state_topics = StateTopics(self, robot_id)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._diagnose, clock=steady)
        self._tick_timer: Timer | None = None
        self._paused_by_lifecycle = self._inactive_by_fault = False
        self.robot: Robot | None = None
        self.on_tick: Callable[[Robot], None] | None = None
        self.stop_requested = False

    # Lifecycle ------------------------------------------------------------------------------

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the robot's model, open its spool, connect to replay server and learner, make the topics."""
        try:
            self.robot = Robot(
                self,
                self._fleet,
                self._robot_id,
                self._spool_dir,
                exploration_scale=self._settings.exploration_scale,
                dry_run=self._dry_run,
            )
        except (ValueError, OSError, SpoolError) as error:
            logger.error("cannot configure %s: %s", self._robot_id, error)
            return TransitionCallbackReturn.FAILURE
        self.robot.on_fault, self.robot.on_operator = self._on_fault, self._on_operator
        self._paused_by_lifecycle = self._inactive_by_fault = False
        logger.info("%s configured%s", self._robot_id, " for a dry run" if self._dry_run else "")
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the robot move: after a fault, too, but not after an e-stop."""
        assert self.robot is not None
        if not self.robot.start():
            logger.warning("the process that commands zeros in an emergency finds no controller: not moving")
        if self.robot.loop.phase == "fault" or self._paused_by_lifecycle:
            self.robot.loop.resume("node activated")
        self._paused_by_lifecycle = self._inactive_by_fault = False
        self._tick_timer = self.create_timer(1.0 / self._rate_hz, self._on_tick)
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop moving: zero command, no more ticks."""
        assert self.robot is not None
        self._paused_by_lifecycle = self.robot.loop.phase in _MOVING
        self._stop("node deactivated")
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ship what is left, disconnect and give the topics back."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop moving and end the process."""
        self.stop_moving()
        self.stop_requested = True
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop moving and give everything back: the node can be configured again."""
        self.stop_moving()
        self.close(orderly=False)
        return TransitionCallbackReturn.SUCCESS

    def _on_fault(self) -> None:
        """Go inactive; a person's resume ends that, even if an e-stop and its reset came in between."""
        self._inactive_by_fault = True
        self.trigger_deactivate()

    def _on_operator(self, command: FleetCommand, note: str) -> None:
        """What an operator wants of the node as a whole."""
        assert self.robot is not None
        if command.kind == "stop":
            self.stop_requested = True
        elif command.kind == "resume" and self.robot.loop.phase == "fault":
            self.trigger_activate()
        elif command.kind == "resume" and self.robot.loop.phase == "paused" and self._inactive_by_fault:
            self.robot.loop.resume(note)
            self.trigger_activate()
        elif command.kind == "resume":
            self.get_logger().error(f"{note}: the node is inactive, activate it (lifecycle, `activate`)")

    # Timers ---------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        assert self.robot is not None
        self.robot.tick()
        self._tell_state()
        if self.on_tick is not None:
            self.on_tick(self.robot)

    def _tell_state(self) -> None:
        if self.robot is None:
            self._state_topics.tell("unconfigured", "")
        else:
            self._state_topics.tell(self.robot.loop.phase, self.robot.loop.note)

    def _diagnose(self) -> None:
        self._tell_state()  # what has changed while nothing ticks
        lifecycle = str(self._state_machine.current_state[1])
        snapshot = Snapshot(lifecycle) if self.robot is None else self.robot.stats.snapshot(lifecycle)
        self._state_topics.diagnose(diagnose(snapshot))
        if self.robot is not None and self.on_tick is not None:
            self.on_tick(self.robot)

    def _explore(self, scale: float) -> None:
        if self.robot is not None:
            self.robot.loop.exploration_scale = scale

    # Ends -----------------------------------------------------------------------------------

    def _stop(self, note: str) -> None:
        if self.robot is not None:
            self.robot.stop(note)  # before anything that could fail
        if self._tick_timer is not None:
            self.destroy_timer(self._tick_timer)
            self._tick_timer = None
        self._tell_state()

    def stop_moving(self) -> None:
        """Zero command on every way out."""
        self._stop("node stopped")

    def close(self, *, orderly: bool = True) -> None:
        """Ship what is left, for at most ten seconds, stop the threads and give the topics back.

        Args:
            orderly: Not after an error: a real arm then waits for a person when it is started again.
        """
        robot, self.robot = self.robot, None
        if robot is not None:
            if orderly:
                robot.end_in_order()
            robot.close()
