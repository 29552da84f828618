"""docs/configuration.md: every key of every config file, from the models that check them.

python -m fleet.config_docs > docs/configuration.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fleet.config import FleetConfig, TaskConfig
from fleet.config_file import FLEET_FILE_KEYS
from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig

_UNITS = {
    "_rad_s3": "rad/s³", "_rad_s2": "rad/s²", "_rad_s": "rad/s", "_nms_rad": "N m s/rad",
    "_nm_rad": "N m/rad", "_rad": "rad", "_m_s": "m/s", "_per_m2": "1/m²", "_per_s": "1/s",
    "_ns_m": "N s/m", "_n_m": "N/m", "_m": "m", "_s": "s", "_hz": "Hz",
    "_mb": "MB", "_nm": "N m", "_kg": "kg", "max_effort": "N m",
}  # fmt: skip

_HEADER = """# Configuration

Every key of the YAML files in `hardware_configs/`, made from the models that check them by
`python -m fleet.config_docs > docs/configuration.md`. An unknown key, a missing one without a default and
a value that is not allowed are errors that name the file and the key. SI units; lists per joint are in the
order of `joints`. `pnaf … --set KEY=VALUE` overrides a key of the fleet's file, one of a single robot's as in
`--set robots.0.robot.KEY=VALUE`, and one of every robot's as in `--set override.KEY=VALUE`.

A default of **required** means that the key has to be there. No key that keeps a robot safe has a default.\
"""


def document() -> str:
    """The whole page."""
    parts = [_HEADER]
    file_keys = [_row(f"`{key}`", kind, "", "", what) for key, (kind, what) in FLEET_FILE_KEYS.items()]
    parts += _section("A fleet: `hardware_configs/fleets/*.yaml`", FleetConfig, file_keys)
    for model in models_of(TaskConfig):
        kind = get_args(model.model_fields["kind"].annotation)[0]
        parts += _section(f"The task `{kind}`: `hardware_configs/tasks/*.yaml`", model)
    parts += _section("A scene: `hardware_configs/worlds/*.yaml`", SceneConfig)
    parts += _section("A robot: `hardware_configs/robots/*.yaml`", RobotConfig)
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel], more: Iterable[str] = ()) -> list[str]:
    """A heading, what the model's docstring says, and a table of its keys and `more`; then of its groups."""
    return [f"\n## {title}\n", *_table(model), *more, *_groups(model, "")]


def _groups(model: type[BaseModel], path: str) -> list[str]:
    keys: dict[type[BaseModel], list[str]] = {}  # groups that are alike share a table
    for name, field in model.model_fields.items():
        if name in ("task", "robot", "scene"):
            continue  # files of their own
        key = f"{path}{name}{'[]' if get_origin(field.annotation) is list else ''}"
        for group in models_of(field.annotation):
            keys.setdefault(group, []).append(key)
    parts = []
    for group, names in keys.items():
        kind = group.model_fields.get("type")
        which = f", type {get_args(kind.annotation)[0]}" if kind is not None else ""
        heading = ", ".join(f"`{name}`" for name in names) + which
        parts += [f"\n### {heading}\n", *_table(group), *_groups(group, f"{names[0]}.")]
    return parts


def _table(model: type[BaseModel]) -> list[str]:
    lines = [_first_line(model), "", "| key | type | unit | default | what it is |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
        kind = _named(field.annotation, field.metadata)
        lines.append(_row(f"`{name}`", kind, unit, _default(field), field.description or ""))
    return lines


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The config models a type speaks of, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in models_of(arg)]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if isinstance(field.default, BaseModel):
        return "as below"
    shown = str(field.default).replace("'", "")  # as YAML has it
    yaml_words = {"None": "null", "True": "true", "False": "false"}
    return f"`{yaml_words.get(shown, shown)}`"


def _named(annotation: Any, bounds: Any = ()) -> str:
    """What may stand there, in words of YAML."""
    limits: str = _limits(bounds)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _named(args[0], [*_flat(args[1:]), *bounds])
    if origin in (Union, UnionType):
        names = [_named(arg, bounds if arg is not NoneType else ()) for arg in args if arg is not NoneType]
        return " or ".join(dict.fromkeys([*names, "null"] if NoneType in args else names))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is list:
        return f"list of {_named(args[0])}" + (f",{limits}" if limits else "")
    if origin is tuple:
        return f"list of {len(args)}: {_named(args[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    words = {float: "number", int: "integer", bool: "true, false", str: "text", Path: "file"}
    return words[annotation] + limits


def _flat(metadata: Any) -> list[Any]:
    """Constraints, also those inside a pydantic Field."""
    return [item for m in metadata for item in (m.metadata if isinstance(m, FieldInfo) else [m])]


def _limits(bounds: Any) -> str:
    signs = {
        Gt: ("gt", ">"),
        Ge: ("ge", "≥"),
        Lt: ("lt", "<"),
        Le: ("le", "≤"),
        MinLen: ("min_length", "at least"),
    }
    pairs = [(bound, *signs[type(bound)]) for bound in bounds if type(bound) in signs]
    return "".join(f" {sign} {getattr(bound, name):g}," for bound, name, sign in pairs).rstrip(",")


if __name__ == "__main__":
    sys.stdout.write(document())
