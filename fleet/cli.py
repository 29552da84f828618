"""`pnaf`, the one command line. Each command is thin: it loads the config and calls its package."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.bench_cli import bench_app
from fleet.cli_options import DEMO_FLEET, ConfigPath, Overrides, RunDir
from fleet.cli_output import Json, clear_errors, escape, fail, log_to_stderr, print_json
from fleet.config import FleetConfig, SecurityConfig
from fleet.config_file import load_fleet
from fleet.gazebo_cli import gazebo_app
from fleet.gym_cli import gym_app
from fleet.keys import load_credentials, load_operator_credentials, make_fleet_keys
from fleet.keys_cli import keys_app
from fleet.logs_cli import logs_app
from fleet.offline_cli import offline_app
from fleet.ready import EXIT_CONFIG, notify_ready, stop_on_signals
from fleet.robot_cli import robot_app
from fleet.run_folder import RunFolder, create_run_folder
from fleet.sim_config import Simulator

app = typer.Typer(
    help="Train one policy on many robots at once: asynchronous NAF over ROS 2 and ZeroMQ.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
fleet_app = typer.Typer(help="Run a fleet and talk to a running one.", no_args_is_help=True)
app.add_typer(fleet_app, name="fleet")
app.add_typer(logs_app, name="logs")
app.add_typer(offline_app, name="offline")
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")
app.add_typer(gazebo_app, name="gazebo")
app.add_typer(robot_app)  # its commands stand beside these
app.add_typer(gym_app)


# Processes ----------------------------------------------------------------------------------


@app.command("replay-server")
def replay_server(
    config: ConfigPath, run_dir: RunDir = Path("runs/by-hand"), overrides: Overrides = None
) -> None:
    """Store the experience of all robots and serve it to the learner."""
    log_to_stderr()
    with clear_errors():
        from replay_server.episode_store import StoreError
        from replay_server.server import run_replay_server

        fleet = load_fleet(config, overrides or ())
        credentials = load_credentials(fleet, "server")
        run_dir.mkdir(parents=True, exist_ok=True)
        run_id = RunFolder(run_dir).run_id()
        try:
            run_replay_server(
                fleet.replay_server,
                run_dir,
                run_id,
                stop_on_signals(),
                on_ready=notify_ready,
                credentials=credentials,
                task=fleet.task.kind,
            )
        except StoreError as error:
            fail(str(error), EXIT_CONFIG)


@app.command()
def learner(config: ConfigPath, run_dir: RunDir = Path("runs/by-hand"), overrides: Overrides = None) -> None:
    """Train NAF on what the replay server has, and broadcast the policy.

    On several GPUs: torchrun --nproc-per-node 4 -m fleet.cli learner CONFIG …
    """
    log_to_stderr()
    with clear_errors():
        from learner.process import run_learner
        from learner.ranks import RankError

        fleet = load_fleet(config, overrides or ())
        try:
            run_learner(fleet, run_dir, stop_on_signals(), on_ready=notify_ready)
        except RankError as error:
            fail(str(error), 1)


# A fleet on this machine --------------------------------------------------------------------


@app.command()
def demo(
    run: Annotated[
        str, typer.Option(help="Name of the run folder under runs/; default: demo-DATE-TIME.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    config: Annotated[Path, typer.Option(help="The fleet to run.")] = Path(DEMO_FLEET),
    secure: Annotated[
        bool, typer.Option("--secure", help="With fresh keys on every socket; they lie in the run folder.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Two simulated robots learn to reach, until 90 % of the newest 20 evaluations succeed."""
    lines = [f"seed={seed}", f"learner.seed={seed}", *(overrides or ())]
    _up(config, lines, run, "demo", secure)


@fleet_app.command()
def up(
    config: ConfigPath,
    run: Annotated[
        str, typer.Option(help="Name of the run folder under runs/; default: FLEET-DATE-TIME.")
    ] = "",
    gui: Annotated[
        bool, typer.Option("--gui", help="Also open Gazebo's window; as --set gazebo.gui=true.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Start the whole fleet on this machine and watch it until its goal, `fleet stop` or Ctrl-C."""
    _up(config, [*(overrides or ()), *(["gazebo.gui=true"] if gui else [])], run, "")


def _up(config: Path, overrides: Any, run: str, default_name: str, new_keys: bool = False) -> None:
    from datetime import datetime

    from rich.logging import RichHandler

    from fleet.fleet_checks import check_keys, check_robots, prepare_gazebo
    from fleet.fleet_run import FleetRun
    from fleet.run_report import write_report

    console = Console()
    log_to_stderr(RichHandler(console=console, show_path=False))  # goes around the live screen
    with clear_errors():
        fleet = load_fleet(config, overrides)
        check_robots(fleet)
        prepare_gazebo(fleet)
        if new_keys:  # relative: the run folder may be moved
            fleet = fleet.model_copy(update={"security": SecurityConfig(keys=Path("keys"))})
        else:
            check_keys(fleet)
        name = run or f"{default_name or fleet.name}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = create_run_folder(fleet, Path("runs"), name)
        if new_keys:
            make_fleet_keys(folder.keys, [entry.id for entry in fleet.robots])
        outcome = FleetRun(folder.load(), folder, console, stop_on_signals()).run()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends the report at once
        reached = write_report(folder, outcome, console)
    if outcome.failure:
        Console(stderr=True).print(f"[bold red]pnaf:[/] {escape(outcome.failure)}", highlight=False)
    console.print(str(folder.path), highlight=False, soft_wrap=True)
    raise typer.Exit(0 if reached else 130 if outcome.ended_by == "interrupt" else 1)


# A running fleet ----------------------------------------------------------------------------


def _ask_server(config: Path, overrides: list[str] | None) -> tuple[FleetConfig, Any]:
    from replay_server.client import ReplayClient

    fleet = load_fleet(config, overrides or ())
    credentials = load_operator_credentials(fleet)
    return fleet, ReplayClient(fleet.replay_server.endpoint, "monitor", "pnaf", credentials=credentials)


@fleet_app.command()
def status(config: ConfigPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show every robot, the replay server and the learner of a running fleet."""
    from fleet.live_screen import Progress, render
    from replay_server.client import ReplayError

    with clear_errors():
        fleet, client = _ask_server(config, overrides)
        try:
            with client:
                answer = client.status()
        except ReplayError as error:
            fail(str(error), 1)
        if as_json:
            print_json(asdict(answer))
        else:
            uptime_s = float(answer.stats.get("replay/uptime_s", 0.0))
            Console().print(render(answer, Progress(answer.run_id, uptime_s, fleet.goal)))


def _command(
    kind: str, config: Path, target: str, reason: str, overrides: list[str] | None, as_json: bool
) -> None:
    from replay_server.client import ReplayError

    with clear_errors():
        _, client = _ask_server(config, overrides)
        try:
            with client:
                receipt = client.command(kind, target, reason)
        except ReplayError as error:
            fail(str(error), 1)
    if as_json:
        print_json(asdict(receipt))
    if not receipt.delivered_to and kind != "stop":  # a stop is for the whole run, robots or not
        fail(f"{kind} reached nobody: {receipt.note or 'no robot is connected to this replay server'}", 1)
    if not as_json:
        sent_to = ", ".join(receipt.delivered_to) or "the run, no robot is there"
        Console().print(f"{kind}: sent to {sent_to}{'; ' if receipt.note else ''}{receipt.note}")


Target = Annotated[str, typer.Option("--robot", help="One robot's id; default: all.")]
Reason = Annotated[str, typer.Option(help="Shown on the robots and in the status.")]


@fleet_app.command()
def pause(
    config: ConfigPath,
    robot: Target = "*",
    reason: Reason = "",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """End the running episodes and hold still; the learner goes on."""
    _command("pause", config, robot, reason, overrides, as_json)


@fleet_app.command()
def resume(
    config: ConfigPath,
    robot: Target = "*",
    reason: Reason = "",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Go on after a pause or a fault; an e-stop has to be reset at the robot first."""
    _command("resume", config, robot, reason, overrides, as_json)


@fleet_app.command()
def stop(config: ConfigPath, reason: Reason = "", overrides: Overrides = None, as_json: Json = False) -> None:
    """Stop the robots for good; `fleet up` then also saves, seals and reports.

    Processes that were started by hand or by ros2 launch are ended with Ctrl-C.
    """
    _command("stop", config, "*", reason, overrides, as_json)


@fleet_app.command()
def estop(
    config: ConfigPath,
    robot: Target = "*",
    reason: Reason = "",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Zero commands now, latched until a person resets it at the robot (service ~/reset_estop)."""
    _command("estop", config, robot, reason, overrides, as_json)


# Looking at what there is -------------------------------------------------------------------


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    episodes: Annotated[int, typer.Option(min=1, help="Noise-free episodes.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of targets and starts.")] = 1000,
    robot: Annotated[str, typer.Option("--robot", help="Whose config to simulate; default: the first.")] = "",
    simulator: Annotated[
        Simulator | None, typer.Option(help="Where to simulate it; default: where its config says.")
    ] = None,
    film: Annotated[Path | None, typer.Option(help="Also write the first episodes as a GIF.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a run's newest policy on a simulated robot."""
    from robot_nodes.gazebo.gazebo_error import GazeboError
    from robot_nodes.policy import PolicyError
    from robot_nodes.policy_file import read_policy, run_policy_file
    from robot_nodes.sim.evaluation import evaluate_policy, write_film
    from robot_nodes.sim.rollout import RolloutError

    with clear_errors():
        fleet = RunFolder(run).load()
        entry = fleet.entry(robot or fleet.robots[0].id)
        try:
            message = read_policy(run_policy_file(RunFolder(run)))
            console = Console(stderr=True)
            result = evaluate_policy(fleet, message, episodes, seed, entry.id, console, simulator)
        except (PolicyError, GazeboError) as error:
            fail(str(error), EXIT_CONFIG)
        except RolloutError as error:
            fail(f"{entry.id}: {error}", 1)
        if film:
            write_film(fleet, result, film)
    if as_json:
        print_json(result.facts)
        return
    table = Table(title=f"{run}: policy v{message.version}, {episodes} noise-free episodes")
    for key in ("simulator", *result.summary):
        table.add_column(key)
    table.add_row(result.simulator, *(f"{value:.4g}" for value in result.summary.values()))
    Console().print(table)


if __name__ == "__main__":
    app()
