"""The newest reading of each extra sensor, from a bag; `sensor_topics.py` is the same from live topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.robot_config import SensorConfig
from robot_nodes.sensors import SensorError, sensor_values
from robot_nodes.tasks.task import Vector


class BagSensors:
    """All extra sensors of one robot."""

    def __init__(self, sensors: Sequence[SensorConfig], topics: Sequence[str]) -> None:
        """Nothing was heard yet; `topics` are the sensors', in their order."""
        self._sensors = list(sensors)
        self._values: list[Vector | None] = [None] * len(sensors)
        self._arrived_ns = [0] * len(sensors)
        self._errors = [""] * len(sensors)
        self._of_topic: dict[str, list[int]] = {}
        for index, topic in enumerate(topics):
            self._of_topic.setdefault(topic, []).append(index)

    def hear(self, topic: str, arrival_ns: int, message: Any) -> bool:
        """Take a message; returns whether it changed `values`."""
        changed = False
        for index in self._of_topic.get(topic, ()):
            try:
                self._values[index] = sensor_values(self._sensors[index], message)
            except SensorError as error:
                self._errors[index] = str(error)
                continue
            self._arrived_ns[index], self._errors[index], changed = arrival_ns, "", True
        return changed

    @property
    def values(self) -> Vector:
        """Of all sensors, in order [ns]; all must have been heard."""
        return np.concatenate([np.zeros(0), *(values for values in self._values if values is not None)])

    def problem(self, arrival_ns: int) -> str:
        """What is wrong with the first sensor that has no fresh reading; empty if all have."""
        for index, sensor in enumerate(self._sensors):
            age_ns = arrival_ns - self._arrived_ns[index]
            if self._values[index] is None:
                return self._errors[index] or f"sensor {sensor.name}: nothing heard yet"
            if age_ns > sensor.max_age_s * 1e9:
                return self._errors[index] or f"sensor {sensor.name}: silent"
        return ""
