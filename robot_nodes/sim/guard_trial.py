"""A hostile policy against the guard, on a simulated arm: how far beyond its limits does the arm get?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits, GuardState, guard
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.urdf_source import load_urdf

Array = NDArray[np.float64]

EPISODE_TICKS = 200  # then a fresh place, so that no policy is stuck in one corner
_GREEDY_CHOICES = 4


@dataclass(slots=True)
class Excursions:
    """The worst of a trial. Distances are beyond the limits; 0 or less: never outside.

    Attributes:
        position: Of any joint (rad).
        distances: By kind of limit: sphere, workspace (box, planes), link_planes, self_collision (m).
        velocity: Of a command, over the limit (rad/s).
        acceleration: Of a command that is no stop, as a multiple of the limit.
        braking: Of a command that stopping won, as a multiple of the acceleration limit.
        hard_stops: Commands that braked harder than the acceleration limit, NaN aside.
        moved: How far the joints travelled in all (rad): a guard that stands still is no guard.
        acted: How many commands each limit changed.
        guard_s: CPU time of geometry and guard at each tick (s).
    """

    position: float = 0.0
    distances: dict[str, float] = field(default_factory=dict)
    velocity: float = 0.0
    acceleration: float = 0.0
    braking: float = 0.0
    hard_stops: int = 0
    moved: float = 0.0
    acted: Counter[str] = field(default_factory=Counter)
    guard_s: list[float] = field(default_factory=list)


class GuardTrial:
    """One arm, its guard and a source of randomness.

    excursions = GuardTrial(robot, np.random.default_rng(0)).run(POLICIES["saturated"], ticks=1000)
    """

    def __init__(self, robot: RobotConfig, rng: np.random.Generator) -> None:
        """The robot needs a `sim` group."""
        self.robot, self.rng = robot, rng
        kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
        self.geometry, self.measured = GuardGeometry(robot, kinematics), GuardGeometry(robot, kinematics)
        self.limits = GuardLimits.from_config(robot.limits)
        self.arm = MujocoArm(robot)
        self.dt = 1.0 / robot.control_rate_hz

    def start(self) -> Array:
        """A random place [nq] (rad) in which no limit is violated."""
        while True:
            q: Array = self.rng.uniform(self.limits.position_low, self.limits.position_high)
            if self.geometry.least_clearance(q)[0] >= 0.0:
                return q

    def run(self, policy: Policy, ticks: int) -> Excursions:
        """Let the policy try for so many ticks."""
        worst, limits = Excursions(), self.limits
        previous = acceleration = np.zeros_like(limits.velocity)
        for tick in range(ticks):
            if tick % EPISODE_TICKS == 0:
                self.arm.reset(self.start())
                previous = acceleration = np.zeros_like(limits.velocity)
            q, qd = self.arm.q.copy(), self.arm.qd.copy()
            began = time.thread_time()
            state = self.geometry.state(q, qd, previous, acceleration)
            between = time.thread_time()
            wish = policy(self, state, tick)
            began += time.thread_time() - between
            command, interventions = guard(wish, state, limits, self.dt)
            worst.guard_s.append(time.thread_time() - began)

            worst.acted.update(interventions.names)
            worst.moved += float(np.abs(command).sum()) * self.dt
            worst.velocity = max(worst.velocity, float((np.abs(command) - limits.velocity).max()))
            acceleration = (command - previous) / self.dt
            if "non_finite" not in interventions.values:
                multiples = np.abs(acceleration) / limits.acceleration
                stops = (command * previous >= 0.0) & (np.abs(command) <= np.abs(previous))
                worst.acceleration = max(worst.acceleration, float(multiples[~stops].max(initial=0.0)))
                worst.braking = max(worst.braking, float(multiples[stops].max(initial=0.0)))
                worst.hard_stops += bool(multiples.max() > 1.0 + 1e-6)
            previous = command
            self.arm.command(command)
            for _ in range(2):
                self.arm.step(self.dt / 2)
                self._measure(worst)
        return worst

    def _measure(self, worst: Excursions) -> None:
        q, limits = self.arm.q, self.limits
        beyond = max((limits.position_low - q).max(), (q - limits.position_high).max())
        worst.position = max(worst.position, float(beyond))
        for limit, clearance in self.measured.clearances(q).items():
            worst.distances[limit] = max(worst.distances.get(limit, -np.inf), -clearance)


Policy = Callable[[GuardTrial, GuardState, int], Array]


def _saturated(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    direction: Array = trial.rng.choice([-1.0, 1.0], state.q.size)
    return direction * trial.limits.velocity


def _random(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    return trial.rng.uniform(-2.0, 2.0, state.q.size) * trial.limits.velocity


def _held(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    """One command for two seconds: the arm gets up to speed and everywhere."""
    held = np.random.default_rng(tick // 40)
    return held.choice([-1.0, 1.0], state.q.size) * held.uniform(0.3, 2.0) * trial.limits.velocity


def _bang_bang(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    direction: Array = np.random.default_rng(tick // 100).choice([-1.0, 1.0], state.q.size)
    return direction * trial.limits.velocity * (1.0 if tick // 7 % 2 else -1.0)


def _nan_bursts(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    u: Array = trial.rng.uniform(-1.0, 1.0, state.q.size) * trial.rng.choice([1.0, 10.0, 1e300])
    if tick % 30 < 5:
        u[trial.rng.integers(u.size)] = trial.rng.choice([np.nan, np.inf, -np.inf])
    return u


def _outward(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    """Straight out of the workspace sphere."""
    outwards: Array = state.jacobian.T @ (state.tool_position - trial.limits.sphere_center)
    u: Array = np.sign(outwards) * trial.limits.velocity
    return u


def _nearest(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    """Towards the nearest limit, all joints at full speed."""
    if not state.clearance.size:
        return _outward(trial, state, tick)
    u: Array = -np.sign(state.clearance_gradient[state.clearance.argmin()]) * trial.limits.velocity
    return u


def _chosen(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    """Towards one limit after the other, near or far."""
    if not state.clearance.size:
        return _outward(trial, state, tick)
    row = np.random.default_rng(tick // 50).integers(state.clearance.size)
    u: Array = -np.sign(state.clearance_gradient[row]) * trial.limits.velocity
    return u


def _sliding(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    """As fast as it can along the nearest limit while pushing against it."""
    limits = trial.limits
    outwards = -state.jacobian.T @ (state.tool_position - limits.sphere_center)
    distance = limits.sphere_radius - np.linalg.norm(state.tool_position - limits.sphere_center)
    if state.clearance.size and state.clearance.min() < distance:
        outwards = state.clearance_gradient[state.clearance.argmin()]
    along = np.random.default_rng(tick // 30).choice([-1.0, 1.0], state.q.size)
    push = -3.0 * outwards / max(float(np.linalg.norm(outwards)), 1e-9)
    return np.clip(along + push, -1.0, 1.0) * limits.velocity


def _greedy(trial: GuardTrial, state: GuardState, tick: int) -> Array:
    """Of some commands the one which, guarded, gets nearest to a limit: it knows the guard's errors."""

    def leaves(u: Array) -> float:
        command, _ = guard(u, state, trial.limits, trial.dt)
        return trial.measured.least_clearance(state.q + command * trial.dt)[0]

    choices = trial.rng.choice([-1.0, 0.0, 1.0], (_GREEDY_CHOICES, state.q.size)) * trial.limits.velocity
    return min(choices, key=leaves)


POLICIES: dict[str, Policy] = {
    "saturated": _saturated,
    "random": _random,
    "held": _held,
    "bang_bang": _bang_bang,
    "nan_bursts": _nan_bursts,
    "outward": _outward,
    "nearest": _nearest,
    "chosen": _chosen,
    "sliding": _sliding,
    "greedy": _greedy,
}
