"""A robot's YAML alone, with messages as of a fleet's."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.config import ConfigError
from fleet.config_file import PACKAGED_CONFIGS, load_robot

GENERIC7 = PACKAGED_CONFIGS / "robots/generic7_sim.yaml"


def test_a_robot_loads_by_path_and_by_the_name_it_was_installed_with() -> None:
    robot = load_robot(GENERIC7)
    assert robot.name == "generic7_sim"
    assert isinstance(robot.urdf, Path) and robot.urdf.is_absolute() and robot.urdf.is_file()
    assert load_robot("hardware_configs/robots/generic7_sim.yaml") == robot


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "control_rate_hz: 20 ",
            "control_rate_hz: 0 ",
            "control_rate_hz = 0: Input should be greater than 0",
        ),
        ("tool_link: tool ", "tool: tool ", "tool_link: is required and missing"),
        ("tool_link: tool ", "tool_link: tool\nspeed: 3 ", "speed: unknown key (value 3); remove it"),
        ("urdf: ../urdf/generic7.urdf", "urdf: nowhere.urdf", "urdf: no such file: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GENERIC7.read_text().replace("../urdf", str(GENERIC7.parents[1] / "urdf"))
    old = old.replace("../urdf", str(GENERIC7.parents[1] / "urdf"))
    assert old in text
    path = tmp_path / "arm.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as error:
        load_robot(path)
    assert f"{path}: {message}" in str(error.value)


def test_a_fleet_is_not_a_robot() -> None:
    fleet = PACKAGED_CONFIGS / "fleets/sim2.yaml"
    with pytest.raises(ConfigError, match="is a fleet's config: name the YAML of one of its robots"):
        load_robot(fleet)
