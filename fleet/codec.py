"""Messages to bytes and back: `decode(encode(m))` gives an equal message, or MessageError.

Frame: b"PNAF", protocol version (u8), message type (u8), header length (u32), header (msgpack map
of the fields; each array as [dtype, shape]), zeros up to the next multiple of 8, then the arrays'
bytes in the order of the fields. Transitions are one array, their packed rows, first of all;
its entry in the header is `rows: [N, nx, nu]`. Nothing is allocated from a size that was not
checked against the frame's own length; decoded arrays are read-only views of the frame.
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from fleet.message_schemas import ROWS, SCHEMAS, PlainField, Schema, layout
from fleet.messages import (
    MAX_FRAME_BYTES,
    MAX_ROWS,
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    Array,
    Message,
    MessageError,
    Transitions,
    check_array,
    check_shape,
    packed_attributes,
)
from fleet.spaces import MAX_DIMENSIONS

MAGIC = b"PNAF"
_PREFIX = struct.Struct("<4sBBI")
_MAX_HEADER_BYTES = 2**20
_TYPE_BYTE = {message_type: number for number, message_type in MESSAGE_TYPES.items()}


def encode(message: Message) -> bytes:
    """Serialise a message into one frame.

    Raises:
        MessageError: A field has the wrong type, dtype or shape, or the frame is too large.
    """
    message_type = type(message)
    if message_type not in _TYPE_BYTE:
        raise MessageError(f"{message_type.__name__} is not a message")
    schema = SCHEMAS[message_type]
    name = schema.name
    header: dict[str, Any] = {}
    for plain in schema.plain:
        value = getattr(message, plain.name)
        header[plain.name] = value if type(value) is plain.kind else _converted(name, plain, value)
    sizes: dict[str, int] = {}
    buffers: list[bytes | memoryview] = []
    if isinstance(message, Transitions):
        rows = np.ascontiguousarray(message.packed())
        header[ROWS] = _declared_rows(f"{name}.{ROWS}", rows, sizes)
        buffers.append(_raw(rows))
    for field_name, spec in schema.arrays:
        array = np.ascontiguousarray(getattr(message, field_name))
        check_array(f"{name}.{field_name}", array, spec, sizes)
        header[field_name] = [array.dtype.str, list(array.shape)]
        buffers.append(_raw(array))
    try:
        packed = msgpack.packb(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"{name} cannot be packed: {error}") from error
    if len(packed) > _MAX_HEADER_BYTES:
        raise MessageError(f"{name}: header of {len(packed)} bytes, at most {_MAX_HEADER_BYTES}")
    prefix = _PREFIX.pack(MAGIC, PROTOCOL_VERSION, _TYPE_BYTE[message_type], len(packed))
    padding = bytes(_padding(len(prefix) + len(packed)))
    frame = b"".join([prefix, packed, padding, *buffers])
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(f"{name}: frame of {len(frame)} bytes, at most {MAX_FRAME_BYTES}")
    return frame


def _declared_rows(label: str, rows: Array, sizes: dict[str, int]) -> list[int]:
    """Check the rows to be sent and return [N, nx, nu]."""
    dtype = rows.dtype
    nx, nu = dtype["observation"].shape[0], dtype["action"].shape[0]
    _check_rows(label, [*rows.shape, nx, nu], sizes)
    if dtype != layout(nx, nu).dtype:
        raise MessageError(f"{label} must be records of row_dtype({nx}, {nu}), got {str(dtype)[:200]}")
    return [*rows.shape, nx, nu]


def _raw(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _padding(size: int) -> int:
    return -size % 8


def _shown(value: Any) -> str:
    """The beginning of a value's text; all of it may be huge, or too deep to be written."""
    return value[:80] if isinstance(value, str) else reprlib.repr(value)[:80]


def _converted(name: str, plain: PlainField, value: Any) -> float:
    """A whole number for a float field; any other wrong type is an error."""
    if plain.kind is float and type(value) is int:
        return float(value)
    raise MessageError(
        f"{name}.{plain.name} must be {plain.text}, got {type(value).__name__}: {_shown(value)}"
    )


def decode(frame: bytes | memoryview) -> Message:
    """Parse and check one frame.

    Raises:
        MessageError: Anything at all is wrong with the frame; the text names the field.
    """
    view = memoryview(frame).toreadonly()
    message_type, header, offset = _unpack_prefix(view)
    schema = SCHEMAS[message_type]
    values = _decode_plain(schema, header)
    name = schema.name
    sizes: dict[str, int] = {}
    if schema.has_rows:
        rows, offset = _decode_rows(f"{name}.{ROWS}", header[ROWS], view, offset, sizes)
        values.update(packed_attributes(rows))
    for field_name, spec in schema.arrays:
        label = f"{name}.{field_name}"
        values[field_name], offset = _decode_array(label, spec, header[field_name], view, offset, sizes)
    if offset != len(view):
        raise MessageError(f"{name}: {len(view) - offset} bytes left over after the last array")
    # Not by __init__: a frozen dataclass calls object.__setattr__ for every field, a third of decode's time.
    message = object.__new__(message_type)
    message.__dict__.update(values)
    return message


def _unpack_prefix(frame: memoryview) -> tuple[type[Message], dict[str, Any], int]:
    """Check the fixed part and return the message type, its header and where the arrays begin."""
    size = len(frame)
    if not _PREFIX.size <= size <= MAX_FRAME_BYTES:
        raise MessageError(f"frame of {size} bytes, expected {_PREFIX.size} to {MAX_FRAME_BYTES}")
    magic, version, type_byte, header_bytes = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise MessageError(f"not a parallel-naf frame: begins with {magic!r}")
    if version != PROTOCOL_VERSION:
        raise MessageError(
            f"protocol version {version}, this side speaks {PROTOCOL_VERSION}: "
            "install the same parallel-naf on both"
        )
    message_type = MESSAGE_TYPES.get(type_byte)
    if message_type is None:
        raise MessageError(f"unknown message type {type_byte}")
    if header_bytes > min(_MAX_HEADER_BYTES, size - _PREFIX.size):
        raise MessageError(f"header of {header_bytes} bytes in a frame of {size}")
    end = _PREFIX.size + header_bytes
    body = end + _padding(end)
    if body > size or any(frame[end:body]):
        raise MessageError(f"the header must be followed by {body - end} zero bytes")
    try:
        header = msgpack.unpackb(frame[_PREFIX.size : end])
    except Exception as error:  # msgpack raises many kinds for malformed bytes
        raise MessageError(f"malformed header: {type(error).__name__} {str(error)[:80]}") from error
    if not isinstance(header, dict):
        raise MessageError(f"the header must be a map, got {type(header).__name__}")
    return message_type, header, body


def _decode_plain(schema: Schema, header: dict[str, Any]) -> dict[str, Any]:
    """The plain fields of a header, checked, with defaults for those left out."""
    names = header.keys()
    if not names <= schema.known:
        raise MessageError(f"{schema.name} has no field {min(map(repr, names - schema.known))[:80]}")
    if not names >= schema.required:
        raise MessageError(f"{schema.name} lacks the field {min(schema.required - names)!r}")
    values: dict[str, Any] = {}
    for plain in schema.plain:
        name = plain.name
        if name not in header:
            assert plain.default is not None
            values[name] = plain.default()
            continue
        value = header[name]
        if type(value) is not plain.kind:
            value = _converted(schema.name, plain, value)
        elif plain.check is not None and not plain.check(value):
            raise MessageError(f"{schema.name}.{name} must be {plain.text}, got {_shown(value)}")
        values[name] = value
    return values


def _check_rows(label: str, declared: Any, sizes: dict[str, int]) -> None:
    """Check [N, nx, nu] against the limits."""
    if type(declared) is not list or [type(size) for size in declared] != [int] * 3 or min(declared) < 0:
        raise MessageError(f"{label} must be three sizes [N, nx, nu], got {_shown(declared)}")
    count, nx, nu = declared
    if count > MAX_ROWS:
        raise MessageError(f"{label} has {count} rows, at most {MAX_ROWS} fit one message")
    if nx > MAX_DIMENSIONS or nu > MAX_DIMENSIONS:
        raise MessageError(f"{label}: nx and nu may be {MAX_DIMENSIONS} at most, got {_shown(declared)}")
    sizes.update(N=count, nx=nx, nu=nu)


def _check_sizes(label: str, shape: Any) -> None:
    # Bounded even where another size is 0: numpy refuses shapes whose sizes overflow.
    for size in shape:
        if type(size) is not int or not 0 <= size <= MAX_FRAME_BYTES:
            raise MessageError(
                f"{label} has shape {_shown(shape)}: sizes must be integers in 0 … {MAX_FRAME_BYTES}"
            )


def _decode_rows(
    label: str, declared: Any, view: memoryview, offset: int, sizes: dict[str, int]
) -> tuple[Array, int]:
    _check_rows(label, declared, sizes)
    count, nx, nu = declared
    rows = layout(nx, nu)
    width = rows.dtype.itemsize
    end = offset + count * width
    if end > len(view):
        raise MessageError(f"{label}: {count * width} bytes declared, {len(view) - offset} left")
    if count:
        flags = np.ndarray(count, rows.flags_dtype, view, offset + rows.flags_offset, width).tobytes()
        if wrong := flags.translate(None, b"\0\1"):
            row, column = divmod(flags.index(wrong[0]), len(rows.flags))
            name = f"{label}: {rows.flags[column]} of row {row}"
            raise MessageError(f"{name}: a bool is {wrong[0]}, must be 0 or 1")
    return np.frombuffer(view, rows.dtype, count, offset), end


def _decode_array(
    label: str, spec: Mapping[str, Any], declared: Any, view: memoryview, offset: int, sizes: dict[str, int]
) -> tuple[Array, int]:
    dtype: np.dtype[Any] = spec["dtype"]
    if not (isinstance(declared, list) and len(declared) == 2 and isinstance(declared[1], list)):
        raise MessageError(f"{label} must be [dtype, shape], got {_shown(declared)}")
    if declared[0] != dtype.str:
        raise MessageError(f"{label} must be {dtype.str}, got {_shown(declared[0])!r}")
    shape = tuple(declared[1])
    _check_sizes(label, shape)
    check_shape(label, shape, spec["dims"], sizes)
    count = math.prod(shape)
    end = offset + count * dtype.itemsize
    if end > len(view):
        raise MessageError(f"{label}: {count * dtype.itemsize} bytes declared, {len(view) - offset} left")
    return np.frombuffer(view, dtype, count, offset).reshape(shape), end
