"""Events per second over the last few seconds."""

from __future__ import annotations

from collections import deque


class RateMeter:
    """Counts in slots of a tenth of the window, so its size does not grow with the rate."""

    def __init__(self, window_s: float = 5.0) -> None:
        """Average over `window_s` (s)."""
        self._window_s = window_s
        self._slots: deque[tuple[float, int]] = deque()
        self._start: float | None = None

    def add(self, now_s: float, count: int) -> None:
        """Count events that happened now."""
        if self._start is None:
            self._start = now_s
        if self._slots and now_s - self._slots[-1][0] < self._window_s / 10:
            begun, counted = self._slots[-1]
            self._slots[-1] = (begun, counted + count)
        else:
            self._slots.append((now_s, count))
        self._forget(now_s)

    def per_s(self, now_s: float) -> float:
        """Events per second over the window, or since the first event if that is shorter (≥ 1 s)."""
        self._forget(now_s)
        if self._start is None:
            return 0.0
        span = min(self._window_s, max(now_s - self._start, 1.0))
        return sum(count for _, count in self._slots) / span

    def _forget(self, now_s: float) -> None:
        while self._slots and now_s - self._slots[0][0] > self._window_s:
            self._slots.popleft()
