"""How a robot is, as diagnostic statuses: a pure function of a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from robot_nodes.watchdog import Watchdog


class Level(Enum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = b"\x00"
    WARN = b"\x01"
    ERROR = b"\x02"
    STALE = b"\x03"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One DiagnosticStatus.

    Attributes:
        name: What it is about.
        level: How bad it is.
        message: In plain words.
        values: Numbers behind it.
    """

    name: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is looked at.

    Attributes:
        lifecycle: State of the lifecycle node.
        phase: What the control loop does; empty when there is none.
        note: Why.
        watchdogs: All of them, with their newest texts.
        interventions: Commands that each of the guard's limits has changed.
        largest_interventions: The largest change of a joint by each (rad/s).
        stopped_commands: Commands that the guard held back.
        policy_version: Of the newest policy; None: there is none yet.
        policy_age_s: Wall time since the learner last sent it (s).
        policies_refused: Policies that did not fit.
        unacked: Steps that wait for the replay server.
        blocked: Why no more experience can be taken.
        rows_dropped: Steps lost because the spool was full.
        connected: The replay server has answered.
    """

    lifecycle: str
    phase: str = ""
    note: str = ""
    watchdogs: Iterable[Watchdog] = ()
    interventions: Mapping[str, int] = field(default_factory=dict)
    largest_interventions: Mapping[str, float] = field(default_factory=dict)
    stopped_commands: int = 0
    policy_version: int | None = None
    policy_age_s: float = 0.0
    policies_refused: int = 0
    unacked: int = 0
    blocked: str = ""
    rows_dropped: int = 0
    connected: bool = False


def diagnose(robot: Snapshot) -> list[Diagnosis]:
    """State, guard, policy, experience, and every watchdog."""
    if not robot.phase:
        return [Diagnosis("state", Level.WARN, f"{robot.lifecycle}: nothing runs until it is configured")]
    watchdogs = list(robot.watchdogs)
    return [
        _state(robot),
        _guard(robot),
        _policy(robot, watchdogs),
        _experience(robot),
        *map(_watchdog, watchdogs),
    ]


def _state(robot: Snapshot) -> Diagnosis:
    if robot.phase in ("fault", "estopped"):
        level = Level.ERROR
    elif robot.phase in ("resetting", "episode") and robot.lifecycle == "active":
        level = Level.OK
    else:
        level = Level.WARN
    text = f"{robot.phase}: {robot.note}" if robot.note else robot.phase
    return Diagnosis("state", level, text, {"lifecycle": robot.lifecycle, "phase": robot.phase})


def _guard(robot: Snapshot) -> Diagnosis:
    values = {"commands held back": str(robot.stopped_commands)}
    for name, count in robot.interventions.items():
        largest = robot.largest_interventions.get(name, 0.0)
        values[name] = f"{count} commands, a joint by up to {largest:.3f} rad/s"
    return Diagnosis("guard", Level.OK, f"{robot.stopped_commands} commands held back", values)


def _policy(robot: Snapshot, watchdogs: Iterable[Watchdog]) -> Diagnosis:
    refused = {"refused": str(robot.policies_refused)}
    if robot.policy_version is None:
        return Diagnosis("policy", Level.STALE, "none heard yet: is the learner running?", refused)
    old = next((watchdog.text for watchdog in watchdogs if watchdog.name == "policy_age"), "")
    values = {"version": str(robot.policy_version), "age_s": f"{robot.policy_age_s:.1f}"}
    text = old or f"version {robot.policy_version}"
    return Diagnosis("policy", Level.WARN if old else Level.OK, text, values | refused)


def _experience(robot: Snapshot) -> Diagnosis:
    values = {"waiting": str(robot.unacked), "lost": str(robot.rows_dropped)}
    if robot.blocked:
        return Diagnosis("experience", Level.ERROR, robot.blocked, values)
    if not robot.connected:
        text = "no answer from the replay server: steps are kept on this computer's disk"
        return Diagnosis("experience", Level.WARN, text, values)
    if robot.rows_dropped:
        return Diagnosis("experience", Level.WARN, f"{robot.rows_dropped} steps lost: spool full", values)
    return Diagnosis("experience", Level.OK, f"{robot.unacked} steps wait for the replay server", values)


def _watchdog(watchdog: Watchdog) -> Diagnosis:
    if not watchdog.text:
        level = Level.OK
    elif not watchdog.armed:
        level = Level.STALE
    else:
        level = Level.ERROR if watchdog.latches else Level.WARN
    values = {"limit": watchdog.limit, "reaction": watchdog.reaction, "trips": str(watchdog.trips)}
    return Diagnosis(f"watchdog {watchdog.name}", level, watchdog.text or "ok", values)
