"""Tables, in Markdown, of the paper's experiments; `paper_pictures.py` beside this draws them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common.paper_cell import Record, newest, reached, task_name
from benchmarks.common.paper_pictures import draw_algorithms, draw_workers

Key = TypeVar("Key", bound=Hashable)


def report(records: Sequence[Record], images: Path) -> None:
    """Print what there is of every experiment, and draw it into `images`."""
    runs = newest(record for record in records if "cell" in record)
    algorithms = [run for run in runs if run["cell"]["experiment"] == "algorithms"]
    workers = [run for run in runs if run["cell"]["experiment"] == "workers"]
    speeds = [record for record in records if record.get("experiment") == "learner-speed"]
    images.mkdir(parents=True, exist_ok=True)
    if algorithms:
        print_table("Algorithms, two robots", _algorithm_rows(algorithms))
        print_table("Settings", _setting_rows(algorithms))
        draw_algorithms(algorithms, images / "paper_algorithms.png")
    if workers:
        print_table("Workers", _worker_rows(workers))
        draw_workers(workers, images / "paper_workers.png")
    for speed in speeds[-1:]:
        print_table(
            f"Learner speed: {speed['machine']['cpu']}, {speed['machine']['cores']} cores", speed["rows"]
        )
    if not records:
        print("no results yet: run `algorithms`, `workers` or `learner-speed` first")


def grouped(runs: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Runs by what `key` says of their cells, in the order of first appearance."""
    groups: dict[Key, list[Record]] = {}
    for run in runs:
        groups.setdefault(key(run["cell"]), []).append(run)
    return groups


def _algorithm_rows(runs: list[Record]) -> list[Record]:
    rows = []
    for (task, algorithm), group in grouped(runs, lambda c: (task_name(c), c["algorithm"])).items():
        tails = [run["curve"][2 * len(run["curve"]) // 3 :] for run in group if run["curve"]]
        rows.append(
            {
                "fleet": task,
                "algorithm": algorithm,
                "seeds": len(group),
                "reached 95 %": sum(reached(run["curve"]) is not None for run in group),
                "transitions to it": spread(_goals(group, "rows"), ",.0f"),
                "robot minutes to it": spread([s / 60 for s in _goals(group, "time_s")], ".1f"),
                "last third: success %": _mean_of(tails, "success", 100.0),
                "return": _mean_of(tails, "return", 1.0),
                "diverged": sum(bool(run["diverged"]) for run in group),
            }
        )
    return rows


def _setting_rows(runs: list[Record]) -> list[Record]:
    """The knobs that are not the same for all algorithms."""
    groups = grouped(runs, lambda c: (task_name(c), c["algorithm"]))
    settings = {key: group[0]["settings"] for key, group in groups.items()}
    differing = [
        knob
        for knob in next(iter(settings.values()))
        if knob != "algorithm" and len({str(s.get(knob)) for s in settings.values()}) > 1
    ]
    return [
        {"fleet": task, "algorithm": algorithm, **{knob: str(values.get(knob)) for knob in differing}}
        for (task, algorithm), values in settings.items()
    ]


def _worker_rows(runs: list[Record]) -> list[Record]:
    def key(cell: Record) -> tuple[Any, ...]:
        return task_name(cell), cell["algorithm"], cell["updates_per_s"], cell["mode"], cell["workers"]

    groups, rows = grouped(runs, key), []
    in_order = sorted(groups, key=lambda k: (k[0], k[1], -k[2], *k[3:]))
    for task, algorithm, speed, mode, workers in in_order:
        group = groups[task, algorithm, speed, mode, workers]
        alone = groups.get((task, algorithm, speed, mode, 1))
        minutes = [s / 60 for s in _goals(group, "time_s")]
        one = statistics.median(_goals(alone, "time_s")) / 60 if alone else math.inf
        mine = statistics.median(minutes)
        ends = [reached(run["curve"]) or run["curve"][-1] for run in group if run["curve"]]
        rows.append(
            {
                "fleet": task,
                "algorithm": algorithm,
                "updates/s": f"{speed:g}",
                "mode": mode,
                "robots": workers,
                "reached": f"{sum(math.isfinite(m) for m in minutes)} of {len(group)}",
                "minutes to 95 %": spread(minutes, ".1f"),
                "faster than 1 robot": f"{one / mine:.1f} ×" if math.isfinite(one + mine) else "",
                "transitions to 95 %": spread(_goals(group, "rows"), ",.0f"),
                "updates/row": f"{np.mean([end['updates'] / end['rows'] for end in ends]):.2f}",
                "robots waited %": f"{100 * np.mean([end['waited_s'] / end['time_s'] for end in ends]):.0f}",
            }
        )
    return rows


def _goals(group: Iterable[Record], key: str) -> list[float]:
    """What each run needed to the goal; infinite where it was not reached."""
    points = [reached(run["curve"]) for run in group]
    return [float(point[key]) if point else math.inf for point in points]


def spread(values: Sequence[float], form: str) -> str:
    """Median (least – most), runs that never got there counted as worse than all others."""

    def text(value: float) -> str:
        return format(value, form) if math.isfinite(value) else "never"

    return text(statistics.median(values)) + (
        f" ({text(min(values))} – {text(max(values))})" if len(values) > 1 else ""
    )


def _mean_of(tails: Iterable[Sequence[Record]], key: str, factor: float) -> str:
    values = [point[key] for tail in tails for point in tail]
    return f"{factor * float(np.mean(values)):.1f}" if values else ""


def print_table(title: str, rows: Sequence[Record]) -> None:
    """A table to paste into docs/paper.md."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys), *([_cell(row.get(key, "")) for key in keys] for row in rows)]
    print(f"\n{title}\n")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)
