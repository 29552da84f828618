"""What `pnaf robot --dry-run` shows: one snapshot as a screen, as a line, or as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

TITLE = "DRY RUN: nothing is sent to the robot and nothing is recorded"
_BAR = 13  # characters between a joint's limits


@dataclass(frozen=True, slots=True)
class JointView:
    """One joint.

    Attributes:
        name: As in the config.
        position_rad: Measured (rad).
        share: Where that is between its limits: 0 at the lowest, 1 at the highest.
        velocity_rad_s: Measured (rad/s).
        asked_rad_s: What the policy or the reset wanted (rad/s).
        command_rad_s: What would be sent, after the guard (rad/s).
    """

    name: str
    position_rad: float
    share: float
    velocity_rad_s: float
    asked_rad_s: float
    command_rad_s: float


@dataclass(frozen=True, slots=True)
class WatchdogView:
    """A watchdog that has something to say."""

    name: str
    text: str
    reaction: str


@dataclass(frozen=True, slots=True)
class DryRunView:
    """One moment of a dry run.

    Attributes:
        robot_id: Which robot.
        elapsed_s: Since the start (s).
        phase: What the control loop does.
        note: Why.
        policy: What it acts with.
        joints: All of them, in order; none before the first joint state.
        guard: For each limit that acted how far it moved the worst joint (rad/s).
        where: What held the robot back, if it was not a joint.
        tool_m: Position of the tool [3] (m); empty before the first joint state.
        clearance_m: The least distance to a limit of workspace or links (m); below zero: beyond it.
        clearance_of: Which limit that is.
        watchdogs: Those that have tripped or wait for something.
        tick_ms: Compute time of a tick: median and 99th percentile (ms).
        ticks: So far.
        episodes: Ended so far.
        guard_counts: Commands that each limit has changed so far.
    """

    robot_id: str
    elapsed_s: float
    phase: str
    note: str
    policy: str
    joints: Sequence[JointView]
    guard: Mapping[str, float]
    where: str
    tool_m: Sequence[float]
    clearance_m: float
    clearance_of: str
    watchdogs: Sequence[WatchdogView]
    tick_ms: tuple[float, float]
    ticks: int
    episodes: int
    guard_counts: Mapping[str, int] = field(default_factory=dict)


def as_data(view: DryRunView) -> dict[str, Any]:
    """For `--json`; every object says that it is a dry run."""
    return {"dry_run": True} | asdict(view)


def as_line(view: DryRunView) -> str:
    """For logs and pipes; joints in the order of the config."""
    q, asked, sent = (
        ", ".join(f"{getattr(joint, name):+.2f}" for joint in view.joints)
        for name in ("position_rad", "asked_rad_s", "command_rad_s")
    )
    parts = [
        f"{view.elapsed_s:.0f} s {_state(view)}",
        f"policy {view.policy}",
        f"at [{q}] rad asked [{asked}] would send [{sent}] rad/s",
        f"guard {_guard(view)}",
        f"tool {_clearance(view)}",
        f"watchdogs {'; '.join(f'{w.name}: {w.text}' for w in view.watchdogs) or 'none has tripped'}",
        f"tick {view.tick_ms[0]:.2f} ms",
    ]
    return " | ".join(parts)


def as_screen(view: DryRunView) -> RenderableType:
    """For a terminal."""
    joints = Table(
        "joint", "at\nrad", "in its limits", "moves\nrad/s", "asked\nrad/s", "would send\nrad/s", box=None
    )
    for column in joints.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for j in view.joints:
        changed = abs(j.asked_rad_s - j.command_rad_s) > 1e-3
        near = not 0.05 <= j.share <= 0.95
        joints.add_row(
            j.name,
            f"{j.position_rad:+.3f}",
            Text(_bar(j.share), style="red" if near else ""),
            f"{j.velocity_rad_s:+.3f}",
            f"{j.asked_rad_s:+.3f}",
            Text(f"{j.command_rad_s:+.3f}", style="yellow" if changed else ""),
        )
    facts = Table.grid(padding=(0, 2))
    bad = view.phase in ("fault", "estopped")
    facts.add_row("robot", f"{view.robot_id}, {view.elapsed_s:.0f} s")
    facts.add_row("state", Text(_state(view), style="red" if bad else ""))
    facts.add_row("policy", Text(view.policy))
    facts.add_row("guard", Text(_guard(view)))
    facts.add_row("tool", Text(_clearance(view), style="red" if view.clearance_m < 0 else ""))
    facts.add_row("tick", f"{view.tick_ms[0]:.2f} ms, p99 {view.tick_ms[1]:.2f} ms")
    for watchdog in view.watchdogs:
        facts.add_row(
            "watchdog", Text(f"{watchdog.name}: {watchdog.text} ({watchdog.reaction})", style="red")
        )
    if not view.watchdogs:
        facts.add_row("watchdogs", "none has tripped")
    parts = (joints, Text(), facts) if view.joints else (facts,)
    return Panel(Group(*parts), title=TITLE, border_style="yellow", subtitle="Ctrl-C ends it")


def summary(view: DryRunView | None) -> str:
    """The last line."""
    if view is None or not view.joints:
        return "Dry run ended without a joint state: `pnaf doctor --robot ROBOT.yaml` says what is missing."
    counts = ", ".join(f"{name} {count}" for name, count in view.guard_counts.items()) or "none"
    return (
        f"Dry run ended after {view.elapsed_s:.0f} s: {view.ticks} ticks, {view.episodes} episodes; commands "
        f"that the guard changed: {counts}. Nothing was sent, nothing was recorded."
    )


def _state(view: DryRunView) -> str:
    text = f"{view.phase} ({view.note})" if view.note else view.phase
    if view.phase == "fault":
        text += "; a dry run goes on by itself in a few seconds, a real run would wait for a person"
    return text


def _guard(view: DryRunView) -> str:
    if not view.guard:
        return "lets it through"
    acted = ", ".join(f"{name} by {value:.3f} rad/s" for name, value in view.guard.items())
    return f"{acted} ({view.where})" if view.where else acted


def _clearance(view: DryRunView) -> str:
    if not view.tool_m:
        return "unknown: no joint states"
    tool = ", ".join(f"{x:.3f}" for x in view.tool_m)
    side = "beyond" if view.clearance_m < 0 else "to"
    return f"at ({tool}) m, {abs(1e3 * view.clearance_m):.0f} mm {side} {view.clearance_of}"


def _bar(share: float) -> str:
    at = round(min(max(share, 0.0), 1.0) * (_BAR - 1))
    return "".join("●" if i == at else "·" for i in range(_BAR))
