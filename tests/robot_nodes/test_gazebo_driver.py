"""Drivers of four arms in one real gzserver, each a process, and a controller that hears them all."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.config import FleetConfig
from fleet.config_file import load_fleet, save_fleet

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from robot_nodes.gazebo.connection import GazeboConnection  # noqa: E402
from robot_nodes.gazebo.server_state import connect, state_file  # noqa: E402

# rclpy's message generator imports lark, which imports a deprecated module of Python's.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_.*' is deprecated:DeprecationWarning")

REPOSITORY = Path(__file__).parents[2]
ROBOTS = ["robot1", "robot2", "robot3", "robot4"]
EFFORT_TOPIC = "forward_effort_controller/commands"
PERIOD_NS = 50_000_000
REST = [0.0] * 7


def stamp_ns(message: JointState) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


class Robot:
    """One arm as its controller sees it."""

    def __init__(self, peer: Peer, name: str, fleet: FleetConfig) -> None:
        self.peer, self.name = peer, name
        config = fleet.entry(name).robot
        self.joints, self.home = config.joints, np.array(config.reset.home_rad)
        self.states: list[JointState] = []
        self.answer: Callable[[JointState], None] = lambda state: None
        self.arrived_s: list[float] = []
        self.listen(JointState, "joint_states", self._on_state)
        node = peer.node
        self.velocities = node.create_publisher(Float64MultiArray, f"/{name}/{config.topics.command}", 1)
        self.torques = node.create_publisher(Float64MultiArray, f"/{name}/{EFFORT_TOPIC}", 1)

    def _on_state(self, state: JointState) -> None:
        self.states.append(state)
        self.arrived_s.append(time.monotonic())
        self.answer(state)

    def listen(self, message_type: Any, topic: str, callback: Callable[[Any], None]) -> Any:
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self.peer.node.create_subscription(message_type, f"/{self.name}/{topic}", callback, qos)

    def values(self, field: str, state: JointState | None = None) -> np.ndarray:
        """A field of the newest state, in the order of the config."""
        state = state or self.states[-1]
        by_name = dict(zip(state.name, getattr(state, field), strict=True))
        return np.array([by_name[joint] for joint in self.joints])

    @property
    def q(self) -> np.ndarray:
        return self.values("position")

    @property
    def qd(self) -> np.ndarray:
        return self.values("velocity")

    def command(self, values: list[float]) -> None:
        self.velocities.publish(Float64MultiArray(data=list(map(float, values))))

    def rest(self) -> None:
        """Command zero until it is at rest."""
        self.peer.until(lambda: self.command(REST) or abs(self.qd).max() < 0.01, f"{self.name} is at rest")

    def call(self, service: str) -> Trigger.Response:
        client = self.peer.node.create_client(Trigger, f"/{self.name}/{service}")
        self.peer.until(client.service_is_ready, f"service {service}")
        answer = client.call_async(Trigger.Request())
        self.peer.until(answer.done, f"{service} answers")
        self.peer.node.destroy_client(client)
        return answer.result()

    def fresh(self, seconds: float = 0.1) -> JointState:
        """A state of at least so much later (s, its own time)."""
        after = stamp_ns(self.states[-1]) + seconds * 1e9
        self.peer.until(lambda: stamp_ns(self.states[-1]) >= after, f"{self.name}'s time goes on")
        return self.states[-1]


class Peer:
    """The test's node: a controller for all robots."""

    def __init__(self, fleet: FleetConfig) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.robots = [Robot(self, name, fleet) for name in ROBOTS]

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            self.executor.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Lab:
    """A run folder with the processes of four arms in one world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rates = [f"robots.{i}.robot.sim.joint_state_rate_hz=50" for i in (1, 2, 3)]  # less work for us
        self.fleet = load_fleet(
            REPOSITORY / "hardware_configs/fleets/gazebo4.yaml",
            ["task=../tasks/door.yaml", "seed=3", f"ros.domain_id={os.environ['ROS_DOMAIN_ID']}", *rates],
        )
        save_fleet(self.fleet, folder / "config.yaml")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.overrides: dict[str, tuple[str, ...]] = {}
        self.peer = Peer(self.fleet)

    def pnaf(self, name: str, *args: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, "-m", "fleet.cli", args[0], *args[1:], "--run-dir", str(self.folder)]
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, env=environment, stderr=log, stdout=log)

    def start_gazebo(self) -> None:
        self.pnaf("gazebo", "gazebo", "server", str(self.folder / "config.yaml"))

    def start_driver(self, name: str, *overrides: str) -> None:
        self.overrides[name] = overrides
        sets = [part for override in overrides for part in ("--set", override)]
        self.pnaf(name, "sim-arm", str(self.folder / "config.yaml"), "--id", name, *sets)

    def driver(self, robot: Robot, *overrides: str) -> None:
        """See to it that the arm has a driver with these overrides; returns when it tells states."""
        if robot.name in self.processes:
            if self.overrides[robot.name] == overrides:
                return
            self.end_driver(robot)
        self.start_driver(robot.name, *overrides)
        self.peer.until(lambda: robot.states, f"states of {robot.name}'s driver", 120.0)

    def end_driver(self, robot: Robot, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.kill(robot.name, number) == (0 if number == signal.SIGTERM else -number)
        self.peer.spin_for(0.2)  # what it has sent is heard
        robot.states.clear()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=20)

    def hand(self, robot: Robot) -> GazeboConnection:
        """Somebody who puts an arm and its door where the test wants them, without driving them."""
        connection = connect(self.folder, "world")
        joints = [f"{robot.name}::{joint}" for joint in robot.joints]
        joints += [f"{robot.name}_door::{joint}" for joint in ("door_hinge", "door_handle")]
        connection.bind([f"{joint} passive" for joint in joints])
        return connection

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def close(self) -> None:
        self.peer.close()
        for name in list(self.processes):
            self.kill(name)


@pytest.fixture(scope="module")
def lab(gazebo: Any, module_ros_domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    gazebo.plugin()  # compiled, if that has not been done
    lab = Lab(tmp_path_factory.mktemp("run"))
    try:
        for name in ROBOTS:  # before there is a world
            lab.start_driver(name)
        waits = f"robot1: Gazebo world 'world': no {state_file(lab.folder, 'world')}"
        lab.peer.until(
            lambda: waits in lab.log("robot1").read_text(), "the driver says what it waits for", 120.0
        )
        lab.start_gazebo()
        lab.peer.until(lambda: all(robot.states for robot in lab.peer.robots), "states of all arms", 120.0)
        for robot in lab.peer.robots:
            lab.peer.until(lambda r=robot: r.velocities.get_subscription_count(), "the driver hears us")
            robot.rest()
        yield lab
    except AssertionError:
        for name in (*ROBOTS, "gazebo"):
            if lab.log(name).exists():
                sys.stderr.write(f"---- {name}\n{lab.log(name).read_text()[-3000:]}\n")
        raise
    finally:
        lab.close()


def test_four_arms_at_once_each_go_their_own_way(lab: Lab) -> None:
    robots = lab.peer.robots
    for robot in robots:
        lab.driver(robot)
        assert sorted(robot.states[0].name) == robot.joints
        assert list(robot.states[0].name) != robot.joints  # shuffled: who does not map by name is found out
        assert robot.q == pytest.approx(robot.home, abs=0.02)
    wanted = [[0.1 * (i + 1) if j == i + 2 else 0.0 for j in range(7)] for i in range(4)]

    def keep_on() -> None:
        for robot, velocity in zip(robots, wanted, strict=True):
            robot.command(velocity)

    lab.peer.until(
        lambda: keep_on() or all(abs(r.qd - w).max() < 0.02 for r, w in zip(robots, wanted, strict=True)),
        "all arms move",
    )
    begin = [(stamp_ns(robot.states[-1]), robot.q) for robot in robots]
    robots[3].fresh(1.0)
    for robot, velocity, (begin_ns, q) in zip(robots, wanted, begin, strict=True):
        seconds = (stamp_ns(robot.states[-1]) - begin_ns) * 1e-9
        assert seconds > 0.5
        assert (robot.q - q) / seconds == pytest.approx(np.array(velocity), abs=0.005)
        assert len(robot.states[-1].effort) == 7 and abs(robot.values("effort")).max() > 1.0  # gravity
    for robot in robots:
        robot.rest()


def test_states_come_at_their_rate_and_before_the_clock(lab: Lab) -> None:
    robot = lab.peer.robots[0]
    clocks: list[Clock] = []
    doors: list[JointState] = []
    subscriptions = [robot.listen(Clock, "clock", clocks.append)]
    subscriptions.append(robot.listen(JointState, "door/joint_states", doors.append))
    lab.peer.until(lambda: clocks and doors, "clock and door")
    robot.states.clear()
    clocks.clear()
    lab.peer.until(lambda: len(robot.states) > 100, "states")
    steps = np.diff([stamp_ns(state) for state in robot.states])
    assert (steps % 10_000_000 == 0).all()
    assert np.median(steps) == 10_000_000  # a busy machine may lose one now and then
    # Whoever hears the time of an instant can have its states: they were sent first.
    clocks_ns = {message.clock.sec * 10**9 + message.clock.nanosec for message in clocks[1:]}
    assert len(clocks_ns) > 50
    assert len(clocks_ns - {stamp_ns(state) for state in robot.states}) < 5
    assert list(doors[-1].name) == ["door_hinge", "door_handle"]
    for subscription in subscriptions:
        lab.peer.node.destroy_subscription(subscription)


def test_an_arm_that_is_commanded_zero_holds_against_gravity(lab: Lab) -> None:
    robot = lab.peer.robots[1]
    robot.rest()
    begin = robot.q
    robot.fresh(2.0)
    assert abs(robot.q - begin).max() < 0.005


def test_a_command_shows_in_the_state_at_once(lab: Lab) -> None:
    robot = lab.peer.robots[2]
    seconds = []
    for i in range(20):
        velocity = 0.3 * (-1) ** i
        sent_s = time.monotonic()
        robot.command([0.0] * 6 + [velocity])
        lab.peer.until(lambda v=velocity: robot.qd[6] * v > 0.2 * 0.3, "joint_7 obeys")
        seconds.append(robot.arrived_s[-1] - sent_s)
    robot.rest()
    assert statistics.median(seconds) < 0.5


def test_commands_that_cannot_be_meant_are_ignored_and_reported_once(lab: Lab) -> None:
    robot = lab.peer.robots[3]
    lab.driver(robot)
    good = [0.0] * 6 + [0.1]
    lab.peer.until(lambda: robot.command(good) or abs(robot.qd - good).max() < 0.01, "it moves")
    robot.states.clear()
    for bad in ([0.5] * 6, [0.5] * 8, [], [0.5] * 6 + [float("nan")], [float("inf")] * 7):
        robot.command(bad)
        lab.peer.spin_for(0.1)
    lab.peer.until(lambda: "ignored" in lab.log("robot4").read_text(), "a line in the log")
    assert robot.states
    assert max(abs(robot.values("velocity", state) - good).max() for state in robot.states) < 0.02
    errors = [line for line in lab.log("robot4").read_text().splitlines() if "ignored" in line]
    assert len(errors) == 1 and "command has 6 values but the arm has 7 joints; ignored" in errors[0]
    robot.rest()


def test_reset_arm_puts_it_where_it_says(lab: Lab) -> None:
    robot = lab.peer.robots[0]
    answers = []
    for _ in range(2):
        robot.command([0.3] * 7)
        robot.fresh(0.2)
        refused = robot.call("reset_arm")
        assert not refused.success and "pause the robot first" in refused.message
        robot.rest()
        answers.append(robot.call("reset_arm"))
        assert answers[-1].success
        told = np.array(json.loads(re.search(r"\[.*\]", answers[-1].message).group(0)))
        robot.fresh()
        assert robot.q == pytest.approx(told, abs=2e-4)  # rounded in the message; held by motors since
        assert abs(robot.qd).max() < 0.01
        assert (abs(told - robot.home) <= 0.3).all() and abs(told - robot.home).max() > 0.02
    assert answers[0].message != answers[1].message


def test_reset_scene_closes_the_door_and_leaves_the_arm(lab: Lab) -> None:
    robot = lab.peer.robots[1]
    robot.rest()
    begin = robot.q
    with lab.hand(robot) as hand:
        hand.reset([*[np.nan] * 7, 0.6, 0.0])
    doors: list[JointState] = []
    subscription = robot.listen(JointState, "door/joint_states", doors.append)
    lab.peer.until(lambda: doors and doors[-1].position[0] > 0.5, "the door is open")
    answer = robot.call("reset_scene")
    assert answer.success and answer.message == "scene as at first: door_hinge 0.0 rad, door_handle 0.0 rad"
    robot.fresh()
    assert abs(np.array(doors[-1].position)).max() < 1e-3
    lab.peer.node.destroy_subscription(subscription)
    assert robot.q == pytest.approx(begin, abs=0.005)


def test_a_killed_drivers_arm_is_braked(lab: Lab) -> None:
    robot = lab.peer.robots[2]
    lab.driver(robot)
    fast = [0.0] * 6 + [0.5]
    lab.peer.until(lambda: robot.command(fast) or robot.qd[6] > 0.45, "it moves")
    begin = robot.q
    lab.end_driver(robot, signal.SIGKILL)
    lab.driver(robot)
    first = robot.states[0]
    assert abs(robot.values("velocity", first)).max() < 0.01
    # Braked where it was, neither run on for the second it took nor reset.
    assert abs(robot.values("position", first) - begin).max() < 0.2
    lab.peer.until(lambda: robot.command(fast) or robot.qd[6] > 0.45, "the second driver obeys")
    robot.rest()


def test_a_second_driver_of_an_arm_asks_for_it_now_and_then(lab: Lab) -> None:
    robot = lab.peer.robots[2]
    lab.driver(robot)
    lab.pnaf("second", "sim-arm", str(lab.folder / "config.yaml"), "--id", robot.name)
    lab.peer.until(lambda: "driven by another client" in lab.log("second").read_text(), "it is told")

    def refusals() -> int:
        return lab.log("gazebo").read_text().count("driven by another client")

    before, end_s = refusals(), time.monotonic() + 1.5
    lab.peer.until(lambda: robot.command(REST) or time.monotonic() > end_s, "commands wake it up")
    assert refusals() - before <= 1
    assert lab.kill("second", signal.SIGTERM) == 0


def test_torques_are_another_command_interface(lab: Lab) -> None:
    robot = lab.peer.robots[3]
    lab.driver(robot)
    robot.rest()
    q, holding = robot.q, robot.values("effort")  # of the motors: that of gravity
    lab.driver(robot, "robots.3.robot.sim.command_interface=effort")
    with lab.hand(robot) as hand:

        def fall(torques: np.ndarray) -> np.ndarray:
            """Velocities after 0.1 s from rest under these torques."""
            message = Float64MultiArray(data=torques.tolist())
            lab.peer.until(
                lambda: robot.torques.publish(message) or abs(robot.values("effort") - torques).max() < 1e-9,
                "the torques are in force",
            )
            begin_ns = hand.reset([*q, 0.0, 0.0]).time_ns
            lab.peer.until(lambda: stamp_ns(robot.states[-1]) >= begin_ns + 100_000_000, "0.1 s")
            seconds = (stamp_ns(robot.states[-1]) - begin_ns) * 1e-9
            return robot.qd / seconds * 0.1

        assert abs(fall(np.zeros(7))).max() > 0.5
        robot.command([0.3] * 7)  # of no effect: this topic is its controller's
        held = fall(holding)
        assert abs(held).max() < 0.1
        assert fall(holding + np.array([0.0] * 6 + [0.02]))[6] > held[6] + 0.05


def test_in_lockstep_each_command_lets_one_period_pass(lab: Lab) -> None:
    robot, other = lab.peer.robots[3], lab.peer.robots[0]
    lockstep = [f"robots.{i}.robot.sim.lockstep_timeout_s=20" for i in range(4)]  # of this driver alone
    lab.driver(robot, *lockstep, "robots.3.robot.sim.joint_state_rate_hz=20")

    def world_waits() -> bool:
        counts = len(robot.states), len(other.states)
        lab.peer.spin_for(0.3)
        return counts == (len(robot.states), len(other.states))

    lab.peer.until(world_waits, "the driver sees that it is commanded, and the world waits")
    begin_ns, q, count = stamp_ns(robot.states[-1]), robot.q, len(robot.states)
    for i in range(20):
        robot.command([0.0] * 6 + [0.4])
        lab.peer.until(lambda n=count + i + 1: len(robot.states) == n, "the period has passed")
    lab.peer.spin_for(0.3)
    assert len(robot.states) == count + 20
    assert stamp_ns(robot.states[-1]) == begin_ns + 20 * PERIOD_NS
    assert 0 <= begin_ns + 20 * PERIOD_NS - stamp_ns(other.states[-1]) <= 20_000_000
    assert robot.q - q == pytest.approx([0.0] * 6 + [0.4], abs=0.005)  # 20 × 0.05 s
    lab.end_driver(robot)  # and hold the world no longer


def test_a_killed_gzserver_is_waited_for(lab: Lab) -> None:
    robots = lab.peer.robots[:3]
    for robot in robots:
        lab.driver(robot)
        lab.peer.until(lambda r=robot: r.command([0.0] * 6 + [0.3]) or r.qd[6] > 0.25, "it moves")
    said = "Nothing is published until it is there"
    before = {robot.name: lab.log(robot.name).read_text().count(said) for robot in robots}

    def new_lines() -> set[int]:
        return {lab.log(name).read_text().count(said) - count for name, count in before.items()}

    lab.kill("gazebo")
    lab.peer.until(lambda: new_lines() == {1}, "each driver says that it is gone")
    lab.peer.spin_for(0.2)
    for robot in robots:
        robot.states.clear()
    for _ in range(5):
        robots[0].command([0.0] * 5 + [0.3, 0.0])  # of before the next world: not for it
        lab.peer.spin_for(0.2)
    assert not any(robot.states for robot in robots)
    answer = robots[0].call("reset_arm")
    assert not answer.success and "not running" in answer.message

    lab.start_gazebo()
    lab.peer.until(lambda: all(robot.states for robot in robots), "states again", 120.0)
    assert new_lines() == {1}
    for robot in robots:
        assert stamp_ns(robot.states[0]) < 5 * 10**9  # its time has started again
        robot.fresh(0.3)
        assert robot.q == pytest.approx(robot.home, abs=0.02) and abs(robot.qd).max() < 0.02
    lab.peer.until(lambda: robots[0].command([0.3] + [0.0] * 6) or robots[0].qd[0] > 0.25, "it obeys again")
