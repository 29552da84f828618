"""What goes wrong in a chaos run, and when: a list of faults drawn from a seed. Pure.

plan = make_plan(seed=3, robots=["robot1", "robot2"], duration_s=60.0)
for fault in plan:                 # in order of time
    at fault.at_s: inject it; fault.hold_s later: lift it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("kill", "stop", "cut", "disk", "flip")
SERVER, LEARNER, ROBOT = "server", "learner", "robot"

_VICTIMS = {
    "kill": (SERVER, LEARNER, ROBOT),
    "stop": (SERVER, LEARNER, ROBOT),
    "cut": (LEARNER, ROBOT),
    "disk": (SERVER, ROBOT),
    "flip": (SERVER,),
}
_HOLD_S = {"kill": (0.0, 1.0), "stop": (0.5, 3.0), "cut": (0.5, 3.0), "disk": (0.5, 2.5), "flip": (0.0, 0.5)}
# How long a victim is left alone once its fault was lifted: a learner needs seconds to start.
_REST_S = {SERVER: 2.0, LEARNER: 6.0, ROBOT: 2.0}
_PAUSE_S = (0.2, 1.2)  # from one fault to the next, whoever it meets
_RESET_SHARE = 0.5  # of the cuts that are over at once; the others swallow everything for a while


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_s: When, after the robots have begun (s).
        kind: "kill" (SIGKILL), "stop" (SIGSTOP), "cut" (a connection is reset; held, it is a black hole),
            "disk" (no room) or "flip" (SIGKILL, and bytes of the journal change before the restart).
        target: "server", "learner" or a robot's id.
        hold_s: How long it lasts (s): until the restart, SIGCONT, or room on the disk.
        seed: Of what is drawn when it happens, as which bytes change.
    """

    at_s: float
    kind: str
    target: str
    hold_s: float
    seed: int


def make_plan(
    seed: int, robots: Sequence[str], duration_s: float, kinds: Sequence[str] = KINDS
) -> list[Fault]:
    """Draw faults over `duration_s`, in order of time; every kind and victim comes before one comes twice.

    Robots' turns go round. Faults of different victims overlap, those of one never do.

    Raises:
        ValueError: There is no such kind of fault.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no fault {sorted(unknown)[0]!r}; there are: {', '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    sorts = [(kind, victim) for kind in KINDS if kind in kinds for victim in _VICTIMS[kind]]
    free_at_s = dict.fromkeys((SERVER, LEARNER, *robots), 0.0)
    plan: list[Fault] = []
    turn = int(rng.integers(len(robots)))
    clock_s = 0.0
    while sorts and clock_s < duration_s:
        for kind, victim in [sorts[i] for i in rng.permutation(len(sorts))]:
            clock_s += float(rng.uniform(*_PAUSE_S))
            target = victim
            if victim == ROBOT:
                target, turn = robots[turn % len(robots)], turn + 1
            hold_s = float(rng.uniform(*_HOLD_S[kind]))
            if kind == "cut" and rng.random() < _RESET_SHARE:
                hold_s = 0.0
            at_s = max(clock_s, free_at_s[target])
            fault = Fault(round(at_s, 3), kind, target, round(hold_s, 3), int(rng.integers(2**31)))
            if at_s + hold_s < duration_s:
                plan.append(fault)
                free_at_s[target] = at_s + hold_s + _REST_S[victim]
    return sorted(plan, key=lambda fault: fault.at_s)


def fault_name(fault: Fault, kind: str = "") -> str:
    """Kind and victim, as the report has them: all robots are one; `kind` if it became another."""
    return f"{kind or fault.kind} {fault.target if fault.target in (SERVER, LEARNER) else ROBOT}"
