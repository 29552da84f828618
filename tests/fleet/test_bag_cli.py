"""`pnaf logs import-bag`, as an operator sees it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from benchmarks.common.bag_file import BagFile
from benchmarks.common.fleet_logs import START_NS
from fleet.cli import app
from replay_server.logs import open_logs

FLEET = "hardware_configs/fleets/sim2.yaml"
MS = 1_000_000


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    path = tmp_path / "monday"
    with BagFile(path, "mcap") as file:
        for tick in range(101):
            at_ns = START_NS + 50 * MS * tick
            q = np.array([0.01 * tick, 0.3, 0.0, 1.7, 0.0, 1.0, 0.0])
            file.joint_state(
                "/robot1/joint_states", at_ns, at_ns, [f"joint_{i + 1}" for i in range(7)], q, np.zeros(7)
            )
            file.array("/robot1/forward_velocity_controller/commands", at_ns + MS, [0.2, *[0.0] * 6])
    return path


def run(*arguments: object, robot: str = "robot1", fleet: str = FLEET) -> Result:
    line = ["logs", "import-bag", *map(str, arguments), "--fleet", fleet]
    return CliRunner().invoke(app, [*line, *(["--id", robot] if robot else [])])


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_good_bags_come_in_and_bad_ones_are_named(bag: Path, tmp_path: Path) -> None:
    bad, twin, out = tmp_path / "tuesday.mcap", tmp_path / "copy", tmp_path / "run"
    bad.write_bytes((bag / "monday.mcap").read_bytes()[:2000])
    shutil.copytree(bag, twin)
    result = run(bad, bag, twin, "--out", out)
    assert result.exit_code == 0
    assert f"{out}: 2 episodes, 100 rows" in plain(result.stdout)
    assert re.search(r"monday +5\.\d +202 +2 +100 *$", plain(result.stdout), re.M)
    errors = plain(result.stderr)
    assert f"left out: {bad}: damaged or no bag: " in errors
    assert f"left out: {twin}: the same recording as {bag}" in errors
    assert open_logs([out]).rows == 100


def test_json_and_options_reach_the_import(bag: Path, tmp_path: Path) -> None:
    result = run(
        bag, "--out", tmp_path / "run", "--json", "--episode-s", "2", "--goal", "0.4,0,0.4",
        "--demonstrations", "--action", "measured", "--topic", "joint_states=/robot1/joint_states",
    )  # fmt: skip
    assert result.exit_code == 2, "measured velocities are zero all the time"
    assert "at rest all the time" in result.stderr
    result = run(
        bag,
        "--out",
        tmp_path / "run",
        "--json",
        "--episode-s",
        "2",
        "--goal",
        "0.4,0,0.4",
        "--demonstrations",
    )
    told = json.loads(result.stdout)
    assert told["run"] == str(tmp_path / "run")
    (report,) = told["bags"]
    assert (report["bag"], report["episodes"], report["rows"], report["error"]) == (str(bag), 3, 100, "")
    logs = open_logs([tmp_path / "run"])
    for _, rows in logs.read():
        assert rows.intervened.all()
        np.testing.assert_allclose(
            rows.observation[:, 17:], np.tile([0.4, 0.0, 0.4], (rows.rows, 1)), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--episode-s", "0"], "--episode-s 0: must be more than 0"),
        (["--topic", "joint_states"], "--topic joint_states: must be KEY=NAME"),
        (["--topic", "x=/y"], "--topic x=…: nothing is called so; there are: joint_states, command"),
        (["--goal", "there"], "--goal there: must be final, sample, X,Y,Z (m) or a /topic"),
        (["--goal", "/target"], "it has no /target (geometry_msgs/PoseStamped); it has /robot1/joint_states"),
        (["--marker", "/begin"], "it has no /begin; it has /robot1/joint_states (sensor_msgs/JointState), "),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_leaves_nothing(
    bag: Path, tmp_path: Path, arguments: list[str], text: str
) -> None:
    result = run(bag, "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert text in plain(result.stderr)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_whose_bags_they_are_must_be_said_if_it_is_not_plain(bag: Path, tmp_path: Path) -> None:
    result = run(bag, "--out", tmp_path / "run", robot="")
    assert (result.exit_code, "--id says whose bags these are: one of robot1, robot2" in result.stderr) == (
        2,
        True,
    )
    result = run(bag, "--out", tmp_path / "run", robot="robot9")
    assert (result.exit_code, "robot9" in result.stderr) == (2, True)
    tmp_path.joinpath("run").mkdir()
    result = run(bag, "--out", tmp_path / "run")
    assert (result.exit_code, "exists already" in plain(result.stderr)) == (2, True)


def test_without_rosbags_it_says_what_to_install_and_needs_no_ros(bag: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['rclpy'] = None; sys.modules['torch'] = None\n"
        "if sys.argv.pop(1) == 'absent': sys.modules['rosbags.typesys'] = None\n"
        "from fleet.cli import app; app()"
    )
    for rosbags, status in (("absent", 2), ("there", 0)):
        line = [sys.executable, "-c", script, rosbags, "logs", "import-bag", str(bag), "--fleet", FLEET]
        done = subprocess.run(
            [*line, "--id", "robot1", "--out", str(tmp_path / rosbags)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert ("pip install 'parallel-naf[exchange]'" in done.stderr) == (status == 2)
        assert (tmp_path / rosbags).exists() == (status == 0)
