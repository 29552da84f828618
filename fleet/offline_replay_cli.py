"""`pnaf offline replay`: logged episodes play robots."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fleet.cli_options import Overrides
from fleet.cli_output import Json, escape, fail, print_json
from fleet.config import ConfigError
from fleet.config_file import load_fleet
from fleet.endpoints import has_port, host_of, is_loopback
from fleet.key_files import KeyFolder
from fleet.keys import Credentials, find_credentials
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen, progress_bar, tell_damaged
from fleet.ready import EXIT_CONFIG, stop_on_signals
from fleet.replay_view import replay_view

if TYPE_CHECKING:
    from robot_nodes.log_plan import ReplayPlan
    from robot_nodes.replay_outcome import Outcome

_EXIT_INTERRUPTED = 130


def replay(
    logs: LogPaths,
    into: Annotated[
        str, typer.Option("--into", metavar="tcp://HOST:PORT", help="The replay server to play them into.")
    ] = "",
    speed: Annotated[
        str, typer.Option(metavar="1|10|max", help="Times as fast as it was; max: as fast as it is stored.")
    ] = "1",
    where: Where = None,
    config: Annotated[
        Path | None,
        typer.Option("--fleet", metavar="FLEET.yaml", help="Take endpoint and keys from a fleet's config."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder with the robots' keys, where the server wants them; see pnaf keys."
        ),
    ] = None,
    longest_gap_s: Annotated[
        float,
        typer.Option(
            "--longest-gap",
            min=0.0,
            metavar="SECONDS",
            help="Times in which no robot did anything are cut to this, in the time of the logs.",
        ),
    ] = 10.0,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", min=0.1, metavar="SECONDS", help="Give up when the server says nothing for so long."
        ),
    ] = 60.0,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Play logged episodes into a running replay server, as the robots that lived them.

    The rows arrive bit for bit, under the robots' own ids and new boot ids (replay-…), each exactly once.
    Whatever is interrupted or killed: the same command goes on where it ended, also when the log has grown.
    Other episodes chosen are another replay. No robot moves; fleet status, pause, resume and stop work.

    A fleet without a robot: pnaf replay-server FLEET.yaml, pnaf learner FLEET.yaml, and
    pnaf offline replay LOGS --fleet FLEET.yaml --speed 10.
    """
    from robot_nodes.log_plan import plan_replay
    from robot_nodes.log_player import LogPlayer, PlayerError

    console = Console(stderr=True)
    with clear_log_errors():
        pace = _speed(speed)
        endpoint, folder = _server(into, config, keys, overrides)
        chosen = open_chosen(logs, where, console)
        known = len(chosen.damaged)
        with progress_bar(console, "checking every row") as on_progress:
            plan = plan_replay(chosen, longest_gap_s, on_progress)
        tell_damaged(chosen, console, known)
        credentials = _credentials(folder, [robot.robot_id for robot in plan.robots])
        _announce(plan, endpoint, console)
        stop = stop_on_signals()
        with replay_view(console) as view:
            player = LogPlayer(
                plan,
                endpoint,
                speed=pace,
                credentials=credentials,
                wait_s=wait_s,
                on_note=view.note,
                on_progress=lambda: view.show(player),
            )
            try:
                outcome = player.run(stop)
            except PlayerError as error:
                failure = str(error)
            else:
                failure = ""
        if failure:
            fail(failure, 1)
    if as_json:
        print_json(_report(plan, outcome))
    _conclude(outcome, console)


def _speed(text: str) -> float:
    if text == "max":
        return math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        fail(f"--speed {text}: must be a number above 0 as in 1, 2.5 or 10, or max", EXIT_CONFIG)
    return value


def _server(
    into: str, config: Path | None, keys: Path | None, overrides: list[str] | None
) -> tuple[str, Path | None]:
    """Where to connect, and the folder of keys.

    Raises:
        ConfigError: It is not said, or not possible without keys.
    """
    if config is None:
        if not into:
            raise ConfigError("say where to play them: --into tcp://HOST:PORT, or --fleet FLEET.yaml")
        if overrides:
            raise ConfigError("--set changes a fleet's config: it goes with --fleet")
    else:
        fleet = load_fleet(config, overrides or ())
        into = into or fleet.replay_server.endpoint
        keys = keys or (fleet.security.keys if fleet.security else None)
    if not into.startswith("tcp://") or not has_port(into) or into.endswith("*"):
        raise ConfigError(f"--into {into}: must be tcp://HOST:PORT, as in tcp://127.0.0.1:5710")
    if keys is None and not is_loopback(host_of(into)):
        raise ConfigError(
            f"{into} is not on this machine alone, and takes keys: give --keys FOLDER with a key of each "
            "robot (pnaf keys new robot1 --role robot --keys FOLDER, then pnaf keys allow on the server), or "
            "--fleet FLEET.yaml, whose security group names the folder"
        )
    if keys is not None and not keys.is_dir():
        raise ConfigError(f"--keys {keys}: no such folder; pnaf keys new makes keys")
    return into, keys


def _credentials(folder: Path | None, robot_ids: Iterable[str]) -> dict[str, Credentials | None]:
    """Of each robot, as on the robot itself.

    Raises:
        ConfigError: Some are missing; all of them are named.
    """
    found: dict[str, Credentials | None] = {}
    problems: dict[str, None] = {}
    for robot_id in robot_ids:
        try:
            found[robot_id] = find_credentials(KeyFolder(folder), "robot", robot_id) if folder else None
        except ConfigError as error:
            problems[str(error)] = None
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _announce(plan: ReplayPlan, endpoint: str, console: Console) -> None:
    text = f"{plan.rows:,} rows in {sum(robot.episodes for robot in plan.robots):,} episodes of "
    text += f"{len(plan.robots)} robots → {endpoint}"
    if plan.copies:
        text += f"; {plan.copies:,} episodes are in these logs twice and are played once"
    console.print(escape(text), highlight=False, soft_wrap=True)


def _report(plan: ReplayPlan, outcome: Outcome) -> dict[str, Any]:
    return {
        "run_id": outcome.run_id,
        "complete": outcome.complete,
        "stop_reason": outcome.stop_reason,
        "wall_s": round(outcome.wall_s, 3),
        "rows": plan.rows,
        "rows_before": sum(robot.rows_before for robot in outcome.robots),
        "rows_now": sum(robot.rows_now for robot in outcome.robots),
        "episodes": sum(robot.episodes for robot in outcome.robots),
        "copies": plan.copies,
        "robots": {
            robot.robot_id: {
                "rows": robot.rows,
                "rows_before": robot.rows_before,
                "rows_now": robot.rows_now,
                "episodes": robot.episodes,
            }
            for robot in outcome.robots
        },
        "left_out": {str(path): reason for path, reason in plan.logs.damaged.items()},
    }


def _conclude(outcome: Outcome, console: Console) -> None:
    now = sum(robot.rows_now for robot in outcome.robots)
    before = sum(robot.rows_before for robot in outcome.robots)
    total = sum(robot.rows for robot in outcome.robots)
    text = f"run {outcome.run_id or 'unknown'}: {now:,} rows sent now, {before:,} were there already; "
    if outcome.complete:
        episodes = sum(robot.episodes for robot in outcome.robots)
        text += f"all {total:,} rows of {episodes:,} episodes are stored, after {outcome.wall_s:.1f} s"
        console.print(f"[green]{escape(text)}[/]", highlight=False, soft_wrap=True)
        return
    from robot_nodes.replay_outcome import INTERRUPTED

    interrupted = outcome.stop_reason == INTERRUPTED
    why = "interrupted" if interrupted else f"stopped by an operator ({outcome.stop_reason})"
    fail(
        f"{why}. {text}{total - now - before:,} are left: the same command goes on",
        _EXIT_INTERRUPTED if interrupted else 1,
    )
