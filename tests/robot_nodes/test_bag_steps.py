"""Joint states and commands in order of arrival, cut into steps of one control period."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_nodes.bag_steps import MISSING, Step, StepCutter
from robot_nodes.joint_states import JointReading

MS = 1_000_000
PERIOD_S = 0.05


class Cuts:
    """A cutter of 20 Hz with what came out of it; times in ms, of arrival and measurement alike."""

    def __init__(self, commanded: bool = True) -> None:
        self.steps: list[Step] = []
        self.cuts: list[str] = []
        self.cutter = StepCutter(PERIOD_S, commanded, self.steps.append, self.cuts.append)

    def state(self, at_ms: float, arrival_ms: float | None = None) -> None:
        stamp_ns = round(at_ms * MS)
        q = np.array([at_ms])
        arrival_ns = stamp_ns if arrival_ms is None else round(arrival_ms * MS)
        self.cutter.reading(JointReading(q, q / 1000, stamp_ns), arrival_ns)

    def command(self, at_ms: float, value: float) -> None:
        self.cutter.command(np.array([value]), round(at_ms * MS))

    @property
    def rows(self) -> list[tuple[float, float, float]]:
        """Joint position before, velocity, joint position after, of each step."""
        return [(s.before.reading.q[0], s.velocity[0], s.after.reading.q[0]) for s in self.steps]


def test_a_step_begins_with_a_command_and_what_was_known_when_it_came() -> None:
    bag = Cuts()
    for tick in range(4):
        for sub in range(25):  # 500 Hz
            bag.state(50 * tick + 2 * sub)
            if sub == 3:  # the loop ticks just after the joint state of 6 ms, and never at the same phase
                bag.command(50 * tick + 2 * sub + 0.1 + 0.4 * tick, 10 * tick)
    bag.cutter.finish()
    assert bag.rows == [(6, 0, 56), (56, 10, 106), (106, 20, 156)]
    assert bag.cuts == []
    assert all(a.after is b.before for a, b in zip(bag.steps, bag.steps[1:], strict=False))


def test_commands_that_jitter_do_not_lose_or_double_a_step() -> None:
    bag = Cuts()
    times = [0, 47, 103, 150, 198, 250]  # ms
    for at_ms in range(0, 260, 2):
        bag.state(at_ms)
        for number, command_ms in enumerate(times):
            if at_ms <= command_ms < at_ms + 2:
                bag.command(command_ms + 0.5, number)
    bag.cutter.finish()
    assert [row[1] for row in bag.rows] == [0, 1, 2, 3, 4]
    assert [row[0] for row in bag.rows] == [0, 46, 102, 150, 198]


def test_faster_commands_are_averaged_by_how_long_they_were_in_force() -> None:
    bag = Cuts()
    for at_ms in range(0, 101, 2):
        bag.state(at_ms)
        if at_ms % 10 == 0:
            bag.command(at_ms, at_ms / 10)  # 100 Hz: 0, 1, 2, …
    assert bag.rows == [(0, 2.0, 50), (50, 7.0, 100)]  # means of 0…4 and 5…9


def test_much_faster_commands_do_not_shorten_the_steps() -> None:
    bag = Cuts()
    for at_ms in range(0, 201):
        bag.state(at_ms)
        if at_ms % 5 == 0:
            bag.command(at_ms, 0.0)  # the one at 45 ms is near the end of the step, the one at 50 ms nearer
    assert [(row[0], row[2]) for row in bag.rows] == [(0, 50), (50, 100), (100, 150), (150, 200)]


def test_slower_commands_stay_in_force_and_joint_states_part_the_steps() -> None:
    bag = Cuts()
    for at_ms in range(0, 161, 10):
        bag.state(at_ms)
        if at_ms % 80 == 0:
            bag.command(at_ms, at_ms / 80)  # 12.5 Hz
    assert bag.rows[:2] == [(0, 0.0, 50), (50, pytest.approx(0.4), 100)]  # from 80 to 100 ms it is 1


def test_joint_states_of_the_control_rate_need_no_commands() -> None:
    bag = Cuts(commanded=False)
    for at_ms in range(0, 301, 50):
        bag.state(at_ms)
    bag.cutter.finish()
    assert [(row[0], row[2]) for row in bag.rows] == [(50 * i, 50 * i + 50) for i in range(6)]
    assert [row[1] for row in bag.rows] == [
        row[2] / 1000 for row in bag.rows
    ]  # measured at the end of the step
    assert bag.cuts == []


def test_a_hole_in_the_joint_states_cuts_once() -> None:
    for commanded in (True, False):
        bag = Cuts(commanded)
        for at_ms in (0, 50, 100, 300, 350, 400):
            bag.state(at_ms)
            if commanded:
                bag.command(at_ms + 1, at_ms)
        bag.cutter.finish()
        assert [(row[0], row[2]) for row in bag.rows] == [(0, 50), (50, 100), (300, 350), (350, 400)]
        assert bag.cuts == [MISSING]


def test_a_controller_that_falls_silent_is_not_taken_to_command_for_ever() -> None:
    bag = Cuts()
    for at_ms in range(0, 2001, 50):
        bag.state(at_ms)
        if at_ms <= 200 or at_ms >= 1500:
            bag.command(at_ms, 1.0)
    assert bag.cuts == ["no commands"]
    starts = [row[0] for row in bag.rows]
    assert starts == [*range(0, 651, 50), *range(1500, 1951, 50)]  # half a second after the command of 200 ms


def test_commands_without_joint_states_are_not_gathered_for_ever() -> None:
    bag = Cuts()
    bag.state(0)
    for at_ms in range(5000):
        bag.command(at_ms, 1.0)
    assert bag.cuts == [MISSING]
    assert len(bag.cutter._commands) <= 1000
    for at_ms in (5000, 5050):
        bag.state(at_ms)
        bag.command(at_ms, 2.0)
    assert bag.rows == [(5000, 2.0, 5050)]


def test_times_of_arrival_that_stand_still_stop_nothing() -> None:
    bag = Cuts()
    for at_ms in range(0, 201, 50):
        bag.state(at_ms, arrival_ms=7)
        bag.command(7, at_ms)
    for at_ms in range(250, 401, 50):
        bag.state(at_ms, arrival_ms=7)
    assert [(row[0], row[2]) for row in bag.rows[:6]] == [(i, i + 50) for i in range(0, 300, 50)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_cut(bad: float) -> None:
    bag = Cuts()
    for at_ms in (0, 50, 100, 150, 200):
        bag.state(at_ms)
        bag.command(at_ms, bad if at_ms == 100 else 1.0)
    assert [(row[0], row[2]) for row in bag.rows] == [(0, 50), (150, 200)]
    assert bag.cuts == ["commands not finite"]
    bag.cutter.reading(JointReading(np.array([bad]), np.zeros(1), 250 * MS), 250 * MS)
    assert bag.cuts[1:] == ["joint states not finite"]


def test_late_and_doubled_joint_states_are_passed_over_and_a_clock_that_starts_again_cuts() -> None:
    bag = Cuts()
    bag.state(10_000)
    bag.command(10_000, 1.0)
    bag.state(10_020)
    bag.state(10_010)
    bag.state(10_020)
    bag.state(10_050)
    bag.command(10_050, 2.0)
    bag.state(0, 10_100)  # a simulation that was started again
    bag.command(10_101, 3.0)
    bag.state(50, 10_150)
    bag.command(10_151, 4.0)
    assert bag.rows == [(10_000, 1.0, 10_050), (0, 3.0, 50)]
    assert bag.cuts == ["clock went back"]


def test_a_sensor_measured_with_a_joint_state_belongs_to_it_though_it_came_later() -> None:
    bag = Cuts(commanded=False)
    for at_ms in (100, 150, 200):
        bag.cutter.sensors(np.array([at_ms - 1.0]), (at_ms - 1) * MS)
        bag.state(at_ms)
        bag.cutter.sensors(np.array([float(at_ms)]), at_ms * MS)
        bag.cutter.sensors(np.array([at_ms + 1.0]), (at_ms + 1) * MS)  # this one is of the future
    bag.cutter.finish()
    assert [(s.before.sensors[0], s.after.sensors[0]) for s in bag.steps] == [(100, 150), (150, 200)]


def test_the_end_of_a_bag_ends_a_whole_step_and_drops_a_part_of_one() -> None:
    for last_ms, steps in ((100, 2), (80, 1)):
        bag = Cuts()
        for at_ms in range(0, last_ms + 1, 10):
            bag.state(at_ms)
            if at_ms in (0, 50):
                bag.command(at_ms, 1.0)
        bag.cutter.finish()
        assert len(bag.rows) == steps
        assert bag.cuts == []


@settings(max_examples=40, deadline=None)
@given(
    st.floats(1.0, 40.0),
    st.one_of(st.none(), st.floats(1.0, 200.0)),
    st.lists(st.floats(-0.4, 0.4), min_size=60, max_size=60),
)
def test_whatever_the_rates_steps_take_about_a_period_and_follow_each_other(
    state_ms: float, command_ms: float | None, jitter: list[float]
) -> None:
    bag = Cuts(commanded=command_ms is not None)
    events = [(i * state_ms + state_ms * jitter[i % 60], True) for i in range(int(1500 / state_ms))]
    if command_ms is not None:
        events += [(i * command_ms + 0.01, False) for i in range(int(1500 / command_ms))]
    for at_ms, is_state in sorted(events):
        if is_state:
            bag.state(at_ms + 100)
        else:
            bag.command(at_ms + 100, at_ms)
    bag.cutter.finish()
    assert bag.cuts.count(MISSING) == len(bag.cuts)  # 40 ms with such jitter may well have holes
    assert len(bag.rows) >= 10
    for step in bag.steps:
        length_ms = step.after.reading.q[0] - step.before.reading.q[0]
        assert 0 < length_ms < 95
        assert abs(length_ms - 50) <= max(7.5, state_ms) + 1e-6
    if not bag.cuts:
        assert all(a.after is b.before for a, b in zip(bag.steps, bag.steps[1:], strict=False))
