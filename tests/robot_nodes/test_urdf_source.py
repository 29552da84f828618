"""A robot's URDF from a file or from the topic of its driver, with what is said when there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.robot_config import UrdfTopic
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import Urdf, UrdfError, load_urdf

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from std_msgs.msg import String  # noqa: E402

FILE = Path(__file__).parents[2] / "hardware_configs/urdf/generic7.urdf"
TOPIC = UrdfTopic(topic="robot_description", timeout_s=20.0)
NEVER = UrdfTopic(topic="robot_description", timeout_s=0.3)


@pytest.fixture
def driver(ros_domain_id: int) -> Iterator[Any]:
    """The node that publishes the URDF on a real robot, robot_state_publisher."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("robot_state_publisher", namespace="robot1", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def publish(driver: Any, text: str, durability: DurabilityPolicy = DurabilityPolicy.TRANSIENT_LOCAL) -> None:
    publisher = driver.create_publisher(
        String, "robot_description", QoSProfile(depth=1, durability=durability)
    )
    publisher.publish(String(data=text))


def test_a_file_gives_the_same_arm_as_the_topic_published_before(driver: Any) -> None:
    publish(driver, FILE.read_text())
    urdf = load_urdf(TOPIC, "robot1")
    assert urdf == Urdf(load_urdf(FILE).text, "topic /robot1/robot_description")
    joints = [f"joint_{i}" for i in range(1, 8)]
    q = [0.1] * 7
    there, here = (Kinematics(u, joints, "tool").tool_position(q) for u in (urdf, load_urdf(FILE)))
    assert there.tolist() == here.tolist()


def test_a_driver_that_starts_late_is_waited_for_inside_another_nodes_callback(driver: Any) -> None:
    """As in the robot node's on_configure, whose executor stands still meanwhile."""
    executor = SingleThreadedExecutor(context=driver.context)
    executor.add_node(driver)
    found: list[Urdf] = []
    timer = driver.create_timer(0.01, lambda: (timer.cancel(), found.append(load_urdf(TOPIC, "robot1"))))
    late = threading.Timer(0.3, publish, (driver, "<robot/>"))
    late.start()
    started_s = time.monotonic()
    while not found and time.monotonic() - started_s < 20:
        executor.spin_once(timeout_sec=0.1)
    late.join()
    executor.shutdown()
    assert found == [Urdf("<robot/>", "topic /robot1/robot_description")]
    assert time.monotonic() - started_s >= 0.3


def test_silence_names_the_topic_and_what_to_start(ros_domain_id: int) -> None:
    with pytest.raises(UrdfError) as caught:
        load_urdf(NEVER, "robot1")
    text = str(caught.value)
    assert text.startswith("urdf: nobody has published a URDF on /robot1/robot_description within 0.3 s")
    assert "robot_state_publisher" in text and "driver" in text
    with pytest.raises(UrdfError, match=r"on /other/description within 0\.3 s"):
        load_urdf(UrdfTopic(topic="/other/description", timeout_s=0.3), "robot1")


@pytest.mark.filterwarnings("ignore:Deprecated in favor:DeprecationWarning")  # in rclpy's own QoS warning
def test_a_publisher_that_keeps_nothing_is_named(driver: Any) -> None:
    publish(driver, "<robot/>", DurabilityPolicy.VOLATILE)
    text = ""
    for _ in range(20):  # until the two have found each other in time
        with pytest.raises(UrdfError) as caught:
            load_urdf(NEVER, "robot1")
        if "though" in (text := str(caught.value)):
            break
    assert "though robot_state_publisher publishes there: it must be std_msgs/String with transient" in text


def test_what_is_no_urdf_or_lacks_the_joints_is_told_with_its_topic(driver: Any) -> None:
    publish(driver, "not XML")
    urdf = load_urdf(TOPIC, "robot1")
    with pytest.raises(ValueError, match=r"^topic /robot1/robot_description: cannot be loaded as a URDF"):
        Kinematics(urdf, ["joint_1"], "tool")
    urdf = Urdf(FILE.read_text(), urdf.name)
    with pytest.raises(
        ValueError, match=r"^topic /robot1/robot_description: no moving joint 'elbow'; it has"
    ):
        Kinematics(urdf, ["elbow"], "tool")
    with pytest.raises(ValueError, match=r"^topic /robot1/robot_description: no link 'gripper'; it has"):
        Kinematics(urdf, ["joint_1"], "gripper")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"\xff\xfe\x00")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "arm.urdf"
    make(path)
    with pytest.raises(UrdfError, match=r"arm\.urdf: cannot be read"):
        load_urdf(path)
