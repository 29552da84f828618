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
    COLUMNS,
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
    Transitions,
    policy_checksum,
    row_dtype,
)
from fleet.spaces import MAX_DIMENSIONS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT = st.integers(-(2**63), 2**64 - 1)
SCALAR = st.one_of(INT, TEXT, st.booleans(), st.floats(allow_nan=False))
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": INT,
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "dict[str, Any]": st.dictionaries(TEXT, SCALAR, max_size=4),
    "dict[str, int]": st.dictionaries(TEXT, INT, max_size=4),
    "dict[str, list[int]]": st.dictionaries(TEXT, st.lists(INT, max_size=3), max_size=4),
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


@st.composite
def packed_rows(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Rows of any content, as they lie in a spool, a journal or a ring."""
    nx, nu, count = draw(st.integers(0, 5)), draw(st.integers(0, 5)), draw(st.integers(0, 5))
    rows = np.zeros(count, row_dtype(nx, nu))
    for name in COLUMNS:
        rows[name] = draw(hnp.arrays(rows[name].dtype, rows[name].shape))
    return rows


@given(messages())
def test_every_message_survives_the_wire(message: Message) -> None:
    assert_equal(decode(encode(message)), message)


@given(packed_rows(), st.integers(0, 3))
def test_packed_rows_survive_the_wire_as_bytes(rows: np.ndarray[Any, Any], hello: int) -> None:
    sent = TailReply.from_packed(rows, request_id=10**hello, first_cursor=0, next_cursor=0, end_cursor=0)
    decoded = decode(encode(sent))
    assert isinstance(decoded, TailReply)
    assert decoded.packed().dtype == rows.dtype and decoded.packed().tobytes() == rows.tobytes()
    assert decoded.rows == len(rows)
    for name in COLUMNS:
        column = getattr(decoded, name)
        assert column.dtype == COLUMNS[name]["dtype"] and column.shape == rows[name].shape
        assert column.tobytes() == rows[name].tobytes()


@given(packed_rows())
def test_columns_are_views_of_the_rows_and_pack_into_the_same_rows(rows: np.ndarray[Any, Any]) -> None:
    made = Transitions.from_packed(rows)
    assert made.packed() is rows
    columns = {name: np.ascontiguousarray(getattr(made, name)) for name in COLUMNS}
    assert Transitions(**columns).packed().tobytes() == rows.tobytes()
    for name in COLUMNS:
        assert not rows[name].size or np.shares_memory(getattr(made, name), rows)


def test_decoding_copies_no_rows_and_numbers_lie_where_the_processor_reads_them() -> None:
    for name in ("b", "longer", "longer still"):  # headers of other lengths
        frame = encode(batch(rows=5, nx=3, nu=2, boot_id=name))
        decoded = decode(frame)
        assert isinstance(decoded, TransitionBatch)
        rows = decoded.packed()
        assert np.shares_memory(rows, np.frombuffer(frame, np.uint8))
        assert np.shares_memory(decoded.stamp_ns, rows) and np.shares_memory(decoded.observation, rows)
        assert rows.ctypes.data % 8 == 0 and rows.dtype.itemsize % 8 == 0
        assert decoded.stamp_ns.flags.aligned and decoded.observation.flags.aligned


@pytest.mark.parametrize(("nx", "nu"), [(0, 0), (1, 0), (0, 1), (1, 1), (30, 7), (4, 4), (4096, 4096)])
def test_a_row_has_no_gaps(nx: int, nu: int) -> None:
    dtype = row_dtype(nx, nu)
    # Floats: 2 nx + 2 nu + 1; four flags; two integers.
    assert dtype.itemsize == 4 * (2 * nx + 2 * nu + 1) + 4 + 16
    assert dtype["policy_version"] == dtype["stamp_ns"] == np.dtype("<i8")
    assert dtype.fields is not None and dtype.fields["policy_version"][1] % 8 == 0
    # numpy keeps the bytes of a gap neither in copies nor in joined arrays
    assert np.concatenate([np.zeros(1, dtype), np.zeros(1, dtype)]).dtype == dtype


def test_a_message_without_rows_and_one_without_dimensions() -> None:
    for rows, nx, nu in ((0, 4, 2), (3, 0, 2), (3, 4, 0), (0, 0, 0)):
        decoded = decode(encode(batch(rows=rows, nx=nx, nu=nu)))
        assert isinstance(decoded, TransitionBatch)
        assert decoded.observation.shape == (rows, nx) and decoded.policy_action.shape == (rows, nu)


def test_rows_in_another_layout_are_not_sent() -> None:
    known = row_dtype(4, 2)
    other = np.dtype([(name, known[name]) for name in reversed(known.names)])
    kinds = {"robot_id": "a", "boot_id": "b", "first_seq": 0, "episode": 0, "spec_hash": "h"}
    with pytest.raises(MessageError, match=r"must be records of row_dtype\(4, 2\)"):
        encode(TransitionBatch.from_packed(np.zeros(3, other), **kinds))
    with pytest.raises(MessageError, match=r"must be three sizes \[N, nx, nu\], got \[3, 1, 4, 2\]"):
        encode(TransitionBatch.from_packed(np.zeros((3, 1), known), **kinds))
    with pytest.raises(MessageError, match=f"nx and nu may be {MAX_DIMENSIONS} at most, got .3, 4097, 2"):
        encode(batch(nx=MAX_DIMENSIONS + 1))


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
    if "reward" in names:
        sizes = st.lists(st.integers(0, 3), min_size=3, max_size=3)
        header["rows"] = data.draw(sizes | JSONISH | shape)
    with contextlib.suppress(MessageError):
        decode(framed(type_byte, header) + data.draw(st.binary(max_size=300)))


def framed(type_byte: int, header: Any) -> bytes:
    """The beginning of a frame, up to where the arrays begin."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    prefix = struct.pack("<4sBBI", b"PNAF", PROTOCOL_VERSION, type_byte, len(packed))
    return prefix + packed + bytes(-len(prefix + packed) % 8)


def reheader(message: Message, **changes: Any) -> bytes:
    """The frame of a message whose header was changed by somebody."""
    frame = encode(message)
    _, _, type_byte, size = struct.unpack_from("<4sBBI", frame)
    header = msgpack.unpackb(frame[10 : 10 + size])
    body = frame[10 + size + -(10 + size) % 8 :]
    header.update(changes)
    return framed(type_byte, {key: value for key, value in header.items() if value is not ...}) + body


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "TransitionBatch has no field 'extra'"),
        ({"observation": ["<f4", [3, 4]]}, "TransitionBatch has no field 'observation'"),
        ({b"extra": 1, "other": 2}, "TransitionBatch has no field"),
        ({"first_seq": "7"}, "TransitionBatch.first_seq must be int, got str: 7"),
        ({"first_seq": True}, "TransitionBatch.first_seq must be int, got bool"),
        ({"evaluation": 1}, "TransitionBatch.evaluation must be bool, got int: 1"),
        ({"metrics": [1]}, r"TransitionBatch.metrics must be dict\[str, float\], got list"),
        ({"metrics": {"a": "b"}}, r"metrics must be dict\[str, float\], got \{'a': 'b'\}"),
        ({"metrics": {"a": True}}, r"metrics must be dict\[str, float\], got \{'a': True\}"),
        ({"metrics": {b"a": 1.0}}, r"metrics must be dict\[str, float\], got \{b'a': 1.0\}"),
        ({"rows": [2, 4, 2]}, r"TransitionBatch: 72 bytes left over"),
        ({"rows": [4, 4, 2]}, r"TransitionBatch.rows: 288 bytes declared, 216 left"),
        ({"rows": [3, 4]}, r"must be three sizes \[N, nx, nu\], got \[3, 4\]"),
        ({"rows": [3, 4, 2, 1]}, r"must be three sizes \[N, nx, nu\], got \[3, 4, 2, 1\]"),
        ({"rows": [3, -4, 2]}, r"must be three sizes \[N, nx, nu\], got \[3, -4, 2\]"),
        ({"rows": [3, 4, True]}, r"must be three sizes \[N, nx, nu\], got \[3, 4, True\]"),
        ({"rows": [3, 4, 2.0]}, r"must be three sizes \[N, nx, nu\], got \[3, 4, 2.0\]"),
        ({"rows": [3, 4, [2]]}, r"must be three sizes \[N, nx, nu\]"),
        ({"rows": "3, 4, 2"}, r"must be three sizes \[N, nx, nu\], got 3, 4, 2"),
        (
            {"rows": [0, 2**63, 2]},
            f"nx and nu may be {MAX_DIMENSIONS} at most, got .0, 9223372036854775808, 2",
        ),
        ({"rows": [3, 4, MAX_DIMENSIONS + 1]}, f"nx and nu may be {MAX_DIMENSIONS} at most"),
        ({"rows": [2**19, 1, 1]}, f"has 524288 rows, at most {MAX_ROWS}"),
        ({"rows": [MAX_ROWS, 4096, 4096]}, r"rows: 17186160640 bytes declared, \d+ left"),
    ],
)
def test_a_wrong_header_of_rows_is_named(changes: dict[Any, Any], reason: str) -> None:
    frame = reheader(batch(), **{k: v for k, v in changes.items() if isinstance(k, str)})
    if any(isinstance(k, bytes) for k in changes):
        frame = framed(1, changes)
    with pytest.raises(MessageError, match=reason):
        decode(frame)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cursor": ["<i4", [3]]}, "SampleReply.cursor must be <i8, got '<i4'"),
        ({"cursor": ["<i8", [2]]}, "SampleReply.cursor: N is 2 here but 3 in an earlier column"),
        ({"cursor": ["<i8", [3, 1]]}, r"must have dimensions \[N\], got shape \(3, 1\)"),
        ({"cursor": ["<i8", [-3]]}, "sizes must be integers in 0 … 67108864"),
        ({"cursor": ["<i8", [2**63]]}, "sizes must be integers in 0 … 67108864"),
        ({"cursor": ["<i8", [3, 2**40]]}, "sizes must be integers in 0 … 67108864"),
        ({"cursor": ["<i8", [True]]}, "sizes must be integers"),
        ({"cursor": "<i8"}, r"cursor must be \[dtype, shape\], got <i8"),
        ({"cursor": ["<i8", 3]}, r"cursor must be \[dtype, shape\], got \['<i8', 3\]"),
        ({"cursor": ...}, "SampleReply lacks the field 'cursor'"),
        ({"rows": ...}, "SampleReply lacks the field 'rows'"),
        ({"rows": [2, 1, 1], "cursor": ["<i8", [2]]}, "48 bytes left over after the last array"),
    ],
)
def test_a_wrong_header_of_an_array_is_named(changes: dict[str, Any], reason: str) -> None:
    rows = np.zeros(3, row_dtype(1, 1))
    reply = SampleReply.from_packed(rows, request_id=1, batches=3, cursor=np.arange(3))
    with pytest.raises(MessageError, match=reason):
        decode(reheader(reply, **changes))


def test_an_array_that_ends_beyond_the_frame_is_named() -> None:
    with pytest.raises(MessageError, match=r"observation_mean: 4194304 bytes declared, \d+ left"):
        decode(reheader(policy(), observation_mean=["<f4", [2**20]]))


@pytest.mark.parametrize("field", ["kind", "extra"])
@pytest.mark.parametrize("depth", [30, 900, 1000, 1010, 1023])
def test_a_value_too_deep_to_be_written_out_is_a_short_message_error(field: str, depth: int) -> None:
    header = b"\x81" + msgpack.packb(field) + b"\x91" * depth + b"\x01"
    with pytest.raises(MessageError) as caught:
        decode(framed(12, header))
    assert len(str(caught.value)) < 300


def test_what_maps_hold_is_checked_as_deep_as_it_goes() -> None:
    deep: Any = 1
    for _ in range(14):
        deep = [deep]
    hello = Hello(role="robot", process_id="p", boot_id="b", spec={"x": {"y": deep}})
    assert decode(encode(hello)) == hello
    for wrong in ({"x": {"y": [[deep]]}}, {"x": msgpack.ExtType(3, b"")}, {"x": {b"y": 1}}):
        with pytest.raises(MessageError, match=r"Hello.spec must be dict\[str, Any\]"):
            decode(reheader(hello, spec=wrong))
    for backlog in ({"b": "1"}, {"b": 1.0}, {"b": True}, {b"b": 1}):
        with pytest.raises(MessageError, match=r"Hello.backlog must be dict\[str, int\]"):
            decode(reheader(hello, backlog=backlog))


def test_errors_stay_short_however_much_was_sent() -> None:
    huge = "x" * 900_000
    for changes in ({"first_seq": huge}, {huge: 1}, {"metrics": [huge]}, {"rows": [1] * 400_000}):
        with pytest.raises(MessageError) as caught:
            decode(reheader(batch(), **changes))
        assert len(str(caught.value)) < 300
    with pytest.raises(MessageError, match="malformed header: ExtraData") as caught:
        decode(framed(12, msgpack.packb(huge) + b"\x01"))
    assert len(str(caught.value)) < 300
    with pytest.raises(MessageError, match=r"must have dimensions \[N\]") as caught:
        decode(reheader(reply_of_one_row(), cursor=["<i8", [1] * 400_000]))
    assert len(str(caught.value)) < 300


def reply_of_one_row() -> SampleReply:
    rows = np.zeros(1, row_dtype(1, 1))
    return SampleReply.from_packed(rows, request_id=1, batches=1, cursor=np.zeros(1, "<i8"))


def test_a_missing_field_is_named_and_one_with_a_default_may_be_missing() -> None:
    with pytest.raises(MessageError, match="TransitionBatch lacks the field 'robot_id'"):
        decode(reheader(batch(), robot_id=...))
    decoded = decode(reheader(batch(success=True), success=...))
    assert isinstance(decoded, TransitionBatch) and decoded.success is False


def test_a_policy_file_of_before_layer_norm_and_precision_noise_is_read() -> None:
    new = dict.fromkeys(("layer_norm", "residual", "noise", "diagonal", "off_diagonal"), ...)
    decoded = decode(reheader(policy(), **new))
    assert isinstance(decoded, PolicyMessage) and decoded.parameters.tolist() == [1.0] * 5
    assert (decoded.layer_norm, decoded.residual, decoded.noise) == (False, False, "gaussian")


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
        (lambda f: f[:4] + b"\x07" + f[5:], "protocol version 7, this side speaks 2: install the same"),
        (lambda f: f[:5] + b"\xfa" + f[6:], "unknown message type 250"),
        (lambda f: f[:6] + b"\xff\xff\xff\x7f" + f[10:], "header of 2147483647 bytes in a frame of"),
        (lambda f: f[:9], f"frame of 9 bytes, expected 10 to {MAX_FRAME_BYTES}"),
        (lambda f: f + b"x", "1 bytes left over after the last array"),
        (lambda f: f[:-1], r"rows: 216 bytes declared, 215 left"),
    ],
)
def test_a_wrong_frame_is_named(edit: Any, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(edit(encode(batch())))


@pytest.mark.parametrize("length", range(8))
def test_zeros_follow_the_header_up_to_a_multiple_of_8(length: int) -> None:
    frame = bytearray(encode(Ack(robot_id="a" * length, boot_id="", durable_seq=0)))
    header_end = 10 + struct.unpack_from("<I", frame, 6)[0]
    assert len(frame) == header_end + -header_end % 8
    for at in range(header_end, len(frame)):
        with pytest.raises(MessageError, match=rf"must be followed by {-header_end % 8} zero bytes"):
            decode(bytes(frame[:at]))
        frame[at] = 1
        with pytest.raises(MessageError, match=rf"must be followed by {-header_end % 8} zero bytes"):
            decode(bytes(frame))
        frame[at] = 0
    assert decode(bytes(frame)) == Ack(robot_id="a" * length, boot_id="", durable_seq=0)


@given(st.integers(0, 2), st.sampled_from(["terminated", "truncated", "intervened", "clipped"]))
def test_a_bool_is_0_or_1(row: int, name: str) -> None:
    frame = bytearray(encode(batch(rows=3)))
    dtype = row_dtype(4, 2)
    assert dtype.fields is not None
    frame[-3 * dtype.itemsize + row * dtype.itemsize + dtype.fields[name][1]] = 2
    with pytest.raises(MessageError, match=f"rows: {name} of row {row}: a bool is 2, must be 0 or 1"):
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
