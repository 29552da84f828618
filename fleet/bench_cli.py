"""`pnaf bench`: trials that make their own fleet on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fleet.cli_output import clear_errors, fail
from fleet.ready import EXIT_CONFIG, stop_on_signals

bench_app = typer.Typer(help="Try parallel-naf on this machine.", no_args_is_help=True)


@bench_app.callback()
def _bench() -> None:
    """Keeps `faults` a command of its own, though it is the only one."""


@bench_app.command()
def faults(
    seed: Annotated[int, typer.Option(min=0, help="Of the faults; the same seed plans the same ones.")] = 0,
    robots: Annotated[int, typer.Option(min=1, max=32, help="Synthetic robots.")] = 4,
    duration: Annotated[float, typer.Option(min=1.0, help="How long faults happen (s).")] = 60.0,
    kinds: Annotated[
        str, typer.Option("--faults", metavar="KIND,…", help="Which: kill, stop, cut, disk, flip.")
    ] = "kill,stop,cut,disk,flip",
    report_file: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Also write the report as JSON.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Keep the run and its logs in this new folder.")
    ] = None,
) -> None:
    """Kill, stop, cut off, fill up and damage a fleet; then prove that no row is lost or doubled.

    Real server, learner and sender code with robots without arms, on loopback and in a temporary folder. Exit
    status 1 if a row is lost, doubled or out of order, or anything else is not as it should be.
    """
    from fleet.small_disk import own_mounts

    chosen = tuple(kind.strip() for kind in kinds.split(","))
    small_disks = "disk" in chosen and own_mounts()  # before anything below starts a thread

    from fleet.fault_fleet import FaultRunError
    from fleet.fault_plan import KINDS
    from fleet.faults import TrialSettings, run_faults

    if unknown := set(chosen) - set(KINDS):
        fail(f"--faults: no fault {sorted(unknown)[0]!r}; there are: {', '.join(KINDS)}", EXIT_CONFIG)
    if keep is not None and keep.exists():
        fail(f"--keep: {keep} exists already: name a new folder", EXIT_CONFIG)
    settings = TrialSettings(
        seed=seed, robots=robots, duration_s=duration, kinds=chosen, small_disks=small_disks
    )
    stop = stop_on_signals()
    with clear_errors():
        try:
            report = run_faults(settings, Console(stderr=True), stop.is_set, keep)
        except FaultRunError as error:
            fail(str(error), 1)
    if report is None:
        raise typer.Exit(130)
    if report_file is not None:
        report_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    report.print(Console())
    raise typer.Exit(1 if report.problems else 0)
