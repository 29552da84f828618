"""A robot that does not fit the run: what it is told by a real server, what it says, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from fleet.codec import decode, encode
from fleet.config import FleetConfig
from fleet.config_file import load_fleet, save_fleet
from fleet.messages import Hello, Welcome
from fleet.node_specs import ros_environment
from fleet.ready import EXIT_CONFIG
from fleet.sockets import connect_dealer
from replay_server.server import run_replay_server
from robot_nodes.tasks.task import make_task

pytest.importorskip("rclpy")


def without_last_joint(fleet: FleetConfig, path: Path) -> FleetConfig:
    """The same arm with one joint that stays at zero."""
    save_fleet(fleet, path)
    robot = fleet.robots[0].robot
    limits = {
        f"limits.{name}": values[:-1]
        for name, values in robot.limits.model_dump().items()
        if name.endswith(("_rad", "_rad_s", "_rad_s2"))
    }
    change = {"joints": robot.joints[:-1], "reset.home_rad": robot.reset.home_rad[:-1], **limits}
    return load_fleet(path, [f"robots.0.robot.{key}={value}" for key, value in change.items()])


def test_an_arm_with_another_number_of_joints_is_sent_away_in_plain_words(
    make_fleet: Callable[..., FleetConfig], tmp_path: Path
) -> None:
    seven = make_fleet("robot1")
    six = without_last_joint(make_fleet("robot2"), tmp_path / "seven.yaml")
    six = six.model_copy(update={"replay_server": seven.replay_server})
    save_fleet(six, tmp_path / "six.yaml")
    assert make_task(six, "robot2").spec.joints == 6

    stop, ready = threading.Event(), threading.Event()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    server = threading.Thread(
        target=run_replay_server, args=(seven.replay_server, run_dir, "run1", stop, ready.set)
    )
    server.start()
    context = zmq.Context()
    try:
        assert ready.wait(10)
        first = connect_dealer(context, seven.replay_server.endpoint, b"robot1:b0")
        spec = make_task(seven, "robot1").spec.to_json()
        first.send(encode(Hello(role="robot", process_id="robot1", boot_id="b0", spec=spec)))
        assert first.poll(10_000) and isinstance(decode(first.recv()), Welcome)

        config, folder = str(tmp_path / "six.yaml"), str(tmp_path / "elsewhere")
        robot = subprocess.run(
            [sys.executable, "-m", "fleet.cli", "robot", config, "--id", "robot2", "--run-dir", folder],
            env=os.environ | ros_environment(six),
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        context.destroy(linger=0)
        stop.set()
        server.join()
    assert robot.returncode == EXIT_CONFIG, robot.stderr
    lines = [line for line in robot.stderr.splitlines() if "refuses this robot" in line]
    assert len(lines) == 1, robot.stderr
    assert lines[0].endswith(
        "robot robot2 has 6 joints, this run's robots have 7: arms with different numbers of joints cannot "
        "share one policy; start it in a fleet of its own"
    )
