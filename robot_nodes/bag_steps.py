"""Joint states and commands, in order of arrival, to steps of one control period.

Two clocks: a joint state's header says when it was measured, and how long a step takes is told by these; a
command has no header, and which joint state it followed is told by their arrival in the bag.

A control loop reads the newest joint state and commands at once, so a step begins with a command: with what
was known when it came. The next command after one control period ends it. Where none comes at that time (a
controller of another rate, or one that keeps its last command), the nearest joint state does. The command of
a step is the mean of those in force, by time of arrival; of a robot of ours that is the one it sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robot_nodes.joint_states import JointReading
from robot_nodes.tasks.task import Vector

MISSING = "joint states missing"
"""Why most cuts are."""

_LONGEST_STEP = (
    1.9  # control periods, as in the control loop: what is longer is not what a policy learns from
)
_WINDOW = 0.15  # control periods around the end of a step in which a command may mark it
_COMMAND_HOLDS_NS = 500_000_000  # between joint states: drivers and controllers give up at such times
_MOST_COMMANDS = 1000  # of a step: joint states have ceased


@dataclass(slots=True)
class Tick:
    """What was known at one instant.

    Attributes:
        reading: The newest joint state.
        sensors: The newest values of all extra sensors [ns].
        arrival_ns: Of the command or the joint state that made the tick (ns).
    """

    reading: JointReading
    sensors: Vector
    arrival_ns: int


@dataclass(frozen=True, slots=True)
class Step:
    """One control period.

    Attributes:
        before: When it began.
        velocity: What was commanded in it, or, without commands, measured at its end [nq] (rad/s).
        after: When it ended; the next step's `before`, if nothing was cut.
    """

    before: Tick
    velocity: Vector
    after: Tick


class StepCutter:
    """Cuts one bag into steps.

    cutter = StepCutter(period_s, commanded, on_step, on_cut)
    in order of arrival:  cutter.sensors(values, stamp_ns) | cutter.reading(…) | cutter.command(…)
    at the end:           cutter.finish()
    """

    def __init__(
        self,
        period_s: float,
        commanded: bool,
        on_step: Callable[[Step], None],
        on_cut: Callable[[str], None],
    ) -> None:
        """Begin.

        Args:
            period_s: The control period (s).
            commanded: Steps have commands; otherwise measured velocities stand for them.
            on_step: Gets each step.
            on_cut: Gets why the next step does not follow the last one.
        """
        self._period_ns = period_s * 1e9
        self._commanded, self._on_step, self._on_cut = commanded, on_step, on_cut
        self._newest: Tick | None = None
        self._sensors: Vector = np.zeros(0)
        self._before: Tick | None = None  # of the step under way
        self._nearest: Tick | None = None  # joint state to where that step should end
        self._held: Vector | None = None  # in force when it began
        self._commands: list[tuple[int, Vector]] = []  # since then
        self._command_stamp_ns = 0  # stamp of the joint state that the newest command followed

    def sensors(self, values: Vector, stamp_ns: int = 0) -> None:
        """New values of all extra sensors [ns]; `stamp_ns` of their header, 0: none.

        What was measured no later than the newest joint state belongs to it, though it came after.
        """
        self._sensors = values
        if self._newest is not None and 0 < stamp_ns <= self._newest.reading.stamp_ns:
            self._newest.sensors = values

    def reading(self, reading: JointReading, arrival_ns: int) -> None:
        """A joint state."""
        last = self._newest
        if last is not None and reading.stamp_ns <= last.reading.stamp_ns:
            if last.reading.stamp_ns - reading.stamp_ns < _LONGEST_STEP * self._period_ns:
                return  # late or twice
            self.cut("clock went back")
        if not (np.isfinite(reading.q).all() and np.isfinite(reading.qd).all()):
            self.cut("joint states not finite")
            self._newest = None
            return
        tick = self._newest = Tick(reading, self._sensors, arrival_ns)
        if self._before is None:
            if not self._commanded:
                self._begin(tick)
            return
        if self._nearest is None or self._error_ns(tick) < self._error_ns(self._nearest):
            self._nearest = tick
        if self._elapsed_ns(tick) > (1 + _WINDOW) * self._period_ns:
            self._end_without_command(tick)

    def command(self, velocity: Vector, arrival_ns: int) -> None:
        """A command [nq] (rad/s)."""
        if self._newest is None:
            return
        if not np.isfinite(velocity).all():
            self.cut("commands not finite")
            return
        tick = Tick(self._newest.reading, self._sensors, arrival_ns)
        interval_ns = tick.reading.stamp_ns - self._command_stamp_ns
        self._command_stamp_ns = tick.reading.stamp_ns
        if self._before is None:
            self._begin(tick)
        # Of commands faster than the control rate, the one nearest to the end.
        elif self._elapsed_ns(tick) >= self._period_ns - min(_WINDOW * self._period_ns, interval_ns / 2):
            self._end(tick)
        self._commands.append((arrival_ns, velocity))
        if len(self._commands) > _MOST_COMMANDS:
            self.cut(MISSING)
            self._newest = None

    def finish(self) -> None:
        """No more comes that belongs to this step: end it with what is there."""
        end = self._nearest
        if self._before is not None and end is not None and self._error_ns(end) <= _WINDOW * self._period_ns:
            self._end(end)
        self._forget()

    def cut(self, reason: str) -> None:
        """The step under way has no outcome."""
        if self._before is not None:
            self._on_cut(reason)
        self._forget()

    def _forget(self) -> None:
        self._before = self._nearest = self._held = None
        self._commands.clear()

    def _begin(self, tick: Tick) -> None:
        for arrival_ns, velocity in self._commands:
            if arrival_ns < tick.arrival_ns:
                self._held = velocity
        self._commands = [command for command in self._commands if command[0] >= tick.arrival_ns]
        self._before, self._nearest = tick, None

    def _end(self, tick: Tick) -> None:
        before = self._before
        assert before is not None
        if self._commanded and tick.reading.stamp_ns - self._command_stamp_ns > _COMMAND_HOLDS_NS:
            self.cut("no commands")
            return
        velocity = self._in_force(before.arrival_ns, tick.arrival_ns) if self._commanded else tick.reading.qd
        self._on_step(Step(before, velocity, tick))
        self._begin(tick)

    def _end_without_command(self, tick: Tick) -> None:
        """The time for a command has passed: the nearest joint state ends the step."""
        while self._before is not None and self._elapsed_ns(tick) > (1 + _WINDOW) * self._period_ns:
            end = self._nearest or tick
            if self._elapsed_ns(end) >= _LONGEST_STEP * self._period_ns:
                self.cut(MISSING)
                break
            self._end(end)
        if self._before is None and not self._commanded:
            self._begin(tick)
        elif self._before is not None and self._before is not tick:
            self._nearest = tick

    def _in_force(self, start_ns: int, end_ns: int) -> Vector:
        """Mean command between two times of arrival [nq] (rad/s)."""
        changes = [] if self._held is None else [(start_ns, self._held)]
        changes += [(at_ns, velocity) for at_ns, velocity in self._commands if at_ns < end_ns]
        changes = changes or self._commands[:1]
        ends = [*(at_ns for at_ns, _ in changes[1:]), end_ns]
        parts = [
            (until_ns - at_ns, velocity)
            for (at_ns, velocity), until_ns in zip(changes, ends, strict=True)
            if until_ns > at_ns
        ]
        if len(parts) <= 1:
            return parts[0][1] if parts else changes[-1][1]
        durations = np.array([duration for duration, _ in parts], np.float64)
        mean: Vector = np.average([velocity for _, velocity in parts], axis=0, weights=durations)
        return mean

    def _elapsed_ns(self, tick: Tick) -> int:
        assert self._before is not None
        return tick.reading.stamp_ns - self._before.reading.stamp_ns

    def _error_ns(self, tick: Tick) -> float:
        return abs(self._elapsed_ns(tick) - self._period_ns)
