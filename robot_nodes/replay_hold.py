"""What an operator's commands do to a replay: rows are held back, go on late, or end.

There is nothing to zero and nobody to reset: an e-stop holds like a pause, and resume ends it. The server
lets a resume through once the robot has reported that it was e-stopped and then another state.
"""

from __future__ import annotations

import math

from fleet.messages import FleetCommand


class ReplayHold:
    """Of one robot.

        hold.obey(command)
        due = hold.position(log_s)      # rows up to here may go

    Attributes:
        held: Rows are held back.
        stop_reason: Why it ended for good; empty if it did not.
    """

    def __init__(self) -> None:
        """Let rows go."""
        self.held = False
        self.stop_reason = ""
        self._estop_untold = False
        self._since_s: float | None = None
        self.lag_s = 0.0

    def obey(self, command: FleetCommand) -> bool:
        """Take a command; whether it is one for robots."""
        match command.kind:
            case "pause":
                self.held = True
            case "estop":
                self.held = self._estop_untold = True
            case "resume":
                self.held = self._estop_untold = False
            case "stop":
                self.stop(command.reason or "`pnaf fleet stop`")
            case _:
                return False
        return True

    def stop(self, reason: str) -> None:
        """End for good; the first reason counts."""
        self.stop_reason = self.stop_reason or reason

    @property
    def blocked(self) -> bool:
        """No row may go."""
        return self.held or bool(self.stop_reason)

    def position(self, log_s: float) -> float:
        """Up to where rows may go (s) at `log_s` of the logs' timeline, which runs on while they are held."""
        if self.blocked:
            self._since_s = log_s if self._since_s is None else self._since_s
            return -math.inf
        if self._since_s is not None:
            if math.isfinite(log_s):
                self.lag_s += log_s - self._since_s
            self._since_s = None
        return log_s - self.lag_s

    def report(self) -> str:
        """Its state for a heartbeat that is about to be sent; empty if rows go."""
        if self.stop_reason:
            return "stopped"
        if not self.held:
            return ""
        untold, self._estop_untold = self._estop_untold, False
        return "estopped" if untold else "paused"
