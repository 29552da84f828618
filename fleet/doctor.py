"""What is missing on this machine, and how to get it."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from fleet.config import ConfigError, FleetConfig
from fleet.endpoints import check_loopback
from fleet.key_files import KeyFolder


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        name: What was looked at.
        ok: Whether it will do.
        needed: Whether the main job fails without it.
        found: What was found.
        advice: What to do when it will not do.
    """

    name: str
    ok: bool
    needed: bool
    found: str
    advice: str = ""


_MODULES: tuple[tuple[str, str, str], ...] = (
    (
        "rclpy",
        "robots and simulated arms",
        "source your ROS 2 setup.bash, or: pip install 'parallel-naf[ros]'",
    ),
    (
        "sensor_msgs.msg",
        "robots and simulated arms",
        "apt install ros-$ROS_DISTRO-sensor-msgs, or the extra [ros]",
    ),
    ("pinocchio", "robots", "pip install pin"),
    ("mujoco", "simulated arms", "pip install 'parallel-naf[sim]'"),
    ("torch", "the learner", "pip install 'parallel-naf[learner]'"),
    ("tensorboard", "the learner", "pip install 'parallel-naf[learner]'"),
    ("h5py", "the replay server", "pip install h5py"),
    ("zmq", "everything", "pip install pyzmq"),
    ("matplotlib", "reports", "pip install 'parallel-naf[sim]'"),
)


def examine(fleet: FleetConfig) -> list[Finding]:
    """Check this machine for running the given fleet on it."""
    findings = [_python()]
    findings += [_module(*module) for module in _MODULES]
    findings += [_ros_distributions(), _gazebo(fleet), _gpu(), _cores(fleet), _disk(), _keys(fleet)]
    findings += [
        _port("replay server's port", fleet.replay_server.endpoint),
        _port("policy port", fleet.learner.policy_endpoint),
    ]
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 10), True, version, "install Python 3.10 or newer")


def _module(name: str, used_by: str, advice: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken native library raises more than ImportError
        return Finding(name, False, True, f"{type(error).__name__}: {error} (needed by {used_by})", advice)
    version = getattr(module, "__version__", "")
    return Finding(name, True, True, version or "found")


def _ros_distributions() -> Finding:
    from importlib.metadata import distributions

    wheels = {
        name.split("-")[1]
        for name in (d.metadata["Name"] or "" for d in distributions())
        if name.startswith("ros-") and name.endswith("-rclpy") and name.count("-") == 2
    }
    sourced = {os.environ["ROS_DISTRO"]} if "ROS_DISTRO" in os.environ else set()
    found = ", ".join(sorted(wheels | sourced)) or "none"
    return Finding(
        "one ROS distribution",
        len(wheels | sourced) <= 1,
        True,
        found,
        "a sourced ROS 2 and ROS wheels of another distribution clash: use one of them",
    )


def _gazebo(fleet: FleetConfig) -> Finding:
    from robot_nodes.gazebo.installation import GazeboError, find_gazebo

    try:
        gazebo = find_gazebo()
    except GazeboError as error:
        advice = str(error) if fleet.in_gazebo else f"only for robots simulated in Gazebo: {error}"
        return Finding("Gazebo", False, bool(fleet.in_gazebo), "none that can be used", advice)
    return Finding("Gazebo", True, True, f"{gazebo.version}: {gazebo.gzserver}")


def _gpu() -> Finding:
    try:
        import torch

        if torch.cuda.is_available():
            return Finding("GPU", True, False, torch.cuda.get_device_name(0))
    except Exception as error:
        return Finding("GPU", False, False, str(error), "the learner runs on the CPU")
    return Finding(
        "GPU", False, False, "none that torch can use", "the learner runs on the CPU: fine for the demo"
    )


def _cores(fleet: FleetConfig) -> Finding:
    cores = os.cpu_count() or 1
    advice = f"{len(fleet.robots)} simulated robots and a learner want two cores; expect it to be slow"
    return Finding("CPU cores", cores >= 2, False, str(cores), advice)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding("free disk", free > 2**30, True, f"{free / 2**30:.0f} GiB", "make room: at least 1 GiB")


def _keys(fleet: FleetConfig) -> Finding:
    """Which keys this machine has; each process says more exactly what it lacks when it starts."""
    try:
        if fleet.security is None:
            for endpoint in (fleet.replay_server.endpoint, fleet.learner.policy_endpoint):
                check_loopback(endpoint, "the endpoint")
            return Finding("keys", True, False, "none: the fleet stays on this machine")
        folder = KeyFolder(fleet.security.keys)
        own, allowed, exposed = folder.own(), folder.allowed(), folder.exposures()
    except ConfigError as error:
        return Finding("keys", False, True, "not as they should be", str(error))
    if exposed:
        return Finding("keys", False, True, "unsafe", "\n".join(exposed))
    if not own:
        advice = f"pnaf keys new NAME --role … --keys {folder.path}; docs/security.md"
        return Finding("keys", False, True, f"none in {folder.path}", advice)
    names = ", ".join(f"{key.name} ({key.role})" for key in own)
    return Finding("keys", True, True, f"own: {names}; {len(allowed)} allowed")


def _port(name: str, endpoint: str) -> Finding:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if port == "*":
        return Finding(name, True, True, "any")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return Finding(name, True, True, f"{endpoint} is another machine's")
            advice = (
                "another fleet may be running (pnaf fleet status), or choose another endpoint in the config"
            )
            return Finding(name, False, True, f"{endpoint}: {error.strerror}", advice)
    return Finding(name, True, True, f"{endpoint} is free")
