"""Tables and pictures of the study's finished cells."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.common.study_cell import BASE, Record, Study, StudyCell, Task
from benchmarks.common.table import machine, show

NEWEST = 3  # measurements that `final` is the mean of

Row = dict[str, Any]


def key(cell: StudyCell | Record) -> str:
    """What tells cells apart, of a cell or of its record."""
    return json.dumps(asdict(cell) if isinstance(cell, StudyCell) else cell["cell"], sort_keys=True)


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of each cell, by `key`; none that was learned with other settings than today's."""
    newest = {key(record): record for record in records}
    return {
        name: record
        for name, record in newest.items()
        if "error" in record or record["settings"] == StudyCell(**record["cell"]).settings
    }


@dataclass(frozen=True)
class Outcome:
    """One setting on one task.

    Attributes:
        task: The task.
        runs: Records of the finished cells by seed.
        failed: Seeds that crashed; they do not count.
    """

    task: Task
    runs: dict[int, Record]
    failed: int

    @property
    def curves(self) -> list[list[Sequence[float]]]:
        """(step, mean return, …) of the measurements, of seeds that did not diverge."""
        return [run["curve"] for run in self.runs.values() if not run["diverged"]]

    @property
    def finals(self) -> list[float]:
        """Mean of the newest measurements of each seed; one that diverged learned nothing."""
        return [
            self.task.low
            if run["diverged"]
            else statistics.fmean(point[1] for point in run["curve"][-NEWEST:])
            for run in self.runs.values()
        ]

    @property
    def area_of(self) -> dict[int, float]:
        """Mean share of what there is to learn, over the curve of each seed; 0 of one that diverged."""
        return {
            seed: 0.0
            if run["diverged"]
            else statistics.fmean(self.task.share(point[1]) for point in run["curve"])
            for seed, run in self.runs.items()
        }

    @property
    def areas(self) -> list[float]:
        """Those of `area_of`."""
        return list(self.area_of.values())

    @property
    def solved(self) -> int:
        """Seeds that end well."""
        return sum(final >= self.task.solved for final in self.finals)

    @property
    def solved_at(self) -> float:
        """Median transitions at the first of two measurements in a row that are good enough; or infinite."""
        return statistics.median_high(map(self._start, self.runs.values()))

    def _start(self, run: Record) -> float:
        for point, following in itertools.pairwise([] if run["diverged"] else run["curve"]):
            if min(point[1], following[1]) >= self.task.solved:
                return point[0]
        return float("inf")

    def row(self, setting: str) -> Row:
        """Of the task's table."""
        at = self.solved_at
        return {
            "setting": setting,
            "final": statistics.median(self.finals),
            "worst": min(self.finals),
            "solved": f"{self.solved} / {len(self.finals)}",
            "at": "never" if at == float("inf") else int(at),
            "area": round(statistics.median(self.areas), 3),
            "worst area": round(min(self.areas), 3),
            "diverged": sum(bool(run["diverged"]) for run in self.runs.values()),
            "failed": self.failed,
        }


def outcomes(study: Study, records: Sequence[Record]) -> dict[str, dict[str, Outcome]]:
    """By task and setting; those without a finished cell are left out."""
    found: dict[str, dict[str, Outcome]] = {name: {} for name in study.tasks}
    done = list(latest(records).values())
    for cell in study.cells():
        if cell.seed != study.seeds[0]:
            continue
        same = [r for r in done if r["cell"] | {"seed": 0} == asdict(cell) | {"seed": 0}]
        runs = {r["cell"]["seed"]: r for r in same if "error" not in r}
        if runs:
            found[cell.task][cell.setting] = Outcome(study.tasks[cell.task], runs, len(same) - len(runs))
    return {task: of_settings for task, of_settings in found.items() if of_settings}


def report(
    study: Study, records: Sequence[Record], images: Path, markdown: Path | None, json_path: Path | None
) -> None:
    """Print the tables, draw the pictures, and write both tables as Markdown and JSON when asked."""
    found = outcomes(study, records)
    if not found:
        print("no finished cell of this settings file is there")
        return
    tables = {"All tasks: area": _overview(study, found)}
    for task, of_settings in found.items():
        rows = [outcome.row(setting) for setting, outcome in of_settings.items()]
        tables[task] = sorted(rows, key=lambda row: -row["area"])
    for title, rows in tables.items():
        show(title, rows, None)
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=2) + "\n")
    if markdown is not None:
        markdown.write_text("\n".join(_markdown(title, rows) for title, rows in tables.items()))
    images.mkdir(parents=True, exist_ok=True)
    _draw_overview(study, found, images / "study_overview.png")
    for group, settings in study.groups.items():
        if any(setting in of_settings for of_settings in found.values() for setting in settings):
            _draw_group(group, [BASE, *settings], found, images / f"study_{group}.png")


def _overview(study: Study, found: dict[str, dict[str, Outcome]]) -> list[Row]:
    """A row per setting: its area on each task, and how much more that is than base's."""
    rows = []
    for setting in study.settings:
        ends = {task: of_settings[setting] for task, of_settings in found.items() if setting in of_settings}
        if not ends:
            continue
        row: Row = {"setting": setting, "vs base": "", "± SE": "", "solved": ""}
        for task in found:
            areas = ends[task].areas if task in ends else []
            row[task] = f"{statistics.median(areas):.2f} {min(areas):.2f}" if areas else ""
        gains = _gains(ends, found)
        if setting == BASE:
            row["vs base"] = 0.0
        elif gains:
            row["vs base"] = round(statistics.fmean(gains), 3)
            row["± SE"] = round(statistics.stdev(gains) / len(gains) ** 0.5, 3) if len(gains) > 1 else ""
        row["solved"] = f"{sum(e.solved for e in ends.values())} / {sum(len(e.runs) for e in ends.values())}"
        rows.append(row)
    return sorted(rows, key=lambda row: math.inf if row["vs base"] == "" else -row["vs base"])


def _gains(ends: dict[str, Outcome], found: dict[str, dict[str, Outcome]]) -> list[float]:
    """Area less that of base, of each task and seed that both have."""
    gains = []
    for task, outcome in ends.items():
        base = found[task][BASE].area_of if BASE in found[task] else {}
        gains += [area - base[seed] for seed, area in outcome.area_of.items() if seed in base]
    return gains


def _markdown(title: str, rows: list[Row]) -> str:
    columns = list(rows[0])
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _draw_group(group: str, settings: list[str], found: dict[str, dict[str, Outcome]], path: Path) -> None:
    """Median and range of the seeds over transitions: a panel per task, a line per setting."""
    figure, panels = plt.subplots(
        1, len(found), figsize=(3.4 * len(found) + 1.6, 3.4), layout="constrained", squeeze=False
    )
    lines: dict[str, Any] = {}
    for axes, (task, of_settings) in zip(panels[0], found.items(), strict=True):
        for i, setting in enumerate(settings):
            curves = of_settings[setting].curves if setting in of_settings else []
            if not curves:
                continue
            points = [list(same) for same in zip(*curves, strict=False)]  # of one measurement, of all seeds
            steps = [statistics.median(p[0] for p in same) for same in points]
            values = [[p[1] for p in same] for same in points]
            colour = "black" if setting == BASE else f"C{i - 1}"
            axes.fill_between(steps, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.12)
            [line] = axes.plot(steps, list(map(statistics.median, values)), color=colour)
            lines[setting.partition("=")[2] or setting] = line
        limits = next(iter(of_settings.values())).task
        margin = 0.1 * (limits.high - limits.low)
        axes.set_ylim(limits.low - margin, limits.high + margin)
        axes.axhline(limits.solved, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=task, xlabel="transitions")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("return without noise")
    figure.legend(lines.values(), lines, title=group, fontsize="small", loc="outside right upper")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_overview(study: Study, found: dict[str, dict[str, Outcome]], path: Path) -> None:
    """Area of each setting, median and range of the seeds: a panel per task."""
    settings = [s for s in study.settings if any(s in of_settings for of_settings in found.values())]
    figure, panels = plt.subplots(
        1,
        len(found),
        figsize=(2.6 * len(found) + 2, 0.24 * len(settings) + 1.2),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axes, (task, of_settings) in zip(panels[0], found.items(), strict=True):
        for place, setting in enumerate(settings):
            if setting not in of_settings:
                continue
            areas = of_settings[setting].areas
            colour = "black" if setting == BASE else "C0"
            axes.plot([min(areas), max(areas)], [place, place], color=colour, alpha=0.4)
            axes.plot(statistics.median(areas), place, "o", color=colour, markersize=4)
            if setting == BASE:
                axes.axvline(statistics.median(areas), color="grey", linewidth=0.8, linestyle=":")
        axes.set(
            title=task, xlabel="area", xlim=(-0.03, 1.03), yticks=range(len(settings)), yticklabels=settings
        )
        axes.grid(axis="x", alpha=0.3)
    panels[0][0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)
