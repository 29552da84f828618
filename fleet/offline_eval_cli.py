"""`pnaf offline eval`: how good policies are, from logs alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fleet.cli_output import Json, fail, print_json
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.logs_options import LogPaths, Where, clear_log_errors, open_chosen, tell_copies, tell_damaged
from fleet.ready import EXIT_CONFIG


def offline_eval(
    policy: Annotated[
        Path,
        typer.Argument(help="A run folder (its newest policy), one of its checkpoints, or a .pnaf file."),
    ],
    logs: LogPaths,
    where: Where = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="POLICY", help="Also evaluate this one, compared with the first; repeatable."),
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also evaluate every checkpoint of POLICY, a run folder.")
    ] = False,
    fleet: Annotated[
        Path | None, typer.Option(help="Robots and task of the logs; default: the config.yaml beside them.")
    ] = None,
    simulate: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Also run N noise-free episodes of each policy in simulation."),
    ] = 0,
    robot: Annotated[str, typer.Option("--robot", help="Whose config to simulate; default: the first.")] = "",
    gamma: Annotated[
        float | None, typer.Option(help="Discount per step, below 1; default: that of the policy's run.")
    ] = None,
    members: Annotated[
        int, typer.Option(min=0, help="Bootstrap members behind the intervals; 0: no intervals, much faster.")
    ] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of fitted-Q evaluation.")] = 3000,
    guard_rows: Annotated[
        int,
        typer.Option(min=0, help="Logged moments shown of the guard; 0: leave the guard out of all of it."),
    ] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="With --simulate: draw estimates against the truth.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say from logs alone how good a policy is, what the guard would do to it, and how far to trust that.

    The estimate is the discounted return from where the logged episodes began, by fitted-Q evaluation, with a
    90 % interval by bootstrap over episodes, beside what the logs themselves earned. Nothing moves.
    """
    from fleet.agreement_plot import plot_agreement
    from fleet.offline_eval_report import print_evaluation
    from fleet.offline_evaluation import Options, evaluate_offline
    from fleet.offline_policies import choose_gamma, find_checkpoints, find_policy
    from learner.fqe import FqeSettings
    from replay_server.episode_file import EpisodeFileError
    from robot_nodes.gazebo.gazebo_error import GazeboError
    from robot_nodes.guard_preview import GuardPreviewError
    from robot_nodes.policy import PolicyError
    from robot_nodes.sim.rollout import RolloutError

    console = Console(stderr=True)
    if plot is not None and not simulate:
        fail("--plot draws estimates against the truth, which needs --simulate N", EXIT_CONFIG)
    if plot is not None and (plot.suffix != ".png" or not plot.absolute().parent.is_dir()):
        fail(f"--plot {plot}: must be a .png in a folder that exists", EXIT_CONFIG)
    with clear_log_errors():
        try:
            policies = [find_policy(path) for path in (policy, *(against or ()))]
            if checkpoints:
                policies += find_checkpoints(policy)
            chosen = open_chosen(logs, where, console)
            damaged = len(chosen.damaged)
            tell_copies(chosen, console)
            config, no_config = load_fleet(fleet) if fleet is not None else None, ""
            if config is None:
                try:
                    config = chosen.config()
                except ConfigError as error:
                    if simulate:
                        raise
                    no_config = str(error)
            if simulate and config is not None:
                _check_simulated(config, robot)
            options = Options(
                gamma=choose_gamma(gamma, policies, config),
                settings=FqeSettings(members=members, steps=steps),
                seed=seed,
                guard_rows=guard_rows,
                simulate=simulate,
                robot_id=robot,
                no_fleet=no_config,
            )
            with _stages(console) as stage:
                evaluation = evaluate_offline(policies, chosen, config, options, stage)
            tell_damaged(chosen, console, damaged)
            if plot is not None:
                plot_agreement(evaluation, plot)
        except (PolicyError, GazeboError, GuardPreviewError, EpisodeFileError) as error:
            fail(str(error), EXIT_CONFIG)
        except RolloutError as error:
            fail(f"{robot or 'the simulated robot'}: {error}", 1)
        except OSError as error:
            fail(f"cannot write: {error}", 1)
    if as_json:
        print_json(_without_nan(asdict(evaluation)))
    else:
        print_evaluation(evaluation, Console())


def _check_simulated(fleet: FleetConfig, robot_id: str) -> None:
    """Say before the long work that a robot cannot be simulated."""
    entry = fleet.entry(robot_id or fleet.robots[0].id)
    if entry.robot.sim is None:
        raise ConfigError(
            f"{entry.id} is real hardware (no sim group in its config): leave --simulate out, or name a "
            "simulated robot with --robot"
        )


def _without_nan(data: Any) -> Any:
    """The same with null for numbers that are not there, as JSON has no NaN."""
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and math.isnan(data) else data


@contextmanager
def _stages(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars on stderr, one for each stage that has begun."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def begin(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name.replace("[", "\\["), total=None)

            def advance(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, visible=done < total)

            return advance

        yield begin
