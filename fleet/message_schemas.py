"""What the codec knows about each message type, read once from the classes of `fleet/messages.py`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from fleet.messages import COLUMNS, MESSAGE_TYPES, Message, Transitions, row_dtype

ROWS = "rows"
"""Name in the header of the packed rows of Transitions."""

_MAX_DEPTH = 16
_SCALARS = (str, int, float, bool, bytes, type(None))

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class PlainField:
    """A field that travels in the header.

    Attributes:
        kind: The type of its value.
        check: Whether what a list or map holds has the declared types, too; none for other kinds.
        default: Makes the value of a field that the header left out; none if it must be there.
        text: Its declaration, for errors.
    """

    name: str
    kind: type
    check: Check | None
    default: Callable[[], Any] | None
    text: str


@dataclass(frozen=True, slots=True)
class Schema:
    """A message type: its plain fields, its arrays, and the names a header must and may hold.

    Attributes:
        arrays: Name of each array and its declaration; without the columns of packed rows.
        has_rows: Packed rows come before the arrays.
    """

    name: str
    plain: tuple[PlainField, ...]
    arrays: tuple[tuple[str, Mapping[str, Any]], ...]
    required: frozenset[str]
    known: frozenset[str]
    has_rows: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of nx and nu: their dtype, and where in a row the flags lie, one byte after the other."""

    dtype: np.dtype[Any]
    flags_dtype: np.dtype[Any]
    flags_offset: int
    flags: tuple[str, ...]


@lru_cache(maxsize=64)
def layout(nx: int, nu: int) -> Layout:
    """The layout of rows of these sizes."""
    dtype = row_dtype(nx, nu)
    assert dtype.fields is not None
    flags = sorted((at, name) for name, (kind, at, *_) in dtype.fields.items() if kind == np.bool_)
    first = flags[0][0]
    assert [at - first for at, _ in flags] == list(range(len(flags)))
    return Layout(dtype, np.dtype((np.void, len(flags))), first, tuple(name for _, name in flags))


def _read(message_type: type) -> Schema:
    hints = typing.get_type_hints(message_type)
    has_rows = issubclass(message_type, Transitions)
    held = [f for f in fields(message_type) if not (has_rows and f.name in COLUMNS)]
    arrays = tuple((f.name, f.metadata) for f in held if f.metadata)
    plain = tuple(_plain_field(f, hints[f.name]) for f in held if not f.metadata)
    known = frozenset(f.name for f in held) | ({ROWS} if has_rows else set())
    required = known - {f.name for f in plain if f.default is not None}
    return Schema(message_type.__name__, plain, arrays, required, known, has_rows)


def _plain_field(f: Field[Any], hint: Any) -> PlainField:
    kind = typing.get_origin(hint) or hint
    text = kind.__name__ if kind is hint else str(hint).replace("typing.", "")
    return PlainField(f.name, kind, None if kind is hint else _check(hint), _default(f), text)


def _default(f: Field[Any]) -> Callable[[], Any] | None:
    if f.default_factory is not MISSING:
        return f.default_factory
    value = f.default
    return None if value is MISSING else lambda: value


def _check(hint: Any) -> Check:
    """A function that tells whether a value is of the declared type, down to what it holds."""
    if hint is Any:
        return _is_plain
    if hint is float:
        return lambda value: type(value) in (float, int)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        item = _check(arguments[0])
        return lambda value: type(value) is list and all(map(item, value))
    if origin is dict:
        item = _check(arguments[1])
        return lambda value: (
            type(value) is dict and all(type(key) is str for key in value) and all(map(item, value.values()))
        )
    return lambda value: type(value) is hint


def _is_plain(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether a value is a scalar or made of lists and maps of scalars, not too deep to be walked."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth == 0:
        return False
    if kind is list:
        return all(_is_plain(item, depth - 1) for item in value)
    return kind is dict and all(
        type(key) is str and _is_plain(item, depth - 1) for key, item in value.items()
    )


SCHEMAS: dict[type[Message], Schema] = {kind: _read(kind) for kind in MESSAGE_TYPES.values()}
