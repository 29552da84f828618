"""ROS 2 bags written without ROS: by messages of the kinds that robots have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

Storage = Literal["sqlite3", "mcap"]


class BagFile:
    """One bag, while it is recorded.

    with BagFile(path, "mcap") as bag:
        bag.joint_state("/robot1/joint_states", arrival_ns, stamp_ns, names, q, qd)
    """

    def __init__(
        self,
        path: Path,
        storage: Storage = "sqlite3",
        compression: CompressionMode = CompressionMode.NONE,
    ) -> None:
        plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
        self._writer = Writer(path, version=9, storage_plugin=plugin)
        self._writer.set_compression(compression, CompressionFormat.ZSTD)
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagFile:
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def joint_state(
        self,
        topic: str,
        arrival_ns: int,
        stamp_ns: int,
        names: Sequence[str],
        q: Any,
        qd: Any = (),
        effort: Any = (),
    ) -> None:
        """A sensor_msgs/JointState."""
        message = self._type("sensor_msgs/msg/JointState")(
            self._header(stamp_ns),
            list(names),
            *(np.ascontiguousarray(a, np.float64) for a in (q, qd, effort)),
        )
        self.write(topic, arrival_ns, message)

    def array(self, topic: str, arrival_ns: int, values: Any) -> None:
        """A std_msgs/Float64MultiArray."""
        layout = self._type("std_msgs/msg/MultiArrayLayout")(dim=[], data_offset=0)
        message = self._type("std_msgs/msg/Float64MultiArray")(layout, np.asarray(values, np.float64))
        self.write(topic, arrival_ns, message)

    def pose(self, topic: str, arrival_ns: int, stamp_ns: int, position: Sequence[float]) -> None:
        """A geometry_msgs/PoseStamped, not turned."""
        point = self._type("geometry_msgs/msg/Point")(*map(float, position))
        upright = self._type("geometry_msgs/msg/Quaternion")(0.0, 0.0, 0.0, 1.0)
        pose = self._type("geometry_msgs/msg/Pose")(point, upright)
        message = self._type("geometry_msgs/msg/PoseStamped")(self._header(stamp_ns), pose)
        self.write(topic, arrival_ns, message)

    def flag(self, topic: str, arrival_ns: int, value: bool) -> None:
        """A std_msgs/Bool."""
        self.write(topic, arrival_ns, self._type("std_msgs/msg/Bool")(value))

    def text(self, topic: str, arrival_ns: int, value: str) -> None:
        """A std_msgs/String."""
        self.write(topic, arrival_ns, self._type("std_msgs/msg/String")(value))

    def foreign(self, topic: str, arrival_ns: int) -> None:
        """A message of a type that nobody else knows."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, "lab_msgs/msg/Weld", msgdef="float32 amperes\n", rihs01="RIHS01_" + "0" * 64
            )
        self.raw(topic, arrival_ns, b"\x00\x01\x00\x00\x00\x00\x80\x3f")

    def raw(self, topic: str, arrival_ns: int, data: bytes) -> None:
        """Any bytes on a topic that is there already."""
        self._writer.write(self._connections[topic], arrival_ns, data)

    def write(self, topic: str, arrival_ns: int, message: Any) -> None:
        """Any message of the typestore."""
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
        self.raw(topic, arrival_ns, bytes(self._store.serialize_cdr(message, kind)))

    def _header(self, stamp_ns: int) -> Any:
        stamp = self._type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, 1_000_000_000))
        return self._type("std_msgs/msg/Header")(stamp, "base_link")

    def _type(self, name: str) -> Any:
        return self._store.types[name]
