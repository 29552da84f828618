"""What became of one bag."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class BagReport:
    """One bag in numbers, and what a person should know.

    Attributes:
        bag: Its path.
        seconds: Time that its messages span (s).
        messages: How many were read.
        episodes: How many came out.
        rows: Their transitions.
        clipped: How many of these had an action beyond the robot's velocity limits, cut to them.
        idle_s: Time left out because the robot was at rest (s).
        cuts: Why steps were left out, and how many times.
        notes: What else was found.
        error: Why the bag, or the rest of it, was left out; empty if all of it is there.
    """

    bag: Path
    seconds: float = 0.0
    messages: int = 0
    episodes: int = 0
    rows: int = 0
    clipped: int = 0
    idle_s: float = 0.0
    cuts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    error: str = ""
