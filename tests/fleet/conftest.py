"""ZeroMQ contexts that clean up, and a folder with keys for a whole fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from fleet.key_files import KeyFolder
from fleet.keys import Credentials, find_credentials, make_fleet_keys

CredentialsOf = Callable[..., Credentials]


class KeepingContext(zmq.Context):
    """Holds its sockets until it is destroyed: pyzmq warns of one that is collected while open."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[zmq.Socket]
        object.__setattr__(self, "kept", [])

    def socket(self, *args: Any, **kwargs: Any) -> zmq.Socket:
        made = super().socket(*args, **kwargs)
        self.kept.append(made)
        return made


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    made = KeepingContext()
    yield made
    made.destroy(linger=0)
    made.kept.clear()


@pytest.fixture
def outside() -> Iterator[zmq.Context]:
    """Of clients that are another process, in effect."""
    made = KeepingContext()
    yield made
    made.destroy(linger=0)
    made.kept.clear()


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """Keys of server, learner, operator, monitor, robot1 and robot2, all allowed."""
    folder = KeyFolder(tmp_path / "keys")
    make_fleet_keys(folder.path, ["robot1", "robot2"])
    folder.allow(folder.new("monitor", "monitor").public_part())
    return folder


@pytest.fixture
def credentials_of(keys: KeyFolder) -> CredentialsOf:
    """`credentials_of("robot", "robot1")` from that folder."""

    def find(role: str, robot_id: str = "") -> Credentials:
        return find_credentials(keys, role, robot_id)

    return find
