"""What stops the robot besides the guard: one watchdog per thing that can go wrong, each with its own text.

    watchdogs = RobotWatchdogs(robot, topic)
    each JointState:    watchdogs.state(reading, now_s) or .bad_state(error, now_s)
    each control tick:  watchdogs.tick(ros_ns, reading, command)
    then:               tripped = watchdogs.check(Surroundings(…))
                        if tripped: zero command, then tripped.reaction

No ROS and no clock of its own: times come in, steady ones (s) and ROS times (ns). A watchdog that has
never seen what it watches (no joint state yet, no controller yet) only lets the robot wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fleet.robot_config import CountWatchdog, RobotConfig, TimeWatchdog
from robot_nodes.following import Following
from robot_nodes.joint_states import JointReading
from robot_nodes.watchdog import Surroundings, Watchdog

Array = npt.NDArray[np.float64]


class RobotWatchdogs:
    """All watchdogs of one robot."""

    def __init__(self, robot: RobotConfig, joint_states: str, command: str) -> None:
        """Take the limits from the config; the names of the topics are for the texts."""
        config = self._config = robot.watchdogs
        self._joints, self._states_topic, self._command_topic = robot.joints, joint_states, command
        self._period_ns = round(1e9 / robot.control_rate_hz)
        late, tracking = config.late_ticks, config.tracking
        # In the order in which they are asked: what explains the others comes first.
        order = config.state_order
        watchdogs: list[tuple[Watchdog, Callable[[Surroundings, Watchdog], str]]] = [
            (Watchdog("loop_hang", f"{config.loop_hang_s:g} s", "latch"), self._loop_hang),
            (_in_a_row("non_finite", config.non_finite), self._non_finite),
            (_in_a_row("bad_states", config.bad_states), self._bad_states),
            (_in_a_row("state_order", order), self._state_order),
            (_seconds("state_silence", config.state_silence, armed=False), self._state_silence),
            (_seconds("state_age", config.state_age, armed=False), self._state_age),
            (_seconds("command_subscriber", config.command_subscriber, armed=False), self._subscriber),
            (
                Watchdog("late_ticks", f"{late.limit} in a row late by {late.late_s:g} s", late.action),
                self._late_ticks,
            ),
            (Watchdog("sensor_age", "max_age_s of each sensor", config.sensor_age), self._sensor_age),
            # The control loop sees to these itself: a person may go on moving the robot, for one thing.
            (
                Watchdog(
                    "spool_full", "spool.max_mb", config.spool_full, by_loop=config.spool_full == "wait"
                ),
                self._spool_full,
            ),
            (
                Watchdog(
                    "policy_age",
                    f"{config.policy_age.limit_s:g} s",
                    config.policy_age.action,
                    by_loop=True,
                ),
                self._policy_age,
            ),
        ]
        if robot.external_estop is not None:
            watchdogs.append((Watchdog("external_estop", "heard once", "wait"), self._external_estop))
        if config.other_commander is not None:
            others = Watchdog("other_commander", "nobody else", config.other_commander)
            watchdogs.append((others, self._other_commander))
        if robot.limits.max_effort is not None:
            effort = Watchdog("effort", "limits.max_effort", config.effort, by_loop=True)
            watchdogs.append((effort, self._overload))
        if tracking is not None:
            limit = f"{tracking.limit_rad:g} rad in {tracking.window_s:g} s"
            watchdogs.append((Watchdog("tracking", limit, tracking.action), self._tracking))
        self._checks = watchdogs
        self.by_name = {watchdog.name: watchdog for watchdog, _ in watchdogs}
        self._state_arrived_s = self._usable_arrived_s = -math.inf
        self._subscribed_s = self._zero_ready_s = -math.inf
        self._stamp_ns = self._newest_stamp_ns = self._in_time_stamp_ns = -1
        self._simulated = robot.sim is not None
        self._out_of_order = self._bad = self._not_finite = self._late = 0
        self._bad_error = self._others = ""
        self._late_by_s = 0.0
        self._most_effort = None if robot.limits.max_effort is None else np.array(robot.limits.max_effort)
        self._effort: Array | None = None
        self._last_tick_ns: int | None = None
        self._following = Following(robot) if tracking is not None else None

    # What happens -----------------------------------------------------------------------------

    def state(self, reading: JointReading, steady_s: float) -> bool:
        """A joint state that fits together has arrived; returns whether the loop may use it."""
        self._state_arrived_s, self._bad = steady_s, 0
        self.by_name["state_silence"].armed = True
        parts = [reading.q, reading.qd]
        if self._most_effort is not None and reading.effort is not None:
            self._effort = reading.effort
            parts.append(reading.effort)
        finite = all(np.isfinite(part).all() for part in parts)
        self._not_finite = 0 if finite else self._not_finite + 1
        in_order = reading.stamp_ns > self._stamp_ns
        self._out_of_order = 0 if in_order else self._out_of_order + 1
        if in_order or self._out_of_order >= self._config.state_order.limit:
            self._stamp_ns = reading.stamp_ns  # set back for good: go on from there
        if not (finite and in_order):
            return False
        self._newest_stamp_ns, self._usable_arrived_s = reading.stamp_ns, steady_s
        return True

    def bad_state(self, error: str, steady_s: float) -> None:
        """A joint state has arrived that lacks a joint or does not fit together."""
        self._state_arrived_s = steady_s
        self.by_name["state_silence"].armed = True
        self._bad, self._bad_error = self._bad + 1, error

    def other_joints(self, error: str) -> None:
        """A joint state has arrived that is not about this robot: no fault, but it may explain a silence."""
        self._others = f" ({error})"

    def tick(self, ros_ns: int, reading: JointReading, command: Array, *, moving: bool) -> None:
        """A control tick.

        Args:
            ros_ns: ROS time (ns).
            reading: The newest usable joint state.
            command: What was commanded at the last tick [nq] (rad/s).
            moving: These commands move the robot; not so when something else does, or nothing.
        """
        if self._last_tick_ns is not None:
            late_ns = ros_ns - self._last_tick_ns - self._period_ns
            self._late = self._late + 1 if late_ns > self._config.late_ticks.late_s * 1e9 else 0
            self._late_by_s = late_ns * 1e-9
        self._last_tick_ns = ros_ns
        if self._following is not None:
            if moving:
                self._following.add(ros_ns, reading, command)
            else:
                self._following.clear()

    def restart(self) -> None:
        """Ticks begin (again): what was counted before them is over."""
        self._last_tick_ns, self._late = None, 0
        if self._following is not None:
            self._following.clear()

    # What follows -----------------------------------------------------------------------------

    def check(self, now: Surroundings) -> Watchdog | None:
        """The watchdog whose reaction is due: one that latches, else the first that waits, else none."""
        due: Watchdog | None = None
        for watchdog, check in self._checks:
            text = check(now, watchdog)
            if text and not watchdog.text and watchdog.armed:
                watchdog.trips += 1
            watchdog.text = text
            if text and not watchdog.by_loop:
                due = watchdog if due is None or (watchdog.latches and not due.latches) else due
        return due

    def _loop_hang(self, now: Surroundings, watchdog: Watchdog) -> str:
        watchdog.armed = bool(now.zero_problem)
        if now.zero_problem:
            return now.zero_problem
        if now.zero_ready or now.subscribers == 0:
            self._zero_ready_s = now.steady_s if now.zero_ready else self._zero_ready_s
            return ""
        if now.steady_s - self._zero_ready_s <= self._config.command_subscriber.limit_s:
            return ""  # a controller that was started again: one of us has found it first
        return f"the process that commands zeros in an emergency does not reach {self._command_topic} yet"

    def _non_finite(self, now: Surroundings, watchdog: Watchdog) -> str:
        if self._not_finite < self._config.non_finite.limit:
            return ""
        return (
            f"joint states are not finite ({self._not_finite} in a row, limit {watchdog.limit}): "
            "check the driver, its encoders and their wiring"
        )

    def _bad_states(self, now: Surroundings, watchdog: Watchdog) -> str:
        if self._bad < self._config.bad_states.limit:
            return ""
        return f"{self._bad_error} ({self._bad} in a row, limit {self._config.bad_states.limit})"

    def _state_order(self, now: Surroundings, watchdog: Watchdog) -> str:
        if self._out_of_order < self._config.state_order.limit:
            return ""
        return (
            f"{self._out_of_order} joint states in a row were not newer than the one before "
            f"(limit {self._config.state_order.limit}): do two drivers publish {self._states_topic}, "
            "or does the driver repeat old states?"
        )

    def _state_silence(self, now: Surroundings, watchdog: Watchdog) -> str:
        if not watchdog.armed:
            topic = self._states_topic
            return f"no joint states yet on {topic}: is the driver of the arm running?{self._others}"
        silence_s = now.steady_s - self._state_arrived_s
        if silence_s <= self._config.state_silence.limit_s:
            return ""
        return (
            f"no joint states for {silence_s:.1f} s (limit {watchdog.limit}): "
            f"is the driver that publishes {self._states_topic} still running?{self._others}"
        )

    def _state_age(self, now: Surroundings, watchdog: Watchdog) -> str:
        if self._newest_stamp_ns < 0:
            return ""  # none yet: others tell why
        age_s = (now.ros_ns - self._newest_stamp_ns) * 1e-9
        if abs(age_s) <= self._config.state_age.limit_s:
            # Only now: a robot whose clocks have never agreed waits.
            self._in_time_stamp_ns, watchdog.armed = self._newest_stamp_ns, True
            return ""
        if self._newest_stamp_ns == 0:
            return (
                "joint states are without a time stamp (0), so nobody knows how old they are: fix the driver"
            )
        if age_s < 0 and self._simulated:
            # The simulator stamps and keeps the clock: what it said last has not been heard here yet.
            watchdog.armed = False
            return (
                f"joint states are stamped {-age_s:.2f} s ahead of the simulator's clock as heard so far "
                f"(limit {watchdog.limit}): does /clock come, or is this computer overloaded?"
            )
        if age_s < 0:
            return (
                f"joint states are stamped {-age_s:.2f} s ahead of our clock (limit {watchdog.limit}): "
                "synchronise the clocks of the driver's computer and this one"
            )
        old = f"joint states are {age_s:.2f} s old (limit {watchdog.limit}): "
        if self._simulated:
            return f"{old}is the simulator overloaded?"
        came_in_time = self._in_time_stamp_ns == self._newest_stamp_ns
        if came_in_time and self._state_arrived_s == self._usable_arrived_s:
            return (
                f"{old}nothing has come for {now.steady_s - self._state_arrived_s:.2f} s: is the driver that "
                f"publishes {self._states_topic} still running?{self._others}"
            )
        return f"{old}is the driver overloaded or the network slow, or do the computers' clocks differ?"

    def _subscriber(self, now: Surroundings, watchdog: Watchdog) -> str:
        if now.subscribers > 0:
            self._subscribed_s, watchdog.armed = now.steady_s, True
            return ""
        if not watchdog.armed:
            return f"no controller hears {self._command_topic} yet: is it loaded and active?"
        absence_s = now.steady_s - self._subscribed_s
        if absence_s <= self._config.command_subscriber.limit_s:
            return ""
        return (
            f"no controller has heard {self._command_topic} for {absence_s:.1f} s (limit {watchdog.limit}): "
            "load and activate the velocity controller again"
        )

    def _late_ticks(self, now: Surroundings, watchdog: Watchdog) -> str:
        if self._late < self._config.late_ticks.limit:
            return ""
        return (
            f"control ticks come late: the last by {self._late_by_s:.3f} s "
            f"({self._late} in a row, limit {watchdog.limit}): this computer is overloaded"
        )

    def _sensor_age(self, now: Surroundings, watchdog: Watchdog) -> str:
        return now.sensor

    def _external_estop(self, now: Surroundings, watchdog: Watchdog) -> str:
        return now.external_estop

    def _other_commander(self, now: Surroundings, watchdog: Watchdog) -> str:
        if not now.other_commander:
            return ""
        return (
            f"somebody else publishes on {self._command_topic}: {now.other_commander}; end it "
            "(a node that was killed is forgotten after some 20 s)"
        )

    def _overload(self, now: Surroundings, watchdog: Watchdog) -> str:
        if self._most_effort is None or self._effort is None:
            return ""
        over = np.abs(self._effort) - self._most_effort
        worst = int(over.argmax())
        if over[worst] <= 0:
            return ""
        return (
            f"{self._joints[worst]} has an effort of {self._effort[worst]:.3g} N m "
            f"(limit {self._most_effort[worst]:g} N m): see what it pushes against"
        )

    def _spool_full(self, now: Surroundings, watchdog: Watchdog) -> str:
        return now.spool

    def _policy_age(self, now: Surroundings, watchdog: Watchdog) -> str:
        age_s = now.policy_age_s
        if age_s is None or age_s <= self._config.policy_age.limit_s:
            return ""
        return f"policy is {age_s:.0f} s old (limit {watchdog.limit}): is the learner running and reachable?"

    def _tracking(self, now: Surroundings, watchdog: Watchdog) -> str:
        assert self._following is not None
        return self._following.problem


def _in_a_row(name: str, config: CountWatchdog) -> Watchdog:
    return Watchdog(name, f"{config.limit} in a row", config.action)


def _seconds(name: str, config: TimeWatchdog, *, armed: bool = True) -> Watchdog:
    return Watchdog(name, f"{config.limit_s:g} s", config.action, armed=armed)
