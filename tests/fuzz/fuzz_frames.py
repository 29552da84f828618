"""Frames for the fuzz targets: one good frame of every message, and changes that keep a frame a frame."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgpack
import numpy as np

from fleet.codec import encode
from fleet.messages import (
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    Message,
    PolicyMessage,
    policy_checksum,
    row_dtype,
)
from fleet.spaces import Space, SpaceSpec

Mutate = Callable[[bytes, int], bytes]
"""libFuzzer's own mutation: data and the most bytes it may have afterwards."""

SPEC = SpaceSpec(
    Space(("q", "qd"), ("rad", "rad/s"), (-1.0, -1.0), (1.0, 1.0)), Space(("u",), ("1",), (-1.0,), (1.0,))
)
NX, NU = SPEC.observation.size, SPEC.action.size

_PREFIX = struct.Struct("<4sBBI")
_INTERESTING = (
    0,
    1,
    -1,
    2,
    31,
    127,
    255,
    4096,
    4097,
    2**18,
    2**18 + 1,
    2**26,
    2**31,
    2**60,
    2**63,
    2**64 - 1,
)
_VALUES: tuple[Any, ...] = (
    *_INTERESTING,
    *(
        0.0,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
        True,
        None,
        b"",
        b"\xff",
        "",
        "*",
        "a" * 65,
        "y" * 3000,
        "\0/../é",
    ),
    *("robot", "learner", "monitor", "pause", "resume", "estop", "success", "robot1", "robot2", "boot1"),
    *(
        [],
        {},
        [1],
        [[]],
        {"a": 1},
        {"a": {"b": [1.5, None]}},
        {1: 2},
        [2, NX, NU],
        ["<f4", [2]],
        ["<i8", [1]],
    ),
    SPEC.hash,
    SPEC.to_json(),
    msgpack.ExtType(3, b"x"),
)


def policy(**changes: Any) -> PolicyMessage:
    """A good policy for SPEC: nx → 3 → nu."""
    values: dict[str, Any] = {
        "parameters": np.linspace(-1, 1, (NX + 1) * 3 + 4 * NU, dtype="<f4"),
        "observation_mean": np.zeros(NX, "<f4"),
        "observation_scale": np.ones(NX, "<f4"),
        "layer_sizes": [NX, 3, NU],
        "spec_hash": SPEC.hash,
        "exploration_std": 0.5,
        "exploration_correlation": 0.5,
    }
    values |= {"run_id": "r", "version": 1, "learner_step": 10, "published_ns": 5} | changes
    arrays = (values[name] for name in ("parameters", "observation_mean", "observation_scale"))
    return PolicyMessage(**values, checksum=policy_checksum(*arrays))


def example(message_type: type[Message]) -> Message:
    """A message of this type that a run could hold."""
    if message_type is PolicyMessage:
        return policy()
    texts = {
        "role": "robot",
        "process_id": "robot1",
        "robot_id": "robot1",
        "boot_id": "boot1",
        "spec_hash": SPEC.hash,
        "kind": "pause",
        "end": "success",
    }
    by_type: dict[str, Any] = {
        "str": "x",
        "int": 1,
        "float": 0.5,
        "bool": True,
        "dict[str, float]": {"return": 1.5},
        "dict[str, int]": {"boot0": 0},
        "dict[str, list[int]]": {"boot0": [1, 0]},
        "dict[str, Any]": {"robot/episodes": 3},
        "list[str]": ["robot1"],
        "list[int]": [1],
        "list[dict[str, Any]]": [{"role": "robot", "stats": {"a": 1.5}}],
    }
    values: dict[str, Any] = {}
    for f in fields(message_type):
        if f.metadata:
            shape = tuple({"N": 2, "nx": NX, "nu": NU}[dim] for dim in f.metadata["dims"])
            values[f.name] = np.zeros(shape, f.metadata["dtype"])
        elif f.name == "spec":
            values[f.name] = SPEC.to_json()
        elif f.name == "protocol_version":
            values[f.name] = PROTOCOL_VERSION
        else:
            values[f.name] = texts.get(f.name, by_type[str(f.type)])
    return message_type(**values)


def example_frames() -> list[bytes]:
    """One good frame of every message type."""
    return [encode(example(message_type)) for message_type in MESSAGE_TYPES.values()]


def frame_of(type_byte: int, header: Any, body: bytes) -> bytes:
    """A frame with the right prefix, lengths and padding around any header and body."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    prefix = _PREFIX.pack(b"PNAF", PROTOCOL_VERSION, type_byte % 256, len(packed))
    return prefix + packed + bytes(-len(prefix + packed) % 8) + body


def mutate_frame(frame: bytes, max_bytes: int, rng: random.Random, mutate: Mutate) -> bytes:
    """Change a frame somewhere; mostly what comes out is well-formed on the outside."""
    parts = _split(frame)
    if parts is None or rng.random() < 0.1:
        return mutate(frame or b"\0", max_bytes)
    type_byte, header, body = parts
    choice = rng.randrange(6)
    if choice == 0:
        header = mutate(msgpack.packb(header), min(max_bytes, 4096))
    elif choice == 1 and body:
        body = mutate(body, max(len(body), 64))
    elif choice == 2:
        type_byte = rng.choice([*MESSAGE_TYPES, rng.randrange(256)])
        if type_byte in MESSAGE_TYPES and rng.random() < 0.8:
            return encode(example(MESSAGE_TYPES[type_byte]))
    elif choice == 3 and "rows" in header:
        count, nx, nu = (rng.choice((0, 1, 2, 3, 64, 4096)) for _ in range(3))
        header["rows"] = [count, nx, nu]
        size = count * row_dtype(nx, nu).itemsize
        body = (body * (size // max(len(body), 1) + 1))[:size] if size <= max_bytes // 2 else body
    else:
        _change_header(header, rng)
    try:
        return frame_of(type_byte, header, body)[:max_bytes]
    except (ValueError, OverflowError, TypeError):
        return frame


def _change_header(header: dict[Any, Any], rng: random.Random) -> None:
    """Replace, remove, add or rename something in a header, at any depth."""
    place: Any = header
    while isinstance(place, dict | list) and place:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6:
            place = place[key]
            continue
        action = rng.randrange(8)
        if action == 0:
            del place[key]
        elif action == 1 and isinstance(place, dict):
            place[rng.choice(("x", "rows", "a" * 65, "", 7))] = place.pop(key)
        elif action == 2 and type(place[key]) is int:
            place[key] += rng.choice((-1, 1, 63, 64))
        elif action == 3 and isinstance(place, list):
            place.extend([place[key]] * rng.randrange(1, 40))
        elif action == 4 and isinstance(place, dict):
            place |= {f"k{i}": place[key] for i in range(rng.randrange(1, 40))}
        else:
            place[key] = rng.choice(_VALUES)
        return


def _split(frame: bytes) -> tuple[int, dict[Any, Any], bytes] | None:
    """Type byte, header and body, where the frame has these."""
    if len(frame) < _PREFIX.size:
        return None
    _, _, type_byte, size = _PREFIX.unpack_from(frame)
    end = _PREFIX.size + size
    try:
        header = msgpack.unpackb(frame[_PREFIX.size : end], strict_map_key=False)
    except Exception:  # msgpack raises many kinds for malformed bytes
        return None
    return (type_byte, header, frame[end + -end % 8 :]) if isinstance(header, dict) else None
