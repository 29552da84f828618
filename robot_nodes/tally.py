"""How many rows a synthetic robot has made, in a file that is right even after SIGKILL.

    DIR/ROBOT/000003-BOOT.tally     one per start, in order

A row counts as produced once it is in the spool. A process that was killed may have died between the
two: the spool then says whether its last row got there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robot_nodes.spool_file import SpooledBoot

SUFFIX = ".tally"
_FIELDS = 4  # first index of this boot; rows attempted, produced and acknowledged in it


@dataclass(frozen=True, slots=True)
class TallyCounts:
    """What one boot has counted.

    Attributes:
        boot_id: The boot.
        first_index: Running index of its first row, over all boots.
        attempted: Rows it began to record.
        produced: Rows that it knows to be in the spool.
        acked: Rows that it has seen acknowledged, of this or earlier boots, each time they were.
    """

    boot_id: str
    first_index: int
    attempted: int
    produced: int
    acked: int


class Tally:
    """The counts of the boot that is running; each is one aligned word in memory that the kernel keeps."""

    def __init__(self, folder: Path, boot_id: str, first_index: int) -> None:
        """Begin the next file in a robot's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob(f"*{SUFFIX}")))
        temporary = folder / f"{number:06d}-{boot_id}.new"
        self._words = np.memmap(temporary, "<i8", "w+", shape=(_FIELDS,))
        self._words[0] = first_index
        temporary.rename(temporary.with_suffix(SUFFIX))
        self.first_index = first_index
        self._delivered: int | None = None

    @property
    def produced(self) -> int:
        """Rows of this boot that are in the spool."""
        return int(self._words[2])

    def attempt(self) -> None:
        """The next row is about to be recorded."""
        self._words[1] = self._words[2] + 1

    def produce(self) -> None:
        """It is in the spool."""
        self._words[2] = self._words[1]

    def wait_for(self, waiting: int) -> None:
        """So many rows of all boots wait for the server: whatever waits no more was acknowledged."""
        delivered = self.first_index + self.produced - waiting
        if self._delivered is not None:  # what was there at the start is not counted
            self._words[3] += max(0, delivered - self._delivered)
        self._delivered = delivered


def read_tallies(folder: Path) -> list[TallyCounts]:
    """The counts of all boots of a robot, oldest first; the newest may be running."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        words = np.fromfile(path, "<i8")
        found.append(TallyCounts(path.stem.partition("-")[2], *(int(word) for word in words)))
    return found


def settle(folder: Path, spooled: Iterable[SpooledBoot]) -> int:
    """Decide about the last row of a boot that was killed; returns the rows of all boots together.

    To be called when the robot does not run, before its spool is delivered and deleted.

    Args:
        folder: The robot's tallies.
        spooled: What `read_spool` finds of this robot.
    """
    last_seq = {boot.boot_id: boot.last_seq for boot in spooled}
    total = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        words = np.memmap(path, "<i8", "r+")
        if words[1] != words[2]:
            there = last_seq.get(path.stem.partition("-")[2], -1) >= words[2]
            words[1] = words[2] = words[1] if there else words[2]
        total = int(words[0] + words[2])
    return total
