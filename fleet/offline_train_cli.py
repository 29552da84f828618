"""`pnaf offline train`: a policy from logs, before a robot moves."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.cli_options import Overrides
from fleet.cli_output import Json, fail, print_json, progress_on
from fleet.logs_options import (
    LogPaths,
    Where,
    clear_log_errors,
    open_chosen,
    progress_bar,
    tell_copies,
    tell_damaged,
)
from fleet.offline_run import Method, OfflineReport, OfflineRun, offline_config
from fleet.ready import stop_on_signals

if TYPE_CHECKING:
    from learner.offline_training import OfflineProgress


_LINE_PERIOD_S = 10.0  # without a terminal


def train(
    paths: LogPaths,
    steps: Annotated[
        int, typer.Option(min=1, help="Updates in all, those before a resume included.")
    ] = 100_000,
    run: Annotated[
        str,
        typer.Option(
            help="Name of the run folder under runs/; an earlier training of that name is gone on with. "
            "Default: offline-DATE-TIME."
        ),
    ] = "",
    where: Where = None,
    method: Annotated[
        Method,
        typer.Option(
            help="careful: NAF that keeps μ near the logged actions, above all the better ones; plain: NAF "
            "as online; clone: imitation only."
        ),
    ] = "careful",
    fleet: Annotated[
        Path | None,
        typer.Option(
            metavar="FLEET.yaml", help="Whose settings to use; default: the config.yaml beside the logs."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train a policy from logs alone. Ctrl-C saves; the same command goes on from there.

    Then `pnaf offline eval` judges it by the logs, `pnaf eval` in simulation, and
    `pnaf fleet up FLEET.yaml --from runs/NAME` puts it on the robots and goes on learning.
    """
    console = Console(stderr=True, highlight=False)
    with clear_log_errors():
        from learner.checkpoint import CheckpointError
        from learner.row_store import fingerprint
        from learner.trainer import DivergedError

        logs = open_chosen(paths, where, console)
        told, spec = len(logs.damaged), logs.spec
        tell_copies(logs, console)
        config = offline_config(logs, fleet, method, overrides or ())
        report = OfflineReport([str(path) for path in paths], list(where or ()), fingerprint(logs), method)
        offline = OfflineRun(
            config, Path("runs") / (run or f"offline-{datetime.now():%Y%m%d-%H%M%S}"), report
        )
        stop = stop_on_signals()
        with progress_bar(console, "reading the logs") as on_progress:
            offline.load_rows(logs, on_progress)
        tell_damaged(logs, console, told)
        console.print(
            f"{offline.report.rows:,} transitions of {offline.report.episodes:,} episodes, "
            f"{spec.observation.size} numbers observed, {spec.action.size} commanded; method {method}",
            soft_wrap=True,
        )
        with progress_on(console) as progress:
            bar = progress.add_task("training", total=steps)
            next_line_s = time.monotonic() + _LINE_PERIOD_S

            def show(point: OfflineProgress) -> None:
                nonlocal next_line_s
                loss = point.metrics["learner/td_loss"]
                text = f"training, TD loss {loss:.3g}, {point.updates_per_s:,.0f} updates/s"
                progress.update(bar, completed=point.updates, description=text)
                if not console.is_terminal and time.monotonic() >= next_line_s:
                    next_line_s = time.monotonic() + _LINE_PERIOD_S
                    console.print(f"{point.updates:,} of {steps:,}: {text}")

            try:
                finished = offline.train(steps, stop, show)
            except (DivergedError, CheckpointError) as error:
                fail(str(error), 1)
    _tell(offline, paths, finished, as_json)
    raise typer.Exit(0 if finished else 130)


def _tell(offline: OfflineRun, paths: list[Path], finished: bool, as_json: bool) -> None:
    report, folder = offline.report, offline.folder
    if as_json:
        print_json({"run": str(folder.path), "policy": str(folder.policy), **asdict(report)})
        return
    out = Console(highlight=False, soft_wrap=True)
    text = f"{report.updates:,} updates in {report.train_s:.0f} s"
    if (distance := report.metrics.get("learner/action_distance")) is not None:
        text += (
            f"; the policy's actions are {distance:.2f} from the logged ones (root mean square; actions lie "
            "in ±1)"
        )
    out.print(text)
    if finished:
        out.print(f"next: pnaf offline eval {folder.path} {' '.join(map(str, paths))}")
    else:
        out.print(f"stopped and saved: the same command with --run {folder.path.name} goes on from here")
    out.print(str(folder.path))
