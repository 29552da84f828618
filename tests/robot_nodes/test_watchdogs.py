"""Watchdogs: what trips each, when it is right again, what it says, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.config_file import load_robot
from fleet.robot_config import RobotConfig
from robot_nodes.joint_states import JointReading
from robot_nodes.watchdog import Surroundings, Watchdog
from robot_nodes.watchdogs import RobotWatchdogs

ROBOT = load_robot(Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml")
MS = 1_000_000
LIMITS: dict[str, Any] = {
    "state_age": {"limit_s": 0.15, "action": "latch"},
    "state_silence": {"limit_s": 1.0, "action": "latch"},
    "state_order": {"limit": 3, "action": "wait"},
    "bad_states": {"limit": 2, "action": "latch"},
    "non_finite": {"limit": 2, "action": "latch"},
    "tracking": {"window_s": 0.5, "limit_rad": 0.1, "action": "latch"},
    "late_ticks": {"late_s": 0.02, "limit": 3, "action": "wait"},
    "command_subscriber": {"limit_s": 0.5, "action": "latch"},
    "loop_hang_s": 1.0,
    "other_commander": "wait",
    "effort": "latch",
    "sensor_age": "latch",
    "spool_full": "latch",
    "policy_age": {"limit_s": 60.0, "action": "wait"},
}


def robot_with(**changes: Any) -> RobotConfig:
    data = ROBOT.model_dump() | {"sim": None, "watchdogs": LIMITS | changes.pop("watchdogs", {})}
    data["limits"] |= changes.pop("limits", {})
    return RobotConfig.model_validate(data | changes)


class Bench:
    """Watchdogs in a world where all is well, until a test changes it. 20 ticks a second."""

    def __init__(self, robot: RobotConfig | None = None) -> None:
        self.dogs = RobotWatchdogs(robot or robot_with(), "/r/joint_states", "/r/commands")
        self.now = Surroundings(steady_s=100.0, ros_ns=0, subscribers=1, policy_age_s=0.0)
        self.q = np.zeros(7)
        self.newest = JointReading(self.q, np.zeros(7), 0)

    def state(self, stamp_ns: int | None = None, q: float = 0.0, qd: float = 0.0, **fields: Any) -> bool:
        stamp_ns = self.now.ros_ns if stamp_ns is None else stamp_ns
        reading = JointReading(np.full(7, q), np.full(7, qd), stamp_ns, **fields)
        usable = self.dogs.state(reading, self.now.steady_s)
        if usable:
            self.newest = reading
        return usable

    def passes(self, seconds: float) -> None:
        self.now = replace(
            self.now, steady_s=self.now.steady_s + seconds, ros_ns=self.now.ros_ns + round(seconds * 1e9)
        )

    def check(self, **changes: Any) -> Watchdog | None:
        return self.dogs.check(replace(self.now, **changes))

    def well(self) -> None:
        """A good reading and a check."""
        self.passes(0.05)
        assert self.state()
        assert self.check() is None, self.check()


def trip_age(bench: Bench) -> Watchdog | None:
    bench.passes(0.16)
    bench.dogs.bad_state("some other message", bench.now.steady_s)  # not silent
    return bench.check()


def trip_future(bench: Bench) -> Watchdog | None:
    bench.state(bench.now.ros_ns + 300 * MS)
    return bench.check()


def trip_silence(bench: Bench) -> Watchdog | None:
    return bench.check(steady_s=bench.now.steady_s + 1.1)  # the robot's clock stands still


def trip_order(bench: Bench) -> Watchdog | None:
    stamp_ns = bench.newest.stamp_ns
    assert not any(bench.state(s) for s in (stamp_ns, stamp_ns - MS))
    assert bench.check() is None
    assert not bench.state(stamp_ns - 2 * MS)
    return bench.check()


def trip_bad(bench: Bench) -> Watchdog | None:
    bench.dogs.bad_state("joint_states lacks joint_1", bench.now.steady_s)
    assert bench.check() is None
    bench.dogs.bad_state("joint_states lacks joint_1", bench.now.steady_s)
    return bench.check()


def trip_nan(bench: Bench) -> Watchdog | None:
    bench.passes(0.01)
    assert not bench.state(q=nan)
    assert bench.check() is None
    bench.passes(0.01)
    assert not bench.state(qd=inf)
    return bench.check()


def trip_late(bench: Bench) -> Watchdog | None:
    for interval_s in (0.0, 0.071, 0.071, 0.071):
        assert bench.check() is None
        bench.passes(interval_s)
        bench.state()
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.zeros(7), moving=False)
    return bench.check()


def trip_tracking(bench: Bench) -> Watchdog | None:
    command = np.zeros(7)
    command[2] = 0.5
    bench.dogs.restart()
    for _ in range(5):  # the first tick begins the window; 4 periods at 0.5 rad/s command 0.1 rad: no more
        assert bench.check() is None
        bench.passes(0.05)
        bench.state()
        bench.dogs.tick(bench.now.ros_ns, bench.newest, command, moving=True)
    assert bench.check() is None
    bench.passes(0.05)
    bench.state()
    bench.dogs.tick(bench.now.ros_ns, bench.newest, command, moving=True)
    return bench.check()


def trip_subscriber(bench: Bench) -> Watchdog | None:
    assert bench.check(subscribers=0) is None
    return bench.check(subscribers=0, steady_s=bench.now.steady_s + 0.6)


TRIPS: list[tuple[str, Callable[[Bench], Watchdog | None], str, bool]] = [
    ("state_age", trip_age, "joint states are 0.16 s old (limit 0.15 s): is the driver overloaded", True),
    ("state_age", trip_future, "joint states are stamped 0.30 s ahead of our clock", True),
    ("state_silence", trip_silence, "no joint states for 1.1 s (limit 1 s): is the driver that publ", True),
    ("state_order", trip_order, "3 joint states in a row were not newer than the one before", False),
    ("bad_states", trip_bad, "joint_states lacks joint_1 (2 in a row, limit 2)", True),
    ("non_finite", trip_nan, "joint states are not finite (2 in a row, limit 2", True),
    ("late_ticks", trip_late, "control ticks come late: the last by 0.021 s (3 in a row", False),
    (
        "tracking",
        trip_tracking,
        "joint_3 does not follow: it moved 0.000 rad where 0.125 rad were commanded within 0.5 s",
        True,
    ),
    ("command_subscriber", trip_subscriber, "no controller has heard /r/commands for 0.6 s (limit", True),
    ("sensor_age", lambda b: b.check(sensor="sensor imu: silent"), "sensor imu: silent", True),
    ("spool_full", lambda b: b.check(spool="the spool is full"), "the spool is full", True),
    (
        "other_commander",
        lambda b: b.check(other_commander="/joystick"),
        "somebody else publishes on /r/commands: /joystick; end it (a node that was killed is forgotten",
        False,
    ),
    ("loop_hang", lambda b: b.check(zero_problem="it stood still"), "it stood still", True),
]


@pytest.mark.parametrize(("name", "trip", "text", "latches"), TRIPS)
def test_each_trips_with_its_own_diagnosis_and_reaction(name, trip, text, latches):
    bench = Bench()
    bench.well()
    bench.well()
    tripped = trip(bench)
    assert tripped is not None
    assert tripped.name == name and tripped.latches == latches and tripped.trips == 1
    assert tripped.text.startswith(text)
    assert bench.dogs.by_name[name] is tripped


@pytest.mark.parametrize(("name", "trip", "text", "latches"), TRIPS)
def test_each_is_right_again_when_the_world_is(name, trip, text, latches):
    bench = Bench()
    bench.well()
    trip(bench)
    for _ in range(12):  # a whole window of the tracking
        bench.passes(0.05)
        bench.state()
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.zeros(7), moving=True)
    assert bench.check() is None
    trip(bench)
    assert bench.dogs.by_name[name].trips == 2


def test_in_a_row_means_in_a_row():
    bench = Bench()
    for _ in range(5):
        bench.well()
        bench.dogs.bad_state("bad", bench.now.steady_s)
        bench.passes(0.001)
        assert not bench.state(q=nan)
        assert not bench.state(bench.newest.stamp_ns)
        assert bench.check() is None


def test_a_tick_without_a_new_reading_is_ordinary():
    bench = Bench()
    bench.well()
    for _ in range(20):
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.zeros(7), moving=True)
        assert bench.check() is None


def test_a_clock_that_was_set_back_goes_on_after_the_trip():
    bench = Bench(robot_with(watchdogs={"state_age": {"limit_s": 1000.0, "action": "wait"}}))
    bench.passes(50.0)
    bench.well()
    usable = [bench.state(stamp * MS) for stamp in (1000, 1050, 1100, 1150, 1200)]
    assert usable == [False, False, False, True, True]
    assert bench.check() is None


def test_a_driver_that_falls_silent_is_not_taken_for_a_slow_network():
    bench = Bench()
    bench.well()
    bench.passes(0.16)
    tripped = bench.check()
    assert tripped is not None and tripped.text == (
        "joint states are 0.16 s old (limit 0.15 s): nothing has come for 0.16 s: "
        "is the driver that publishes /r/joint_states still running?"
    )
    bench.state(bench.now.ros_ns - 155 * MS)  # it is not: this one was old when it came
    tripped = bench.check()
    assert tripped is not None and "overloaded or the network slow" in tripped.text


def test_clocks_that_have_never_agreed_are_waited_for():
    bench = Bench()
    for ahead_ns in (3750 * MS, -3750 * MS):
        bench.passes(10.0)
        bench.state(bench.now.ros_ns + ahead_ns)
        tripped = bench.check()
        assert tripped is not None and tripped.name == "state_age" and not tripped.latches
        assert tripped.trips == 0 and "clocks" in tripped.text
    bench.well()
    tripped = trip_future(bench)
    assert tripped is not None and tripped.latches


def test_a_simulator_ahead_of_what_was_heard_of_its_clock_is_waited_for():
    bench = Bench(robot_with(sim={}))
    bench.state(3750 * MS)  # nothing was heard of /clock: ROS time is 0
    for _ in range(2):
        tripped = bench.check()
        assert tripped is not None and not tripped.latches
        assert tripped.text.startswith("joint states are stamped 3.75 s ahead of the simulator's clock")
        bench.passes(3.75)
        bench.well()
        bench.state(bench.now.ros_ns + 3750 * MS)  # the node did not look for a while


def test_states_without_a_stamp_are_told_apart():
    bench = Bench()
    bench.now = replace(bench.now, ros_ns=10**18)
    assert bench.state(0)
    tripped = bench.check()
    assert tripped is not None and tripped.text.startswith("joint states are without a time stamp (0)")


def test_what_was_never_there_is_waited_for_not_latched():
    bench = Bench()
    for text in ("no joint states yet on /r/joint_states", "no controller hears /r/commands yet"):
        tripped = bench.check(subscribers=0)
        assert tripped is not None and tripped.text.startswith(text)
        assert not tripped.latches and tripped.trips == 0
        bench.state()
    assert bench.check() is None


def test_joints_of_others_explain_a_silence():
    bench = Bench()
    bench.dogs.other_joints("joint_states lacks joint_1; it has gripper")
    tripped = bench.check()
    assert tripped is not None and "it has gripper" in tripped.text


def test_the_zero_sender_must_reach_the_controller_before_the_robot_moves():
    bench = Bench()
    bench.state()
    tripped = bench.check(zero_ready=False)
    assert tripped is not None and tripped.name == "loop_hang" and not tripped.latches
    bench.well()
    assert bench.check(zero_ready=False) is None, "a restarted controller is found by both within a moment"
    bench.passes(0.6)
    bench.state()
    tripped = bench.check(zero_ready=False)
    assert tripped is not None and tripped.name == "loop_hang"


def test_one_that_latches_goes_before_one_that_waits():
    bench = Bench()
    bench.well()
    assert trip_order(bench) is bench.dogs.by_name["state_order"]
    assert bench.check(sensor="old") is bench.dogs.by_name["sensor_age"]


@pytest.mark.parametrize("name", ["policy_age", "spool_full"])
def test_what_the_loop_sees_to_itself_is_only_told(name):
    bench = Bench(robot_with(watchdogs={"spool_full": "wait"}))
    bench.well()
    changes = {"policy_age": {"policy_age_s": 61.0}, "spool_full": {"spool": "full"}}[name]
    assert bench.check(**changes) is None
    assert bench.dogs.by_name[name].text and bench.dogs.by_name[name].trips == 1
    if name == "policy_age":
        assert bench.dogs.by_name[name].text.startswith("policy is 61 s old (limit 60 s)")


def test_efforts_are_told_with_joint_and_limit():
    bench = Bench(robot_with(limits={"max_effort": [10.0] * 7}))
    bench.well()
    bench.passes(0.05)
    assert bench.state(effort=np.array([0, 0, 0, -12.5, 0, 0, 0.0]))
    assert bench.check() is None, "the loop reacts"
    assert bench.dogs.by_name["effort"].text.startswith(
        "joint_4 has an effort of -12.5 N m (limit 10 N m): see what"
    )
    bench.passes(0.05)
    assert not bench.state(effort=np.full(7, nan)), "efforts that count must be finite"


def test_ticks_begin_anew_after_a_pause():
    bench = Bench()
    for _ in range(4):
        bench.passes(1.0)
        bench.state()
        bench.dogs.restart()
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.zeros(7), moving=True)
    assert bench.check() is None


def test_motion_by_others_is_no_fault_of_the_joints():
    bench = Bench()
    bench.well()
    for i in range(10):  # a trajectory controller moves the arm
        bench.passes(0.05)
        bench.state(q=0.1 * i)
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.zeros(7), moving=False)
        assert bench.check() is None


def test_a_joint_that_runs_away_trips():
    bench = Bench()
    bench.well()
    for i in range(4):
        bench.passes(0.05)
        bench.state(q=0.04 * i)
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.zeros(7), moving=True)
    tripped = bench.check()
    assert tripped is not None and "it moved 0.120 rad where 0.000 rad were commanded" in tripped.text


def test_a_joint_that_follows_late_by_a_tick_is_no_fault():
    bench = Bench()
    bench.well()
    rng = np.random.default_rng(1)
    q, commands = 0.0, [0.0, 0.0]
    for _ in range(200):
        bench.passes(0.05)
        bench.state(q=q)
        bench.dogs.tick(bench.now.ros_ns, bench.newest, np.full(7, commands[-1]), moving=True)
        assert bench.check() is None
        q += 0.05 * commands[-2]
        commands.append(float(np.clip(commands[-1] + rng.uniform(-0.3, 0.3), -0.4, 0.4)))
