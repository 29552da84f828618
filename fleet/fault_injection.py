"""How each kind of fault is done to a fleet, and undone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fleet.fault_fleet import FaultFleet
from fleet.fault_plan import Fault, fault_name

_MOST_FLIPPED_BYTES = 64
_TEAR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Injected:
    """What was done, by kind and victim, and how to end it."""

    name: str
    lift: Callable[[], None]


def inject(fleet: FaultFleet, fault: Fault) -> Injected | None:
    """Do it; None if the victim does not run: it has ended by itself, or made all its rows."""
    victim = fleet.victims[fault.target]
    if not victim.running:
        return None
    rng = np.random.default_rng(fault.seed)
    name = fault_name(fault)
    match fault.kind:
        case "kill" | "flip":
            fleet.down.add(fault.target)
            victim.kill()
            if fault.kind == "flip" and not flip_bytes(fleet.run / "journal", rng):
                name = fault_name(fault, kind="kill")  # the journal was empty
            return Injected(name, partial(fleet.start_again, fault.target))
        case "stop":
            victim.send(signal.SIGSTOP)
            return Injected(name, partial(victim.send, signal.SIGCONT))
        case "cut":
            proxy = fleet.proxies[fault.target]
            if fault.hold_s == 0.0:
                proxy.reset()
                return Injected(name, lambda: None)
            proxy.silence()
            return Injected(name, proxy.lift)
        case "disk":
            return Injected(name, _take_room(fleet, fault.target, rng))
        case _:
            raise ValueError(f"no fault {fault.kind!r}")


def _take_room(fleet: FaultFleet, target: str, rng: np.random.Generator) -> Callable[[], None]:
    """Take the room on a disk away, in one of three ways; returns what gives it back."""
    victim, disk = fleet.victims[target], fleet.disks.get(target)
    if disk is not None and rng.random() < 0.5:
        disk.fill()
        return disk.free
    limit = 0
    if rng.random() < 0.5:  # a record is torn where the limit is
        limit = fleet.newest_file_size(target) + int(rng.integers(_TEAR_BYTES))
    victim.limit_files(limit)
    return partial(victim.limit_files, None)


def flip_bytes(folder: Path, rng: np.random.Generator) -> int:
    """Change up to 64 bytes of the files in a folder, anywhere; returns how many, 0 if there are none."""
    files = [path for path in sorted(folder.glob("*.journal")) if path.stat().st_size]
    if not files:
        return 0
    flipped = int(rng.integers(1, _MOST_FLIPPED_BYTES + 1))
    for _ in range(flipped):
        path = files[int(rng.integers(len(files)))]
        with path.open("r+b") as file:
            file.seek(int(rng.integers(path.stat().st_size)))
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ int(rng.integers(1, 256))]))
    return flipped
