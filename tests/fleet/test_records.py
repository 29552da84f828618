"""Append-only files of checksummed records."""

from __future__ import annotations

import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.records import MAX_PAYLOAD_BYTES, Damage, pack_record, read_records

payloads = st.lists(st.binary(max_size=40), max_size=6)


def file_of(records: list[bytes]) -> bytes:
    return b"".join(bytes(part) for record in records for part in pack_record(record))


@given(payloads)
def test_records_come_back_as_written(written: list[bytes]) -> None:
    records, damage = read_records(file_of(written))
    assert [bytes(record.payload) for record in records] == written
    assert damage == []


def test_layout_on_disk() -> None:
    content = b"".join(pack_record(b"ab", b"c"))
    # crc32("abc") is 0x352441c2, crc32 of the 12 bytes before it 0xc3f3cf72
    header = b"PNR1" + b"\x03\0\0\0" + bytes.fromhex("c2412435") + bytes.fromhex("72cff3c3")
    assert content == header + b"abc" + bytes(5)


@given(payloads.filter(len), st.data())
def test_a_torn_end_costs_the_last_record_only(written: list[bytes], data: st.DataObject) -> None:
    content = file_of(written)
    last = len(b"".join(pack_record(written[-1])))
    whole = len(content) - -len(written[-1]) % 8  # the padding may be missing
    cut = data.draw(st.integers(len(content) - last, whole - 1))
    records, damage = read_records(content[:cut])
    assert [bytes(record.payload) for record in records] == written[:-1]
    assert damage == ([Damage(len(content) - last, cut)] if cut > len(content) - last else [])


@given(payloads.filter(len), st.data())
def test_a_flipped_byte_costs_one_record_at_most_and_never_makes_one_up(
    written: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(file_of(written))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    records, damage = read_records(bytes(content))
    found = [bytes(record.payload) for record in records]
    assert len(found) >= len(written) - 1
    rest = iter(written)
    assert all(payload in rest for payload in found)  # a subsequence of what was written
    assert bool(damage) == (len(found) < len(written))


def test_reading_goes_on_behind_a_damaged_stretch() -> None:
    first, second, third = (b"".join(pack_record(text)) for text in (b"one", b"two", b"three"))
    records, damage = read_records(first + b"\xff" * len(second) + third)
    assert [bytes(record.payload) for record in records] == [b"one", b"three"]
    assert damage == [Damage(len(first), len(first) + len(second))]


def test_a_length_from_a_damaged_header_is_not_believed() -> None:
    content = bytearray(file_of([b"one", b"two"]))
    content[4:8] = b"\xff\xff\xff\x7f"
    records, _ = read_records(bytes(content))
    assert [bytes(record.payload) for record in records] == [b"two"]


def test_a_payload_too_large_to_be_read_back_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        pack_record(memoryview(bytearray(MAX_PAYLOAD_BYTES + 1)))


def test_a_damaged_payload_is_not_searched_for_records() -> None:
    inner = b"".join(pack_record(b"planted"))
    content = bytearray(file_of([b"one", b"x" * 8 + inner, b"two"]))
    first = len(b"".join(pack_record(b"one")))
    content[first + 16] ^= 1
    records, damage = read_records(bytes(content))
    assert [bytes(record.payload) for record in records] == [b"one", b"two"]
    assert damage == [Damage(first, first + 16 + 8 + len(inner))]


def test_the_end_of_a_torn_record_is_not_searched_for_records() -> None:
    planted = b"x" * 8 + b"".join(pack_record(b"planted")) + b"y" * 40
    content = file_of([b"one", planted])
    records, damage = read_records(content[:-16])
    assert [bytes(record.payload) for record in records] == [b"one"]
    assert damage == [Damage(24, len(content) - 16)]


def planted_header(length: int) -> bytes:
    header = b"PNR1" + length.to_bytes(4, "little") + bytes(4)
    return header + zlib.crc32(header).to_bytes(4, "little")


@pytest.mark.parametrize("header", [planted_header(2**23), planted_header(2**23)[:-4] + bytes(4)])
def test_what_looks_like_headers_of_long_records_does_not_take_long(header: bytes) -> None:
    content = header * 2**16 + bytes(2**23)  # each of them believed, 512 GiB would be summed up
    started = time.process_time()
    assert read_records(content) == ([], [Damage(0, len(content))])
    assert time.process_time() - started < 5.0


def test_many_damaged_payloads_do_not_end_the_search() -> None:
    content = bytearray(file_of([b"x" * 100] * 50 + [b"last"]))
    for record in range(50):
        content[record * 120 + 16] ^= 1
    records, damage = read_records(bytes(content))
    assert [bytes(record.payload) for record in records] == [b"last"]
    assert damage == [Damage(0, 50 * 120)]
