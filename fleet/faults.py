"""A chaos run: faults from a plan meet a real fleet on loopback; then every row is counted.

    report = run_faults(TrialSettings(seed=3, robots=4, duration_s=60.0), console, stop)

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fleet.fault_count import rows_in_ring
from fleet.fault_fleet import FaultFleet, FaultRunError
from fleet.fault_injection import inject
from fleet.fault_plan import KINDS, LEARNER, SERVER, Fault, make_plan
from fleet.fault_report import FaultReport, Recovery, examine
from fleet.fault_watch import LearnerWatch

logger = logging.getLogger(__name__)

_START_S = 60.0
_DRAIN_S = 90.0
_RECOVER_S = 30.0
_TICK_S = 0.01
_ENDLESS = 2**40


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What is tried.

    Attributes:
        seed: Of the plan and of everything drawn while it runs.
        robots: How many.
        duration_s: How long faults happen (s).
        kinds: Which; see `fleet.fault_plan`.
        rows: Each robot makes so many, over all its starts; None: as many as it can until the end.
        rate_hz: Rows per second and robot.
        small_disks: Mount small disks that can be filled up; needs `fleet.small_disk.own_mounts`.
        plan: Instead of one drawn from the seed.
    """

    seed: int = 0
    robots: int = 4
    duration_s: float = 60.0
    kinds: Sequence[str] = KINDS
    rows: int | None = None
    rate_hz: float = 200.0
    small_disks: bool = False
    plan: Sequence[Fault] | None = None


def run_faults(
    settings: TrialSettings,
    console: Console,
    stop: Callable[[], bool] = lambda: False,
    keep: Path | None = None,
) -> FaultReport | None:
    """Run a whole trial and remove it; None if `stop` turned true.

    Args:
        settings: What is tried.
        console: Shows progress.
        stop: Looked at all the time; true ends the trial without a verdict.
        keep: Copy the run folder and the logs here at the end, whatever that end is.

    Raises:
        FaultRunError: The fleet did not come up, or did not end.
        ConfigError: The settings are not those of a fleet.
    """
    work = Path(tempfile.mkdtemp(prefix="pnaf-faults-"))
    fleet: FaultFleet | None = None
    try:
        with FaultFleet(
            work,
            robots=settings.robots,
            rows=_ENDLESS if settings.rows is None else settings.rows,
            rate_hz=settings.rate_hz,
            duration_s=settings.duration_s,
            seed=settings.seed,
            small_disks=settings.small_disks,
        ) as fleet:
            return _Trial(settings, fleet, console, stop).run()
    finally:
        if keep is not None:
            shutil.copytree(work, keep, dirs_exist_ok=True)
        if fleet is not None:
            fleet.unmount()
        shutil.rmtree(work, ignore_errors=True)


@dataclass(slots=True)
class _Hurt:
    """A fault that was injected: `lift_at_s` until it is lifted, then what tells that all is well again."""

    fault: Fault
    lift_at_s: float
    lift: Callable[[], None]
    lifted_s: float = 0.0
    lifted_ns: int = 0
    acked: dict[str, int] = field(default_factory=dict)


class _Trial:
    def __init__(
        self, settings: TrialSettings, fleet: FaultFleet, console: Console, stop: Callable[[], bool]
    ) -> None:
        self._settings, self._fleet, self._console, self._stop = settings, fleet, console, stop
        self._watch = LearnerWatch(fleet.server_endpoint, fleet.policy_endpoint)
        self._held: list[_Hurt] = []
        self._recovering: list[_Hurt] = []
        self._recoveries: list[Recovery] = []
        self._faults: Counter[str] = Counter()

    def run(self) -> FaultReport | None:
        settings, fleet = self._settings, self._fleet
        plan = settings.plan
        if plan is None:
            plan = make_plan(settings.seed, fleet.robots, settings.duration_s, settings.kinds)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"))
        with (
            self._watch,
            Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True) as progress,
        ):
            bar = progress.add_task("starting the fleet", total=settings.duration_s, now="")

            def show(description: str, done_s: float) -> None:
                acked = sum(map(fleet.acked, fleet.robots))
                now = f"{self._faults.total()} faults, {acked:,} rows acknowledged"
                progress.update(bar, description=description, completed=done_s, now=now)

            # Robots last: a learner takes seconds to start, and their rows are to be there when it happens.
            for names, up in (((SERVER, LEARNER), self._learner_up), (fleet.robots, self._robots_up)):
                fleet.start(names)
                if not self._wait(up, _START_S, lambda: show("starting the fleet", 0.0)):
                    raise FaultRunError(f"not up after {_START_S:g} s:\n{fleet.log_tails()}")
            self._hurt(plan, show)
            show("waiting for recovery", settings.duration_s)
            self._wait(self._recovered, _RECOVER_S, self._tend)
            if settings.rows is not None:
                self._wait(fleet.robots_ended, _DRAIN_S, self._tend)
            show("robots deliver", settings.duration_s)
            for robot in fleet.robots:
                fleet.end(robot)
            self._wait(fleet.robots_ended, _DRAIN_S, lambda: None)
            show("looking at the ring", settings.duration_s)
            ring = None if self._stop() else rows_in_ring(fleet.server_endpoint, fleet.robots)
            fleet.end(LEARNER)
            fleet.end(SERVER)
            fleet.wait_for_end(self._stop)
            if self._stop():
                return None
            show("counting", settings.duration_s)
            return examine(
                fleet,
                ring=ring,
                watch=self._watch,
                seed=settings.seed,
                faults=self._faults,
                recoveries=self._recoveries,
                unrecovered=[hurt.fault for hurt in self._recovering],
                console=self._console,
            )

    def _wait(self, condition: Callable[[], bool], timeout_s: float, meanwhile: Callable[[], None]) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if self._stop() or time.monotonic() > deadline_s:
                return self._stop()
            meanwhile()
            time.sleep(_TICK_S)
        return True

    def _learner_up(self) -> bool:
        return self._watch.heartbeat_ns > 0

    def _robots_up(self) -> bool:
        return all(self._fleet.acked(robot) for robot in self._fleet.robots)

    def _recovered(self) -> bool:
        return not self._recovering

    def _hurt(self, plan: Sequence[Fault], show: Callable[[str, float], None]) -> None:
        """Follow the plan to its end, and the duration."""
        started_s = time.monotonic()
        waiting = sorted(plan, key=lambda fault: fault.at_s, reverse=True)
        shown_s = -1.0
        while not self._stop():
            now_s = time.monotonic()
            elapsed_s = now_s - started_s
            while waiting and waiting[-1].at_s <= elapsed_s:
                self._inject(waiting.pop(), now_s)
            self._tend()
            if elapsed_s - shown_s > 0.2:
                shown_s = elapsed_s
                show("injecting faults", min(elapsed_s, self._settings.duration_s))
            if not waiting and not self._held and elapsed_s >= self._settings.duration_s:
                return
            time.sleep(_TICK_S)

    def _inject(self, fault: Fault, now_s: float) -> None:
        if (injected := inject(self._fleet, fault)) is not None:
            logger.info("%s for %.2f s", injected.name, fault.hold_s)
            self._faults[injected.name] += 1
            self._held.append(_Hurt(fault, now_s + fault.hold_s, injected.lift))

    def _tend(self) -> None:
        """Lift what is over, look who has recovered, start again who ended by itself."""
        now_s = time.monotonic()
        for hurt in [hurt for hurt in self._held if now_s >= hurt.lift_at_s]:
            self._held.remove(hurt)
            hurt.lift()
            hurt.lifted_s, hurt.lifted_ns = time.monotonic(), time.time_ns()
            target = hurt.fault.target
            affected = self._fleet.robots if target == SERVER else [target] if target != LEARNER else []
            hurt.acked = {robot: self._fleet.acked(robot) for robot in affected}
            self._recovering.append(hurt)
        for hurt in [hurt for hurt in self._recovering if self._is_well(hurt)]:
            self._recovering.remove(hurt)
            self._recoveries.append(Recovery(hurt.fault, now_s - hurt.lifted_s))
        self._fleet.tend(now_s)

    def _is_well(self, hurt: _Hurt) -> bool:
        if hurt.fault.target == LEARNER:
            return self._watch.heartbeat_ns > hurt.lifted_ns
        # A robot that made its rows and left has none to be acknowledged any more.
        return any(
            self._fleet.acked(robot) > acked or self._fleet.victims[robot].status == 0
            for robot, acked in hurt.acked.items()
        )
