"""What became of a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INTERRUPTED = "interrupted"
"""The `stop_reason` after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class RobotOutcome:
    """What became of one robot's rows: those that were there before, and those that came now."""

    robot_id: str
    episodes: int
    rows: int
    rows_before: int
    rows_now: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a replay.

    Attributes:
        run_id: The run it went into; empty if the server was never heard.
        robots: By id.
        wall_s: Since the first connection (s).
        stop_reason: Why it ended early; empty if it did not.
    """

    run_id: str
    robots: Sequence[RobotOutcome]
    wall_s: float
    stop_reason: str

    @property
    def complete(self) -> bool:
        """Whether the server has all rows on disk."""
        return all(robot.rows_before + robot.rows_now == robot.rows for robot in self.robots)
