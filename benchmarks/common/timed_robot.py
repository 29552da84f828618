"""`pnaf robot` with a stopwatch, which adds about a microsecond to a tick.

    python -m benchmarks.common.timed_robot OUT.npz ticks|parts robot CONFIG --id robot1 --run-dir RUN

OUT.npz holds, in seconds of the monotonic clock: `start` and `end` of each tick, `cpu` (of its thread),
`policy` (policies heard before it) and the `stamp` of its joint state (ROS time); `offer_start`, `offer_end`
and `offer_cpu` of each policy in the receiver's thread. With `parts` also, for each part of a tick, its mean
CPU time (µs) per call without other parts that it calls, and its calls.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from fleet.cli import app
from robot_nodes import guarded_commands
from robot_nodes.actor import Actor
from robot_nodes.clearance import GuardGeometry
from robot_nodes.command_channel import CommandChannel
from robot_nodes.control_loop import ControlLoop
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy_receiver import PolicyReceiver
from robot_nodes.robot import Robot
from robot_nodes.robot_node import RobotNode
from robot_nodes.tasks.reach import ReachTask
from robot_nodes.watchdogs import RobotWatchdogs

PARTS: dict[str, list[tuple[Any, str]]] = {
    "joint state": [(Robot, "_read_joint_states")],
    "tick, the rest": [(Robot, "tick")],
    "watchdogs": [(Robot, "_check"), (RobotWatchdogs, "tick")],
    "loop, the rest": [(ControlLoop, "tick")],
    "kinematics": [(Kinematics, "tool_position")],
    "observe and reward": [(ReachTask, "observe"), (ReachTask, "reward")],
    "policy": [(Actor, "act")],
    "clearance": [(GuardGeometry, "state")],
    "guard": [(guarded_commands, "guard")],
    "record and spool": [(EpisodeRecorder, "add")],
    "command": [(CommandChannel, "send")],
    "diagnostics, state": [(RobotNode, "_diagnose"), (RobotNode, "_tell_state"), (Robot, "_watch")],
}
"""What is timed with `parts`; a call within another one counts for itself only."""


class Stopwatch:
    """Times of ticks and policies, in arrays that grow without a pause."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.start, self.end, self.cpu, self.policy = array("d"), array("d"), array("d"), array("q")
        self.stamp = array("d")
        self.offer_start, self.offer_end, self.offer_cpu = array("d"), array("d"), array("d")
        self._policies = 0

    def watch_ticks(self, tick: Callable[[Any], None]) -> Callable[[Any], None]:
        """`Robot.tick`, timed."""

        def timed(robot: Any) -> None:
            policies, start, cpu = self._policies, time.monotonic(), time.thread_time()
            tick(robot)
            self.cpu.append(time.thread_time() - cpu)
            self.end.append(time.monotonic())
            self.start.append(start)
            self.policy.append(policies)
            self.stamp.append(0.0 if robot.reading is None else 1e-9 * robot.reading.stamp_ns)

        return timed

    def watch_policies(self, offer: Callable[[Any, bytes], bool]) -> Callable[[Any, bytes], bool]:
        """The receiver's treatment of a frame, timed."""

        def timed(receiver: Any, frame: bytes) -> bool:
            start, cpu = time.monotonic(), time.thread_time()
            swapped = offer(receiver, frame)
            self._policies += swapped
            self.offer_cpu.append(time.thread_time() - cpu)
            self.offer_start.append(start)
            self.offer_end.append(time.monotonic())
            return swapped

        return timed

    def arrays(self) -> dict[str, Any]:
        """What was measured, by name."""
        return {name: np.array(values) for name, values in vars(self).items() if isinstance(values, array)}


class Parts:
    """CPU time that each part of a tick takes by itself: other processes do not count, as on an idle core."""

    def __init__(self) -> None:
        """Nothing has been called yet."""
        self.ns, self.calls = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
        self._inner_ns = [0]

    def watch(self) -> None:
        """Put a stopwatch around every part."""
        for name, functions in PARTS.items():
            for owner, attribute in functions:
                setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        inner, clock = self._inner_ns, time.thread_time_ns

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0)
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                took = clock() - start
                self.ns[name] += took - inner.pop()
                self.calls[name] += 1
                inner[-1] += took

        return timed


def main() -> None:
    """Run the robot until SIGTERM, then save."""
    out, mode, *arguments = sys.argv[1:]
    watch, parts = Stopwatch(), Parts()
    if mode == "parts":
        parts.watch()
    Robot.tick = watch.watch_ticks(Robot.tick)  # type: ignore[method-assign]
    PolicyReceiver.offer = watch.watch_policies(PolicyReceiver.offer)  # type: ignore[method-assign]
    sys.argv = ["pnaf", *arguments]
    try:
        app()
    finally:
        times = {
            f"part {name}": (ns / 1e3 / max(1, parts.calls[name]), parts.calls[name])
            for name, ns in parts.ns.items()
        }
        np.savez(out, **watch.arrays(), **times)


if __name__ == "__main__":
    main()
