"""The experiments of arXiv:1610.00633 in simulation; docs/paper.md says what they are and shows the outcome.

    python benchmarks/paper.py algorithms       # NAF, NAF as published, linear NAF, DDPG: reach and door
    python benchmarks/paper.py workers          # 1, 2, 4, 8 robots, asynchronous and synchronous: reach
    python benchmarks/paper.py learner-speed    # real processes: the trainer beside 1 to 8 robots
    python benchmarks/paper.py report           # tables and pictures of what is in --results

The first two run on virtual time (benchmarks/common/virtual_time.py): every robot collects 20 transitions a
second, the trainer does `--updates-per-s` updates a second. Each run is a process with one thread; runs that
are in `--results` already are not repeated, unless the learner's settings have changed since.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.paper_cell import Cell, Record, Results, run_cell, task_name
from fleet.config import ConfigError
from robot_nodes.sim.rollout import RolloutError

FLEETS = {"reach": "hardware_configs/fleets/sim2.yaml", "door": "hardware_configs/fleets/door2.yaml"}
ALGORITHMS = ["naf", "naf_2016", "naf_linear", "ddpg"]
MEASURED_UPDATES_PER_S = 10_000.0  # naf, 2 x 100 units, batch 64, one core of the machine in docs/paper.md
SLOW_UPDATES_PER_S = 100.0  # a trainer that two robots at 4 updates a row are too many for


def algorithm_cells(arguments: argparse.Namespace) -> list[Cell]:
    """Each algorithm on each task, with two robots."""
    return [
        Cell(
            experiment="algorithms",
            fleet=FLEETS.get(task, task),
            algorithm=algorithm,
            workers=2,
            mode="asynchronous",
            updates_per_s=MEASURED_UPDATES_PER_S,
            seed=seed,
            until_goal=False,
            **_size(arguments),
        )
        for seed, task, algorithm in itertools.product(arguments.seeds, arguments.tasks, arguments.algorithms)
    ]


def worker_cells(arguments: argparse.Namespace) -> list[Cell]:
    """Each number of robots, asynchronous and synchronous, beside a fast and a slow trainer."""
    return [
        Cell(
            experiment="workers",
            fleet=FLEETS.get(task, task),
            algorithm=algorithm,
            workers=workers,
            mode=mode,
            updates_per_s=speed,
            seed=seed,
            until_goal=True,
            **_size(arguments),
        )
        for seed, task, algorithm, speed, mode, workers in itertools.product(
            arguments.seeds,
            arguments.tasks,
            arguments.algorithms,
            arguments.updates_per_s,
            arguments.modes,
            arguments.workers,
        )
    ]


def _size(arguments: argparse.Namespace) -> Record:
    keys = ("rows", "every", "episodes")
    return {key: getattr(arguments, key) for key in keys} | {"overrides": tuple(arguments.overrides)}


def run_all(cells: list[Cell], results: Results, processes: int) -> None:
    """Run what is missing, a process each."""
    missing = results.missing(cells)
    print(f"{len(cells)} runs, of which {len(cells) - len(missing)} are there", flush=True)
    kinds = {(task_name(asdict(cell)), cell.algorithm): cell.settings for cell in missing}
    for kind, settings in kinds.items():
        print(" ".join(kind) + ": " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that follow
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_alone, maxtasksperchild=1) as pool:
        for record in pool.imap_unordered(_attempt, missing, chunksize=1):
            if record is not None:
                results.add(record)


def _attempt(cell: Cell) -> Record | None:
    """A run, or nothing and its error on the screen: the others go on, and this one is missing still."""
    try:
        return run_cell(cell)
    except (RolloutError, ConfigError) as error:
        print(f"{cell.label}: FAILED: {error}", flush=True)
        return None


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
    os.nice(5)


def _arguments() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "paper.jsonl")
    commands = parser.add_subparsers(dest="command")

    learning = argparse.ArgumentParser(add_help=False)
    learning.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    learning.add_argument("--rows", type=int, default=40_000, help="transitions of a run")
    learning.add_argument("--every", type=int, default=2_000, help="transitions between two measurements")
    learning.add_argument("--episodes", type=int, default=40, help="of a measurement")
    learning.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    learning.add_argument("--workers-processes", type=int, default=2, help="runs at a time")

    algorithms = commands.add_parser("algorithms", parents=[learning], help="one against another, two robots")
    algorithms.add_argument("--tasks", nargs="+", default=["reach", "door"], help="or fleets' YAML files")
    algorithms.add_argument("--algorithms", nargs="+", default=ALGORITHMS)

    workers = commands.add_parser("workers", parents=[learning], help="what more robots are worth")
    workers.add_argument("--tasks", nargs="+", default=["reach"], help="or fleets' YAML files")
    workers.add_argument("--algorithms", nargs="+", default=["naf"])
    workers.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    workers.add_argument("--modes", nargs="+", default=["asynchronous", "synchronous"])
    workers.add_argument(
        "--updates-per-s", type=float, nargs="+", default=[MEASURED_UPDATES_PER_S, SLOW_UPDATES_PER_S]
    )

    speed = commands.add_parser("learner-speed", help="of real processes on this machine")
    speed.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    speed.add_argument("--seconds", type=float, default=20.0)

    report = commands.add_parser("report", help="of what is in --results")
    report.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    return parser.parse_args(sys.argv[1:] or ["report"])


def main() -> None:
    """Do what the command says."""
    arguments = _arguments()
    results = Results(arguments.results)
    match arguments.command:
        case "algorithms":
            run_all(algorithm_cells(arguments), results, arguments.workers_processes)
        case "workers":
            run_all(worker_cells(arguments), results, arguments.workers_processes)
        case "learner-speed":
            from benchmarks.common.learner_speed import measure_speed

            results.add(measure_speed(arguments.workers, arguments.seconds))
        case _:
            from benchmarks.common.paper_report import report

            report(results.read(), arguments.images)


if __name__ == "__main__":
    main()
