"""What makes the learner learn in the fewest transitions: settings × tasks × seeds, a process for each cell.

    python benchmarks/study.py --settings benchmarks/study/settings.yaml --out study.jsonl --workers 2
    python benchmarks/study.py --settings benchmarks/study/settings.yaml --out study.jsonl --report

Finished cells are a line each in `--out`; started again, the study goes on where it was. A cell that
crashes is written down with its error and stops nothing; `--retry` runs those again. `--report` prints a
table per task and one of all, draws docs/images/study_*.png, and writes the tables as Markdown where
`--markdown` says. Columns:

    final       mean return of the last three measurements: median and worst of the seeds
    solved      seeds whose `final` is at least the `solved` of the task in the settings file
    at          transitions at the first of two measurements in a row that are as good (median of the seeds)
    area        mean of the curve, 0 at the task's `low` and 1 at its `high`: median and worst of the seeds
    vs base     mean of the area less base's, over the tasks and seeds that both have, and its standard error
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.paper_cell import Results
from benchmarks.common.study_cell import Study, StudyCell, run_cell
from benchmarks.common.study_report import key, latest, report
from benchmarks.common.table import machine

CELL_LIMIT_S = 7200
NICENESS = 5
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class Runner:
    """Runs cells, a few at a time, each in a process with one thread."""

    def __init__(self, results: Results, cells: list[StudyCell], workers: int) -> None:
        self._results, self._cells, self._workers = results, cells, workers
        self._lock = threading.Lock()
        self._done = 0
        self._started = time.monotonic()
        self._stopped = threading.Event()

    def run(self) -> None:
        """All cells; Ctrl-C leaves those that run unwritten."""
        pool = ThreadPoolExecutor(self._workers)
        try:
            for future in [pool.submit(self._run, cell) for cell in self._cells]:
                future.result()
        except KeyboardInterrupt:
            self._stopped.set()
            print("stopped; the same command goes on from here")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, cell: StudyCell) -> None:
        started = time.monotonic()
        record: dict[str, Any] = {"cell": asdict(cell), **self._outcome(cell)}
        if self._stopped.is_set():
            return
        record["wall_s"] = time.monotonic() - started
        with self._lock:
            self._done += 1
            self._results.add(record)
            per_cell = (time.monotonic() - self._started) / self._done
            left_min = per_cell * (len(self._cells) - self._done) / 60
            done = f"{self._done}/{len(self._cells)}, {left_min:.0f} min left"
            print(f"[{done}] {cell.label}: {_summary(record)}", flush=True)

    def _outcome(self, cell: StudyCell) -> dict[str, Any]:
        command = [sys.executable, __file__, "--cell", json.dumps(asdict(cell))]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=CELL_LIMIT_S,
                env=os.environ | THREADS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {CELL_LIMIT_S} s"}
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        self._stopped.wait(0.5)  # Ctrl-C reaches the cell and this process alike, in either order
        return {"error": done.stderr[-2000:] or f"exit status {done.returncode}"}


def _summary(record: dict[str, Any]) -> str:
    if "error" in record:
        return f"FAILED: {record['error'].splitlines()[-1]}"
    diverged = ", diverged" if record["diverged"] else ""
    shown = " ".join(f"{point[1]:.4g}" for point in record["curve"][-3:])
    return f"… {shown}{diverged} ({record['wall_s']:.0f} s, {record['updates_per_s']:.0f} updates/s)"


def main() -> None:
    """Run what is missing, or report what is there."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--settings", type=Path, default=ROOT / "benchmarks/study/settings.yaml")
    parser.add_argument("--out", type=Path, default=Path("study.jsonl"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="as in base 'gamma=*'")
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the file's")
    parser.add_argument("--retry", action="store_true", help="run cells that crashed again")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--images", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.nice(NICENESS)
        print(json.dumps(run_cell(StudyCell(**json.loads(arguments.cell)))))
        return
    study, results = Study.load(arguments.settings), Results(arguments.out)
    if arguments.report:
        report(study, results.read(), arguments.images, arguments.markdown, arguments.json)
        return
    if arguments.seeds is not None:
        study = Study(study.tasks, study.groups, study.settings, arguments.seeds)
    wanted = [
        cell
        for cell in study.cells()
        if any(fnmatch.fnmatchcase(cell.setting, glob) for glob in arguments.only or ["*"])
        and cell.task in (arguments.tasks or study.tasks)
    ]
    done = latest(record for record in results.read() if not (arguments.retry and "error" in record))
    missing = [cell for cell in wanted if key(cell) not in done]
    print(f"{len(wanted)} cells, {len(missing)} of them to run; {machine()}", flush=True)
    Runner(results, missing, arguments.workers).run()


if __name__ == "__main__":
    main()
