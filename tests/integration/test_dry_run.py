"""`pnaf robot --dry-run` as a process, at an arm that is not ours: it shows everything and sends nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "hardware_configs"
# Random actions begin after half a second without a policy, not after five.
PNAF = """
import robot_nodes.dry_run as dry_run
dry_run._PATIENCE_S, dry_run._LINE_S = 0.5, 0.2
from fleet.cli import app
app()
"""


def write_fleet(folder: Path, endpoint: Callable[[], str], domain: int) -> Path:
    """generic7 as real hardware with a tracking watchdog, which commands that are not sent must not trip."""
    robot = yaml.safe_load((CONFIGS / "robots/generic7_sim.yaml").read_text())
    robot |= {"sim": None, "urdf": str(CONFIGS / "urdf/generic7.urdf"), "control_rate_hz": 20}
    robot["watchdogs"]["tracking"] = {"window_s": 0.3, "limit_rad": 0.05, "action": "latch"}
    robot["watchdogs"]["state_age"] = {"limit_s": 1.0, "action": "wait"}  # this machine is busy
    robot["watchdogs"]["late_ticks"] = {"late_s": 1.0, "limit": 20, "action": "wait"}
    fleet = yaml.safe_load((CONFIGS / "fleets/sim2.yaml").read_text())
    fleet |= {"robot": robot, "robots": ["arm1"], "task": str(CONFIGS / "tasks/reach.yaml")}
    fleet["replay_server"]["endpoint"], fleet["learner"]["policy_endpoint"] = endpoint(), endpoint()
    fleet["ros"]["domain_id"] = domain
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    return path


def test_a_dry_run_shows_everything_and_sends_nothing(
    tmp_path: Path, ros_domain_id: int, make_endpoint: Callable[[], str]
) -> None:
    joints = [f"joint_{i}" for i in range(1, 8)]
    arm: dict[str, Any] = {"joints": joints, "start_rad": [0.0, 0.3, 0.0, 1.7, 0.0, 1.0, 0.0]}
    (tmp_path / "arm.json").write_text(json.dumps({"arm1": arm | {"published": joints[::-1]}}))
    fake = [sys.executable, str(REPOSITORY / "tests/integration/fake_ros2_control.py")]
    recording = tmp_path / "recording.jsonl"
    fleet = write_fleet(tmp_path, make_endpoint, ros_domain_id)
    pnaf = [
        sys.executable,
        "-c",
        PNAF,
        "robot",
        str(fleet),
        "--id",
        "arm1",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen([*fake, str(tmp_path / "arm.json"), str(recording)], stdin=subprocess.PIPE)
    robot = subprocess.Popen(
        [*pnaf, "--dry-run", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    context = Context()
    rclpy.init(context=context)
    node = Node("watcher", context=context, enable_rosout=False, start_parameter_services=False)
    try:
        assert robot.stdout is not None
        deadline = time.monotonic() + 60
        views: list[dict[str, Any]] = []
        while not (views and views[-1]["phase"] == "episode" and any(views[-1]["guard"])):
            line = robot.stdout.readline()
            assert line and time.monotonic() < deadline, robot.communicate()[1]
            views.append(json.loads(line))
            assert views[-1]["dry_run"] is True and views[-1]["phase"] != "fault", views[-1]
        topic = "/arm1/forward_velocity_controller/commands"
        while "robot_node" not in (nodes := dict(node.get_node_names_and_namespaces())):
            assert time.monotonic() < deadline, "we see the node itself"
            time.sleep(0.05)
        assert node.count_subscribers(topic) == 1, "the fake controller"
        assert node.count_publishers(topic) == 0
        assert node.count_publishers("/arm1/joint_trajectory_controller/joint_trajectory") == 0
        assert not any(name.endswith("zero_sender") for name in nodes)
    finally:
        robot.send_signal(signal.SIGINT)
        errors = robot.communicate(timeout=30)[1]
        driver.communicate()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert robot.returncode == 0 and "Traceback" not in errors
    last = views[-1]
    assert [joint["name"] for joint in last["joints"]] == joints
    assert last["joints"][3]["position_rad"] == 1.7 and abs(last["joints"][3]["share"] - 2 / 3) < 1e-9
    assert last["policy"].startswith("none from tcp://") and "random actions" in last["policy"]
    assert any(joint["asked_rad_s"] != joint["command_rad_s"] for joint in last["joints"])
    assert last["watchdogs"] == [] and last["clearance_of"] == "workspace sphere"
    assert not (tmp_path / "run").exists(), "nothing was recorded"
    heard = [json.loads(line) for line in recording.read_text().splitlines()]
    assert [entry for entry in heard if entry[2] == "command"] == []
