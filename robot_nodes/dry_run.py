"""`pnaf robot --dry-run`: the robot node as it is, but nothing is sent; shows what would be.

    joint_states ─▶ RobotNode(dry_run=True) ─▶ on_tick ─▶ DryRun ─▶ screen, lines or JSON

The node has no publisher of commands, no trajectories, no zero process and no spool. It hears the learner's
policies; while there are none it acts like an untrained network, so that the whole path can be looked at
before there is a learner.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console, RenderableType
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from fleet.cli_output import log_to_stderr
from fleet.config import ConfigError, FleetConfig
from fleet.ros_network import ros_network
from robot_nodes.actor import NewestPolicy
from robot_nodes.clearance import GuardGeometry
from robot_nodes.dry_run_view import (
    TITLE,
    DryRunView,
    JointView,
    WatchdogView,
    as_data,
    as_line,
    as_screen,
    summary,
)
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy, Vector
from robot_nodes.urdf_source import load_urdf

if TYPE_CHECKING:
    from robot_nodes.robot import Robot

_PATIENCE_S = 5.0  # without a policy, before random actions begin
_SCREEN_S, _LINE_S = 0.25, 1.0


class RandomPolicy(NumpyPolicy):
    """Uniformly random actions in [-1, 1], as an untrained network explores."""

    def __init__(self, action_size: int, rng: np.random.Generator) -> None:
        self.run_id = ""
        self.version = self.learner_step = self.published_ns = 0
        self.exploration_std = self.exploration_correlation = 0.0
        self._size, self._rng = action_size, rng

    def mean_action(self, observation: npt.ArrayLike) -> Vector:
        """Random, whatever the observation [nu]."""
        return self._rng.uniform(-1.0, 1.0, self._size).astype(np.float32)

    def precision_factor(self) -> None:
        """None: it needs no noise."""


class DryRun:
    """Looks at the robot after each tick, and gives it a policy while there is none.

    dry_run = DryRun(fleet, robot_id, time.monotonic)
    run_robot(fleet, robot_id, run_dir, dry_run=True, on_tick=dry_run.on_tick)
    """

    def __init__(self, fleet: FleetConfig, robot_id: str, clock: Callable[[], float]) -> None:
        """Load the robot's model.

        Raises:
            ConfigError: It cannot be used; the text says why.
        """
        robot = fleet.entry(robot_id).robot
        self._robot_id, self._joints, self._clock = robot_id, robot.joints, clock
        self._endpoint = fleet.learner.policy_endpoint
        self._low, self._high = (
            np.array(robot.limits.position_low_rad),
            np.array(robot.limits.position_high_rad),
        )
        try:
            self._kinematics = Kinematics(load_urdf(robot.urdf, robot_id), robot.joints, robot.tool_link)
            self._geometry = GuardGeometry(robot, self._kinematics)
        except ValueError as error:
            raise ConfigError(f"{robot_id}: {error}") from error
        self._rng = np.random.default_rng(fleet.seed)
        self._began_s = clock()
        self._shown_s = -math.inf
        self.view: DryRunView | None = None
        self.period_s = _LINE_S
        self.show: Callable[[DryRunView], None] = lambda view: None

    def on_tick(self, robot: Robot) -> None:
        """After each tick: keep what is to be shown, a few times a second and whenever the phase changes."""
        now_s = self._clock()
        if robot.policies.newest is None and now_s - self._began_s > _PATIENCE_S:
            policy = RandomPolicy(len(self._joints), self._rng)
            robot.policies.newest = NewestPolicy(policy, received_s=math.inf)
        changed = self.view is None or robot.loop.phase != self.view.phase
        if changed or now_s - self._shown_s >= self.period_s:
            self._shown_s = now_s
            self.view = self._look(robot, now_s)
            self.show(self.view)

    def _look(self, robot: Robot, now_s: float) -> DryRunView:
        loop, reading = robot.loop, robot.reading
        joints: list[JointView] = []
        tool: list[float] = []
        clearance, label = 0.0, ""
        if reading is not None:
            share = (reading.q - self._low) / (self._high - self._low)
            columns = (reading.q, share, reading.qd, loop.asked, loop.command)
            rows = zip(self._joints, *(column.tolist() for column in columns), strict=True)
            joints = [JointView(*row) for row in rows]
            tool = self._kinematics.tool_position(reading.q).tolist()
            clearance, label = self._geometry.least_clearance(reading.q)
        tripped = [dog for dog in robot.watchdogs.by_name.values() if dog.text]
        return DryRunView(
            robot_id=self._robot_id,
            elapsed_s=now_s - self._began_s,
            phase=loop.phase,
            note=loop.note,
            policy=self._policy(robot.policies.newest, now_s),
            joints=joints,
            guard=dict(loop.last_interventions.values),
            where=loop.last_interventions.where,
            tool_m=tool,
            clearance_m=clearance,
            clearance_of=label,
            watchdogs=[WatchdogView(dog.name, dog.text, dog.reaction) for dog in tripped],
            tick_ms=robot.stats.tick_percentiles_ms,
            ticks=loop.ticks,
            episodes=loop.episodes,
            guard_counts=dict(loop.interventions),
        )

    def _policy(self, newest: NewestPolicy | None, now_s: float) -> str:
        if newest is None:
            return f"none yet from {self._endpoint}: random actions after {_PATIENCE_S:g} s"
        if isinstance(newest.policy, RandomPolicy):
            return f"none from {self._endpoint}: random actions, as of an untrained network"
        return f"v{newest.policy.version}, heard {now_s - newest.received_s:.1f} s ago"

    def screen(self) -> RenderableType:
        """What the terminal shows now."""
        return Text("Starting …", style="yellow") if self.view is None else as_screen(self.view)


def run_dry(
    fleet: FleetConfig, robot_id: str, run_dir: Path, ros_args: list[str], *, as_json: bool = False
) -> int:
    """Run until Ctrl-C and show it: a screen on a terminal, else a line per second; the exit status."""
    from robot_nodes.robot_process import run_robot

    console = Console(soft_wrap=True, highlight=False)
    live = console.is_terminal and not as_json
    log_to_stderr(RichHandler(console=console, show_path=False) if live else None)
    entry = fleet.entry(robot_id)
    if not as_json:
        joints = ", ".join(entry.robot.joints)
        console.print(
            f"{TITLE}. {entry.id}: {entry.robot.name}, joints {joints}; {ros_network(os.environ)}.",
            style="yellow",
        )
    dry_run = DryRun(fleet, robot_id, time.monotonic)
    screen: AbstractContextManager[object] = nullcontext()
    if live:
        dry_run.period_s = _SCREEN_S
        screen = Live(get_renderable=dry_run.screen, console=console, refresh_per_second=1 / _SCREEN_S)
    else:
        dry_run.show = lambda view: console.print(
            json.dumps(as_data(view)) if as_json else as_line(view), markup=False
        )
    with screen:
        status = run_robot(fleet, robot_id, run_dir, ros_args, dry_run=True, on_tick=dry_run.on_tick)
    if not as_json:
        console.print(summary(dry_run.view))
    return status
