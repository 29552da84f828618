"""Numbers of extra sensors out of ROS messages, checked; pure, the topics are in `sensor_topics.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.robot_config import ArraySensor, ImuSensor, JointStateSensor, PoseSensor, SensorConfig
from robot_nodes.tasks.task import Vector

_UNIT_TOLERANCE = 0.05  # of a quaternion's length: single precision and rounding in drivers


class SensorError(ValueError):
    """A message has no usable reading; the text names the sensor and what is wrong."""


def sensor_values(sensor: SensorConfig, message: Any) -> Vector:
    """The numbers of one sensor [n], in the order of `sensor.components`.

    Args:
        sensor: Which part of the message.
        message: Of the type that `sensor.type` names.

    Raises:
        SensorError: A joint is missing, the size is wrong, or a number is not finite.
    """
    values = np.array(_extract(sensor, message), np.float64)
    bad = [name for name, ok in zip(sensor.components, np.isfinite(values), strict=True) if not ok]
    if bad:
        raise SensorError(f"sensor {sensor.name}: {', '.join(bad)} is not a finite number")
    return values


def _extract(sensor: SensorConfig, message: Any) -> Sequence[float]:
    match sensor:
        case JointStateSensor():
            return _joint_values(sensor, message)
        case ImuSensor(field="orientation"):
            # sensor_msgs/Imu: "If you have no estimate for one of the data elements …"
            if message.orientation_covariance[0] == -1.0:
                raise SensorError(f"sensor {sensor.name}: this IMU measures no orientation")
            return _quaternion(sensor.name, message.orientation)
        case ImuSensor():
            return _vector(getattr(message, sensor.field))
        case PoseSensor(field="position"):
            return _vector(message.pose.position)
        case PoseSensor(field="orientation"):
            return _quaternion(sensor.name, message.pose.orientation)
        case PoseSensor():
            return [*_vector(message.pose.position), *_quaternion(sensor.name, message.pose.orientation)]
        case ArraySensor():
            if len(message.data) != sensor.size:
                raise SensorError(
                    f"sensor {sensor.name}: a message holds {len(message.data)} numbers, its config says "
                    f"{sensor.size}"
                )
            return message.data  # type: ignore[no-any-return]


def _joint_values(sensor: JointStateSensor, message: Any) -> list[float]:
    names, values = list(message.name), getattr(message, sensor.field)
    if missing := [joint for joint in sensor.joints if joint not in names]:
        raise SensorError(
            f"sensor {sensor.name}: the message lacks {', '.join(missing)}; "
            f"it has {', '.join(names) or 'no joints'}"
        )
    if len(values) != len(names):
        raise SensorError(
            f"sensor {sensor.name}: the message has {len(names)} joints but {len(values)} values of "
            f"{sensor.field}"
        )
    return [values[names.index(joint)] for joint in sensor.joints]


def _vector(message: Any) -> list[float]:
    return [message.x, message.y, message.z]


def _quaternion(name: str, message: Any) -> list[float]:
    """[x, y, z, w] with w ≥ 0: q and -q are one orientation, and always read the same."""
    values = np.array([message.x, message.y, message.z, message.w])
    length = float(np.linalg.norm(values))
    if np.isfinite(length) and abs(length - 1.0) > _UNIT_TOLERANCE:
        raise SensorError(
            f"sensor {name}: its orientation is no unit quaternion, its length is {length:.3g}; "
            "does the driver fill it in?"
        )
    return [float(v) for v in (values if values[3] >= 0 else -values)]
