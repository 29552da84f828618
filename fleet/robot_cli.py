"""`pnaf robot`, `pnaf sim-arm` and `pnaf doctor`: what runs on a robot's own computer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleet.cli_options import DEMO_FLEET, ConfigPath, Overrides, RunDir
from fleet.cli_output import Json, clear_errors, escape, fail, log_to_stderr, print_json
from fleet.config_file import load_fleet, load_robot
from fleet.doctor import Finding, examine
from fleet.ready import EXIT_CONFIG

robot_app = typer.Typer()

RobotId = Annotated[str, typer.Option("--id", help="Which robot of the fleet.")]


@robot_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def robot(
    context: typer.Context,
    config: ConfigPath,
    robot_id: RobotId,
    run_dir: RunDir = Path("runs/by-hand"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing, record nothing; show what would be sent.")
    ] = False,
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: a JSON object per second.")
    ] = False,
) -> None:
    """Drive one robot: the ROS 2 node with the control loop.

    What it records waits in RUN/spool/ID on this computer until the replay server has stored it.
    Whatever follows --ros-args goes to ROS.
    """
    ros_args = [arg for arg in context.args if arg != "--ros-args"]
    if dry_run:
        with clear_errors():
            from robot_nodes.dry_run import run_dry

            fleet = load_fleet(config, overrides or ())
            raise typer.Exit(run_dry(fleet, robot_id, run_dir, ros_args, as_json=as_json))
    log_to_stderr()
    with clear_errors():
        from robot_nodes.robot_process import run_robot

        raise typer.Exit(run_robot(load_fleet(config, overrides or ()), robot_id, run_dir, ros_args))


@robot_app.command("sim-arm")
def sim_arm(config: ConfigPath, robot_id: RobotId, overrides: Overrides = None) -> None:
    """Simulate one robot's arm in MuJoCo, behind the topics of ros2_control."""
    log_to_stderr()
    with clear_errors():
        from robot_nodes.sim.arm_node import run_arm

        fleet = load_fleet(config, overrides or ())
        run_arm(fleet.entry(robot_id).robot, robot_id, fleet.seed)


@robot_app.command()
def doctor(
    config: Annotated[Path, typer.Option(help="The fleet to check for.")] = Path(DEMO_FLEET),
    robot: Annotated[
        Path | None,
        typer.Option(
            metavar="ROBOT.yaml",
            help="Check a real arm instead, on its computer with its driver up: topics, rates, joint names, "
            "limits, clocks. Nothing is ever sent to it.",
        ),
    ] = None,
    namespace: Annotated[
        str, typer.Option(help="With --robot: where its topics are; the robot's id in the fleet.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.5, help="With --robot: how long to listen.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Say what is missing on this machine, or wrong with a robot (--robot), and what to do about it."""
    with clear_errors():
        if robot is None:
            findings, wrong = examine(load_fleet(config)), "missing"
        else:
            findings, wrong = _examine_robot(robot, namespace, seconds), "wrong"
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings, wrong)
    raise typer.Exit(0 if all(f.ok or not f.needed for f in findings) else 1)


def _examine_robot(path: Path, namespace: str, seconds: float) -> list[Finding]:
    config = load_robot(path)
    try:
        from robot_nodes.robot_doctor import examine_robot
    except ImportError as error:
        fail(f"{error}: source your ROS 2 setup.bash, or: pip install 'parallel-naf[ros]'", EXIT_CONFIG)
    Console(stderr=True).print(f"Listening for {seconds:g} s; nothing is sent to the robot.", style="dim")
    return examine_robot(config, namespace, seconds)


def _show(findings: list[Finding], wrong: str) -> None:
    advised = any(not f.ok for f in findings)
    table = Table("", "what", "found", *(["what to do"] if advised else []))
    for column in table.columns[2:]:
        column.overflow = "fold"  # names of topics and files must stay whole
    for f in findings:
        mark = "[green]ok[/]" if f.ok else f"[red]{wrong}[/]" if f.needed else "[yellow]note[/]"
        table.add_row(mark, f.name, escape(f.found), *([escape(f.advice) * (not f.ok)] if advised else []))
    console = Console()
    console.print(table)
    bad = sum(f.needed and not f.ok for f in findings)
    console.print(f"{bad} {wrong}: mend it from the top down" if bad else f"nothing {wrong}", highlight=False)
