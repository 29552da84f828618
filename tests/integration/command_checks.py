"""Checks of the commands that left a node: what no arm should ever get, and how a stop must look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JOINTS = [f"joint_{i}" for i in range(1, 8)]
RATE_HZ, MAX_VELOCITY, MAX_ACCELERATION = 10.0, 1.0, 3.0  # Hz, rad/s and rad/s² of every joint


@dataclass(frozen=True)
class Command:
    """What a controller heard, when (CLOCK_MONOTONIC) and from which publisher."""

    time_s: float
    values: tuple[float, ...]
    publisher: str = ""

    @property
    def zero(self) -> bool:
        return not any(self.values)


def stream_problems(commands: list[Command]) -> list[str]:
    """Commands that no arm should ever get: not finite, wrong size, too fast, too sudden.

    A stop may be sudden: it is exactly zero.
    """
    problems, previous = [], np.zeros(len(JOINTS))
    for i, command in enumerate(commands):
        values = np.array(command.values)
        if len(values) != len(JOINTS) or not np.isfinite(values).all():
            problems.append(f"command {i}: {command.values}")
            continue
        if np.abs(values).max() > MAX_VELOCITY + 1e-9:
            problems.append(f"command {i} is too fast: {command.values}")
        step = np.abs(values - previous).max()
        if step > MAX_ACCELERATION / RATE_HZ + 1e-9 and not command.zero:
            problems.append(f"command {i} is {step:.3f} rad/s from the one before: {command.values}")
        previous = values
    return problems


def stop_problems(commands: list[Command], since_s: float, limit_s: float, until_s: float) -> list[str]:
    """What is wrong with a stop: zeros must come within `limit_s` of `since_s` and stay until `until_s`."""
    before = [c for c in commands if c.time_s < since_s]
    after = [c for c in commands if since_s <= c.time_s <= until_s]
    if not before or before[-1].zero:
        return ["it did not move before: the stop proves nothing"]
    first = next((i for i, c in enumerate(after) if c.zero), None)
    if first is None:
        return ["no zero command"]
    problems = []
    if (delay_s := after[first].time_s - since_s) > limit_s:
        problems.append(f"the first zero came after {delay_s:.2f} s, the limit is {limit_s:.2f} s")
    moving = [c.time_s - after[first].time_s for c in after[first:] if not c.zero]
    if moving:
        problems.append(f"it moved again {moving[0]:.2f} s after the first zero")
    return problems
