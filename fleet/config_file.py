"""Config files: one YAML per fleet, which names one per kind of robot and one per task.

`load_fleet(path)` resolves the files it names into one FleetConfig; `save_fleet` writes that, on its
own feet, beside a run: it is what every process is started with. `load_robot(path)` reads a robot's file
alone. Messages name the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fleet.config import ConfigError, FleetConfig
from fleet.robot_config import RobotConfig

Sources = dict[tuple[int | str, ...], Path]
"""Which file the keys below a place in the data come from."""

PACKAGED_CONFIGS = Path(__file__).resolve().parent.parent / "hardware_configs"


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


def _inline(data: dict[str, Any], path: Path) -> Sources:
    """Replace the names of task and robot files by their contents; returns which key came from where."""
    sources: Sources = {}
    if isinstance(data.get("task"), str):
        sources["task",] = path.parent / data["task"]
        data["task"] = read_yaml(sources["task",])
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
        robots[i] = copy.deepcopy(entry | {"robot": _inline_robot(robot, path, i, sources)})
    return sources


def _inline_robot(robot: Any, path: Path, index: int, sources: Sources) -> Any:
    """The config of the fleet's index-th robot: itself, or read from the file that it names."""
    base = path
    if isinstance(robot, str):
        base = sources["robots", index, "robot"] = path.parent / robot
        robot = read_yaml(base)
    return _with_absolute_urdf(robot, base) if isinstance(robot, dict) else robot


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
        overrides: `key.key=value` lines that win over the file.

    Raises:
        ConfigError: With one line per problem: file, key, value, and what is allowed.
    """
    path = find_config(path)
    data = read_yaml(path)
    # Whole groups come first: robots=[robot1, robot2] and task=../tasks/reach.yaml are read like the file's.
    nested = [override for override in overrides if "." in override.partition("=")[0]]
    for override in overrides:
        if override not in nested:
            _apply_override(data, override)
    sources = _inline(data, path)
    for override in nested:
        _apply_override(data, override)
        key = override.partition("=")[0]  # what is wrong may be the override, not the file
        sources = {loc: file for loc, file in sources.items() if not key.startswith(_dotted(loc))}
        if re.fullmatch(r"robots\.\d+\.robot", key) and isinstance(data["robots"], list):
            index = int(key.split(".")[1])
            entry = data["robots"][index]
            entry["robot"] = _inline_robot(entry["robot"], path, index, sources)
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


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def explain(path: Path, error: Any, sources: Sources | None = None) -> str:
    """One of pydantic's errors as a line: file, key, value, and what is allowed."""
    loc: tuple[int | str, ...] = error["loc"]
    for prefix, source in (sources or {}).items():
        if loc[: len(prefix)] == prefix:
            path, loc = source, loc[len(prefix) :]
            break
    # Without the names that pydantic gives to the members of a union: they are no keys.
    key = _dotted(tuple(k for k in loc if isinstance(k, int) or k.isidentifier())) or "(top level)"
    value = str(error["input"])
    shown = value if len(value) <= 60 else value[:57] + "..."
    if error["type"] == "extra_forbidden":
        return f"{path}: {key}: unknown key (value {shown}); remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{path}: {key}: is required and missing"
    if error["type"] == "value_error" and _is_group(error["input"]):
        # Of a validator of several keys: it names those that matter.
        said = str(error["ctx"]["error"])
        return f"{path}: {key}: {said}" if loc else f"{path}: {said}"
    return f"{path}: {key} = {shown}: {error['msg']}"


def _is_group(value: Any) -> bool:
    """Whether this is keys with values, or a list of such: too much for a line."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_is_group, value)))


def save_fleet(fleet: FleetConfig, path: Path) -> None:
    """Write the fleet as one self-contained YAML that `load_fleet` reads back."""
    path.write_text(yaml.safe_dump(fleet.model_dump(mode="json"), sort_keys=False))
