"""Any file is good records and damage, without gaps; no record is there that its checksum does not prove."""

from __future__ import annotations

import random
import zlib

from fuzz_frames import Mutate

from fleet.records import MAGIC, pack_record, read_records

MAX_BYTES = 2**13


def _file(*payloads: bytes) -> bytes:
    return b"".join(bytes(part) for payload in payloads for part in pack_record(payload))


def seeds() -> list[bytes]:
    whole = _file(b"one", b"", b"three" * 20)
    nested = _file(b"one", b"x" * 8 + _file(b"planted"), b"two")
    damaged = bytearray(nested)
    damaged[44] ^= 1
    return [b"", whole, whole[:-10], whole[3:], nested, bytes(damaged), MAGIC * 20, _header(2**20, 0) * 10]


def _header(length: int, checksum: int) -> bytes:
    """A header whose own checksum is right."""
    header = MAGIC + length.to_bytes(4, "little") + checksum.to_bytes(4, "little")
    return header + zlib.crc32(header).to_bytes(4, "little")


def mutate(data: bytes, max_bytes: int, rng: random.Random, base: Mutate) -> bytes:
    """Change the payload of a record, or plant, cut and double whole ones."""
    records, _ = read_records(data)
    choice = rng.randrange(6)
    if not records or choice == 0:
        return base(data or b"\0", max_bytes)
    record = rng.choice(records)
    payload, at = bytes(record.payload), rng.randrange(len(data) + 1)
    if choice == 1:
        changed = base(payload or b"\0", max(64, len(payload)))
        data = data[: record.offset] + _file(changed) + data[record.end :]
    elif choice == 2:
        data = data[:at] + _file(payload) + data[at:]
    elif choice == 3:
        lengths = (0, 1, len(payload), len(data), 2**20, 2**27, 2**27 + 1, 2**32 - 1)
        data = (
            data[:at] + _header(rng.choice(lengths), zlib.crc32(payload)) * rng.randrange(1, 99) + data[at:]
        )
    elif choice == 4:
        data = data[: record.offset] + _file(payload + data) + data[record.end :]
    else:
        data = data[:at] + data[min(at + rng.randrange(1, 64), len(data)) :]
    return data[:max_bytes]


def check(data: bytes) -> None:
    records, damage = read_records(data)
    at = 0
    for stretch in sorted([*records, *damage], key=lambda s: s.offset):
        assert stretch.offset == at < stretch.end, f"a gap or an overlap at {at}"
        at = stretch.end
    assert at == len(data)
    for record in records:
        whole = _file(bytes(record.payload))
        held = data[record.offset : record.end]
        length = 16 + len(record.payload)
        assert held[:length] == whole[:length] and len(held) <= len(whole)
        assert len(held) == len(whole) or record.end == len(data)
