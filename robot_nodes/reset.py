"""Between two episodes: what the robot does until the next one may begin.

A pure state machine: it says what it wants of the arm, the trajectory controller, the reset service and
the person, and is told what came of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.reset_steps import Motion, PersonStep, ServiceStep, Step, TrajectoryStep, VelocityStep
from robot_nodes.trajectory import Guarded, Trajectory

Vector = npt.NDArray[np.float64]

_DRAWS = 100  # of a random home that is within all limits; home_rad itself is known to be
DRY_RUN_S = 2.0  # a dry run moves nothing: after this time it takes the reset as done


class Reset:
    """The steps of a robot's config, one after the other.

    reset.begin()
    each tick: wish = reset.tick(q, qd, stamp_ns)      # rad/s, for the guard; None: all steps are done
               trajectory = reset.take_trajectory()    # for the trajectory controller, at most once each
               if reset.take_service_call(): …         # and reset.service_done(ok, message) later
    a person:  reset.ready()
    at a stop: reset.abort()
    """

    def __init__(
        self,
        robot: RobotConfig,
        geometry: GuardGeometry,
        guarded: Guarded,
        rng: np.random.Generator,
        *,
        dry_run: bool = False,
    ) -> None:
        """Nothing goes on yet.

        Args:
            robot: Its `reset` says what to do.
            geometry: Where the limits are, to draw homes within them.
            guarded: The guard, to plan trajectories with.
            rng: Where each home is drawn from.
            dry_run: Nothing moves: be done after DRY_RUN_S.
        """
        self._robot, self._geometry, self._guarded, self._rng = robot, geometry, guarded, rng
        self._dry_run = dry_run
        self._home: Vector = np.array(robot.reset.home_rad)
        self._index = 0
        self._step: Step | None = None
        self._began_ns: int | None = None
        self._step_began_ns: int | None = None
        self._q: Vector = self._home
        self._qd: Vector = np.zeros_like(self._home)
        self._outbox: Trajectory | None = None

    @property
    def note(self) -> str:
        """What is waited for; empty while the arm moves."""
        return self._step.note if self._step is not None else ""

    @property
    def waits_for_person(self) -> bool:
        """Whether `ready` is what is missing."""
        return isinstance(self._step, PersonStep)

    def begin(self) -> None:
        """Start with the first step, to a new home."""
        self._home = self._draw_home()
        self._index, self._began_ns = 0, None
        self._start_step()

    def _draw_home(self) -> Vector:
        reset, limits = self._robot.reset, self._robot.limits
        home, margin = np.array(reset.home_rad), 2 * reset.tolerance_rad
        low = np.array(limits.position_low_rad) + margin
        high = np.array(limits.position_high_rad) - margin
        for _ in range(_DRAWS):
            offset = self._rng.uniform(-reset.randomise_rad, reset.randomise_rad, len(self._robot.joints))
            drawn: Vector = np.clip(home + offset, low, high)
            if self._geometry.least_clearance(drawn)[0] >= 0.0:
                return drawn
        return home

    def _start_step(self) -> None:
        motion = Motion(self._robot, self._home)
        self._step_began_ns = None
        match self._robot.reset.steps[self._index]:
            case "velocity":
                self._step = VelocityStep(motion)
            case "trajectory":
                self._step = TrajectoryStep(motion, self._guarded, self._send, self._dry_run)
            case "service":
                self._step = ServiceStep(motion)
            case "person":
                self._step = PersonStep()

    def _send(self, trajectory: Trajectory) -> None:
        self._outbox = trajectory

    def tick(self, q: Vector, qd: Vector, stamp_ns: int) -> Vector | None:
        """Joint velocities asked for [nq] (rad/s), before the guard; None: all steps are done.

        Raises:
            ResetError: A step has failed.
        """
        self._q, self._qd = q, qd
        if self._began_ns is None:
            self._began_ns = stamp_ns
        longest_s = min(DRY_RUN_S, self._robot.reset.timeout_s)
        while self._step is not None:
            if self._dry_run and (stamp_ns - self._began_ns) * 1e-9 > longest_s:
                break
            if self._step_began_ns is None:
                self._step_began_ns = stamp_ns
            wish = self._step.tick(q, qd, (stamp_ns - self._step_began_ns) * 1e-9)
            if wish is not None:
                return wish
            self._index += 1
            if self._index == len(self._robot.reset.steps):
                break
            self._start_step()
        self._step = None
        return None

    def interrupt(self) -> None:
        """A person moves the arm: the step under way brakes and starts afresh when ticked again."""
        if self._step is not None and self._step.cancel(self._q, self._qd):
            self._start_step()

    def abort(self) -> None:
        """Stop here: a trajectory under way brakes; the next `begin` starts with the first step."""
        if self._step is not None:
            self._step.cancel(self._q, self._qd)
            self._step = None

    def take_trajectory(self) -> Trajectory | None:
        """What the trajectory controller must be told now."""
        taken, self._outbox = self._outbox, None
        return taken

    def take_service_call(self) -> bool:
        """Whether the service must be called now."""
        if not isinstance(self._step, ServiceStep) or not self._step.wanted:
            return False
        self._step.wanted = False
        return True

    def service_done(self, ok: bool, message: str) -> None:
        """The service has answered; an answer that nobody waits for any more does nothing."""
        if isinstance(self._step, ServiceStep):
            self._step.done(ok, message)

    def ready(self) -> None:
        """A person says that all is in place; only while `waits_for_person`."""
        assert isinstance(self._step, PersonStep)
        self._step.ready = True
