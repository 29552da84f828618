"""Is every row of a run there, once, and undamaged? Answered from the files alone; nothing is changed.

A stream is one boot of one robot. Its rows are numbered from 0, so a hole in the numbers is a row that
is missing. A row may lie in an episode file, in the server's journal until its episode is in such a
file, or still in the robot's spool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from replay_server.episode_numbers import read_numbers
from replay_server.episode_store import episode_paths
from replay_server.journal import GIVEN_UP, read_journal
from replay_server.spans import Seqs, Span, missing_spans, span_length, spans

Stream = tuple[str, str]
"""Robot id and boot id."""


@dataclass(frozen=True, slots=True)
class StreamCheck:
    """What is there of one boot of one robot.

    Attributes:
        rows: Different rows, wherever they lie; the sum of the next three.
        in_episodes: Rows in episode files.
        in_journal: Rows that are only in the server's journal.
        in_spool: Rows that are only in the robot's spool: the server does not have them yet.
        first_seq: Lowest number there.
        last_seq: Highest number there.
        missing: Numbers from 0 to last_seq that are nowhere.
        doubled: Numbers that episode files hold more than once.
        disordered: Numbers that the log has after higher ones of this stream.
        unfinished: Episodes without an end.
    """

    robot_id: str
    boot_id: str
    rows: int
    in_episodes: int
    in_journal: int
    in_spool: int
    first_seq: int
    last_seq: int
    missing: list[Span]
    doubled: list[Span]
    disordered: list[Span]
    unfinished: list[int]


@dataclass(frozen=True, slots=True)
class RunCheck:
    """What is there of a run.

    Attributes:
        streams: One entry per robot and boot, by robot and time of their first row.
        episodes: Number of whole episode files.
        damaged: File to what is wrong with it.
        notes: What is worth knowing and no fault.
    """

    streams: list[StreamCheck]
    episodes: int
    damaged: dict[str, str]
    notes: list[str]

    @property
    def rows(self) -> int:
        """Different rows, wherever they lie."""
        return sum(stream.rows for stream in self.streams)

    @property
    def missing(self) -> int:
        """Rows that are nowhere."""
        return sum(span_length(stream.missing) for stream in self.streams)

    @property
    def doubled(self) -> int:
        """Rows that episode files hold more than once."""
        return sum(span_length(stream.doubled) for stream in self.streams)

    @property
    def disordered(self) -> int:
        """Rows that the log has after later ones of their stream."""
        return sum(span_length(stream.disordered) for stream in self.streams)

    @property
    def ok(self) -> bool:
        """Nothing is missing, doubled, out of order or damaged."""
        return not (self.missing or self.doubled or self.disordered or self.damaged)


@dataclass(slots=True)
class _Found:
    """Numbers found of one stream, by place; `cursors` goes with `episodes`."""

    episodes: list[Seqs] = field(default_factory=list)
    cursors: list[Seqs] = field(default_factory=list)
    journal: list[Seqs] = field(default_factory=list)
    spool: list[Seqs] = field(default_factory=list)
    ended: dict[int, bool] = field(default_factory=dict)
    since_ns: int = 2**63 - 1


def verify_run(
    run_dir: Path,
    spooled: Mapping[Stream, Sequence[Span]] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RunCheck:
    """Look at every row of a run; the run may be going on.

    Args:
        run_dir: The run folder.
        spooled: Rows in the spools of robots, read *before* this call: rows move from spool to journal
            to episode file, and are read in that order, so none is missed on its way.
        on_progress: Called with the number of episode files read and their total.
    """
    found: defaultdict[Stream, _Found] = defaultdict(_Found)
    for stream, rows in (spooled or {}).items():
        found[stream].spool += [np.arange(first, last + 1) for first, last in rows]
    damaged: dict[str, str] = {}
    notes: list[str] = []
    _read_journal(run_dir, found, damaged, notes)
    paths = episode_paths(run_dir)
    for done, file in enumerate(read_numbers(paths), start=1):
        on_progress(done, len(paths))
        if file.info is None:
            damaged[str(file.path)] = f"{file.damage}. Restore it from a backup, if there is one"
            continue
        what = found[file.info.robot_id, file.info.boot_id]
        what.episodes.append(file.seq)
        what.cursors.append(file.cursor)
        what.ended[file.info.episode] = file.info.complete or what.ended.get(file.info.episode, False)
        what.since_ns = min(what.since_ns, file.info.received_ns)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], item[1].since_ns, item[0][1]))
    return RunCheck(
        streams=[check for stream, what in ordered if (check := _check(stream, what)).rows],
        episodes=len(paths) - sum(path.endswith(".h5") for path in damaged),
        damaged=damaged,
        notes=notes,
    )


def _read_journal(
    run_dir: Path, found: defaultdict[Stream, _Found], damaged: dict[str, str], notes: list[str]
) -> None:
    segments = list(read_journal(run_dir))
    for number, segment in enumerate(segments, start=1):
        for entry in segment.batches:
            batch = entry.batch
            if entry.known == GIVEN_UP:
                notes.append(
                    f"{batch.robot_id} boot {batch.boot_id}: the robot said that it no longer has the rows "
                    f"before seq {batch.first_seq}; the server waits for them no longer"
                )
                continue
            what = found[batch.robot_id, batch.boot_id]
            what.journal.append(np.arange(batch.first_seq, batch.first_seq + batch.rows))
            what.ended[batch.episode] = bool(batch.end) or what.ended.get(batch.episode, False)
            what.since_ns = min(what.since_ns, entry.received_ns)
        if segment.damage:
            size = sum(piece.end - piece.offset for piece in segment.damage)
            end = segment.path.stat().st_size if segment.path.exists() else 0
            if number == len(segments) and len(segment.damage) == 1 and segment.damage[0].end >= end:
                notes.append(
                    f"{segment.path}: the last {size} bytes are no whole record: a write that was cut short, "
                    "by a crash or because it goes on right now; nothing in it was acknowledged to a robot"
                )
            else:
                damaged[str(segment.path)] = (
                    f"{size} bytes in {len(segment.damage)} places are damaged; start the replay server: it "
                    "keeps them aside, and robots send again what they still have"
                )
    for path in sorted((run_dir / "journal").glob("*.damaged")):
        notes.append(
            f"{path}: {path.stat().st_size} bytes that a restart found damaged and kept aside; "
            "if no rows are missing, it may be removed"
        )


def _check(stream: Stream, found: _Found) -> StreamCheck:
    stored, counts = np.unique(_join(found.episodes), return_counts=True)
    journaled = np.setdiff1d(_join(found.journal), stored)
    spooled = np.setdiff1d(_join(found.spool), np.union1d(stored, journaled))
    rows = np.sort(np.concatenate([stored, journaled, spooled]))
    last = int(rows[-1]) if len(rows) else -1
    return StreamCheck(
        robot_id=stream[0],
        boot_id=stream[1],
        rows=len(rows),
        in_episodes=len(stored),
        in_journal=len(journaled),
        in_spool=len(spooled),
        first_seq=int(rows[0]) if len(rows) else -1,
        last_seq=last,
        missing=missing_spans(rows),
        doubled=spans(stored[counts > 1]),
        disordered=_disordered(_join(found.episodes), _join(found.cursors)),
        unfinished=sorted(episode for episode, ended in found.ended.items() if not ended),
    )


def _join(parts: Sequence[Seqs]) -> Seqs:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _disordered(seqs: Seqs, cursors: Seqs) -> list[Span]:
    order = np.argsort(seqs, kind="stable")
    seqs, cursors = seqs[order], cursors[order]
    if not len(seqs):
        return []
    late = cursors[1:] < np.maximum.accumulate(cursors)[:-1]
    return spans(np.unique(seqs[1:][late]))
