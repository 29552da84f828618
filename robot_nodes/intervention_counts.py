"""How often the guard has acted, by which limit and by how much: of a robot, and of its episode."""

from __future__ import annotations

from fleet.messages import GUARD_METRICS
from robot_nodes.guard import Interventions


class InterventionCounts:
    """Counts what the guard reports.

    Attributes:
        counts: For each limit the commands that it changed.
        largest: For each limit the largest change of a joint (rad/s).
        stopped: Commands that a limit held back.
        smoothed: Commands that were only made slower or smoother.
    """

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.counts: dict[str, int] = {}
        self.largest: dict[str, float] = {}
        self.stopped = 0
        self.smoothed = 0

    def add(self, interventions: Interventions) -> None:
        """Count one command."""
        if not interventions.any:
            return
        self.stopped += interventions.stopped
        self.smoothed += not interventions.stopped
        for name, value in interventions.values.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            self.largest[name] = max(self.largest.get(name, 0.0), value)

    @property
    def metrics(self) -> dict[str, float]:
        """For the end of an episode: `guard/NAME` (commands) and `guard/NAME_max_rad_s`."""
        metrics = {f"{GUARD_METRICS}{name}": float(count) for name, count in self.counts.items()}
        return metrics | {f"{GUARD_METRICS}{name}_max_rad_s": value for name, value in self.largest.items()}
