from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.robot_config import RobotConfig

rclpy = pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from robot_nodes.sensors import sensor_values  # noqa: E402
from robot_nodes.sim.arm_node import ArmNode  # noqa: E402
from robot_nodes.sim.mujoco_arm import MujocoArm  # noqa: E402

# rclpy's message generator imports lark, which imports a deprecated module of Python's.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_.*' is deprecated:DeprecationWarning")

REPOSITORY = Path(__file__).parents[2]
ROBOT = REPOSITORY / "hardware_configs/robots/generic7_sim.yaml"
CHILD = """
import logging, sys
from pathlib import Path
from fleet.config import FleetConfig
from robot_nodes.sim.arm_process import run_arm
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
run_arm(FleetConfig.model_validate_json(Path(sys.argv[1]).read_text()), "arm_7", Path("no-run"))
"""
PERIOD_NS = 50_000_000


def fleet_of(config: RobotConfig, task: str = "reach") -> FleetConfig:
    """A fleet of this one robot."""
    data = load_fleet(
        REPOSITORY / "hardware_configs/fleets/sim2.yaml", [f"task=../tasks/{task}.yaml"]
    ).model_dump()
    return FleetConfig.model_validate(data | {"seed": 3, "robots": [{"id": "arm_7", "robot": config}]})


def load_robot(**sim: Any) -> RobotConfig:
    data = yaml.safe_load(ROBOT.read_text())
    data["urdf"] = str((ROBOT.parent / data["urdf"]).resolve())
    data["sim"] |= {"speed": 1.0, "lockstep_timeout_s": 0.0, "joint_state_rate_hz": 100.0} | sim
    return RobotConfig.model_validate(data)


class Peer:
    """The test's side of the topics: what a robot node would be."""

    def __init__(self, config: RobotConfig) -> None:
        self.joints = config.joints
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", namespace="arm_7", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.states: list[JointState] = []
        self.clock_ns: list[int] = []
        self.heard: list[tuple[str, int]] = []
        self.answer: Callable[[JointState], list[float] | None] = lambda state: None
        self.command_topic = config.topics.command
        self.publisher: Any = None
        self.first_command: list[float] | None = None
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.node.create_subscription(JointState, config.topics.joint_states, self._on_state, best_effort)
        self.node.create_subscription(Clock, "clock", self._on_clock, best_effort)

    def _on_state(self, state: JointState) -> None:
        self.states.append(state)
        self.heard.append(("joint_states", stamp_ns(state)))
        answer = self.answer(state)
        if answer is not None:
            self.command(answer)

    def _on_clock(self, clock: Clock) -> None:
        self.heard.append(("clock", clock.clock.sec * 10**9 + clock.clock.nanosec))

    def command(self, velocity: list[float]) -> None:
        if self.publisher is None:
            self.publisher = self.node.create_publisher(Float64MultiArray, self.command_topic, 1)
            self.spin_until(lambda: self.publisher.get_subscription_count() == 1, "the arm hears commands")
            # The arm may not know of us yet although we know of it: say the first command until it acts.
            self.first_command = velocity
        self.publisher.publish(Float64MultiArray(data=velocity))

    def call(self, service: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, service)
        self.spin_until(client.service_is_ready, f"the service {service}")
        answer = client.call_async(Trigger.Request())
        self.spin_until(answer.done, f"the answer of {service}")
        return answer.result()

    def spin_until(self, condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        again = time.monotonic() + 1.0
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            self.executor.spin_once(timeout_sec=0.05)
            if self.first_command is not None and time.monotonic() > again:
                self.publisher.publish(Float64MultiArray(data=self.first_command))
                again += 1.0
        self.first_command = None

    def spin_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.01)

    def newest(self, field: str) -> dict[str, float]:
        state = self.states[-1]
        return dict(zip(state.name, getattr(state, field), strict=True))

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def stamp_ns(state: JointState) -> int:
    return int(state.header.stamp.sec * 10**9 + state.header.stamp.nanosec)


class Arm:
    """The process under test."""

    def __init__(self, fleet: FleetConfig, folder: Path) -> None:
        path = folder / "fleet.json"
        path.write_text(fleet.model_dump_json())
        self.log = folder / "arm.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(path)],
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                stderr=log,
            )

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


Start = Callable[..., tuple[Arm, Peer]]


@pytest.fixture
def start(ros_domain_id: int, tmp_path: Path) -> Iterator[Start]:
    arms: list[Arm] = []
    peers: list[Peer] = []

    def start_both(config: RobotConfig, task: str = "reach") -> tuple[Arm, Peer]:
        arms.append(Arm(fleet_of(config, task), tmp_path))
        peers.append(Peer(config))
        peers[-1].spin_until(lambda: peers[-1].states, "the first joint states")
        return arms[-1], peers[-1]

    yield start_both
    for peer in peers:
        peer.close()
    for arm in arms:
        if arm.process.poll() is None:
            arm.process.kill()
            arm.process.wait()


def test_a_commanded_joint_moves_and_goes_on_until_the_next_command(start: Start) -> None:
    config = load_robot(speed=5.0)
    _, peer = start(config)
    names = list(peer.states[0].name)
    assert sorted(names) == config.joints
    assert names != config.joints  # shuffled: whoever does not map by name is found out here
    for field, tolerance in (("position", config.reset.randomise_rad), ("velocity", 1e-6)):
        home = dict(zip(config.joints, config.reset.home_rad, strict=True))
        for name, value in peer.newest(field).items():
            assert abs(value - (home[name] if field == "position" else 0.0)) <= tolerance

    peer.command([0.0, 0.0, 0.25, 0.0, 0.0, -0.125, 0.0])
    peer.spin_until(lambda: peer.newest("velocity")["joint_3"] > 0.249, "joint_3 moves")
    start_ns, begin = stamp_ns(peer.states[-1]), peer.newest("position")
    peer.spin_until(lambda: stamp_ns(peer.states[-1]) - start_ns >= 2 * 10**9, "two seconds of robot time")
    seconds = (stamp_ns(peer.states[-1]) - start_ns) * 1e-9
    moved = {name: value - begin[name] for name, value in peer.newest("position").items()}
    assert moved.pop("joint_3") == pytest.approx(0.25 * seconds, rel=0.01)
    assert moved.pop("joint_6") == pytest.approx(-0.125 * seconds, rel=0.01)
    assert max(map(abs, moved.values())) < 0.005
    assert len(peer.states[-1].effort) == 7

    peer.command([0.0] * 7)
    peer.spin_until(lambda: abs(peer.newest("velocity")["joint_3"]) < 1e-3, "joint_3 stops")


def test_commands_that_cannot_be_meant_are_ignored_and_reported_once(start: Start) -> None:
    arm, peer = start(load_robot(speed=5.0, shuffle_joint_order=False))
    assert list(peer.states[0].name) == peer.joints
    peer.command([0.1] * 7)
    peer.spin_until(lambda: peer.newest("velocity")["joint_1"] > 0.099, "the arm moves")
    for bad in ([0.5] * 6, [0.5] * 8, [], [0.5] * 6 + [float("nan")], [float("inf")] * 7):
        peer.command(bad)
        peer.spin_for(0.1)
    peer.spin_until(lambda: "ignored" in arm.log.read_text(), "a line in the log")
    velocities = [state.velocity[0] for state in peer.states[-50:]]
    assert max(velocities) < 0.101 and min(velocities) > 0.099
    errors = [line for line in arm.log.read_text().splitlines() if line.startswith("ERROR")]
    assert errors == ["ERROR command has 6 values but the arm has 7 joints; ignored (1 so far)"]


def test_in_lockstep_each_period_waits_for_the_answer_to_its_state(start: Start) -> None:
    config = load_robot(speed=0.0, lockstep_timeout_s=5.0, joint_state_rate_hz=20.0)
    _, peer = start(config)
    answers: dict[int, float] = {}

    def answer(state: JointState) -> list[float]:
        """Another velocity for each instant, so that one tick early or late would show."""
        answers[stamp_ns(state)] = 0.1 * (1 + stamp_ns(state) // PERIOD_NS % 7)
        return [0.0] * 6 + [answers[stamp_ns(state)] - 0.4]

    def answered() -> list[bool]:
        """Of the newest 200 periods: whether each did what was answered to its state."""
        return [
            state.velocity[list(state.name).index("joint_7")]
            == pytest.approx(answers[stamp_ns(state) - PERIOD_NS] - 0.4, abs=0.005)
            for state in peer.states[-200:]
            if stamp_ns(state) - PERIOD_NS in answers
        ]

    peer.command([0.0] * 7)  # the arm sees somebody who commands it
    peer.answer = answer
    peer.spin_until(lambda: answers, "the first period")
    # A command too many, as the first one may be, is made up for after 200 periods at the latest.
    in_step = lambda: len(answers) % 50 == 0 and len(answered()) > 190 and all(answered())  # noqa: E731
    peer.spin_until(in_step, "200 periods in step", 60.0)
    stamps = [stamp_ns(state) for state in peer.states]
    assert set(np.diff(stamps[-200:])) == {PERIOD_NS}

    # Whoever hears the time of an instant can have its states: they were sent first.
    states_ns = {ns for topic, ns in peer.heard if topic == "joint_states"}
    clocks_ns = [ns for topic, ns in peer.heard if topic == "clock"]
    assert len(clocks_ns) > 150
    assert set(clocks_ns[-100:-1]) <= states_ns

    peer.answer = lambda state: None
    peer.spin_for(0.3)
    count = len(peer.states)
    peer.spin_for(0.7)  # far less than the timeout: time stands still
    assert len(peer.states) == count
    peer.answer = answer
    peer.command([0.0] * 7)
    peer.spin_until(lambda: len(peer.states) > count + 20, "time goes on with the next command")


def test_in_lockstep_a_silent_controller_does_not_stop_time_for_ever(start: Start) -> None:
    _, peer = start(load_robot(speed=0.0, lockstep_timeout_s=0.05, joint_state_rate_hz=20.0))
    peer.command([0.0] * 7)
    count = len(peer.states)
    peer.spin_until(lambda: len(peer.states) > count + 20, "20 periods without an answer")


def test_reset_arm_puts_it_at_rest_near_home(start: Start) -> None:
    config = load_robot(speed=5.0)
    _, peer = start(config)
    peer.command([0.5] * 7)
    peer.spin_until(lambda: peer.newest("velocity")["joint_1"] > 0.49, "it moves")
    for service in ("reset_arm", "reset_scene"):  # the jump would look like a step of the episode
        answer = peer.call(service)
        assert not answer.success
        assert answer.message == "the arm is commanded to move: pause the robot first (`pnaf fleet pause`)"
    assert peer.newest("velocity")["joint_1"] > 0.49
    peer.node.destroy_publisher(peer.publisher)  # the command stays in force, but is nobody's any more
    answers = []

    def reset_at_last() -> bool:
        answers.append(peer.call("reset_arm"))
        return answers[-1].success

    peer.spin_until(reset_at_last, "the arm sees that")
    answer = answers[-1]
    assert "put to rest at [" in answer.message
    stamp = stamp_ns(peer.states[-1])
    peer.spin_until(lambda: stamp_ns(peer.states[-1]) > stamp + 10**9, "a second of its time")
    told = json.loads(answer.message[answer.message.index("[") : answer.message.index("]") + 1])
    for joint, q, home in zip(config.joints, told, config.reset.home_rad, strict=True):
        assert peer.newest("position")[joint] == pytest.approx(q, abs=1e-3)
        assert abs(q - home) <= config.reset.randomise_rad
        assert abs(peer.newest("velocity")[joint]) < 1e-3


def test_a_doors_joints_are_told_and_reset_scene_closes_it(ros_domain_id: int) -> None:
    config, scene = load_robot(), fleet_of(load_robot(), "door").task.scene
    arm = MujocoArm(config, scene=scene)
    peer = Peer(config)
    rclpy.init()
    node = ArmNode(config, "arm_7", scene, 0, SingleThreadedExecutor())
    doors: list[JointState] = []
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    peer.node.create_subscription(JointState, "door/joint_states", doors.append, qos)
    stop = threading.Event()
    running = threading.Thread(target=node.run, args=(arm, stop))
    try:
        arm.data.joint("door_hinge").qpos[0] = 0.5  # somebody has opened it
        q = arm.q.copy()
        running.start()
        peer.spin_until(lambda: doors, "states of the door")
        assert list(doors[-1].name) == ["door_hinge", "door_handle"]
        assert doors[-1].position[0] == pytest.approx(0.5, abs=0.01)
        answer = peer.call("reset_scene")
        assert answer.success
        assert answer.message == "scene as at first: door_hinge 0.0 rad, door_handle 0.0 rad"
        doors.clear()
        peer.spin_until(lambda: len(doors) > 2, "newer states of the door")
        assert doors[-1].position[0] == pytest.approx(0.0, abs=1e-3)
        assert arm.q == pytest.approx(q, abs=1e-3)
    finally:
        stop.set()
        running.join()
        peer.close()
        node.destroy_node()
        rclpy.shutdown()


def test_an_objects_pose_is_told_and_reset_scene_hangs_it_up_anew(ros_domain_id: int) -> None:
    fleet = load_fleet(REPOSITORY / "hardware_configs/fleets/pick2.yaml")
    config, scene = fleet.robots[0].robot, fleet.task.scene
    arm = MujocoArm(config, scene=scene)
    peer = Peer(config)
    rclpy.init()
    node = ArmNode(config, "arm_7", scene, 0, SingleThreadedExecutor())
    poses: list[PoseStamped] = []
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    peer.node.create_subscription(PoseStamped, "object/pose", poses.append, qos)
    stop = threading.Event()
    running = threading.Thread(target=node.run, args=(arm, stop))
    try:
        arm.data.joint("object_z").qfrc_applied[0] = 1.2  # somebody lifts it: it weighs 0.98 N
        running.start()
        peer.spin_until(lambda: poses and poses[-1].pose.position.z > 0.6, "the object higher up")
        assert poses[-1].pose.position.x == pytest.approx(0.56, abs=0.01)
        assert poses[-1].pose.orientation.w == 1.0
        arm.data.joint("object_z").qfrc_applied[0] = 0.0
        answer = peer.call("reset_scene")
        assert answer.success
        assert answer.message == "scene as at first: object_x 0.56 m, object_y 0.0 m, object_z 0.45 m"
        poses.clear()
        peer.spin_until(lambda: len(poses) > 2, "newer poses")
        assert poses[-1].pose.position.z == pytest.approx(0.45, abs=1e-3)
        sensor = config.sensors[0]
        assert sensor.topic == "object/pose"
        assert sensor_values(sensor, poses[-1]) == pytest.approx([0.56, 0.0, 0.45], abs=1e-3)
    finally:
        stop.set()
        running.join()
        peer.close()
        node.destroy_node()
        rclpy.shutdown()


def test_an_arm_nobody_commands_runs_in_real_time(start: Start) -> None:
    _, peer = start(load_robot(speed=0.0, lockstep_timeout_s=1.0))
    peer.spin_for(0.3)
    begin_ns, begin_s = stamp_ns(peer.states[-1]), time.monotonic()
    peer.spin_for(1.0)
    simulated_s = (stamp_ns(peer.states[-1]) - begin_ns) * 1e-9
    assert simulated_s == pytest.approx(time.monotonic() - begin_s, rel=0.3)


def test_a_speed_is_kept(start: Start) -> None:
    _, peer = start(load_robot(speed=4.0))
    peer.command([0.0] * 7)
    peer.spin_for(0.5)
    begin_ns, begin_s = stamp_ns(peer.states[-1]), time.monotonic()
    peer.spin_for(1.5)
    simulated_s = (stamp_ns(peer.states[-1]) - begin_ns) * 1e-9
    assert simulated_s == pytest.approx(4.0 * (time.monotonic() - begin_s), rel=0.25)
    # 100 Hz of robot time, in the robot's own clock.
    steps = np.diff([stamp_ns(state) for state in peer.states[-50:]])
    assert (steps % 10_000_000 == 0).all()
    assert np.median(steps) == 10_000_000  # a busy machine may lose one now and then


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(start: Start, number: signal.Signals) -> None:
    arm, _ = start(load_robot(speed=0.0, lockstep_timeout_s=5.0))
    assert arm.end(number) == 0
    assert "Traceback" not in arm.log.read_text()


@pytest.mark.parametrize(
    ("sim", "message"),
    [
        ({"joint_state_rate_hz": 10.0}, "joint_state_rate_hz must be a whole multiple of control_rate_hz"),
        ({"joint_state_rate_hz": 50.0}, "joint_state_rate_hz must be a whole multiple .* 2.5 times"),
        ({"timestep_s": 0.003}, "timestep_s must be a whole multiple of joint_state_rate_hz"),
    ],
)
def test_rates_that_do_not_divide_are_refused(sim: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArmNode(load_robot(**sim), "arm_7", None, 0, executor=None)  # type: ignore[arg-type]
