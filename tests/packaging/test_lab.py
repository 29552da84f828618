"""docs/lab.md agrees with the configs it speaks of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fleet.config_file import PACKAGED_CONFIGS, load_robot

LAB = Path(__file__).parents[2] / "docs/lab.md"
TEXT = LAB.read_text()
CONTROLLERS = {"franka_fr3": "fr3_velocity_controller.yaml", "xarm7": "xarm7_velocity_controller.yaml"}


@pytest.mark.parametrize("name", CONTROLLERS)
def test_the_controller_to_install_is_the_one_we_command(name: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    (text,) = [block for block in blocks if block.startswith(f"# {CONTROLLERS[name]}")]
    ((controller, values),) = yaml.safe_load(text).items()
    robot = load_robot(f"robots/{name}.yaml")
    assert robot.topics.command == f"/{controller}/commands"
    parameters = values["ros__parameters"]
    assert parameters["joints"] == robot.joints, "commands have no names: the order must be the same"
    assert parameters["interface_name"] == "velocity"
    assert parameters["type"] == "forward_command_controller/ForwardCommandController"
    assert CONTROLLERS[name] in (PACKAGED_CONFIGS / f"robots/{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["ur5e", "franka_fr3", "kinova_gen3", "xarm7"])
def test_the_commands_in_an_arms_yaml_are_those_of_the_guide(name: str) -> None:
    header = (PACKAGED_CONFIGS / f"robots/{name}.yaml").read_text().split("\nname:")[0]
    launches = re.findall(r"(?:ros2 launch|ros2 control|ros2 run) \S+ \S+", header)
    assert launches and all(launch in TEXT for launch in launches), launches


def test_its_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if not link.startswith("http")]
    named = [LAB.parent / link for link in links]
    named += [
        PACKAGED_CONFIGS / path for path in re.findall(r"(?:configs/)((?:systemd|robots)/[\w@.-]+)", TEXT)
    ]
    missing = [str(path) for path in named if not path.exists() and path.name != "my_arm.yaml"]
    assert not missing
