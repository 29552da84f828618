"""ROS 2 bags, read without ROS: the messages of chosen topics, in order of arrival.

    with Bag(path) as bag:
        for topic, arrival_ns, message in bag.messages({"/robot1/joint_states"}):
            ...

A bag is the folder that `ros2 bag record` makes, or one `.db3` or `.mcap` file. Only messages of the types in
`READABLE` are decoded; whatever else a bag holds does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

READABLE = (
    "sensor_msgs/JointState",
    "sensor_msgs/Imu",
    "geometry_msgs/PoseStamped",
    "std_msgs/Float64MultiArray",
    "std_msgs/Bool",
    "std_msgs/String",
)
"""They are the same in every ROS 2 distribution so far, so a bag's own definitions are not asked."""

_SUFFIXES = (".db3", ".mcap")
_HASHED_BYTES = 2**20  # of each end of a file; its size counts as well


class BagError(ValueError):
    """A bag cannot be used, or not from here on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class BagTopic:
    """One topic: its type, as `sensor_msgs/JointState`, and how many messages the bag has of it."""

    type: str
    messages: int


class Bag:
    """One bag, open inside `with`.

    Attributes:
        path: As given.
        topics: Its topics by name.
        fingerprint: The same for every copy of it, whatever its name [16 hexadecimal digits].
        warning: Why something that was recorded is not in it; empty if nothing says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, BagTopic] = {}
        self.fingerprint = self.warning = ""

    def __enter__(self) -> Bag:
        """Open it.

        Raises:
            BagError: It is none, or damaged.
            ModuleNotFoundError: rosbags is not installed.
        """
        self._decode = _decoder()
        with _clear_errors(self.path):
            files = _files_of(self.path)
            self.fingerprint, self.warning = _fingerprint(files), _unmerged(files)
            self._reader = _reader(self.path)
            self._reader.open()
        for connection in self._reader.connections:
            kind = connection.msgtype.replace("/msg/", "/")
            known = self.topics.get(connection.topic, BagTopic(kind, 0))
            self.topics[connection.topic] = BagTopic(known.type, known.messages + connection.msgcount)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of arrival (ns) and content of each message; None for what is not `READABLE`.

        Raises:
            BagError: The bag is damaged here; what came before is right.
        """
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        if wanted:
            with _clear_errors(self.path):
                for connection, arrival_ns, data in self._reader.messages(wanted):
                    yield connection.topic, arrival_ns, self._decode(data, connection.msgtype)


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """The bags that paths name, each once: bags themselves, and what lies in folders that are none.

    Files beside each other without a metadata.yaml are bags of their own: nobody can tell whether one goes on
    where another ends.
    """
    bags: list[Path] = []
    for path in paths:
        inside: list[Path] = []
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            inside = sorted(
                child
                for child in path.iterdir()
                if (child / "metadata.yaml").is_file() or child.suffix in _SUFFIXES
            )
        bags += inside or [path]
    return list(dict.fromkeys(bags))


def _files_of(path: Path) -> list[Path]:
    """The files that hold a bag's messages.

    Raises:
        BagError: There are none.
    """
    if path.is_dir():
        # Compressed ones as well: x.db3.zstd.
        files = sorted(file for file in path.iterdir() if set(file.suffixes[-2:]) & set(_SUFFIXES))
        if not files:
            raise BagError("no bag: a folder without .db3 or .mcap files, and without bags in it")
        return files
    if not path.exists():
        raise BagError("no such file or folder")
    if path.suffix == ".bag":
        raise BagError("a bag of ROS 1: `rosbags-convert --src OLD.bag --dst NEW` makes one of ROS 2")
    if path.suffix not in _SUFFIXES:
        raise BagError("no bag: give a folder that `ros2 bag record` made, or a .db3 or .mcap file")
    return [path]


def _fingerprint(files: Sequence[Path]) -> str:
    """Of the ends of large files: they hold stamps, and often an index."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        with file.open("rb") as stream:
            size = file.stat().st_size
            digest.update(size.to_bytes(8, "little") + stream.read(_HASHED_BYTES))
            stream.seek(max(0, size - _HASHED_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()


def _unmerged(files: Sequence[Path]) -> str:
    for file in files:
        wal = file.with_name(f"{file.name}-wal")
        if wal.is_file() and wal.stat().st_size:
            return (
                f"{wal.name} holds messages that are not in the bag, as the recorder was killed: "
                f"`sqlite3 {file.name} 'PRAGMA wal_checkpoint(TRUNCATE)'` puts them in"
            )
    return ""


def _decoder() -> Callable[[bytes, str], Any]:
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise ModuleNotFoundError("ROS 2 bags need rosbags: pip install 'parallel-naf[exchange]'") from error

    store = get_typestore(Stores.ROS2_HUMBLE)
    readable = {name.replace("/", "/msg/") for name in READABLE}
    return lambda data, kind: store.deserialize_cdr(data, kind) if kind in readable else None


def _reader(path: Path) -> Any:
    from rosbags.rosbag2 import Reader

    return Reader(path)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Whatever a damaged or foreign file makes rosbags raise becomes a BagError."""
    try:
        yield
    except BagError:
        raise
    except Exception as error:  # its parsers check little: struct.error, TypeError, apsw's and zstd's own, …
        if isinstance(error, PermissionError):
            raise BagError(f"cannot be read: {error.strerror}") from error
        text = (str(error) or type(error).__name__).rstrip(".")
        raise BagError(f"damaged or no bag: {text}{_remedy(path, text)}") from error


def _remedy(path: Path, text: str) -> str:
    if "not supported" in text:
        return ""
    if "files are missing" in text:
        return "; put them back, or take metadata.yaml away to import those that are there"
    file = path if path.is_file() else _files_of(path)[-1]
    tool = {
        ".mcap": f"mcap recover {file.name} -o whole.mcap",
        ".db3": f"sqlite3 {file.name} .recover | sqlite3 whole.db3",
    }
    return (
        f"; of a recording that was cut off, `{tool[file.suffix]}` saves the rest"
        if file.suffix in tool
        else ""
    )
