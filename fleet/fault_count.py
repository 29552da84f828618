"""Is every row that synthetic robots produced in the store, once and in order? By what is in the rows.

`pnaf logs verify` goes by sequence numbers, which the programs on trial give; this goes by the running
index that each row holds (robot_nodes/synthetic_rows.py), so a row in another's place is seen, too.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

_TAIL_ROWS = 20_000

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """All robots together.

    Attributes:
        produced: Rows that were in a robot's spool at some time.
        stored: Different rows in the server's episode files and journal.
        spooled: Different rows that are only in a spool.
        lost: Rows that are nowhere.
        duplicated: Rows in the store beyond the first of their index.
        disordered: Rows that come before one with a lower index, by sequence number or by cursor.
        foreign: Rows of an index that no robot produced, or in another robot's place.
    """

    produced: int
    stored: int
    spooled: int
    lost: int
    duplicated: int
    disordered: int
    foreign: int

    @property
    def ok(self) -> bool:
        """Every row is there, once and in order."""
        return not (self.lost or self.duplicated or self.disordered or self.foreign)


@dataclass(slots=True)
class _Boot:
    """Rows of one boot in the store: sequence numbers, running indices, cursors, robots' numbers."""

    seq: list[Numbers] = field(default_factory=list)
    index: list[Numbers] = field(default_factory=list)
    cursor: list[Numbers] = field(default_factory=list)
    robot: list[Numbers] = field(default_factory=list)


def count_rows(run_dir: Path, produced: Mapping[str, int]) -> RowCounts:
    """Count what is stored and spooled below a run folder that no process uses any more.

    Args:
        run_dir: The run folder.
        produced: Rows of each robot, in the order of the robots' numbers.
    """
    from replay_server.episode_store import EpisodeFileError, list_episodes, read_episode
    from replay_server.journal import GIVEN_UP, read_journal
    from robot_nodes.spool_file import read_spool
    from robot_nodes.synthetic_rows import row_index

    stored: defaultdict[str, defaultdict[str, _Boot]] = defaultdict(lambda: defaultdict(_Boot))
    for summary in list_episodes(run_dir):
        try:
            episode = read_episode(summary.path)
        except EpisodeFileError as error:  # its rows are lost, then
            logger.error("%s", error)
            continue
        boot = stored[summary.info.robot_id][summary.info.boot_id]
        observation = episode.transitions.observation
        boot.seq.append(episode.seq)
        boot.index.append(row_index(observation))
        boot.cursor.append(episode.cursor)
        boot.robot.append(observation[:, 2].astype(np.int64))
    in_files = {
        (robot, name): set(np.concatenate(boot.seq).tolist())
        for robot, boots in stored.items()
        for name, boot in boots.items()
    }
    in_journal: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for segment in read_journal(run_dir):
        for entry in segment.batches:
            key = entry.batch.robot_id, entry.batch.boot_id
            if entry.known != GIVEN_UP:
                seqs = range(entry.batch.first_seq, entry.batch.first_seq + entry.batch.rows)
                indices = row_index(entry.batch.observation).tolist()
                rows = dict(zip(seqs, indices, strict=True)).items()
                in_journal[key].update((s, i) for s, i in rows if s not in in_files.get(key, ()))
    in_spool: defaultdict[str, int] = defaultdict(int)
    for spool in read_spool(run_dir / "spool"):
        key = spool.robot_id, spool.boot_id
        elsewhere = in_files.get(key, set()) | in_journal[key].keys()
        in_spool[spool.robot_id] += sum(s not in elsewhere for a, b in spool.spans for s in range(a, b + 1))
    journaled: defaultdict[str, list[int]] = defaultdict(list)
    for (robot, _), found in in_journal.items():
        journaled[robot] += found.values()
    counts = [
        _count_robot(number, rows, list(stored[robot].values()), journaled[robot], in_spool[robot])
        for number, (robot, rows) in enumerate(produced.items())
    ]
    return RowCounts(*(sum(column) for column in zip(*counts, strict=True)))


def _count_robot(
    number: int, produced: int, boots: list[_Boot], journaled: list[int], spooled: int
) -> tuple[int, ...]:
    """The fields of RowCounts, of one robot."""
    orders = [np.argsort(np.concatenate(boot.seq), kind="stable") for boot in boots]
    by_seq = [np.concatenate(boot.index)[order] for boot, order in zip(boots, orders, strict=True)]
    cursors = [np.concatenate(boot.cursor)[order] for boot, order in zip(boots, orders, strict=True)]
    one_after_another = sorted(by_seq, key=lambda indices: int(indices.min()))
    in_files = np.concatenate([np.zeros(0, np.int64), *one_after_another])
    robots = np.concatenate([np.zeros(0, np.int64), *(part for boot in boots for part in boot.robot)])
    everywhere = np.concatenate([in_files, np.array(journaled, np.int64)])
    stored = np.unique(everywhere)
    foreign = int((stored >= produced).sum() + (robots != number).sum())
    duplicated = len(everywhere) - len(stored)
    disordered = _late(in_files) + sum(_late(cursor) for cursor in cursors)
    lost = produced - int((stored < produced).sum()) - spooled
    return produced, len(stored), spooled, max(0, lost), duplicated, disordered, foreign + max(0, -lost)


def _late(numbers: Numbers) -> int:
    """How many numbers are below one that comes before them."""
    return int((numbers[1:] < np.maximum.accumulate(numbers)[:-1]).sum()) if len(numbers) else 0


def rows_in_ring(endpoint: str, robots: Sequence[str]) -> dict[str, list[int]] | None:
    """Running indices of each robot's rows in a server's ring, in order; None if it does not answer."""
    from replay_server.client import ReplayClient, ReplayError
    from robot_nodes.synthetic_rows import row_index

    indices: dict[str, list[int]] = {robot: [] for robot in robots}
    cursor = 0
    with ReplayClient(endpoint, "monitor", "faults") as client:
        try:
            while (reply := client.tail(cursor, _TAIL_ROWS)).rows:
                numbers = reply.observation[:, 2].astype(int).tolist()
                for index, number in zip(row_index(reply.observation).tolist(), numbers, strict=True):
                    indices[robots[number]].append(index)
                cursor = reply.next_cursor
        except ReplayError as error:
            logger.error("the ring cannot be looked at: %s", error)
            return None
    return indices
