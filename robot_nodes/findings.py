"""What the doctor of a robot works with: a message that was heard, and a verdict in plain words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.doctor import Finding

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Heard:
    """One message.

    Attributes:
        message: As it came.
        now_ns: ROS time of its arrival (ns).
        steady_s: Steady time of its arrival (s).
    """

    message: Any
    now_ns: int
    steady_s: float


def good(name: str, found: str) -> Finding:
    """As it should be."""
    return Finding(name, True, True, found)


def wrong(name: str, found: str, advice: str) -> Finding:
    """The robot must not run like this."""
    return Finding(name, False, True, found, advice)


def note(name: str, found: str, advice: str) -> Finding:
    """To be known; the robot can run."""
    return Finding(name, False, False, found, advice)


def pick(message: Any, field: str, joints: Sequence[str]) -> Array:
    """A field of a JointState in the order of `joints`; empty where the message has none."""
    values, names = getattr(message, field), list(message.name)
    if len(values) != len(names):
        return np.zeros(0)
    return np.array([values[names.index(joint)] for joint in joints], np.float64)


def near_misses(wanted: Sequence[str], present: Sequence[str]) -> str:
    """What was probably meant, as a sentence; empty when nothing is similar."""
    endings = {w: [p for p in present if p.endswith(w) or w.endswith(p)] for w in wanted}
    prefixes = {p.removesuffix(w) for w, found in endings.items() for p in found if p.endswith(w)}
    if all(endings.values()) and len(prefixes) == 1 and (prefix := prefixes.pop()):
        return f"the driver puts {prefix!r} before each name: do so in the robot's YAML"
    guesses = {w: endings[w] or difflib.get_close_matches(w, present, 1) for w in wanted}
    pairs = [f"{w}: did you mean {guess[0]}?" for w, guess in guesses.items() if guess]
    return "; ".join(pairs)
