"""What an observation and an action are: names, units and bounds, hashed so that both sides agree."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_DIMENSIONS = 4096
JOINT_COMMAND = "/velocity_command"
"""How the names of actions end that move a joint."""


class SpaceError(ValueError):
    """A space is malformed, or two sides disagree about it."""


@dataclass(frozen=True, slots=True)
class Space:
    """A box of named, bounded numbers.

    Attributes:
        names: One name per dimension [n], unique.
        units: One SI unit per dimension [n] ("rad", "m/s", "1").
        low: Lower bounds [n], in those units.
        high: Upper bounds [n], in those units.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.units), len(self.low), len(self.high)}
        if len(sizes) != 1:
            raise SpaceError(f"names, units, low and high must be equally long, got {sizes}")
        if not 0 < len(self.names) <= MAX_DIMENSIONS:
            raise SpaceError(f"a space has 1 to {MAX_DIMENSIONS} dimensions, got {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            [(name, count)] = Counter(self.names).most_common(1)
            raise SpaceError(f"names must be unique, {name[:80]!r} is there {count} times")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise SpaceError(f"bounds of {name[:80]!r} must be finite with low < high: {low}, {high}")

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return len(self.names)


@dataclass(frozen=True, slots=True)
class SpaceSpec:
    """The observation and action spaces of one task on the robots of one fleet.

    Every robot of a run must present the same spec at hello; every policy carries its hash.
    """

    observation: Space
    action: Space

    def to_json(self) -> dict[str, Any]:
        """The spec as plain lists and strings, for headers and files."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpaceSpec:
        """Parse and check what `to_json` made.

        Raises:
            SpaceError: A key is missing or a value has the wrong kind.
        """
        try:
            observation, action = (
                Space(
                    names=tuple(str(name) for name in data[side]["names"]),
                    units=tuple(str(unit) for unit in data[side]["units"]),
                    low=tuple(float(bound) for bound in data[side]["low"]),
                    high=tuple(float(bound) for bound in data[side]["high"]),
                )
                for side in ("observation", "action")
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SpaceError):
                raise
            raise SpaceError(f"malformed space spec: {repr(error)[:200]}") from error
        return cls(observation=observation, action=action)

    @property
    def hash(self) -> str:
        """32 hex digits that change with any name, unit or bound."""
        canonical = json.dumps(asdict(self), sort_keys=True).encode()
        return hashlib.blake2b(canonical, digest_size=16).hexdigest()

    @property
    def joints(self) -> int:
        """How many joints the actions move."""
        return sum(name.endswith(JOINT_COMMAND) for name in self.action.names)

    def difference(self, other: SpaceSpec) -> str:
        """The first difference between two specs, in words; empty when they are equal."""
        for side in ("observation", "action"):
            mine, theirs = getattr(self, side), getattr(other, side)
            if mine.size != theirs.size:
                only = [
                    f"; only {where}: {', '.join(more[:4])[:200]}{', …' if len(more) > 4 else ''}"
                    for where, a, b in (("here", mine, theirs), ("there", theirs, mine))
                    if (more := [name for name in a.names if name not in b.names])
                ]
                return f"{side} has {mine.size} dimensions here and {theirs.size} there{''.join(only)}"
            for field in ("names", "units", "low", "high"):
                for i, (a, b) in enumerate(zip(getattr(mine, field), getattr(theirs, field), strict=True)):
                    if a != b:
                        name = mine.names[i][:80]
                        return f"{side}.{field}[{i}] ({name}) is {a!r:.80} here and {b!r:.80} there"
        return ""
