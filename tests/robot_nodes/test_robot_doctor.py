"""`pnaf doctor --robot` against drivers that publish over real ROS: a healthy one, then one fault each."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fleet.cli import app
from fleet.config_file import PACKAGED_CONFIGS, load_robot
from fleet.doctor import Finding
from fleet.robot_config import RobotConfig

rclpy = pytest.importorskip("rclpy")

from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Imu, JointState  # noqa: E402
from std_msgs.msg import Bool, Float64MultiArray, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from robot_nodes import robot_doctor  # noqa: E402
from robot_nodes.robot_doctor import examine_robot  # noqa: E402

# rclpy's message generator imports lark, which imports a deprecated module of Python's.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_.*' is deprecated:DeprecationWarning")

GENERIC7 = PACKAGED_CONFIGS / "robots/generic7_sim.yaml"
COMMAND = "forward_velocity_controller/commands"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SECONDS = 0.4


def robot_with(**changes: Any) -> RobotConfig:
    """The generic arm as real hardware; `limits__max_effort=…` changes a key of a group."""
    data = load_robot(GENERIC7).model_dump(mode="json") | {"sim": None}
    data["watchdogs"]["state_age"]["limit_s"] = 2.0  # whoever runs the tests has a busy machine
    for key, value in changes.items():
        group, _, inner = key.partition("__")
        if inner:
            data[group][inner] = value
        else:
            data[group] = value
    return RobotConfig.model_validate(data)


class FakeDriver:
    """A ros2_control driver in a thread: joint_states at 100 Hz, a command controller, what tests add."""

    def __init__(self, namespace: str = "ur1", command: str = COMMAND) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("driver", namespace=namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.commands: list[Any] = []
        self.robot = robot_with()
        self.node.create_subscription(Float64MultiArray, command, self.commands.append, 10)
        self.state = JointState(
            name=self.robot.joints[::-1],
            position=self.robot.reset.home_rad[::-1],
            velocity=[0.0] * 7,
            effort=[1.0] * 7,
        )
        self.stamp_offset_s = 0.0
        self.ticks = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._spin)

    def publish_states(self, topic: str = "joint_states", rate_hz: float = 100.0, qos: Any = 10) -> None:
        publisher = self.node.create_publisher(JointState, topic, qos)

        def tick() -> None:
            self.ticks += 1
            now = self.node.get_clock().now() + rclpy.duration.Duration(seconds=self.stamp_offset_s)
            self.state.header.stamp = now.to_msg()
            self.on_tick()
            publisher.publish(self.state)

        self.node.create_timer(1.0 / rate_hz, tick)

    def on_tick(self) -> None:
        """Replaced by tests that want a fault."""

    def publish(self, message: Any, topic: str, qos: Any = 10) -> None:
        publisher = self.node.create_publisher(type(message), topic, qos)
        if qos is LATCHED:
            publisher.publish(message)
        else:
            self.node.create_timer(0.01, lambda: publisher.publish(message))

    def start(self) -> None:
        self.thread.start()

    def _spin(self) -> None:
        while not self.ended.is_set():
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def make_driver(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeDriver]]:
    monkeypatch.setattr(robot_doctor, "_SETTLE_S", 0.5)  # what is missing is waited for
    drivers: list[FakeDriver] = []

    def make(**kwargs: Any) -> FakeDriver:
        drivers.append(FakeDriver(**kwargs))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


def examined(robot: RobotConfig, namespace: str = "ur1") -> dict[str, Finding]:
    findings = examine_robot(robot, namespace, SECONDS)
    assert all(finding.advice for finding in findings if not finding.ok)
    return {finding.name: finding for finding in findings}


def bad(found: dict[str, Finding]) -> set[str]:
    return {name for name, finding in found.items() if finding.needed and not finding.ok}


def save(robot: RobotConfig, path: Path) -> str:
    path.write_text(yaml.safe_dump(robot.model_dump(mode="json")))
    return str(path)


def test_a_healthy_robot(make_driver: Callable[..., FakeDriver], tmp_path: Path) -> None:
    driver = make_driver()
    driver.publish_states(qos=QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    description = driver.robot.urdf.read_text()
    driver.publish(String(data=description), "robot_description", LATCHED)
    driver.publish(Bool(data=False), "/cell/estop")
    driver.publish(Imu(), "imu")
    driver.publish(Float64MultiArray(data=[0.5, 2.0]), "door")
    driver.node.create_service(Trigger, "go_home", lambda request, response: response)
    driver.node.create_subscription(
        JointTrajectory, "joint_trajectory_controller/joint_trajectory", driver.commands.append, 10
    )
    driver.start()
    estop = {"topic": "/cell/estop", "max_age_s": 2.0}
    bounds = {"low": -1.0, "high": 1.0, "max_age_s": 2.0}
    sensors = [
        {"name": "imu", "topic": "imu", "type": "sensor_msgs/Imu", "field": "angular_velocity"} | bounds,
        {"name": "door", "topic": "door", "type": "std_msgs/Float64MultiArray", "size": 2} | bounds,
        {"name": "load", "topic": "joint_states", "type": "sensor_msgs/JointState", "field": "effort"}
        | {"joints": ["joint_2"]}
        | bounds,
    ]
    robot = robot_with(
        external_estop=estop,
        sensors=sensors,
        reset__steps=["service", "trajectory", "velocity"],
        reset__service="go_home",
        limits__max_effort=[10.0] * 7,
    )
    config = save(robot, tmp_path / "arm.yaml")
    arguments = ["doctor", "--robot", config, "--namespace", "ur1", "--seconds", "0.5"]
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--json"])
    found = {finding["name"]: finding for finding in json.loads(answer.stdout)}
    wrong = [finding for finding in found.values() if finding["needed"] and not finding["ok"]]
    assert wrong == [] and answer.exit_code == 0
    assert (
        found["joint_states topic"]["found"] == "/ur1/joint_states from /ur1/driver (best effort, volatile)"
    )
    assert "in another order" in found["joint names"]["found"]
    assert " Hz, jitter " in found["joint_states rate"]["found"]
    assert found["joint efforts"]["found"] == "at most 10 % of limits.max_effort (joint_1)"
    assert "within 0.0 mm" in found["URDF of the driver"]["found"]
    assert found["other commanders"]["found"] == "none"
    assert found["sensor imu"]["ok"] and "angular_velocity" not in found["sensor imu"]["found"]
    assert found["sensor load"]["found"].endswith("Hz; joint_2 1")
    assert not found["sensor door"]["ok"] and "outside its bounds" in found["sensor door"]["advice"]
    assert found["external e-stop"]["found"].endswith("says go")
    assert found["reset service"]["found"] == "/ur1/go_home"
    assert found["trajectory topic"]["ok"]
    assert driver.commands == [], "the doctor never sends anything"


def test_topics_in_another_namespace(make_driver: Callable[..., FakeDriver], tmp_path: Path) -> None:
    driver = make_driver(namespace="")
    driver.publish_states()
    driver.start()
    config = save(robot_with(), tmp_path / "arm.yaml")
    answer = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["doctor", "--robot", config, "--namespace", "ur1", "--seconds", "0.5"]
    )
    assert answer.exit_code == 1
    text = " ".join(answer.stdout.split())
    assert "nobody publishes on /ur1/joint_states; found /joint_states" in text
    assert "write topics.joint_states: /joint_states, or start the driver in the namespace /ur1" in text
    assert "nobody hears /ur1/forward_velocity_controller/commands; found /forward_velocity" in text
    found = examined(robot_with(topics={"joint_states": "/joint_states", "command": f"/{COMMAND}"}))
    assert bad(found) == set()


def test_the_namespace_that_was_forgotten(make_driver: Callable[..., FakeDriver]) -> None:
    driver = make_driver()
    driver.publish_states()
    driver.start()
    found = examined(robot_with(), "")
    assert bad(found) == {"joint_states topic", "command topic"}
    assert found["joint_states topic"].advice.startswith("give --namespace /ur1 ")


def test_names_in_a_namespace_need_one(tmp_path: Path) -> None:
    robot = robot_with(
        topics={"joint_states": "/joint_states"}, external_estop={"topic": "safe", "max_age_s": None}
    )
    answer = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["doctor", "--robot", save(robot, tmp_path / "arm.yaml")]
    )
    assert answer.exit_code == 2
    assert f"arm.yaml: {COMMAND}, safe: without a leading / it is in the robot's namespace" in answer.stderr
    assert "give --namespace ID, the robot's id in the fleet" in answer.stderr


def test_a_robot_of_a_fleet_is_looked_for_where_its_node_will(
    make_driver: Callable[..., FakeDriver], tmp_path: Path, ros_domain_id: int
) -> None:
    driver = make_driver()
    driver.publish_states()
    driver.start()
    fleet = {
        "name": "lab",
        "task": str(PACKAGED_CONFIGS / "tasks/reach.yaml"),
        "robots": [{"id": "ur1", "robot": robot_with().model_dump(mode="json")}],
        "replay_server": {"endpoint": "tcp://127.0.0.1:5710"},
        "learner": {"policy_endpoint": "tcp://127.0.0.1:5711"},
        "ros": {"domain_id": ros_domain_id},
    }
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(fleet))
    lab = ["doctor", "--config", str(tmp_path / "lab.yaml"), "--id", "ur1", "--seconds", "0.5"]
    answer = CliRunner(env={"COLUMNS": "300"}).invoke(app, lab)
    assert answer.exit_code == 0, answer.output
    assert f"domain {ros_domain_id}, range LOCALHOST, namespace /ur1" in answer.stdout
    assert CliRunner().invoke(app, [*lab, "--namespace", "ur2"]).exit_code == 2


def test_nothing_is_there(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_doctor, "_DISCOVERY_S", 0.5)
    found = examined(robot_with(urdf={"topic": "robot_description"}))
    assert bad(found) == {"ROS", "joint_states topic", "command topic", "URDF"}
    assert "no other node is visible" in found["ROS"].found and "ROS_DOMAIN_ID" in found["ROS"].advice


def test_wrong_types_and_qos(make_driver: Callable[..., FakeDriver]) -> None:
    driver = make_driver()
    driver.publish(Float64MultiArray(), "joint_states")
    driver.publish(String(), "imu")
    driver.node.create_subscription(Float64MultiArray, "kept", driver.commands.append, LATCHED)
    driver.start()
    imu = {"name": "imu", "topic": "imu", "type": "sensor_msgs/Imu", "field": "orientation"}
    robot = robot_with(topics__command="kept", sensors=[imu | {"low": -1.0, "high": 1.0, "max_age_s": 0.5}])
    found = examined(robot)
    assert bad(found) == {"joint_states topic", "command topic", "sensor imu"}
    assert "is std_msgs/msg/Float64MultiArray at /ur1/driver" in found["joint_states topic"].found
    assert "the QoS of /ur1/driver does not fit" in found["command topic"].found
    assert "it must be sensor_msgs/msg/Imu" in found["sensor imu"].advice


def test_another_node_commands_the_arm(make_driver: Callable[..., FakeDriver]) -> None:
    driver = make_driver()
    driver.publish_states()
    servo = rclpy.create_node("moveit_servo", context=driver.context)
    servo.create_publisher(Float64MultiArray, f"/ur1/{COMMAND}", 10)
    ours = rclpy.create_node("robot_node", namespace="ur1", context=driver.context)
    ours.create_publisher(Float64MultiArray, COMMAND, 10)
    driver.start()
    found = examined(robot_with())
    assert bad(found) == {"other commanders"}
    assert found["other commanders"].found == "/moveit_servo publishes commands, too"
    assert "DANGEROUS" in found["other commanders"].advice
    servo.destroy_node()
    found = examined(robot_with())
    assert found["other commanders"].found == "none; `pnaf robot` is running (/ur1/robot_node)"
    ours.destroy_node()


def test_an_e_stop_that_is_pressed_and_one_that_is_silent(make_driver: Callable[..., FakeDriver]) -> None:
    driver = make_driver()
    driver.publish_states()
    driver.publish(Bool(data=False), "safe")
    driver.node.create_publisher(Bool, "silent", 10)
    driver.start()
    pressed = examined(robot_with(external_estop={"topic": "safe", "stop_when": False, "max_age_s": None}))
    assert bad(pressed) == {"external e-stop"} and "says stop (False)" in pressed["external e-stop"].found
    silent = examined(robot_with(external_estop={"topic": "silent", "max_age_s": 0.5}))
    assert bad(silent) == {"external e-stop"} and "no message came" in silent["external e-stop"].found


def test_faults_in_the_stream_are_seen(make_driver: Callable[..., FakeDriver]) -> None:
    driver = make_driver()
    driver.stamp_offset_s = -60.0
    driver.state.velocity[0] = float("nan")
    driver.state.name[0] = "elbow"

    def on_tick() -> None:
        if driver.ticks % 2:
            driver.state.name[0] = "elbow" if driver.state.name[0] == "joint_7" else "joint_7"

    driver.on_tick = on_tick  # type: ignore[method-assign]
    driver.publish_states(rate_hz=30.0)
    driver.start()
    found = examined(robot_with(control_rate_hz=50.0))
    assert bad(found) == {"joint names", "joint_states rate", "clocks", "joint velocities"}
    assert "messages lack joint_7" in found["joint names"].found
    assert "60." in found["clocks"].found and "chrony" in found["clocks"].advice


def test_the_drivers_urdf_is_another_robots(make_driver: Callable[..., FakeDriver]) -> None:
    driver = make_driver()
    driver.publish_states()
    longer = driver.robot.urdf.read_text().replace('<origin xyz="0 0 0.06"', '<origin xyz="0 0 0.16"')
    driver.publish(String(data=longer), "robot_description", LATCHED)
    driver.start()
    found = examined(robot_with())
    assert bad(found) == {"URDF of the driver"}
    assert "mm from where the config's URDF has it" in found["URDF of the driver"].found
    from_topic = examined(robot_with(urdf={"topic": "robot_description"}))
    assert bad(from_topic) == set()
    assert from_topic["URDF"].found.startswith("topic /ur1/robot_description")


def test_a_namespace_that_is_none(ros_domain_id: int, tmp_path: Path) -> None:
    config = save(robot_with(), tmp_path / "arm.yaml")
    answer = CliRunner().invoke(app, ["doctor", "--robot", config, "--namespace", "ur 1"])
    assert answer.exit_code == 2 and "--namespace 'ur 1'" in " ".join(answer.stderr.split())


def test_without_ros_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robot_nodes.robot_doctor", None)
    answer = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["doctor", "--robot", save(robot_with(), tmp_path / "arm.yaml"), "--namespace", "ur1"]
    )
    assert answer.exit_code == 2 and "source your ROS 2 setup.bash" in answer.stderr
    assert "pip install 'parallel-naf[ros]'" in answer.stderr
