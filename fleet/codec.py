"""Messages to bytes and back: `decode(encode(m))` gives an equal message, or MessageError.

Frame: b"PNAF", protocol version (u8), message type (u8), header length (u32), header (msgpack map
of the fields; each array as [dtype, shape]), then the arrays' bytes in the order of the fields.
Nothing is allocated from a size that was not checked against the frame's own length; decoded
arrays are read-only views of the frame.
"""

from __future__ import annotations

import struct
import types
import typing
from dataclasses import MISSING, Field, fields
from typing import Any

import msgpack
import numpy as np

from fleet.messages import (
    MAX_FRAME_BYTES,
    MAX_ROWS,
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    Message,
    MessageError,
)

MAGIC = b"PNAF"
_PREFIX = struct.Struct("<4sBBI")
_MAX_HEADER_BYTES = 2**20
_TYPE_BYTE = {message_type: number for number, message_type in MESSAGE_TYPES.items()}


def _read_schema(
    message_type: type,
) -> tuple[dict[str, tuple[type, ...]], tuple[Field[Any], ...], frozenset[str]]:
    """Plain fields with their allowed types, array fields, and the names a header must hold."""
    hints = typing.get_type_hints(message_type)
    plain: dict[str, tuple[type, ...]] = {}
    arrays: list[Field[Any]] = []
    required = set()
    for f in fields(message_type):
        if f.metadata:
            arrays.append(f)
            required.add(f.name)
            continue
        hint = hints[f.name]
        allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain[f.name] = tuple(typing.get_origin(a) or a for a in allowed)
        if f.default is MISSING and f.default_factory is MISSING:
            required.add(f.name)
    return plain, tuple(arrays), frozenset(required)


_SCHEMAS = {message_type: _read_schema(message_type) for message_type in MESSAGE_TYPES.values()}


def _check_plain(message_name: str, name: str, value: Any, allowed: tuple[type, ...]) -> Any:
    if type(value) is int and float in allowed and int not in allowed:
        return float(value)
    if type(value) not in allowed:
        expected = " or ".join(t.__name__ for t in allowed)
        raise MessageError(
            f"{message_name}.{name} must be {expected}, got {type(value).__name__}: {str(value)[:80]}"
        )
    return value


def _check_dims(
    message_name: str, name: str, shape: tuple[int, ...], dims: tuple[str, ...], sizes: dict[str, int]
) -> None:
    if len(shape) != len(dims):
        raise MessageError(
            f"{message_name}.{name} must have dimensions [{', '.join(dims)}], got shape {shape}"
        )
    for dim, size in zip(dims, shape, strict=True):
        if sizes.setdefault(dim, size) != size:
            raise MessageError(
                f"{message_name}.{name}: {dim} is {size} here but {sizes[dim]} in an earlier column"
            )
        if dim == "N" and size > MAX_ROWS:
            raise MessageError(f"{message_name}.{name} has {size} rows, at most {MAX_ROWS} fit one message")


def encode(message: Message) -> bytes:
    """Serialise a message into one frame.

    Raises:
        MessageError: A field has the wrong type, dtype or shape, or the frame is too large.
    """
    message_type = type(message)
    if message_type not in _TYPE_BYTE:
        raise MessageError(f"{message_type.__name__} is not a message")
    name = message_type.__name__
    plain, arrays, _ = _SCHEMAS[message_type]
    header: dict[str, Any] = {
        field_name: _check_plain(name, field_name, getattr(message, field_name), allowed)
        for field_name, allowed in plain.items()
    }
    sizes: dict[str, int] = {}
    buffers: list[bytes] = []
    for f in arrays:
        array = np.ascontiguousarray(getattr(message, f.name))
        if array.dtype != f.metadata["dtype"]:
            raise MessageError(f"{name}.{f.name} must be {f.metadata['dtype']}, got {array.dtype}")
        _check_dims(name, f.name, array.shape, f.metadata["dims"], sizes)
        header[f.name] = [array.dtype.str, list(array.shape)]
        buffers.append(array.tobytes())
    try:
        packed = msgpack.packb(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"{name} cannot be packed: {error}") from error
    if len(packed) > _MAX_HEADER_BYTES:
        raise MessageError(f"{name}: header of {len(packed)} bytes, at most {_MAX_HEADER_BYTES}")
    frame = b"".join(
        [_PREFIX.pack(MAGIC, PROTOCOL_VERSION, _TYPE_BYTE[message_type], len(packed)), packed, *buffers]
    )
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(f"{name}: frame of {len(frame)} bytes, at most {MAX_FRAME_BYTES}")
    return frame


def _unpack_prefix(frame: memoryview) -> tuple[type[Message], dict[str, Any], int]:
    """Check the fixed part and return the message type, its header and where the arrays begin."""
    if not _PREFIX.size <= len(frame) <= MAX_FRAME_BYTES:
        raise MessageError(f"frame of {len(frame)} bytes, expected {_PREFIX.size} to {MAX_FRAME_BYTES}")
    magic, version, type_byte, header_bytes = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise MessageError(f"not a parallel-naf frame: begins with {magic!r}")
    if version != PROTOCOL_VERSION:
        raise MessageError(
            f"protocol version {version}, this side speaks {PROTOCOL_VERSION}: "
            "install the same parallel-naf on both"
        )
    if type_byte not in MESSAGE_TYPES:
        raise MessageError(f"unknown message type {type_byte}")
    if header_bytes > min(_MAX_HEADER_BYTES, len(frame) - _PREFIX.size):
        raise MessageError(f"header of {header_bytes} bytes in a frame of {len(frame)}")
    body = _PREFIX.size + header_bytes
    try:
        header = msgpack.unpackb(frame[_PREFIX.size : body], raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises many kinds for malformed bytes
        raise MessageError(f"malformed header: {error!r}") from error
    if not isinstance(header, dict):
        raise MessageError(f"the header must be a map, got {type(header).__name__}")
    return MESSAGE_TYPES[type_byte], header, body


def decode(frame: bytes | memoryview) -> Message:
    """Parse and check one frame.

    Raises:
        MessageError: Anything at all is wrong with the frame; the text names the field.
    """
    view = memoryview(frame)
    message_type, header, offset = _unpack_prefix(view)
    name = message_type.__name__
    plain, arrays, required = _SCHEMAS[message_type]
    known = plain.keys() | {f.name for f in arrays}
    if unknown := header.keys() - known:
        raise MessageError(f"{name} has no field {min(map(repr, unknown))[:80]}")
    if missing := required - header.keys():
        raise MessageError(f"{name} lacks the field {sorted(missing)[0]!r}")
    values: dict[str, Any] = {
        field_name: _check_plain(name, field_name, header[field_name], allowed)
        for field_name, allowed in plain.items()
        if field_name in header
    }
    sizes: dict[str, int] = {}
    for f in arrays:
        values[f.name], offset = _decode_array(name, f, header[f.name], view, offset, sizes)
    if offset != len(view):
        raise MessageError(f"{name}: {len(view) - offset} bytes left over after the last array")
    return message_type(**values)


def _decode_array(
    name: str, f: Field[Any], declared: Any, view: memoryview, offset: int, sizes: dict[str, int]
) -> tuple[np.ndarray[Any, Any], int]:
    dtype: np.dtype[Any] = f.metadata["dtype"]
    if not (isinstance(declared, list) and len(declared) == 2 and isinstance(declared[1], list)):
        raise MessageError(f"{name}.{f.name} must be [dtype, shape], got {str(declared)[:80]}")
    if declared[0] != dtype.str:
        raise MessageError(f"{name}.{f.name} must be {dtype.str}, got {str(declared[0])[:20]!r}")
    shape = tuple(declared[1])
    # Bounded even where another size is 0: numpy refuses shapes whose sizes overflow.
    if not all(type(size) is int and 0 <= size <= MAX_FRAME_BYTES for size in shape):
        raise MessageError(
            f"{name}.{f.name} has shape {str(shape)[:80]}: sizes must be integers in 0 … {MAX_FRAME_BYTES}"
        )
    _check_dims(name, f.name, shape, f.metadata["dims"], sizes)
    count = 1
    for size in shape:
        count *= size
    end = offset + count * dtype.itemsize
    if end > len(view):
        raise MessageError(
            f"{name}.{f.name}: {count * dtype.itemsize} bytes declared, {len(view) - offset} left"
        )
    raw = np.frombuffer(view[offset:end], dtype="u1" if dtype.kind == "b" else dtype)
    if dtype.kind == "b":
        if raw.size and raw.max() > 1:
            raise MessageError(f"{name}.{f.name}: a bool is {raw.max()}, must be 0 or 1")
        raw = raw.view(bool)
    return raw.reshape(shape), end
