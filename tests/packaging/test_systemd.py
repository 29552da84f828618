"""The systemd units: what systemd thinks of them, and that a robot which crashed is started paused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fleet.config_file import PACKAGED_CONFIGS
from fleet.ready import EXIT_CONFIG, RESTARTS_VARIABLE

UNITS = sorted((PACKAGED_CONFIGS / "systemd").iterdir())
ROBOT = PACKAGED_CONFIGS / "systemd/pnaf-robot@.service"


def settings(unit: Path) -> dict[str, list[str]]:
    """All values of each key; systemd lets a key come more than once, which configparser does not."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_it(unit: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("no systemd here")
    done = subprocess.run([verify, "verify", "--man=no", unit], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and str(unit.name) not in done.stderr, done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_every_unit_is_a_careful_service(unit: Path) -> None:
    of = settings(unit)
    assert of["Service.User"] == ["pnaf"], "not root"
    assert of["Service.Restart"] == ["on-failure"], "an orderly end, by `pnaf fleet stop`, is one"
    assert of["Service.RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert {"network-online.target", "chrony.service"} <= set(of["Unit.After"][0].split())
    assert of["Unit.Wants"] == ["network-online.target"], "After alone would not start it"
    assert int(of["Service.TimeoutStopSec"][0]) >= 10
    assert "exec venv/bin/pnaf " in of["Service.ExecStart"][0], "signals must reach pnaf, not a shell"


def test_a_robot_is_started_by_people_and_its_zeros_outlive_it() -> None:
    of = settings(ROBOT)
    assert not any(key.startswith("Install.") for key in of), "an arm does not move because of a power-up"
    # With `mixed` the process that commands zeros would get SIGKILL the moment its node is gone.
    assert of["Service.KillMode"] == ["control-group"]
    assert int(of["Unit.StartLimitBurst"][0]) <= 3


@pytest.mark.parametrize(("restarts", "expected"), [("0", "0"), ("2", "2"), ("", "1")])
def test_a_robot_knows_how_often_it_was_restarted(tmp_path: Path, restarts: str, expected: str) -> None:
    """Runs the unit's command, as systemd would expand it, with stand-ins for systemctl and pnaf."""
    for name, text in (
        ("bin/systemctl", f'echo "$@" > asked; echo {restarts}'),
        ("venv/bin/pnaf", f'echo "${RESTARTS_VARIABLE} $ROS $@" > started'),
        ("setup.bash", "export ROS=sourced"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shell, flag, command = settings(ROBOT)["Service.ExecStart"][0].split(" ", 2)
    for written, expanded in (
        ("${ROS_SETUP}", str(tmp_path / "setup.bash")),
        ("${FLEET}", "my lab.yaml"),
        ("${RUN_DIR}", "runs/lab"),
        ("%n", "pnaf-robot@fr3.service"),
        ("%i", "fr3"),
        ("$$", "$"),
    ):
        command = command.replace(written, expanded)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    subprocess.run([shell, flag, command.strip("'")], cwd=tmp_path, env=environment, check=True, timeout=30)
    started = (tmp_path / "started").read_text().strip()
    assert started == f"{expected} sourced robot my lab.yaml --id fr3 --run-dir runs/lab"
    assert (tmp_path / "asked").read_text().split()[-1] == "pnaf-robot@fr3.service"
