"""`pnaf robot`, `pnaf sim-arm` and `pnaf doctor`: what runs on a robot's own computer."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleet.cli_options import DEMO_FLEET, ConfigPath, Overrides, RunDir
from fleet.cli_output import Json, clear_errors, escape, fail, log_to_stderr, print_json
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet, load_robot
from fleet.doctor import Finding, examine
from fleet.ready import EXIT_CONFIG
from fleet.robot_config import RobotConfig, UrdfTopic
from fleet.ros_network import join_ros_network, ros_network

logger = logging.getLogger(__name__)

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
            fleet = _join_fleet(config, robot_id, overrides)
            from robot_nodes.dry_run import run_dry

            raise typer.Exit(run_dry(fleet, robot_id, run_dir, ros_args, as_json=as_json))
    log_to_stderr()
    with clear_errors():
        fleet = _join_fleet(config, robot_id, overrides)
        logger.info("%s: %s", robot_id, ros_network(os.environ))
        from robot_nodes.robot_process import run_robot

        raise typer.Exit(run_robot(fleet, robot_id, run_dir, ros_args))


@robot_app.command("sim-arm")
def sim_arm(
    config: ConfigPath,
    robot_id: RobotId,
    run_dir: RunDir = Path("runs/by-hand"),
    overrides: Overrides = None,
) -> None:
    """Simulate one robot's arm, in MuJoCo or in Gazebo, behind the topics of ros2_control.

    Which one, sim.simulator in the robot's config says. An arm in Gazebo is in the world that
    `pnaf gazebo server` runs with the same --run-dir.
    """
    log_to_stderr()
    with clear_errors():
        fleet = _join_fleet(config, robot_id, overrides)
        logger.info("arm of %s: %s", robot_id, ros_network(os.environ))
        from robot_nodes.sim.arm_process import run_arm

        run_arm(fleet, robot_id, run_dir)


def _join_fleet(config: Path, robot_id: str, overrides: list[str] | None) -> FleetConfig:
    """Load the fleet of this robot and join its ROS network; rclpy must not be imported before."""
    fleet = load_fleet(config, overrides or ())
    fleet.entry(robot_id)
    join_ros_network(fleet, os.environ)
    return fleet


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
    robot_id: Annotated[
        str, typer.Option("--id", help="The same for a robot of --config, on the fleet's ROS domain.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.5, help="With --robot or --id: how long to listen.")] = 3.0,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Say what is missing on this machine, or wrong with a robot (--robot), and what to do about it."""
    with clear_errors():
        if robot_id and (robot or namespace):
            raise ConfigError("--id names a robot of the fleet: leave --robot and --namespace out")
        if robot_id:
            entry = _join_fleet(config, robot_id, overrides).entry(robot_id)
            findings, wrong = _examine_robot(entry.robot, robot_id, seconds), "wrong"
        elif robot is not None:
            checked = load_robot(robot)
            if not namespace and (names := _relative_names(checked)):
                raise ConfigError(
                    f"{robot}: {', '.join(names)}: without a leading / it is in the robot's namespace: "
                    "give --namespace ID, the robot's id in the fleet"
                )
            findings, wrong = _examine_robot(checked, namespace, seconds), "wrong"
        else:
            findings, wrong = examine(load_fleet(config, overrides or ())), "missing"
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings, wrong)
    raise typer.Exit(0 if all(f.ok or not f.needed for f in findings) else 1)


def _relative_names(robot: RobotConfig) -> list[str]:
    """Topics and services that are looked for in the robot's namespace."""
    names = [robot.topics.joint_states, robot.topics.command, *(sensor.topic for sensor in robot.sensors)]
    if "trajectory" in robot.reset.steps:
        names.append(robot.topics.joint_trajectory)
    if robot.reset.service is not None:
        names.append(robot.reset.service)
    if robot.external_estop is not None:
        names.append(robot.external_estop.topic)
    if isinstance(robot.urdf, UrdfTopic):
        names.append(robot.urdf.topic)
    return [name for name in names if not name.startswith("/")]


def _examine_robot(config: RobotConfig, namespace: str, seconds: float) -> list[Finding]:
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
