"""`pnaf logs relabel`: logs as if the robots had been given another task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.cli_output import Json, fail
from fleet.config import ConfigError, FleetConfig
from fleet.logs_edit_output import Out, names, refuse_existing, tell_written
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen, progress_bar, tell_damaged
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from replay_server.logs import Logs


def logs_relabel(
    logs: LogPaths,
    task: Annotated[
        Path, typer.Option("--task", metavar="TASK.yaml", help="The new task, as in hardware_configs/tasks/.")
    ],
    out: Out,
    goal: Annotated[
        str | None,
        typer.Option(
            "--goal",
            metavar="keep|final|sample",
            help="keep: each episode's own, if the task is of the same kind (the default then); final: what "
            "the episode achieved in the end (hindsight); sample: a random one of the new task.",
        ),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            "--fleet", metavar="FLEET.yaml", help="Whose robots these are; by default the logs' config.yaml."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random goals.")] = 0,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Tell episodes anew for another task: observations, rewards, ends, success and metrics.

    What the arm did stays; joints, tool and sensors are read from the logged observations. A new task with
    less time per episode, or one that terminates, cuts off what comes after. A person's verdict on an
    episode counts only for the same kind of task with --goal keep.
    """
    from replay_server.log_edits import only, write_edited
    from replay_server.log_writer import LogWriter
    from robot_nodes.logged_states import RelabelError
    from robot_nodes.relabel import GOAL_SOURCES, Relabel

    errors = Console(stderr=True)
    if goal is not None and goal not in GOAL_SOURCES:
        fail(f"--goal {goal}: must be one of {', '.join(GOAL_SOURCES)}", EXIT_CONFIG)
    refuse_existing(out)
    with clear_log_errors():
        found = open_chosen(logs, where, errors)
        found = only(found, found.episodes)
        kind, known, spec = _kind(found), len(found.damaged), found.spec
        config = _with_task(found, fleet, task)
        try:
            relabel = Relabel(config, spec, kind, goal, seed)
        except RelabelError as error:
            fail(str(error), EXIT_CONFIG)
        made = f"relabelled for {config.task.kind} ({task}, --goal {relabel.goals}) from {names(logs, where)}"
        with (
            LogWriter(out, relabel.task.spec, made, config) as writer,
            progress_bar(errors, "telling episodes anew") as on_progress,
        ):
            write_edited(writer, found, relabel, on_progress)
        tell_damaged(found, errors, known)
        facts = {
            "goal": relabel.goals,
            "episodes_cut_where_the_task_ends": relabel.shortened,
            "rows_cut": relabel.rows_cut,
            "verdicts_of_persons_dropped": relabel.verdicts_dropped,
        }
        tell_written([writer], found, [], facts, as_json)


def _kind(logs: Logs) -> str:
    """The one kind of task in the logs; exits if there are several."""
    kinds = sorted({summary.info.task for summary in logs.episodes})
    if len(kinds) > 1:
        known = [kind or "an unknown task" for kind in kinds]
        fail(
            f"these logs are of {' and of '.join(known)}: choose one with --where task={kinds[-1]}",
            EXIT_CONFIG,
        )
    return kinds[0] if kinds else ""


def _with_task(logs: Logs, fleet: Path | None, task: Path) -> FleetConfig:
    """The config of the logs' robots, or that of `fleet`, with another task.

    Raises:
        ConfigError: There is none, or the task does not fit it.
    """
    from fleet.config_file import find_config, load_fleet

    task = find_config(task)
    if not task.is_file():
        raise ConfigError(f"--task {task}: no such file")
    return load_fleet(fleet or logs.config_file(), [f"task={json.dumps(str(task.resolve()))}"])
