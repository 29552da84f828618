"""When each logged row was lived, on one timeline: stamps within a boot, wall time between boots.

Stamps may run faster or slower than the wall clock did (simulated robots); only what lies between the
boots of a fleet is taken from it. Where nobody did anything for long, the timeline is cut short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Span:
    """One episode, as it was logged.

    Attributes:
        first_stamp_ns: Stamp of its first row (ns).
        duration_s: From its first to its last row, as `row_offsets` has it (s).
        received_ns: Wall time at which its last row arrived (ns).
    """

    first_stamp_ns: int
    duration_s: float
    received_ns: int


@dataclass(frozen=True, slots=True)
class BootSpans:
    """One start of one robot: its episodes in order."""

    robot_id: str
    spans: Sequence[Span]

    @property
    def began_ns(self) -> int:
        """Wall time of its first row (ns)."""
        return self.spans[0].received_ns - int(self.spans[0].duration_s * 1e9)

    @property
    def ended_ns(self) -> int:
        """Wall time of its last row (ns)."""
        return max(span.received_ns for span in self.spans)


def row_offsets(stamp_ns: npt.NDArray[np.int64], longest_gap_s: float) -> npt.NDArray[np.float64]:
    """Time of each row of an episode since its first (s) [N]; steps back and jumps of its clock are cut."""
    gaps_s = np.clip(np.diff(stamp_ns) / 1e9, 0.0, longest_gap_s)
    return np.concatenate([[0.0], np.cumsum(gaps_s)])


def episode_starts(boots: Sequence[BootSpans], longest_gap_s: float) -> list[list[float]]:
    """Time of the first row of each episode of each boot (s), from 0 on.

    Args:
        boots: In the order in which they began. Boots of one robot follow each other, whatever their clocks
            say; others overlap as they did.
        longest_gap_s: Time in which no robot is in an episode is at most this long.
    """
    return _without_long_gaps(boots, _as_lived(boots), longest_gap_s)


def _as_lived(boots: Sequence[BootSpans]) -> list[list[float]]:
    """Boots whose wall times overlap are a session; sessions follow each other."""
    starts: list[list[float]] = []
    free_from_s: dict[str, float] = {}
    session_s = end_s = 0.0
    session_ns = end_ns = boots[0].began_ns if boots else 0
    for boot in boots:
        if boot.began_ns > end_ns:
            session_s, session_ns = end_s + (boot.began_ns - end_ns) / 1e9, boot.began_ns
        began_s = session_s + (boot.began_ns - session_ns) / 1e9
        began_s = max(began_s, free_from_s.get(boot.robot_id, 0.0))
        starts.append([began_s + offset_s for offset_s in _offsets(boot.spans)])
        free_from_s[boot.robot_id] = starts[-1][-1] + boot.spans[-1].duration_s
        end_s, end_ns = max(end_s, free_from_s[boot.robot_id]), max(end_ns, boot.ended_ns)
    return starts


def _offsets(spans: Sequence[Span]) -> list[float]:
    """Time of each episode's first row since the boot's (s); stamps that begin anew make no gap."""
    offsets_s = [0.0]
    for before, after in pairwise(spans):
        apart_s = (after.first_stamp_ns - before.first_stamp_ns) / 1e9
        offsets_s.append(offsets_s[-1] + max(apart_s, before.duration_s))
    return offsets_s


def _without_long_gaps(
    boots: Sequence[BootSpans], starts: list[list[float]], longest_gap_s: float
) -> list[list[float]]:
    moved = [list(each) for each in starts]
    order = sorted(
        (start_s, boot, episode) for boot, each in enumerate(starts) for episode, start_s in enumerate(each)
    )
    cut_s, busy_until_s = 0.0, order[0][0] if order else 0.0
    for start_s, boot, episode in order:
        cut_s += max(0.0, start_s - busy_until_s - longest_gap_s)
        moved[boot][episode] = start_s - cut_s
        busy_until_s = max(busy_until_s, start_s + boots[boot].spans[episode].duration_s)
    return moved
