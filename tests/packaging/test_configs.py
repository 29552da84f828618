"""Every YAML in hardware_configs loads, and a reader learns from it what each of its keys is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from fleet.config import ConfigError, TaskConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet, load_robot
from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig

FILES = sorted(PACKAGED_CONFIGS.rglob("*.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGED_CONFIGS))


def keys_of(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int]]:
    """All keys with their line (0-based); the items of one list share their path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{path}.{key.value}".lstrip("."), key.start_mark.line
            yield from keys_of(value, f"{path}.{key.value}")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from keys_of(item, f"{path}[]")


def undocumented_keys(text: str) -> list[str]:
    """Keys without a comment on their line or on the one above.

    `x_high…` may follow a documented `x_low…`, the top key is covered by the file's header, and the
    same key in several list items needs its comment once.
    """
    lines = text.splitlines()
    keys = list(keys_of(yaml.compose(text)))
    documented: set[str] = set()
    for path, line in keys:
        above = lines[line - 1].strip() if line else ""
        previous = next((p for p, other in keys if other == line - 1), None)
        pair = path.replace("_high", "_low") if "_high" in path else None
        header_only = all(not text.strip() or text.startswith("#") for text in lines[:line])
        if (
            "#" in lines[line]
            or above.startswith("#")
            or (previous is not None and previous == pair and pair in documented)
            or (header_only and any(lines[:line]))
        ):
            documented.add(path)
    return sorted({path for path, _ in keys} - documented)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_loads(path: Path) -> None:
    kind = path.relative_to(PACKAGED_CONFIGS).parts[0]
    if kind == "fleets":
        fleet = load_fleet(path)
        assert fleet.robots and fleet.name == path.stem
    elif kind == "robots":
        robot = load_robot(path)
        assert isinstance(robot.urdf, Path), "what is delivered can be simulated: a file, not a topic"
        assert robot.urdf.parent == PACKAGED_CONFIGS / "urdf"
        assert robot.name == path.stem
    elif kind == "tasks":
        data = yaml.safe_load(path.read_text())
        if scene := data.get("scene"):
            data["scene"] = yaml.safe_load((path.parent / scene).read_text())
        assert TypeAdapter(TaskConfig).validate_python(data)
    elif kind == "worlds":
        assert SceneConfig.model_validate(yaml.safe_load(path.read_text())).name == path.stem
    else:
        pytest.fail(f"{path}: a YAML belongs into fleets/, robots/, tasks/ or worlds/")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_is_documented(path: Path) -> None:
    missing = undocumented_keys(path.read_text())
    assert not missing, f"{path}: give these keys a comment, on their line or on the one above: {missing}"


def test_undocumented_keys_are_found() -> None:
    text = """# Header.

kind: a

# group
limits:
  low_rad: 0  # why
  high_rad: 1
  x_low: 0    # pair
  x_high: 1
robots:       # list
  - id: one   # its name
  - {id: two, scale: 2}
"""
    assert undocumented_keys(text) == ["limits.high_rad", "robots[].scale"]


def test_each_kind_has_a_file() -> None:
    assert {path.parent.name for path in FILES} == {"fleets", "robots", "tasks", "worlds"}


# The template ----------------------------------------------------------------------------------

TEMPLATE = PACKAGED_CONFIGS / "robots/generic_arm7.yaml"
EXAMPLE = "#| "


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def all_keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for group in models_in(field.annotation):
            yield from all_keys(group)


def test_the_template_shows_every_key() -> None:
    shown = set(re.findall(r"(\w+):", TEMPLATE.read_text()))
    missing = sorted(set(all_keys(RobotConfig)) - shown)
    assert not missing, f"{TEMPLATE}: show these keys, too: {missing}"


def test_the_examples_in_the_template_are_valid() -> None:
    text = TEMPLATE.read_text()
    examples = "\n".join(line.removeprefix(EXAMPLE) for line in text.splitlines() if line.startswith(EXAMPLE))
    groups = yaml.safe_load(examples)
    assert set(groups) == {"sensors", "teleop", "external_estop", "sim"}
    data = yaml.safe_load(text) | groups
    data["urdf"] = str(TEMPLATE.parent / data["urdf"])
    robot = RobotConfig.model_validate(data)
    assert {sensor.type.rpartition("/")[2] for sensor in robot.sensors} == {
        "JointState",
        "Imu",
        "PoseStamped",
        "Float64MultiArray",
    }
    assert robot.teleop and robot.external_estop and robot.sim


# Fleets of other arms ----------------------------------------------------------------------------


def test_the_lab_mixes_arms_of_seven_joints_behind_keys() -> None:
    fleet = load_fleet("fleets/lab_example.yaml")
    assert {entry.robot.name for entry in fleet.robots} == {"franka_fr3", "kinova_gen3", "xarm7"}
    assert {len(entry.robot.joints) for entry in fleet.robots} == {7}
    assert fleet.security is not None and fleet.learner.device == "cuda"
    assert "127.0.0.1" not in fleet.replay_server.endpoint + fleet.learner.policy_endpoint
    assert fleet.ros.discovery_range == "LOCALHOST", "three drivers have the same topics"
    assert fleet.spool.on_full == "stop"


def test_an_arm_of_six_joints_cannot_join_them() -> None:
    add = "robots=[{id: fr3, robot: ../robots/franka_fr3.yaml}, {id: ur5e, robot: ../robots/ur5e.yaml}]"
    with pytest.raises(ConfigError, match=r"ur5e has 6.*joints"):
        load_fleet("fleets/lab_example.yaml", [add])


ARMS = ["ur5e", "franka_fr3", "kinova_gen3", "xarm7", "generic_arm7"]


@pytest.mark.parametrize("name", ARMS)
def test_any_arm_can_be_simulated_by_overrides(name: str) -> None:
    """As docs/lab.md has it: a sim group, and topics in each robot's own namespace."""
    robots = ["robots.0.robot.", "robots.1.robot."]
    overrides = [f"{robot}{change}" for robot in robots for change in ("sim={speed: 10.0}", "topics={}")]
    fleet = load_fleet("fleets/sim2.yaml", [f"robot=../robots/{name}.yaml", *overrides])
    assert [entry.robot.name for entry in fleet.robots] == [name, name]
    assert all(entry.robot.sim and not entry.robot.topics.command.startswith("/") for entry in fleet.robots)


@pytest.mark.parametrize("name", ARMS)
def test_any_arm_goes_into_gazebo_by_the_labs_override(name: str) -> None:
    """The example's `override` is all that two arms of a kind need, and their files stay as they are."""
    fleet = load_fleet("fleets/gazebo_lab.yaml", [f"robot=../robots/{name}.yaml", "robots=[a, b]"])
    assert fleet.in_gazebo == fleet.evaluable == ["a", "b"]
    real = load_robot(f"robots/{name}.yaml")
    for entry in fleet.robots:
        assert entry.robot.limits == real.limits.model_copy(update={"max_effort": None})
        assert entry.robot.reset == real.reset
        assert entry.robot.watchdogs.tracking == real.watchdogs.tracking
        assert set(entry.robot.reset.steps) == {"velocity"}, "nobody obeys trajectories or asks a person"
        assert not entry.robot.topics.command.startswith("/")
        assert not (entry.robot.sensors or entry.robot.external_estop), "nobody would publish them"


# URDFs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((PACKAGED_CONFIGS / "urdf").iterdir()), ids=name_of)
def test_a_urdf_is_ours_alone(path: Path) -> None:
    """No mesh files of vendors, every link that has a shape has a mass, one tree."""
    root = ElementTree.parse(path).getroot()
    assert not list(root.iter("mesh"))
    for link in root.findall("link"):
        assert (link.find("inertial") is None) == (link.find("visual") is None), link.get("name")
    links = {link.get("name") for link in root.findall("link")}
    children = [joint.find("child").get("link") for joint in root.findall("joint")]  # type: ignore[union-attr]
    assert len(set(children)) == len(children) == len(links) - 1
