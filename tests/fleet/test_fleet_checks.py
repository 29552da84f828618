"""What is told before anything of a fleet in Gazebo starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.config import ConfigError
from fleet.config_file import load_fleet
from fleet.fleet_checks import prepare_gazebo
from robot_nodes.gazebo.installation import GazeboInstallation

SIM2, GAZEBO2 = "fleets/sim2.yaml", "fleets/gazebo2.yaml"
DISPLAY = {"DISPLAY": ":0"}


def error_of(config: str, *overrides: str, environment: dict[str, str] = DISPLAY) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare_gazebo(load_fleet(config, overrides), environment)
    return str(caught.value)


def test_a_window_needs_robots_in_gazebo_and_a_display() -> None:
    gui = "gazebo.gui=true"
    assert "no robot of this fleet is in Gazebo" in error_of(SIM2, gui)
    error = error_of(GAZEBO2, gui, environment={"DISPLAY": ""})
    assert "DISPLAY is not set" in error


def test_a_fleet_in_mujoco_needs_no_gazebo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", str(tmp_path))
    prepare_gazebo(load_fleet(SIM2), {})


def test_a_missing_gazebo_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", str(tmp_path))
    assert str(tmp_path) in error_of(GAZEBO2)


def test_plugin_and_worlds_are_there_afterwards(gazebo: GazeboInstallation) -> None:
    prepare_gazebo(load_fleet(GAZEBO2), {})
    prepare_gazebo(load_fleet(GAZEBO2, ["gazebo.gui=true"]), {"DISPLAY": ":0"})
    assert list(gazebo.plugin_folder().glob("libpnaf_world_*.so"))


def test_what_gazebo_cannot_have_is_told(gazebo: GazeboInstallation, tmp_path: Path) -> None:
    urdf = tmp_path / "arm.urdf"
    urdf.write_text("<robot name='arm'><link name='a'/></robot>")
    assert str(urdf) in error_of(GAZEBO2, f"robots.0.robot.urdf={urdf}")
