"""Append-only files of checksummed records: the robot's spool and the server's journal.

Record: b"PNR1", payload length (u32), CRC-32 of the payload (u32), CRC-32 of these 12 bytes (u32),
the payload, zeros up to the next multiple of 8. A record is good when both checksums are; after a
damaged stretch reading goes on at the next good header, so one bad block does not take all that
follows with it. A good header is believed even if its payload is damaged or cut short: so what is in
a payload is never taken for records, and a writer must cut off a torn record before it goes on.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"PNR1"
_HEADER = struct.Struct("<4sII")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
MAX_PAYLOAD_BYTES = 2**27


@dataclass(frozen=True, slots=True)
class Record:
    """A good record: its payload and where it lies in the file."""

    offset: int
    end: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a file that belong to no good record."""

    offset: int
    end: int


def pack_record(*parts: bytes | memoryview) -> list[bytes | memoryview]:
    """The buffers to write, one after the other, for a record whose payload is `parts` joined."""
    length = sum(len(part) for part in parts)
    if length > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record of {length} bytes, at most {MAX_PAYLOAD_BYTES}")
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    header = _HEADER.pack(MAGIC, length, checksum)
    return [header + _CHECKSUM.pack(zlib.crc32(header)), *parts, bytes(-length % 8)]


def read_records(data: bytes) -> tuple[list[Record], list[Damage]]:
    """All good records of a file's content, in order, and the stretches between them.

    A torn record at the end of the file, as a crash leaves it, is the last stretch of damage.
    """
    view = memoryview(data)
    end = len(data)
    records: list[Record] = []
    damage: list[Damage] = []
    offset = start = 0
    while 0 <= offset < end:
        header = _header_at(view, offset)
        if header is None:
            offset = data.find(MAGIC, offset + 1)
            continue
        length, checksum = header
        begin = offset + _HEADER_BYTES
        payload = view[begin : begin + length]
        after = min(begin + length + -length % 8, end)
        if len(payload) == length and zlib.crc32(payload) == checksum:
            if offset > start:
                damage.append(Damage(start, offset))
            records.append(Record(offset, after, payload))
            start = after
        offset = after
    if start < end:
        damage.append(Damage(start, end))
    return records, damage


def _header_at(view: memoryview, offset: int) -> tuple[int, int] | None:
    """Length and checksum of the payload, if a good header is here."""
    if offset + _HEADER_BYTES > len(view):
        return None
    magic, length, checksum = _HEADER.unpack_from(view, offset)
    if magic != MAGIC or length > MAX_PAYLOAD_BYTES:
        return None
    (expected,) = _CHECKSUM.unpack_from(view, offset + _HEADER.size)
    if zlib.crc32(view[offset : offset + _HEADER.size]) != expected:
        return None
    return length, checksum
