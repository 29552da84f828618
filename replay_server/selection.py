"""Which episodes of logs are meant: `--where KEY=VALUE`, as in `robot=robot1,robot2`, `policy=10..50`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from replay_server.episode_file import EpisodeInfo

Test = Callable[[EpisodeInfo], bool]


class SelectionError(ValueError):
    """A condition cannot be understood; the text says which, and what it may look like."""


@dataclass(frozen=True)
class Selection:
    """Conditions that an episode must all meet; without any, every episode does.

    selection = Selection.parse(["robot=robot1", "success=yes", "policy=10.."])
    chosen = [info for info in infos if selection.takes(info)]

    Attributes:
        conditions: As they were given.
        tests: The same as functions.
    """

    conditions: tuple[str, ...] = ()
    tests: tuple[Test, ...] = ()

    @classmethod
    def parse(cls, conditions: Sequence[str]) -> Selection:
        """Understand `KEY=VALUE` conditions.

        Raises:
            SelectionError: One has an unknown key or a value of another kind.
        """
        tests = []
        for condition in conditions:
            key, separator, value = condition.partition("=")
            if not separator or key not in KEYS:
                raise SelectionError(
                    f"--where {condition!r}: must be KEY=VALUE with a KEY of {', '.join(KEYS)}"
                )
            try:
                tests.append(KEYS[key](value.strip()))
            except ValueError as error:
                raise SelectionError(f"--where {condition!r}: {error}") from None
        return cls(tuple(conditions), tuple(tests))

    def takes(self, info: EpisodeInfo) -> bool:
        """Whether an episode meets all conditions."""
        return all(test(info) for test in self.tests)

    def __str__(self) -> str:
        """For people: the conditions, or "all episodes"."""
        return ", ".join(self.conditions) or "all episodes"


ALL = Selection()
"""No condition at all."""


def _one_of(attribute: str) -> Callable[[str], Test]:
    def parse(value: str) -> Test:
        wanted = {part.strip() for part in value.split(",")}
        return lambda info: getattr(info, attribute) in wanted

    return parse


def _yes_or_no(attribute: str) -> Callable[[str], Test]:
    def parse(value: str) -> Test:
        if value not in ("yes", "no"):
            raise ValueError("yes or no")
        return lambda info: getattr(info, attribute) == (value == "yes")

    return parse


def _within(number: Callable[[EpisodeInfo], float]) -> Callable[[str], Test]:
    def parse(value: str) -> Test:
        low, high = _bounds(value)
        return lambda info: low <= number(info) <= high

    return parse


def _bounds(text: str) -> tuple[float, float]:
    first, dots, last = text.partition("..")
    try:
        low = float(first) if first else -math.inf
        high = (float(last) if last else math.inf) if dots else low
    except ValueError:
        low, high = 1.0, 0.0
    if not text or math.isnan(low) or math.isnan(high) or low > high:
        raise ValueError("a number, or a range as in 10..50, 10.. or ..50")
    return low, high


def _metric(key: str) -> Callable[[EpisodeInfo], float]:
    return lambda info: info.metrics.get(key, math.nan)  # NaN is in no range


def _received(fits: Callable[[int, int], bool]) -> Callable[[str], Test]:
    def parse(value: str) -> Test:
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("a date or time as in 2026-11-30 or 2026-11-30T14:00, local time") from None
        limit_ns = int(when.timestamp() * 1e9)
        return lambda info: fits(info.received_ns, limit_ns)

    return parse


KEYS: dict[str, Callable[[str], Any]] = {
    "robot": _one_of("robot_id"),
    "task": _one_of("task"),
    "run": _one_of("run_id"),
    "since": _received(lambda received, limit: received >= limit),
    "until": _received(lambda received, limit: received < limit),
    "success": _yes_or_no("success"),
    "evaluation": _yes_or_no("evaluation"),
    "complete": _yes_or_no("complete"),
    "end": _one_of("end"),
    "policy": _within(lambda info: info.policy_version),
    "rows": _within(lambda info: info.rows),
    "return": _within(_metric("return")),
}
"""What episodes can be chosen by."""
