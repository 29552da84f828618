"""What is wrong in a config file, in a line: file, key as it stands there, value, what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

Place = tuple[int | str, ...]
"""Keys and indices, from the top down."""


class Source(NamedTuple):
    """Where a part of the data stands."""

    file: Path
    key: Place = ()


Sources = dict[Place, Source]
"""Which file, and which key of it, the keys below a place in the data come from."""

_NO_GROUP = ("model_type", "model_attributes_type", "dict_type")
"""Pydantic's types of the error that something else stands where a model or a mapping belongs."""


def dotted(place: Place) -> str:
    """As `--set` has it: robots.0.id."""
    return ".".join(map(str, place))


def explain(path: Path, error: Any, sources: Sources | None = None) -> str:
    """One of pydantic's errors about the data of `path` as a line."""
    unknown = error["type"] == "extra_forbidden"
    last = len(error["loc"]) - 1
    # Without the names that pydantic gives to the members of a union: they are no keys.
    place: Place = tuple(
        key
        for i, key in enumerate(error["loc"])
        if isinstance(key, int) or key.isidentifier() or (unknown and i == last)
    )
    origins = sources or {}
    prefix = max((p for p in origins if place[: len(p)] == p), key=len, default=())
    origin = origins.get(prefix, Source(path))
    loc = (*origin.key, *place[len(prefix) :])
    key = dotted(loc) or "(top level)"
    shown = _short(str(error["input"]))
    if unknown:
        return f"{origin.file}: {key}: unknown key (value {shown}); remove it or correct its spelling"
    if error["type"] == "union_tag_invalid" and error["ctx"]["tag"].startswith("kind: "):
        tag, kinds = (error["ctx"][name].replace("kind: ", "") for name in ("tag", "expected_tags"))
        return f"{origin.file}: {f'{key}.' if loc else ''}kind = {tag}: must be one of {kinds}"
    if error["type"] in _NO_GROUP:
        return f"{origin.file}: {key}: must be a group of keys, got {_short(repr(error['input']))}"
    if error["type"] == "missing":
        return f"{origin.file}: {key}: is required and missing"
    if error["type"] == "value_error" and _is_group(error["input"]):
        # Of a validator of several keys: it names those that matter.
        said = str(error["ctx"]["error"])
        said += _other_files(place, origin, origins)
        return f"{origin.file}: {key}: {said}" if loc else f"{origin.file}: {said}"
    return f"{origin.file}: {key} = {shown}: {error['msg']}"


def _other_files(place: Place, origin: Source, origins: Sources) -> str:
    """Where else keys below `place` stand, as the end of a sentence."""
    others = {
        f"{source.file}: {dotted(key)}": None
        for below, source in origins.items()
        if below[: len(place)] == place
        and source.file != origin.file
        and (key := source.key[: len(place) - len(below)])  # of that which is wrong
    }
    return f" (see also {', '.join(others)})" if others else ""


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _is_group(value: Any) -> bool:
    """Whether this is keys with values, or a list of such: too much for a line."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_is_group, value)))
