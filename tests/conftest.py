"""Fixtures all tests share: a ROS domain and ports of their own, and waiting with a deadline."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fleet.shared_memory import remove_stale_segments
from robot_nodes.gazebo.installation import GazeboError, GazeboInstallation, find_gazebo

# No deadline: the machines that run this are busy. Derandomised in CI: a failure there can be repeated.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Domains up to 100 keep DDS below the kernel's ephemeral ports, and so do these ports of ours.
_ROS_DOMAINS = range(1, 101)
_next_domain = itertools.count(os.getpid())  # another each time: a closed node may be visible for a while
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_TCP_PORTS = range(20_000 + _WORKER % 8, 30_000, 8)  # no two workers of a parallel run share one
_given_ports: set[int] = set()

WaitUntil = Callable[..., None]


@pytest.fixture(scope="session")
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """ROS 2 on this machine only, with temporary folders for logs and state; killed nodes leave nothing."""
    environment = {
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),  # of real arms
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(tmp_path_factory.mktemp("ros_log")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
    remove_stale_segments()


@pytest.fixture(scope="session")
def gazebo() -> GazeboInstallation:
    """The Gazebo of this machine; without one its tests are skipped, or fail if PNAF_REQUIRE_GAZEBO=1."""
    try:
        return find_gazebo()
    except GazeboError as error:
        if os.environ.get("PNAF_REQUIRE_GAZEBO") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


def _lock_domain(domain: int) -> int | None:
    """A file descriptor that holds this domain for us, or None if another process has it."""
    path = Path(tempfile.gettempdir()) / f"parallel_naf_ros_domain_{domain}.lock"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except PermissionError:
        return None  # another user's
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextlib.contextmanager
def _ros_domain() -> Iterator[int]:
    """A domain no other test on this machine uses meanwhile; ROS_DOMAIN_ID is set to it."""
    first = next(_next_domain) % len(_ROS_DOMAINS)
    for domain in (*_ROS_DOMAINS[first:], *_ROS_DOMAINS[:first]):
        handle = _lock_domain(domain)
        if handle is not None:
            break
    else:
        pytest.fail("all ROS domains are taken by other tests")
    # A state folder of its own, too: a domain is used again, and a killed robot leaves its marker there.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as state_home:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("XDG_STATE_HOME", state_home)
        yield domain
    os.close(handle)


@pytest.fixture
def ros_domain_id(ros_environment: dict[str, str]) -> Iterator[int]:
    """A domain of its own for each test."""
    with _ros_domain() as domain:
        yield domain


@pytest.fixture(scope="module")
def module_ros_domain_id(ros_environment: dict[str, str]) -> Iterator[int]:
    """A domain of its own for a file whose tests share their robots."""
    with _ros_domain() as domain:
        yield domain


@pytest.fixture(scope="session")
def make_endpoint() -> Callable[[], str]:
    """Each call gives another loopback endpoint whose port is free.

    Ports lie below the ephemeral range, so no outgoing connection can take one between here and bind.
    None is given twice: a late peer of one test must not reach the server of the next.
    """

    def make() -> str:
        start = (os.getpid() * 37) % len(_TCP_PORTS)
        for port in (*_TCP_PORTS[start:], *_TCP_PORTS[:start]):
            if port in _given_ports:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _given_ports.add(port)
            return f"tcp://127.0.0.1:{port}"
        raise RuntimeError(f"no free port in {_TCP_PORTS}")

    return make


@pytest.fixture
def free_endpoint(make_endpoint: Callable[[], str]) -> str:
    """A loopback endpoint whose port is free."""
    return make_endpoint()


@pytest.fixture
def wait_until() -> WaitUntil:
    """`wait_until(condition, timeout_s, what)` polls until the condition holds, or fails naming `what`."""

    def wait(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {timeout_s:g} s")
            time.sleep(0.005)

    return wait
