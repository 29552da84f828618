"""Every command of docs/offline.md, in its order, on logs like those of the demo."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.common.fleet_logs import record
from fleet.config_file import load_fleet
from learner.publisher import policy_message
from learner.trainer import Trainer
from robot_nodes.tasks.task import make_task

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/offline.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
QUICK = {
    "pnaf offline train": " --set learner.hidden_sizes=[16] --set learner.engine=eager --steps 300",
    "pnaf offline eval": " --members 3 --steps 200 --guard-rows 200",
    "pnaf fleet up": " --set learner.hidden_sizes=[16] --set goal.success_rate=0 --set goal.over_episodes=1"
    " --set goal.confirm_episodes=0 --set evaluate_every=2",
}
"""What is added to commands so that the page takes a minute: later options win over the page's own."""


@pytest.fixture
def at(tmp_path: Path, make_endpoint: Callable[[], str], ros_domain_id: int) -> Path:
    """A folder with the repository's configs, on ports and a ROS domain of its own, and the demo's logs."""
    shutil.copytree(ROOT / "hardware_configs", tmp_path / "hardware_configs")
    sim2 = tmp_path / "hardware_configs/fleets/sim2.yaml"
    text = sim2.read_text()
    for endpoint in ("tcp://127.0.0.1:5710", "tcp://127.0.0.1:5711"):
        assert text.count(endpoint) == 1
        text = text.replace(endpoint, make_endpoint())
    text, changed = re.subn(r"domain_id: \d+", f"domain_id: {ros_domain_id}", text)
    assert changed == 1
    sim2.write_text(text)
    task = tmp_path / "hardware_configs/tasks/reach.yaml"
    text, changed = re.subn(r"success_radius_m: [\d.]+", "success_radius_m: 0.5", task.read_text())
    assert changed == 1  # robots that move at random have some success
    task.write_text(text)
    fleet = load_fleet(tmp_path / "hardware_configs/fleets/demo.yaml")
    start = Trainer(fleet.learner, make_task(fleet, "robot1").spec)
    record(fleet, tmp_path / "runs/first", policy_message(start, "first", 0, 1.0, 0), 6, seed=0)
    return tmp_path


def test_the_page_has_commands() -> None:
    assert len(BLOCKS) >= 8
    assert sum(block.count("pnaf ") for block in BLOCKS) >= 20


@pytest.mark.timeout(300)
def test_every_command_of_the_page_works(at: Path) -> None:
    (at / "bin").mkdir()
    pnaf = at / "bin/pnaf"
    pnaf.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fleet.cli "$@"\n')
    pnaf.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{at / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for block in BLOCKS:
        lines = []
        for line in block.splitlines():
            extra = next((more for start, more in QUICK.items() if line.startswith(start)), "")
            lines.append(line.partition("  #")[0].rstrip() + extra)
        script = "set -eu\n" + "\n".join(lines)
        if "&" in script:  # what runs in the background must not outlive a failure
            script = f"set -m\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=at, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    made = {path.name for path in (at / "runs").iterdir()}
    assert made >= {
        "first.html", "careful", "imitation", "again", "rehearsal", "first-train", "first-test", "whole",
        "best", "hindsight", "her", "reach.hdf5", "datasets", "reach_lerobot", "from_robomimic",
        "from_minari",
    }  # fmt: skip
    assert (at / "runs/again/start").is_dir()
