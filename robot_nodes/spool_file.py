"""The spool's files: what their records hold, and reading them without touching them.

    DIR/ROBOT/BOOT/000001.spool …   records of one start of the robot (fleet/records.py)
    DIR/ROBOT/BOOT/run_id           the run whose server this boot has met
    DIR/ROBOT/damaged/              stretches of bytes that belong to no good record
    DIR/ROBOT/lock                  held by the robot's process

Payload of a record: kind (u8), evaluation (u8), 2 zero bytes, episode (u32), seq (i64), then
    HEAD  msgpack map of the SegmentHead; first of each segment, seq is that of the first row
    ROW   the packed transition
    END   msgpack map of the EpisodeEnd; seq is that of the episode's last row
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack

from fleet.messages import row_dtype
from fleet.records import Damage, pack_record, read_records
from robot_nodes.batch_former import EpisodeEnd

SUFFIX = ".spool"
RUN_ID_FILE = "run_id"
DAMAGED_FOLDER = "damaged"
LOCK_FILE = "lock"

_PREFIX = struct.Struct("<BB2xIq")
_HEAD, _ROW, _END = 1, 2, 3


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """Whose rows these are.

    Attributes:
        ordinal: Boots of one robot in the order of their starts.
        nx: Size of an observation.
        nu: Size of an action.
    """

    robot_id: str
    boot_id: str
    ordinal: int
    spec_hash: str
    nx: int
    nu: int


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """One transition."""

    seq: int
    episode: int
    evaluation: bool
    packed: memoryview


@dataclass(frozen=True, slots=True)
class SpoolEnd:
    """The end of an episode."""

    seq: int
    episode: int
    end: EpisodeEnd


def pack_head(head: SegmentHead, first_seq: int) -> bytes:
    """The record that a segment begins with."""
    return _pack(_PREFIX.pack(_HEAD, 0, 0, first_seq), msgpack.packb(asdict(head)))


def pack_row(seq: int, episode: int, evaluation: bool, row: bytes) -> bytes:
    """The record of one packed transition."""
    return _pack(_PREFIX.pack(_ROW, evaluation, episode, seq), row)


def pack_end(seq: int, episode: int, end: EpisodeEnd) -> bytes:
    """The record of an episode's end."""
    return _pack(_PREFIX.pack(_END, 0, episode, seq), msgpack.packb(asdict(end)))


def _pack(prefix: bytes, content: bytes) -> bytes:
    return b"".join(pack_record(prefix, content))


def unpack_record(payload: memoryview) -> tuple[SegmentHead, int] | SpoolRow | SpoolEnd:
    """What a record holds; a head comes with the seq of the first row behind it.

    Raises:
        ValueError: Its checksum is right but this version did not write it.
    """
    if len(payload) < _PREFIX.size:
        raise ValueError(f"a record of {len(payload)} bytes")
    kind, evaluation, episode, seq = _PREFIX.unpack_from(payload)
    content = payload[_PREFIX.size :]
    if kind == _ROW:
        return SpoolRow(seq, episode, bool(evaluation), content)
    try:
        fields: Any = msgpack.unpackb(content)
        if kind == _HEAD:
            return SegmentHead(**fields), seq
        if kind == _END:
            return SpoolEnd(seq, episode, EpisodeEnd(**fields))
    except Exception as error:  # msgpack raises many kinds, and other fields are a TypeError
        raise ValueError(f"a record of kind {kind} cannot be read: {error!r}") from error
    raise ValueError(f"a record of unknown kind {kind}")


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """One segment, read as a whole.

    Attributes:
        head: Whose rows; None when that record is damaged.
        first_seq: Seq of the first row, as the head has it, or of the first row read; -1 if neither is there.
        seqs: Of all rows, in order.
        damage: Stretches that belong to no good record.
        good_bytes: Where the last good record ends.
    """

    head: SegmentHead | None
    first_seq: int
    seqs: list[int]
    damage: list[Damage]
    good_bytes: int


def read_segment(path: Path) -> SegmentContent:
    """Read all of one segment's file."""
    records, damage = read_records(path.read_bytes())
    head: SegmentHead | None = None
    first_seq = -1
    seqs: list[int] = []
    for record in records:
        try:
            item = unpack_record(record.payload)
        except ValueError:
            damage = sorted([*damage, Damage(record.offset, record.end)], key=lambda d: d.offset)
            continue
        if isinstance(item, SpoolRow):
            seqs.append(item.seq)
        elif not isinstance(item, SpoolEnd):
            head, first_seq = item
    if first_seq < 0 and seqs:
        first_seq = seqs[0]
    return SegmentContent(head, first_seq, seqs, damage, records[-1].end if records else 0)


def segment_paths(boot: Path) -> list[Path]:
    """The segments of a boot's folder, oldest first; some may be gone by the time they are read."""
    numbers = [int(path.stem) for path in boot.glob(f"*{SUFFIX}") if path.stem.isdecimal()]
    # A folder that is listed while segments are made may show a new one and not the one before it.
    return [segment_path(boot, n) for n in range(min(numbers), max(numbers) + 1)] if numbers else []


def segment_path(boot: Path, number: int) -> Path:
    """The `number`-th segment of a boot, from 1."""
    return boot / f"{number:06d}{SUFFIX}"


def boot_paths(robot: Path) -> list[Path]:
    """The folders of boots below a robot's folder."""
    if not robot.is_dir():
        return []
    return sorted(path for path in robot.iterdir() if path.is_dir() and path.name != DAMAGED_FOLDER)


def read_run_id(boot: Path) -> str:
    """The run whose server this boot has met; empty if none."""
    try:
        return (boot / RUN_ID_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


def row_bytes(nx: int, nu: int) -> int:
    """Size of one row on disk."""
    return len(pack_row(0, 0, False, bytes(row_dtype(nx, nu).itemsize)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledBoot:
    """What lies in the spool of one start of one robot.

    Attributes:
        run_id: The run it belongs to; empty if it never met a server.
        spans: Sequence numbers of the rows on disk: first and last of each gapless stretch, rising.
        damaged: Stretches of bytes that belong to no good record. The end of the newest segment is not
            counted: a write under way, or a crash, leaves it torn.
    """

    robot_id: str
    boot_id: str
    run_id: str
    spans: tuple[tuple[int, int], ...]
    damaged: int

    @property
    def rows(self) -> int:
        """Number of rows on disk."""
        return sum(last - first + 1 for first, last in self.spans)

    @property
    def first_seq(self) -> int:
        """The oldest row on disk; -1 if none."""
        return self.spans[0][0] if self.spans else -1

    @property
    def last_seq(self) -> int:
        """The newest row on disk; -1 if none."""
        return self.spans[-1][1] if self.spans else -1


def read_spool(folder: Path) -> list[SpooledBoot]:
    """Everything in the spools below `folder` (RUN/spool); robots may be running meanwhile."""
    robots = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [_read_boot(boot) for robot in robots for boot in boot_paths(robot)]
    return [boot for boot in found if boot is not None]


def _read_boot(folder: Path) -> SpooledBoot | None:
    seqs: list[int] = []
    damaged = 0
    paths = segment_paths(folder)
    for path in paths:
        try:
            content = read_segment(path)
        except FileNotFoundError:  # stored by the server meanwhile, and removed
            continue
        seqs += content.seqs
        torn = path == paths[-1] and bool(content.damage) and content.damage[-1].offset >= content.good_bytes
        damaged += len(content.damage) - torn
    if not folder.is_dir():
        return None
    return SpooledBoot(
        robot_id=folder.parent.name,
        boot_id=folder.name,
        run_id=read_run_id(folder),
        spans=_spans(seqs),
        damaged=damaged,
    )


def _spans(seqs: list[int]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for seq in seqs:
        if spans and seq == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], seq
        else:
            spans.append((seq, seq))
    return tuple(spans)
