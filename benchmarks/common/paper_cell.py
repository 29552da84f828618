"""One training run of the paper's experiments: what it is, how it is run, and where it is kept."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.common.in_process_fleet import InProcessFleet, with_robots
from benchmarks.common.virtual_time import Asynchronous, Synchronous, VirtualTime
from fleet.algorithm_config import PRESETS, AlgorithmConfig
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from learner.trainer import DivergedError

GOAL = 0.95
TASK_KEYS = ("gamma", "reward_scale")
"""Of the learner's keys these say what the task is like rather than how it is learned."""

Record = dict[str, Any]
say = partial(print, flush=True)


@dataclass(frozen=True)
class Cell:
    """A run, and all that decides its outcome.

    Attributes:
        experiment: `algorithms` or `workers`.
        fleet: The fleet's YAML.
        algorithm: Which preset.
        workers: Number of robots.
        mode: `asynchronous` or `synchronous`.
        updates_per_s: Of the trainer, in virtual time.
        seed: Of everything.
        rows: Transitions after which it ends.
        until_goal: End earlier, when `GOAL` was measured twice in a row.
        every: Transitions between two measurements.
        episodes: Of a measurement.
        overrides: Keys of the fleet's YAML that win over all else.
    """

    experiment: str
    fleet: str
    algorithm: str
    workers: int
    mode: str
    updates_per_s: float
    seed: int
    rows: int
    until_goal: bool
    every: int
    episodes: int
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        return (
            f"{Path(self.fleet).stem} {self.algorithm}, {self.workers} {self.mode}, "
            f"{self.updates_per_s:g} updates/s, seed {self.seed}"
        )

    @property
    def settings(self) -> Record:
        """Every knob of learning and its value."""
        return _settings(self.fleet, self.algorithm, self.overrides)

    def configure(self) -> FleetConfig:
        """The fleet that learns."""
        return configure(self.fleet, self.algorithm, self.workers, self.overrides)


@cache
def _settings(path: str, algorithm: str, overrides: tuple[str, ...]) -> Record:
    return learning_settings(configure(path, algorithm, 1, overrides))


def configure(path: str, algorithm: str, workers: int, overrides: Sequence[str]) -> FleetConfig:
    """A fleet that learns by an algorithm.

    What the fleet's YAML says of the task (`TASK_KEYS`) holds for every algorithm; of all other keys the
    algorithm's preset wins over the YAML, so that no algorithm is run with another's tuning. What neither
    says has the default. `overrides` win over both.
    """
    written = load_fleet(path).learner.model_fields_set
    preset = PRESETS[algorithm]
    wins = [f"learner.{key}={json.dumps(preset[key])}" for key in preset if key in written - set(TASK_KEYS)]
    fleet = load_fleet(path, [f"learner.algorithm={algorithm}", *wins, *overrides])
    return with_robots(fleet, workers)


def learning_settings(fleet: FleetConfig) -> Record:
    """Every knob of learning and its value."""
    return fleet.learner.model_dump(include=set(AlgorithmConfig.model_fields))


def newest(runs: Iterable[Record]) -> list[Record]:
    """The last run of each cell."""
    return list({_line(run["cell"]): run for run in runs}.values())


def run_cell(cell: Cell, tell: Callable[[str], None] = say) -> Record:
    """Learn, measure now and then, and return all of it, ready for JSON."""
    fleet = cell.configure()
    curve: list[Record] = []
    diverged = ""
    started = time.process_time()
    with InProcessFleet(fleet, cell.seed) as in_process:
        kind = Synchronous if cell.mode == "synchronous" else Asynchronous
        clock: VirtualTime = kind(in_process, cell.updates_per_s)
        try:
            while in_process.mirror.cursor < cell.rows and not (cell.until_goal and reached(curve)):
                clock.advance()
                if in_process.mirror.cursor >= (len(curve) + 1) * cell.every:
                    curve.append(_point(in_process, clock, cell.episodes))
                    tell(f"{cell.label}: {_text(curve[-1])}")
        except DivergedError as error:
            diverged = str(error)
        return {
            "cell": asdict(cell),
            "settings": cell.settings,
            "curve": curve,
            "diverged": diverged,
            "cpu_s": time.process_time() - started,
            "train_cpu_s": in_process.train_cpu_s,
        }


def _point(in_process: InProcessFleet, clock: VirtualTime, episodes: int) -> Record:
    measured = in_process.measure(episodes)
    return {
        "rows": in_process.mirror.cursor,
        "time_s": clock.now_s,
        "waited_s": clock.waited_s,
        "updates": in_process.trainer.updates,
        "success": measured.success,
        "return": measured.metrics["return"],
    }


def _text(point: Record) -> str:
    return (
        f"{point['rows']} rows, {point['time_s']:.0f} s, {point['updates'] / point['rows']:.2f} updates/row, "
        f"success {100 * point['success']:.0f} %, return {point['return']:.1f}"
    )


def reached(curve: Sequence[Record], goal: float = GOAL) -> Record | None:
    """The first of two measurements in a row at or above the goal."""
    for point, following in itertools.pairwise(curve):
        if min(point["success"], following["success"]) >= goal:
            return point
    return None


def task_name(cell: Record) -> str:
    """The fleet's file, and what was changed of it."""
    return " ".join([Path(cell["fleet"]).stem, *cell["overrides"]])


class Results:
    """Finished cells in a file, a line each; a run that was stopped goes on behind them."""

    def __init__(self, path: Path) -> None:
        """Append to the file, which need not exist."""
        self._path = path

    def read(self) -> list[Record]:
        """All of them; a line that was cut off by the end of a process is not one."""
        records = []
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return records

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of the cells that are not there, or were learned with other settings than today's."""
        done = {(_line(run["cell"]), _line(run["settings"])) for run in self.read() if "cell" in run}
        return [cell for cell in cells if (_line(asdict(cell)), _line(cell.settings)) not in done]

    def add(self, record: Record) -> None:
        """Append one, on a line of its own whatever the last process left."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a") as file:
            file.write("\n" * torn + json.dumps(record) + "\n")


def _line(record: Record) -> str:
    return json.dumps(record, sort_keys=True)
