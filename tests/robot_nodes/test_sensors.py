"""Each kind of sensor: which numbers it gives, in which order, and what is no usable reading."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from pydantic import TypeAdapter

from fleet.robot_config import SensorConfig
from robot_nodes.sensors import SensorError, sensor_values

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

NAN = float("nan")


def sensor(kind: str, **fields: Any) -> SensorConfig:
    values = {"name": "door", "topic": "door", "low": -1.0, "high": 1.0, "max_age_s": 0.2, **fields}
    return TypeAdapter(SensorConfig).validate_python({"type": kind, **values})


def joint_state(**fields: Any) -> JointState:
    values = {"name": ["hinge", "handle"], "position": [0.1, 0.2], "velocity": [0.3, 0.4], **fields}
    return JointState(**values)


def imu(orientation: tuple[float, ...] = (0.0, 0.6, 0.0, 0.8), covariance: float = 0.0) -> Imu:
    message = Imu()
    for target, values in (
        (message.orientation, orientation),
        (message.angular_velocity, (0.1, 0.2, 0.3)),
        (message.linear_acceleration, (0.4, 0.5, 9.8)),
    ):
        for axis, value in zip("xyzw", values, strict=False):
            setattr(target, axis, value)
    message.orientation_covariance[0] = covariance
    return message


def pose(orientation: tuple[float, ...] = (0.0, 0.6, 0.0, 0.8)) -> PoseStamped:
    message = PoseStamped()
    message.pose.position.x, message.pose.position.y, message.pose.position.z = 1.0, 2.0, 3.0
    message.pose.orientation = imu(orientation).orientation
    return message


HINGE = sensor("sensor_msgs/JointState", field="position", joints=["handle", "hinge"])
IMU = sensor("sensor_msgs/Imu", field="orientation")
POSE = sensor("geometry_msgs/PoseStamped", field="pose")
ARRAY = sensor("std_msgs/Float64MultiArray", size=3, unit="N")


@pytest.mark.parametrize(
    ("config", "message", "values"),
    [
        (HINGE, joint_state(), [0.2, 0.1]),
        (HINGE.model_copy(update={"field": "velocity"}), joint_state(), [0.4, 0.3]),
        (HINGE.model_copy(update={"field": "effort"}), joint_state(effort=[5.0, 6.0]), [6.0, 5.0]),
        (IMU, imu(), [0.0, 0.6, 0.0, 0.8]),
        (IMU, imu((0.0, 0.6, 0.0, -0.8)), [0.0, -0.6, 0.0, 0.8]),
        (IMU.model_copy(update={"field": "angular_velocity"}), imu(covariance=-1.0), [0.1, 0.2, 0.3]),
        (IMU.model_copy(update={"field": "linear_acceleration"}), imu(), [0.4, 0.5, 9.8]),
        (POSE, pose(), [1.0, 2.0, 3.0, 0.0, 0.6, 0.0, 0.8]),
        (POSE.model_copy(update={"field": "position"}), pose((0.0,) * 4), [1.0, 2.0, 3.0]),
        (POSE.model_copy(update={"field": "orientation"}), pose(), [0.0, 0.6, 0.0, 0.8]),
        (ARRAY, Float64MultiArray(data=[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
    ],
)
def test_the_numbers_in_the_order_of_the_config(config: SensorConfig, message: Any, values: list) -> None:
    found = sensor_values(config, message)
    assert found.tolist() == pytest.approx(values)
    assert len(found) == len(config.components) == len(config.units)


@pytest.mark.parametrize(
    ("config", "message", "problem"),
    [
        (
            HINGE,
            joint_state(name=["hinge", "x"]),
            "sensor door: the message lacks handle; it has hinge, x",
        ),
        (HINGE, JointState(), "sensor door: the message lacks handle, hinge; it has no joints"),
        (
            HINGE,
            joint_state(position=[0.1]),
            "sensor door: the message has 2 joints but 1 values of position",
        ),
        (
            HINGE.model_copy(update={"field": "effort"}),
            joint_state(),
            "sensor door: the message has 2 joints but 0 values of effort",
        ),
        (HINGE, joint_state(position=[0.1, NAN]), "sensor door: handle is not a finite number"),
        (IMU, imu(covariance=-1.0), "sensor door: this IMU measures no orientation"),
        (IMU, imu((0.0,) * 4), "sensor door: its orientation is no unit quaternion, its length is 0;"),
        (IMU, imu((NAN, 0.0, 0.0, 1.0)), "sensor door: x is not a finite number"),
        (
            POSE,
            pose((0.0, 0.0, 0.0, 2.0)),
            "sensor door: its orientation is no unit quaternion, its length is 2;",
        ),
        (
            ARRAY,
            Float64MultiArray(data=array("d", [1.0, 2.0])),
            "sensor door: a message holds 2 numbers, its config says 3",
        ),
        (ARRAY, Float64MultiArray(data=[1.0, float("inf"), NAN]), "sensor door: 1, 2 is not a finite number"),
    ],
)
def test_what_is_no_usable_reading_is_told(config: SensorConfig, message: Any, problem: str) -> None:
    with pytest.raises(SensorError) as caught:
        sensor_values(config, message)
    assert str(caught.value).startswith(problem)
