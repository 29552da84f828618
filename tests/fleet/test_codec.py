from __future__ import annotations

import contextlib
import struct
from dataclasses import fields
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.codec import decode, encode
from fleet.messages import (
    MAX_FRAME_BYTES,
    MAX_ROWS,
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    Ack,
    Hello,
    Message,
    MessageError,
    PolicyMessage,
    SampleReply,
    StatusRequest,
    TailReply,
    TransitionBatch,
    policy_checksum,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT = st.integers(-(2**63), 2**64 - 1)
SCALAR = st.one_of(INT, TEXT, st.booleans(), st.floats(allow_nan=False))
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": INT,
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "dict[str, Any]": st.dictionaries(TEXT, SCALAR, max_size=4),
    "dict[str, float]": st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=4),
    "list[int]": st.lists(INT, max_size=4),
    "list[str]": st.lists(TEXT, max_size=4),
    "list[dict[str, Any]]": st.lists(st.dictionaries(TEXT, SCALAR, max_size=3), max_size=3),
}


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Any message, with arrays of any content and agreeing sizes."""
    message_type = draw(st.sampled_from(list(MESSAGE_TYPES.values())))
    sizes = {dim: draw(st.integers(0, 5)) for dim in ("N", "nx", "nu", "P")}
    values = {}
    for f in fields(message_type):
        if f.metadata:
            shape = tuple(sizes[dim] for dim in f.metadata["dims"])
            values[f.name] = draw(hnp.arrays(f.metadata["dtype"], shape))
        else:
            values[f.name] = draw(PLAIN[str(f.type)])
    return message_type(**values)


def assert_equal(one: Message, other: Message) -> None:
    assert type(one) is type(other)
    for f in fields(one):
        mine, theirs = getattr(one, f.name), getattr(other, f.name)
        if f.metadata:
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert mine.tobytes() == theirs.tobytes(), f.name
        else:
            assert mine == theirs and type(mine) is type(theirs), f.name


def batch(rows: int = 3, nx: int = 4, nu: int = 2, **changes: Any) -> TransitionBatch:
    values: dict[str, Any] = {
        f.name: np.ones([{"N": rows, "nx": nx, "nu": nu}[d] for d in f.metadata["dims"]], f.metadata["dtype"])
        for f in fields(TransitionBatch)
        if f.metadata
    }
    values |= {"robot_id": "arm1", "boot_id": "b", "first_seq": 7, "episode": 1, "spec_hash": "h"}
    return TransitionBatch(**{**values, **changes})


@given(messages())
def test_every_message_survives_the_wire(message: Message) -> None:
    assert_equal(decode(encode(message)), message)


@given(st.binary(max_size=300))
def test_random_bytes_are_message_errors(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@given(st.sampled_from(sorted(MESSAGE_TYPES)), st.binary(max_size=200), st.integers(0, 300))
def test_random_headers_are_message_errors(type_byte: int, data: bytes, header_bytes: int) -> None:
    frame = struct.pack("<4sBBI", b"PNAF", PROTOCOL_VERSION, type_byte, header_bytes) + data
    with pytest.raises(MessageError):
        decode(frame)


@given(messages(), st.data())
def test_flipped_bits_and_cuts_give_a_message_or_a_message_error(
    message: Message, data: st.DataObject
) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del frame[data.draw(st.integers(0, len(frame))) :]
    with contextlib.suppress(MessageError):
        decode(bytes(frame))


JSONISH = st.recursive(
    st.none() | SCALAR | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.binary(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted(MESSAGE_TYPES)), st.data())
def test_well_formed_headers_with_wrong_values_are_message_errors_or_messages(
    type_byte: int, data: st.DataObject
) -> None:
    names = [f.name for f in fields(MESSAGE_TYPES[type_byte])]
    header = data.draw(
        st.dictionaries(st.sampled_from(names) | TEXT | st.binary(max_size=3), JSONISH, max_size=8)
    )
    shape = st.lists(st.integers(-2, 2**64 - 1) | st.integers(0, 3), max_size=3)
    for f in fields(MESSAGE_TYPES[type_byte]):
        if f.metadata and data.draw(st.booleans()):
            header[f.name] = [f.metadata["dtype"].str, data.draw(shape)]
    packed = msgpack.packb(header)
    frame = struct.pack("<4sBBI", b"PNAF", PROTOCOL_VERSION, type_byte, len(packed)) + packed
    with contextlib.suppress(MessageError):
        decode(frame + data.draw(st.binary(max_size=40)))


def reheader(message: Message, **changes: Any) -> bytes:
    """The frame of a message whose header was changed by somebody."""
    frame = encode(message)
    magic, version, type_byte, size = struct.unpack_from("<4sBBI", frame)
    header = msgpack.unpackb(frame[10 : 10 + size])
    header.update(changes)
    packed = msgpack.packb({key: value for key, value in header.items() if value is not ...})
    return struct.pack("<4sBBI", magic, version, type_byte, len(packed)) + packed + frame[10 + size :]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "TransitionBatch has no field 'extra'"),
        ({b"extra": 1, "other": 2}, "TransitionBatch has no field"),
        ({"first_seq": "7"}, "TransitionBatch.first_seq must be int, got str: 7"),
        ({"first_seq": True}, "TransitionBatch.first_seq must be int, got bool"),
        ({"metrics": [1]}, "TransitionBatch.metrics must be dict, got list"),
        ({"reward": ["<f8", [3]]}, "TransitionBatch.reward must be <f4, got '<f8'"),
        ({"reward": ["<f4", [2]]}, "TransitionBatch.reward: N is 2 here but 3 in an earlier column"),
        ({"observation": ["<f4", [3, 4, 1]]}, r"must have dimensions \[N, nx\], got shape \(3, 4, 1\)"),
        ({"observation": ["<f4", [3, -4]]}, "sizes must be integers in 0 … 67108864"),
        ({"observation": ["<f4", [0, 2**63]]}, "sizes must be integers in 0 … 67108864"),
        ({"observation": ["<f4", [3, 2**40]]}, "sizes must be integers in 0 … 67108864"),
        ({"observation": ["<f4", [3, 2**20]]}, r"observation: 12582912 bytes declared, \d+ left"),
        ({"observation": ["<f4", [2**19, 1]]}, f"has 524288 rows, at most {MAX_ROWS}"),
        ({"observation": "<f4"}, r"observation must be \[dtype, shape\], got <f4"),
        ({"observation": ["<f4", [3, True]]}, "sizes must be integers"),
    ],
)
def test_a_wrong_header_is_named(changes: dict[Any, Any], reason: str) -> None:
    frame = reheader(batch(), **{k: v for k, v in changes.items() if isinstance(k, str)})
    if any(isinstance(k, bytes) for k in changes):
        packed = msgpack.packb(changes)
        frame = struct.pack("<4sBBI", b"PNAF", PROTOCOL_VERSION, 1, len(packed)) + packed
    with pytest.raises(MessageError, match=reason):
        decode(frame)


def test_a_missing_field_is_named_and_one_with_a_default_may_be_missing() -> None:
    with pytest.raises(MessageError, match="TransitionBatch lacks the field 'robot_id'"):
        decode(reheader(batch(), robot_id=...))
    decoded = decode(reheader(batch(success=True), success=...))
    assert isinstance(decoded, TransitionBatch) and decoded.success is False


def test_a_whole_number_may_stand_for_a_float() -> None:
    frame = reheader(policy(), exploration_std=1)
    decoded = decode(frame)
    assert isinstance(decoded, PolicyMessage) and type(decoded.exploration_std) is float


def policy() -> PolicyMessage:
    arrays = {"parameters": np.ones(5, "<f4"), "observation_mean": np.ones(2, "<f4")}
    return PolicyMessage(
        run_id="r",
        version=1,
        learner_step=2,
        spec_hash="h",
        layer_sizes=[2, 1],
        exploration_std=0.5,
        exploration_correlation=0.0,
        published_ns=3,
        checksum="c",
        observation_scale=np.ones(2, "<f4"),
        **arrays,
    )


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda f: b"HTTP" + f[4:], "not a parallel-naf frame: begins with b'HTTP'"),
        (lambda f: f[:4] + b"\x07" + f[5:], "protocol version 7, this side speaks 1: install the same"),
        (lambda f: f[:5] + b"\xfa" + f[6:], "unknown message type 250"),
        (lambda f: f[:6] + b"\xff\xff\xff\x7f" + f[10:], "header of 2147483647 bytes in a frame of"),
        (lambda f: f[:9], f"frame of 9 bytes, expected 10 to {MAX_FRAME_BYTES}"),
        (lambda f: f + b"x", "1 bytes left over after the last array"),
        (lambda f: f[:-1], r"stamp_ns: 24 bytes declared, 23 left"),
    ],
)
def test_a_wrong_frame_is_named(edit: Any, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(edit(encode(batch())))


def test_a_bool_is_0_or_1() -> None:
    frame = bytearray(encode(batch(rows=1)))
    frame[-20] = 2  # before policy_version and stamp_ns (8 bytes each) lie four bools
    with pytest.raises(MessageError, match="terminated: a bool is 2, must be 0 or 1"):
        decode(bytes(frame))


def test_wrong_messages_are_not_sent() -> None:
    with pytest.raises(MessageError, match=r"TransitionBatch\.reward must be float32, got float64"):
        encode(batch(reward=np.ones(3)))
    with pytest.raises(MessageError, match=r"action: N is 2 here but 3 in an earlier column"):
        encode(batch(action=np.ones((2, 2), "<f4")))
    with pytest.raises(MessageError, match=r"Ack\.durable_seq must be int, got str"):
        encode(Ack(robot_id="a", boot_id="b", durable_seq="3"))  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="Ack cannot be packed"):
        encode(Ack(robot_id="\ud800", boot_id="b", durable_seq=3))
    with pytest.raises(MessageError, match="StatusRequest cannot be packed"):
        encode(StatusRequest(request_id=2**64))
    with pytest.raises(MessageError, match="int is not a message"):
        encode(3)  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="header of 2000"):
        encode(Hello(role="robot", process_id="p", boot_id="b", spec={"x": "y" * 2_000_000}))


def test_a_frame_too_large_for_the_other_side_is_not_sent() -> None:
    with pytest.raises(MessageError, match=f"at most {MAX_FRAME_BYTES}"):
        encode(batch(rows=MAX_ROWS, nx=40))
    with pytest.raises(MessageError, match=f"has {MAX_ROWS + 1} rows"):
        encode(batch(rows=MAX_ROWS + 1, nx=1, nu=1))


def test_decoded_arrays_cannot_be_written_to() -> None:
    decoded = decode(encode(batch()))
    assert isinstance(decoded, TransitionBatch)
    for name in ("observation", "terminated", "stamp_ns"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(decoded, name)[0] = 0


def test_strided_arrays_are_sent_as_what_they_show() -> None:
    wide = np.arange(24, dtype="<f4").reshape(3, 8)
    decoded = decode(encode(batch(observation=wide[:, ::2], next_observation=wide[:, 1::2])))
    assert isinstance(decoded, TransitionBatch)
    np.testing.assert_array_equal(decoded.observation, wide[:, ::2])


def test_the_type_bytes_never_change() -> None:
    assert (
        MESSAGE_TYPES[1] is TransitionBatch
        and MESSAGE_TYPES[7] is SampleReply
        and MESSAGE_TYPES[9] is TailReply
    )
    assert len(set(MESSAGE_TYPES.values())) == len(MESSAGE_TYPES)


def test_the_checksum_covers_every_array() -> None:
    arrays = [np.ones(4, "<f4"), np.ones(2, "<f4"), np.ones(2, "<f4")]
    checksums = {policy_checksum(*arrays)}
    for i in range(3):
        changed = [array.copy() for array in arrays]
        changed[i][0] = 2
        checksums.add(policy_checksum(*changed))
    assert len(checksums) == 4
