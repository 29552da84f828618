"""Config files: one YAML per fleet, which names one per kind of robot and one per task.

`load_fleet(path)` resolves the files it names into one FleetConfig; `save_fleet` writes that, on its
own feet, beside a run: it is what every process is started with. `load_robot(path)` reads a robot's file
alone. Messages name the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fleet.config import ConfigError, FleetConfig
from fleet.config_errors import Source, Sources, explain
from fleet.robot_config import RobotConfig

PACKAGED_CONFIGS = Path(__file__).resolve().parent.parent / "hardware_configs"


FLEET_FILE_KEYS = {
    "robot": ("file", "The kind of all robots that name none; relative to this file."),
    "override": (
        "group",
        "Keys of a robot, as in its file, that win over every robot's file. Groups are merged, all else is "
        "replaced.",
    ),
}
"""Keys of a fleet's file that are none of FleetConfig: they go into the robots' configs. Type, what it is."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: It is missing, unreadable, not YAML or something else.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values, got {type(data).__name__}")
    return data


def find_config(path: Path | str) -> Path:
    """The file itself, or the one of that name that was installed with the package."""
    path = Path(path)
    if path.exists():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("hardware_configs",) else path.parts
    packaged = PACKAGED_CONFIGS.joinpath(*parts)
    return packaged if packaged.exists() else path


def _apply_override(data: dict[str, Any], override: str) -> None:
    """Set `a.b.c=value` (value in YAML; list items by index) in nested data."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r} must look like learner.seed=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    node: Any = data
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(node, list):
            if not (part.isdigit() and int(part) < len(node)):
                raise ConfigError(f"override {override!r}: {part!r} is not an index below {len(node)}")
            node = node[int(part)]
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a group of keys")
    if isinstance(node, list):
        if not (last.isdigit() and int(last) < len(node)):
            raise ConfigError(f"override {override!r}: {last!r} is not an index below {len(node)}")
        node[int(last)] = value
    else:
        node[last] = value


def _inline(data: dict[str, Any], path: Path, changes: dict[str, Any]) -> Sources:
    """Replace the names of files by their contents, changed for robots; returns which key came from where."""
    sources: Sources = {}
    task_path = path
    if isinstance(data.get("task"), str):
        task_path = path.parent / data["task"]
        sources["task",] = Source(task_path)
        data["task"] = read_yaml(task_path)
    _inline_scene(data.get("task"), task_path, sources)
    security = data.get("security")
    if isinstance(security, dict) and isinstance(security.get("keys"), str):
        keys = path.parent.resolve() / Path(security["keys"]).expanduser()
        data["security"] = security | {"keys": str(keys)}
    default_robot = data.pop("robot", None)
    robots = data.get("robots")
    if not isinstance(robots, list):
        return sources  # pydantic says what is wrong with it
    for i, entry in enumerate(robots):
        if isinstance(entry, str):
            entry = {"id": entry}
        if not isinstance(entry, dict):
            continue
        robot = entry.get("robot", default_robot)
        if robot is None:
            robots[i] = entry  # its robot is required and missing
            continue
        # A copy: an override for one robot must not reach those that share its config.
        robots[i] = copy.deepcopy(entry | {"robot": _inline_robot(robot, path, i, sources, changes)})
    return sources


def _inline_scene(task: Any, path: Path, sources: Sources) -> None:
    """Replace the name of a task's scene, relative to the file `path`, by what that file holds."""
    if isinstance(task, dict) and isinstance(task.get("scene"), str):
        scene_path = path.parent / task["scene"]
        sources["task", "scene"] = Source(scene_path)
        task["scene"] = read_yaml(scene_path)


def _inline_robot(robot: Any, path: Path, index: int, sources: Sources, changes: dict[str, Any]) -> Any:
    """The changed config of the fleet's index-th robot: itself, or read from the file that it names."""
    base, place = path, ("robots", index, "robot")
    if isinstance(robot, str):
        base = path.parent / robot
        sources[place] = Source(base)
        robot = read_yaml(base)
    if not isinstance(robot, dict):
        return robot
    for key in _changed(robot, changes):
        sources[(*place, *key)] = Source(path, ("override", *key))
    return _merged(_with_absolute_urdf(robot, base), changes)


def _changed(data: dict[str, Any], changes: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Where `_merged` has values, or whole groups that `data` lacks, of `changes`."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            yield from ((key, *below) for below in _changed(data[key], value))
        else:
            yield (key,)


def _merged(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`data` with `changes` in place of the same keys; groups are merged, all else is replaced."""
    merged = dict(data)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _with_absolute_urdf(robot: dict[str, Any], path: Path) -> dict[str, Any]:
    """A robot's config as it stands in the file `path`, with the URDF that it names relative to that."""
    if not isinstance(robot.get("urdf"), str):
        return robot
    return robot | {"urdf": str((path.parent / robot["urdf"]).resolve())}


def _check_urdf(robot: RobotConfig, place: str) -> None:
    if isinstance(robot.urdf, Path) and not robot.urdf.is_file():
        raise ConfigError(f"{place}: no such file: {robot.urdf}")


def load_fleet(path: Path | str, overrides: Sequence[str] = ()) -> FleetConfig:
    """Read a fleet's YAML and all it names.

    Args:
        path: A file, or the name of one that was installed with the package.
        overrides: `key.key=value` lines that win over the file and its `override`.

    Raises:
        ConfigError: With one line per problem: file, key, value, and what is allowed.
    """
    path = find_config(path)
    data = read_yaml(path)
    # Whole groups come first: robots=[robot1, robot2] and task=../tasks/reach.yaml are read like the file's.
    nested = [line for line in overrides if re.match(r"(?!override\.)[^=]*\.", line)]
    for line in overrides:
        if line not in nested:
            _apply_override(data, line)
    changes = data.pop("override", {})
    if not isinstance(changes, dict):
        raise ConfigError(f"{path}: override = {changes}: must be groups and keys of a robot")
    changes = _with_absolute_urdf(changes, path)
    sources = _inline(data, path, changes)
    for line in nested:
        _apply_override(data, line)
        place = tuple(int(key) if key.isdigit() else key for key in line.partition("=")[0].split("."))
        sources = {p: source for p, source in sources.items() if p[: len(place)] != place}
        sources[place] = Source(path, place)
        match place:
            case ("task", "scene"):
                _inline_scene(data["task"], path, sources)
            case ("robots", int(index), "robot") if isinstance(data["robots"], list):
                entry = data["robots"][index]
                entry["robot"] = _inline_robot(entry["robot"], path, index, sources, changes)
    try:
        fleet = FleetConfig.model_validate(data)
    except ValidationError as error:
        lines = (explain(path, e, sources) for e in error.errors())
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None  # robots of one kind have one error
    for entry in fleet.robots:
        _check_urdf(entry.robot, f"{path}: robots.{entry.id}.robot.urdf")
    return fleet


def load_robot(path: Path | str) -> RobotConfig:
    """Read one robot's YAML, as it stands in `hardware_configs/robots/`.

    Raises:
        ConfigError: With one line per problem: file, key, value, and what is allowed.
    """
    path = find_config(path)
    data = read_yaml(path)
    if "robots" in data:
        raise ConfigError(f"{path}: is a fleet's config: name the YAML of one of its robots")
    try:
        robot = RobotConfig.model_validate(_with_absolute_urdf(data, path))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(path, e) for e in error.errors())) from None
    _check_urdf(robot, f"{path}: urdf")
    return robot


def save_fleet(fleet: FleetConfig, path: Path) -> None:
    """Write the fleet as one self-contained YAML that `load_fleet` reads back."""
    path.write_text(yaml.safe_dump(fleet.model_dump(mode="json"), sort_keys=False))
