"""The verdict on a chaos run: counts, proofs, and how long it took until all was well again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.fault_count import RowCounts, count_rows
from fleet.fault_fleet import FaultFleet
from fleet.fault_plan import Fault, fault_name
from fleet.fault_watch import LearnerWatch
from fleet.run_folder import RunFolder
from fleet.run_verdict import check_run, print_verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long after a fault was lifted the next row of a robot it met was acknowledged (s).

    For the learner: until its next heartbeat. A process counts from its restart.
    """

    fault: Fault
    took_s: float

    @property
    def name(self) -> str:
        """Kind and victim, as the report has them."""
        return fault_name(self.fault)


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What came of a trial.

    Attributes:
        rows: Every row, by the running index in it.
        ring_lost: Rows that the server's ring lacked before it was stopped; None: it did not answer.
        ring_duplicated: Rows that were in the ring more than once.
        verified: `pnaf logs verify` finds nothing wrong.
        seed: Of the trial.
        faults: Injected, by kind and victim.
        recovery_s: By kind and victim: how often, 50th and 99th percentile (s).
        unrecovered: Faults after which nothing was heard within half a minute.
        unplanned: Processes that ended by themselves, and their last words.
        policy_versions: Different policies that were heard.
        versions_fell: Policies that were older than one before.
        checkpoint_error: Why the newest checkpoint cannot be loaded; empty if it can.
    """

    rows: RowCounts
    ring_lost: int | None
    ring_duplicated: int
    verified: bool
    seed: int
    faults: Mapping[str, int]
    recovery_s: Mapping[str, Mapping[str, float]]
    unrecovered: Sequence[str]
    unplanned: Mapping[str, Sequence[str]]
    policy_versions: int
    versions_fell: int
    checkpoint_error: str

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words; none: the trial is passed."""
        rows = self.rows
        counted = {
            "rows lost": rows.lost,
            "rows doubled": rows.duplicated,
            "rows out of order": rows.disordered,
            "rows that nobody produced": rows.foreign,
            "rows missing in the ring": self.ring_lost or 0,
            "rows doubled in the ring": self.ring_duplicated,
            "policies older than one before": self.versions_fell,
        }
        found = [f"{count} {what}" for what, count in counted.items() if count]
        if not self.verified:
            found.append("`pnaf logs verify` finds faults")
        if self.checkpoint_error:
            found.append(f"the newest checkpoint cannot be loaded: {self.checkpoint_error}")
        if self.ring_lost is None:
            found.append("the replay server did not answer at the end")
        found += [
            f"{name} ended by itself, {reason}" for name, ends in self.unplanned.items() for reason in ends
        ]
        found += [f"not recovered from: {name}" for name in self.unrecovered]
        return found

    def to_json(self) -> dict[str, Any]:
        """The report as one flat mapping; `faults` by kind only, `faults_by_victim` in full."""
        kinds: dict[str, int] = {}
        for name, count in self.faults.items():
            kinds[name.split()[0]] = kinds.get(name.split()[0], 0) + count
        own = {name: value for name, value in asdict(self).items() if name not in ("rows", "faults")}
        counts = asdict(self.rows)
        return {
            **counts,
            "faults": kinds,
            "faults_by_victim": dict(self.faults),
            **own,
            "problems": self.problems,
        }

    def print(self, console: Console) -> None:
        """Show it."""
        rows = self.rows
        table = Table(
            title=f"faults, seed {self.seed}",
            caption="recovery: from the restart, or the end of the fault, to the next acknowledged row "
            "(learner: heartbeat)",
        )
        table.add_column("fault")
        for name in ("injected", "recovery p50 (s)", "p99 (s)"):
            table.add_column(name, justify="right")
        for name, count in sorted(self.faults.items()):
            took = self.recovery_s.get(name)
            times = (f"{took['p50']:.2f}", f"{took['p99']:.2f}") if took else ("", "")
            table.add_row(name, str(count), *times)
        console.print(table)
        console.print(
            f"{rows.produced:,} rows produced = {rows.stored:,} stored + {rows.spooled:,} in spools; "
            f"{rows.lost:,} lost, {rows.duplicated:,} doubled, {rows.disordered:,} out of order",
            style="bold red" if not rows.ok else "bold green",
            highlight=False,
            soft_wrap=True,
        )
        for problem in self.problems:
            console.print(f"[red]✗ {escape(problem)}[/]", highlight=False, soft_wrap=True)


def examine(
    fleet: FaultFleet,
    *,
    ring: Mapping[str, Sequence[int]] | None,
    watch: LearnerWatch,
    seed: int,
    faults: Mapping[str, int],
    recoveries: Sequence[Recovery],
    unrecovered: Sequence[Fault],
    console: Console,
) -> FaultReport:
    """Look at all that a trial has left behind; no process of it runs any more."""
    produced = fleet.produced()
    check = check_run(fleet.run, console)
    if not check.ok:
        print_verdict(fleet.run, check, console)
    took: dict[str, list[float]] = {}
    for recovery in recoveries:
        took.setdefault(recovery.name, []).append(recovery.took_s)
    held = {robot: set(indices) for robot, indices in (ring or {}).items()}
    return FaultReport(
        rows=count_rows(fleet.run, produced),
        ring_lost=None if ring is None else sum(produced[robot] - len(rows) for robot, rows in held.items()),
        ring_duplicated=sum(len(indices) - len(held[robot]) for robot, indices in (ring or {}).items()),
        verified=check.ok,
        seed=seed,
        faults=dict(faults),
        recovery_s={
            name: {
                "count": len(times),
                "p50": round(float(np.percentile(times, 50)), 3),
                "p99": round(float(np.percentile(times, 99)), 3),
            }
            for name, times in sorted(took.items())
        },
        unrecovered=[fault_name(fault) for fault in unrecovered],
        unplanned=fleet.unplanned,
        policy_versions=watch.versions,
        versions_fell=watch.versions_fell,
        checkpoint_error=_checkpoint_error(fleet),
    )


def _checkpoint_error(fleet: FaultFleet) -> str:
    from learner.checkpoint import list_checkpoints, load_checkpoint
    from learner.trainer import Trainer
    from robot_nodes.synthetic_rows import SPEC

    folder = RunFolder(fleet.run)
    checkpoints = list_checkpoints(folder.checkpoints)
    if not checkpoints:
        return "there is none"
    try:
        load_checkpoint(checkpoints[-1], Trainer(fleet.config.learner, SPEC, seed=0), folder.run_id())
    except Exception as error:  # whatever is wrong with it belongs into the report
        return repr(error)
    return ""
