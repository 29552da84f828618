"""Every YAML in hardware_configs loads, and a reader learns from it what each of its keys is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from fleet.config import RobotConfig, TaskConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet

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
        assert load_fleet(path).robots
    elif kind == "robots":
        robot = RobotConfig.model_validate(yaml.safe_load(path.read_text()))
        assert (path.parent / robot.urdf).is_file()
        assert robot.name == path.stem
    elif kind == "tasks":
        assert TypeAdapter(TaskConfig).validate_python(yaml.safe_load(path.read_text()))
    else:
        pytest.fail(f"{path}: a YAML belongs into fleets/, robots/ or tasks/")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_is_documented(path: Path) -> None:
    assert undocumented_keys(path.read_text()) == []


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
    assert {path.parent.name for path in FILES} == {"fleets", "robots", "tasks"}
