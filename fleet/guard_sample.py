"""Logged moments of a fleet's robots, drawn at random, and what the guard makes of actions there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fleet.config import FleetConfig
from fleet.robot_config import RobotConfig

if TYPE_CHECKING:
    from replay_server.logs import Logs
    from robot_nodes.guard_preview import Moments

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GuardFacts:
    """What the guard does to some actions, or did.

    Attributes:
        rows: How many actions.
        changed: Share of them that it changes.
        stopped: Share that a limit holds back.
        smoothed: Share that are only made slower or smoother.
        limits: For each limit that acts the share of actions, and the largest change of a joint (rad/s).
    """

    rows: int
    changed: float
    stopped: float
    smoothed: float
    limits: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class _OneRobot:
    """Moments of one kind of robot, with what was observed and asked for there."""

    robot: RobotConfig
    moments: Moments
    observation: Array
    policy_action: Array
    clipped: Array


@dataclass(frozen=True, eq=False)
class GuardSample:
    """Moments of all robots.

        sample = GuardSample.draw(logs, fleet, rows=5000, rng)
        facts = sample.preview(lambda observations: policy(observations))

    Attributes:
        strangers: Robots of the logs that the fleet does not have; their rows are left out.
    """

    parts: list[_OneRobot]
    strangers: list[str]

    @classmethod
    def draw(cls, logs: Logs, fleet: FleetConfig, rows: int, rng: np.random.Generator) -> GuardSample:
        """Draw at most `rows` of the rows in which nobody moved the robot by hand.

        Raises:
            GuardPreviewError: There is no guard of a robot, or the logs do not say where the arm was.
        """
        from replay_server.episode_file import EpisodeFileError
        from robot_nodes.guard_preview import GuardPreview, Moments

        found: dict[str, list[_OneRobot]] = {}
        strangers = set()
        drawn = np.sort(rng.choice(logs.rows, min(rows, logs.rows), replace=False))
        first = 0
        for summary in logs.episodes:
            count, robot_id = summary.info.rows, summary.info.robot_id
            places = drawn[slice(*np.searchsorted(drawn, [first, first + count]))] - first
            first += count
            robot = robot_of(fleet, robot_id)
            if robot is None:
                strangers.add(robot_id)
            if robot is not None and robot_id not in found:
                GuardPreview(robot)  # is there one? better said now than after the long work
            if robot is None or not len(places) or summary.path in logs.damaged:
                continue
            try:
                transitions = logs.transitions(summary)
            except EpisodeFileError:
                continue  # it was fine a moment ago, and is reported wherever all rows are read
            places = places[~transitions.intervened[places]]
            if not len(places):
                continue
            before = np.pad(transitions.action, ((2, 0), (0, 0)))
            moments = Moments.of(
                transitions.observation[places],
                np.stack([before[places + 1], before[places]]),
                logs.spec,
                robot,
            )
            columns = transitions.observation, transitions.policy_action, transitions.clipped
            piece = _OneRobot(robot, moments, *(column[places] for column in columns))
            found.setdefault(robot_id, []).append(piece)
        return cls([_joined(pieces) for pieces in found.values()], sorted(strangers))

    @property
    def clipped(self) -> float:
        """Share of these actions that the guard did change, as logged."""
        return float(np.concatenate([part.clipped for part in self.parts]).mean())

    def preview(self, act: Callable[[Array], Array] | None = None) -> GuardFacts:
        """What the guard would do.

        Args:
            act: The policy, observations [B, nx] to actions [B, nu]; None: what was asked for then.
        """
        from robot_nodes.guard_preview import GuardPreview

        counts = []
        for part in self.parts:
            preview = GuardPreview(part.robot)
            preview(part.moments, part.policy_action if act is None else act(part.observation))
            counts.append(preview.counts)
        rows = sum(len(part.moments) for part in self.parts)
        limits: dict[str, dict[str, float]] = {}
        for count in counts:
            for limit, times in count.counts.items():
                facts = limits.setdefault(limit, {"share": 0.0, "largest_rad_s": 0.0})
                facts["share"] += times / rows
                facts["largest_rad_s"] = max(facts["largest_rad_s"], count.largest[limit])
        stopped, smoothed = (
            sum(getattr(count, name) for count in counts) / rows for name in ("stopped", "smoothed")
        )
        return GuardFacts(rows, stopped + smoothed, stopped, smoothed, limits)


def _joined(pieces: list[_OneRobot]) -> _OneRobot:
    from robot_nodes.guard_preview import Moments

    names = "observation", "policy_action", "clipped"
    columns = [np.concatenate([getattr(piece, name) for piece in pieces]) for name in names]
    return _OneRobot(pieces[0].robot, Moments.joined([piece.moments for piece in pieces]), *columns)


def robot_of(fleet: FleetConfig, robot_id: str) -> RobotConfig | None:
    """A robot's config; of an id that the fleet lacks that of its robots, if all are of one kind."""
    for entry in fleet.robots:
        if entry.id == robot_id:
            return entry.robot
    kinds = {entry.robot.name for entry in fleet.robots}
    return fleet.robots[0].robot if len(kinds) == 1 else None
