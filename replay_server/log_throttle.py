"""Warnings that a broken peer cannot flood the log with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class LogThrottle:
    """Logs the first warning at once, then at most one per period with the number held back."""

    def __init__(
        self, logger: logging.Logger, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Log to `logger` at most every `period_s` (s)."""
        self._logger = logger
        self._period_s = period_s
        self._clock = clock
        self._next_s = float("-inf")
        self._held_back = 0

    def warning(self, text: str) -> None:
        """Log a warning, or count it."""
        now = self._clock()
        if now < self._next_s:
            self._held_back += 1
            return
        suffix = f" (and {self._held_back} more like it)" if self._held_back else ""
        self._logger.warning("%s%s", text, suffix)
        self._next_s = now + self._period_s
        self._held_back = 0
