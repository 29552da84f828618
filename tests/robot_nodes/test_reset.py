"""Resets without a robot: the arm is where the test says it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from fleet.config_file import load_fleet
from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits
from robot_nodes.guarded_commands import GuardedCommands
from robot_nodes.kinematics import Kinematics
from robot_nodes.reset import Reset
from robot_nodes.reset_steps import ResetError
from robot_nodes.trajectory import Trajectory, TrajectoryError, TrajectoryPlan, braking
from robot_nodes.urdf_source import load_urdf

GENERIC7 = load_fleet("hardware_configs/fleets/sim2.yaml").robots[0].robot
KINEMATICS = Kinematics(load_urdf(GENERIC7.urdf), GENERIC7.joints, GENERIC7.tool_link)
HOME = np.array(GENERIC7.reset.home_rad)
AWAY = HOME + 0.8
REST = np.zeros(7)
DT = 0.05


def from_home(*offset: float) -> np.ndarray:
    return HOME + np.array(offset)


def robot_with(steps: Sequence[str] = ("velocity",), **reset: object) -> RobotConfig:
    update = {"steps": list(steps), "randomise_rad": 0.0, "service": None, **reset}
    if "service" in steps:
        update["service"] = "/reset_world"
    return GENERIC7.model_copy(update={"reset": GENERIC7.reset.model_copy(update=update)})


def guarded(robot: RobotConfig) -> partial[GuardedCommands]:
    return partial(GuardedCommands, GuardLimits.from_config(robot.limits), GuardGeometry(robot, KINEMATICS))


class Bench:
    """A reset and an arm that does as it is told, by velocities and by trajectories."""

    def __init__(self, robot: RobotConfig, q: np.ndarray = AWAY, *, dry_run: bool = False) -> None:
        self.reset = Reset(
            robot, GuardGeometry(robot, KINEMATICS), guarded(robot), np.random.default_rng(0), dry_run=dry_run
        )
        self.q, self.qd, self.ns = q.copy(), REST.copy(), 1_000_000_000
        self.trajectories: list[tuple[float, Trajectory]] = []
        self.calls = 0
        self.wish: np.ndarray | None = REST
        self.follows, self.late_s = True, 0.0
        self.reset.begin()

    @property
    def now_s(self) -> float:
        return self.ns * 1e-9

    def tick(self) -> np.ndarray | None:
        self.wish = self.reset.tick(self.q, self.qd, self.ns)
        if (trajectory := self.reset.take_trajectory()) is not None:
            self.trajectories.append((self.now_s, trajectory))
            self.start = self.q
        self.calls += self.reset.take_service_call()
        self.ns += 50_000_000
        before = self.q
        if self.trajectories and self.follows:
            sent_s, trajectory = self.trajectories[-1]
            knots_s = np.concatenate(([0.0], trajectory.times_s))
            knots = np.vstack((self.start, trajectory.positions))
            self.q = np.array([np.interp(self.now_s - sent_s - self.late_s, knots_s, k) for k in knots.T])
        elif self.wish is not None:
            self.q = self.q + self.wish * DT
        self.qd = (self.q - before) / DT
        return self.wish

    def run(self, seconds: float) -> int:
        """Tick until it is done; returns the number of ticks."""
        for i in range(round(seconds / DT)):
            if self.tick() is None:
                return i + 1
        pytest.fail(f"not done within {seconds} s")


# By velocity ---------------------------------------------------------------------------------


def test_the_velocity_step_by_hand() -> None:
    bench = Bench(robot_with(gain_per_s=4.0, speed=0.5), from_home(0.1, 0.3, 0, 0, 0, 0, -0.3))
    # 4/s times the error, at most half of 1.5 rad/s.
    assert bench.tick() == pytest.approx([-0.4, -0.75, 0, 0, 0, 0, 0.75])
    bench.run(2.0)
    assert np.abs(bench.q - HOME).max() < 0.05
    assert bench.reset.note == ""


def test_it_is_done_when_the_arm_is_home_and_at_rest() -> None:
    reset = Bench(robot_with()).reset
    assert reset.tick(HOME + 0.049, REST, 0) is None
    reset.begin()
    assert reset.tick(HOME + 0.051, REST, 0) is not None
    assert reset.tick(HOME, REST + 0.21, 0) is not None, "4/s × 0.05 rad: it would be out again at once"
    assert reset.tick(HOME, REST + 0.19, 0) is None


def test_homes_are_random_around_home_and_inside_the_limits() -> None:
    robot = robot_with(randomise_rad=3.0)
    geometry = GuardGeometry(robot, KINEMATICS)
    reset = Reset(robot, geometry, guarded(robot), np.random.default_rng(0))
    homes = []
    for _ in range(50):
        reset.begin()
        wish = reset.tick(HOME, REST, 0)
        homes.append(reset._home)
        assert wish is not None
        assert geometry.least_clearance(reset._home)[0] >= 0.0, "within reach, so that no reset must fail"
    assert np.ptp(homes, axis=0).min() > 1.0
    assert (np.min(homes, axis=0) >= np.array(robot.limits.position_low_rad) + 0.1).all()
    assert (np.max(homes, axis=0) <= np.array(robot.limits.position_high_rad) - 0.1).all()


def test_joints_that_do_not_come_home_are_named_worst_first() -> None:
    bench = Bench(robot_with(timeout_s=2.0))
    left = r"joint_3 is 0\.62 rad from home and did not move, joint_5 is 0\.10 rad from home"
    with pytest.raises(ResetError, match=f"^reset took more than 2 s: {left}$"):
        for i in range(100):
            bench.reset.tick(from_home(0, 0, 0.62, 0, 0.2 - 0.1 * i / 41, 0.049, 0), REST, i * 50_000_000)
    assert i == 41
    with pytest.raises(ResetError, match=r"joint_1 is 0\.80 .*, joint_2 .*, joint_3 .* move, and 4 more$"):
        bench.reset.begin()
        for i in range(100):
            bench.reset.tick(AWAY, REST, i * 50_000_000)
    with pytest.raises(ResetError, match="the arm is home, but does not come to rest"):
        bench.reset.begin()
        for i in range(100):
            bench.reset.tick(HOME, REST + 1.0, i * 50_000_000)


# By trajectory -------------------------------------------------------------------------------


def test_a_trajectory_home_is_planned_sent_once_and_followed() -> None:
    bench = Bench(robot_with(["trajectory"]))
    ticks = bench.run(5.0)
    ((sent_s, trajectory),) = bench.trajectories
    assert 1.0 + ticks * DT >= sent_s + trajectory.times_s[-1], "it must not begin while the arm moves"
    assert np.abs(bench.q - HOME).max() < 0.05
    assert np.abs(trajectory.positions[-1] - HOME).max() < 0.05
    assert not trajectory.velocities[-1].any()


def test_nothing_is_asked_of_the_velocity_controller_meanwhile() -> None:
    bench = Bench(robot_with(["trajectory"]))
    while (wish := bench.tick()) is not None:
        assert not wish.any()


def test_a_trajectory_keeps_the_limits_between_its_points_too() -> None:
    robot = robot_with(["trajectory"], speed=0.6)
    plan = TrajectoryPlan(AWAY, HOME, robot, guarded(robot))
    trajectory = plan.advance(1000)
    assert trajectory is not None
    t = np.concatenate(([0.0], trajectory.times_s))
    q = np.vstack((AWAY, trajectory.positions))
    v = np.vstack((REST, trajectory.velocities))
    assert np.diff(t) == pytest.approx(DT)
    assert np.abs(v).max() == pytest.approx(0.9, abs=1e-9), "0.6 of 1.5 rad/s"
    # From point to point velocities rise and fall linearly: positions and velocities agree,
    assert np.diff(q, axis=0) == pytest.approx((v[1:] + v[:-1]) / 2 * DT, abs=1e-12)
    # and the acceleration is what the velocities say, all the way.
    assert np.abs(np.diff(v, axis=0)).max() / DT <= 15.0 + 1e-9
    tools = np.array([KINEMATICS.tool_position(row) for row in q])
    sphere = robot.limits.workspace_sphere
    assert np.linalg.norm(tools - sphere.center_m, axis=1).max() <= sphere.radius_m


def test_a_fast_robot_gets_points_that_are_no_closer_than_20_ms() -> None:
    robot = robot_with(["trajectory"]).model_copy(update={"control_rate_hz": 500.0})
    trajectory = TrajectoryPlan(AWAY, HOME, robot, guarded(robot)).advance(1000)
    assert trajectory is not None
    assert np.diff(trajectory.times_s) == pytest.approx(0.02)


def test_planning_takes_a_few_steps_per_tick() -> None:
    bench = Bench(robot_with(["trajectory"]))
    silent = 0
    while not bench.trajectories:
        bench.tick()
        silent += 1
    assert silent == -(-(len(bench.trajectories[0][1].times_s) + 1) // 10)


def test_a_way_that_the_guard_blocks_is_refused_and_the_limit_named() -> None:
    robot = robot_with(["trajectory"])
    limits = robot.limits.model_copy(update={"position_low_rad": [-2.8, 0.7, -2.8, 0.1, -2.8, -2.0, -2.8]})
    robot = robot.model_copy(update={"limits": limits})  # home's second joint is at 0.3
    plan = TrajectoryPlan(AWAY, HOME, robot, guarded(robot))
    text = r"^no way home within 10 s: joint_2 stays 0\.\d+ rad away, held back by the guard \(position\)$"
    with pytest.raises(TrajectoryError, match=text):
        plan.advance(1000)


def test_a_way_that_takes_too_long_is_refused() -> None:
    robot = robot_with(["trajectory"], speed=0.05)
    with pytest.raises(
        TrajectoryError, match=r"joint_\d stays .* allow a longer reset.timeout_s or a higher"
    ):
        TrajectoryPlan(AWAY, HOME, robot, guarded(robot)).advance(1000)
    bench = Bench(robot)
    with pytest.raises(ResetError, match="reset: no way home"):
        bench.run(20.0)
    assert bench.trajectories == []


def test_an_arm_that_is_home_needs_no_trajectory() -> None:
    bench = Bench(robot_with(["trajectory"]), HOME + 0.03)
    assert bench.tick() is None
    assert bench.trajectories == []


def test_it_waits_until_the_arm_is_at_rest_before_it_plans() -> None:
    bench = Bench(robot_with(["trajectory"]))
    for i in range(3):
        bench.reset.tick(AWAY + 0.1 * i, REST + 1.0, i * 50_000_000)
    moved = AWAY + 0.3
    for i in range(3, 20):
        bench.reset.tick(moved, REST, i * 50_000_000)
    trajectory = bench.reset.take_trajectory()
    assert trajectory is not None
    assert np.abs(trajectory.positions[0] - moved).max() < 0.05
    with pytest.raises(ResetError, match="took more than 10 s"):
        Bench(robot_with(["trajectory"])).reset.tick(AWAY, REST + 1.0, 0)
        reset = Bench(robot_with(["trajectory"])).reset
        for i in range(1000):
            reset.tick(AWAY, REST + 1.0, i * 50_000_000)


def test_a_controller_that_comes_a_little_late_is_no_fault() -> None:
    bench = Bench(robot_with(["trajectory"]))
    bench.late_s = 0.4
    bench.run(6.0)
    assert np.abs(bench.q - HOME).max() < 0.05


def test_an_arm_that_does_not_follow_is_a_fault_that_names_joint_and_distance() -> None:
    start = from_home(0, 0, 0, 0.75, 0, 0, 0.1)
    bench = Bench(robot_with(["trajectory"]), start)
    bench.follows = False
    with pytest.raises(ResetError) as caught:
        bench.run(20.0)
    assert "joint_4 is 0." in str(caught.value) and "rad off its trajectory and 0.75 rad from home" in str(
        caught.value
    )
    assert "joint_trajectory_controller/joint_trajectory" in str(caught.value)
    sent_s = bench.trajectories[0][0]
    assert bench.now_s - sent_s < 2.0, "soon, not after the timeout"


def test_an_arm_that_stops_short_of_home_is_a_fault_after_the_timeout() -> None:
    bench = Bench(robot_with(["trajectory"], timeout_s=4.0))
    while not bench.trajectories:
        bench.tick()
    sent_s, trajectory = bench.trajectories[0]
    short = trajectory.positions.copy()
    short[:, 5] = np.maximum(short[:, 5], HOME[5] + 0.08)  # within the deviation, outside the tolerance
    bench.trajectories[0] = (sent_s, Trajectory(trajectory.times_s, short, trajectory.velocities))
    with pytest.raises(ResetError, match=r"took more than 4 s: joint_6 is 0\.08 rad from home"):
        bench.run(20.0)
    assert bench.now_s - sent_s == pytest.approx(4.05, abs=0.051)


def test_the_braking_point_by_hand() -> None:
    # 0.6 rad/s at 15 rad/s² take 0.04 s, less than a tick: the point is one tick away.
    qd = np.array([0.6, 0, 0, 0, 0, 0, 0])
    point = braking(HOME, qd, GENERIC7)
    assert point.times_s.tolist() == [0.05] and not point.velocities.any()
    assert point.positions[0] - HOME == pytest.approx([0.6 * 0.05 / 2, 0, 0, 0, 0, 0, 0])
    # 1.5 rad/s take 0.1 s and 0.075 rad, and the slower joint brakes as long.
    point = braking(HOME, np.array([1.5, -0.3, 0, 0, 0, 0, 0]), GENERIC7)
    assert point.times_s == pytest.approx([0.1])
    assert point.positions[0] - HOME == pytest.approx([0.075, -0.015, 0, 0, 0, 0, 0])
    near = np.array(GENERIC7.limits.position_high_rad) - 0.01
    assert (braking(near, np.full(7, 1.5), GENERIC7).positions <= GENERIC7.limits.position_high_rad).all()


def in_the_middle_of_a_trajectory() -> Bench:
    bench = Bench(robot_with(["trajectory"]))
    while not bench.trajectories:
        bench.tick()
    for _ in range(6):
        bench.tick()
    assert np.abs(bench.qd).max() > 0.5
    return bench


def test_an_abort_brakes_a_trajectory_under_way_and_the_next_reset_starts_afresh() -> None:
    bench = in_the_middle_of_a_trajectory()
    q, qd = bench.reset._q.copy(), bench.reset._qd.copy()
    bench.reset.abort()
    stop = bench.reset.take_trajectory()
    assert stop is not None and len(stop.times_s) == 1
    assert np.array_equal(stop.positions, braking(q, qd, GENERIC7).positions)
    assert bench.reset.take_trajectory() is None, "told once"
    bench.reset.abort()
    assert bench.reset.take_trajectory() is None
    bench.trajectories.clear()
    bench.reset.begin()
    bench.run(6.0)
    assert np.abs(bench.q - HOME).max() < 0.05


def test_an_abort_before_the_trajectory_leaves_nothing_to_send() -> None:
    bench = Bench(robot_with(["trajectory"]))
    bench.tick()
    bench.reset.abort()
    assert bench.reset.take_trajectory() is None


def test_a_person_who_moves_the_arm_brakes_the_trajectory_and_it_is_planned_afresh() -> None:
    bench = in_the_middle_of_a_trajectory()
    for i in range(5):
        bench.reset.interrupt()
        assert (bench.reset.take_trajectory() is not None) == (i == 0)
    bench.trajectories.clear()
    bench.q, bench.qd = HOME - 0.5, REST
    bench.run(6.0)
    assert len(bench.trajectories) == 1
    assert np.abs(bench.q - HOME).max() < 0.05


# By service ----------------------------------------------------------------------------------


def test_a_service_is_called_once_the_arm_rests_and_its_answer_is_awaited() -> None:
    bench = Bench(robot_with(["service"]))
    bench.reset.tick(AWAY, REST + 1.0, 0)
    assert not bench.reset.take_service_call(), "it still moves"
    for _ in range(20):
        wish = bench.tick()
        assert wish is not None and not wish.any()
    assert bench.calls == 1
    assert bench.reset.note == "for the service /reset_world"
    bench.reset.service_done(True, "all in place")
    assert bench.tick() is None


@pytest.mark.parametrize(
    ("message", "text"),
    [("the drawer is jammed", "failed: the drawer is jammed$"), ("", "failed: it gave no reason$")],
)
def test_a_service_that_fails_is_a_fault_with_its_own_words(message: str, text: str) -> None:
    bench = Bench(robot_with(["service"]))
    bench.tick()
    bench.reset.service_done(False, message)
    with pytest.raises(ResetError, match="^reset: service /reset_world " + text):
        bench.tick()


def test_a_service_that_does_not_answer_is_a_fault() -> None:
    bench = Bench(robot_with(["service"], timeout_s=3.0))
    with pytest.raises(ResetError, match=r"^reset: no answer from service /reset_world within 3 s$"):
        bench.run(10.0)
    assert bench.now_s == pytest.approx(1.0 + 3.05)


def test_an_answer_that_nobody_waits_for_does_nothing() -> None:
    bench = Bench(robot_with(["service"]))
    bench.reset.service_done(True, "")  # of a call from before: this one was not made yet
    bench.tick()
    assert bench.tick() is not None
    bench.reset.abort()
    bench.reset.service_done(False, "too late")
    bench.reset.begin()
    assert bench.tick() is not None


def test_a_person_who_moves_the_arm_does_not_have_the_service_called_twice() -> None:
    bench = Bench(robot_with(["service"]))
    bench.tick()
    bench.reset.interrupt()
    bench.tick()
    assert bench.calls == 1
    bench.reset.service_done(True, "")
    assert bench.tick() is None


# By a person, and all of them ----------------------------------------------------------------


def test_a_person_is_waited_for_as_long_as_it_takes() -> None:
    bench = Bench(robot_with(["person"]))
    for _ in range(1000):
        wish = bench.tick()
        assert wish is not None and not wish.any()
    assert bench.reset.waits_for_person and "call ~/ready" in bench.reset.note
    bench.reset.interrupt()
    bench.reset.ready()
    assert bench.tick() is None
    assert not bench.reset.waits_for_person


def test_steps_follow_one_another_and_each_has_its_own_time() -> None:
    bench = Bench(robot_with(["velocity", "person", "service", "trajectory"], timeout_s=3.0))
    while not bench.reset.waits_for_person:
        bench.tick()
    assert np.abs(bench.q - HOME).max() < 0.05
    for _ in range(200):  # 10 s: longer than all timeouts
        bench.tick()
    bench.q = AWAY.copy()  # the person pushed it
    bench.reset.ready()
    while bench.calls == 0:
        bench.tick()
    for _ in range(40):
        bench.tick()
    bench.reset.service_done(True, "")
    bench.run(6.0)
    assert len(bench.trajectories) == 1
    assert np.abs(bench.q - HOME).max() < 0.05


@pytest.mark.parametrize(
    "steps", [["velocity"], ["trajectory"], ["service"], ["person"], ["person", "service"]]
)
def test_a_dry_run_waits_for_nothing(steps: list[str]) -> None:
    bench = Bench(robot_with(steps), dry_run=True)
    for i in range(100):
        if bench.reset.tick(AWAY, REST, i * 50_000_000) is None:
            break
    assert i == 41
