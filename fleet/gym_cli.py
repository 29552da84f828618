"""`pnaf train-gym`: the fleet's learner on a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fleet.algorithm_config import Algorithm
from fleet.cli_output import Json, clear_errors, fail, print_json
from fleet.gym_run import facts, gym_config, parse_settings, save, train
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from learner.gym_training import CurvePoint

gym_app = typer.Typer()


@gym_app.command("train-gym")
def train_gym(
    env_id: Annotated[str, typer.Argument(metavar="ENV", help="A Gymnasium id, as in Pendulum-v1.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps in the environment.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps from one measurement to the next.")] = 1000,
    episodes: Annotated[int, typer.Option(min=1, help="Noise-free episodes per measurement.")] = 10,
    algorithm: Annotated[Algorithm, typer.Option(help="Whose settings; see docs/learning.md.")] = "naf",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override one, as in --set learning_rate=0.001; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write result.json, policy.pnaf and curve.png into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on a Gymnasium environment of continuous control, with the learner of the fleet.

    Measures noise-free episodes on an environment of their own, from the same starts every time. The same
    settings for all environments: what they are is in the JSON.
    """
    from learner.trainer import DivergedError
    from robot_nodes.gym_robot import GymError

    console = Console(stderr=as_json, highlight=False)

    def show(point: CurvePoint) -> None:
        if point.step == min(every, steps):  # the first one: the environment is as it should be
            console.print(f"{env_id}, {config.algorithm}, seed {seed}, {episodes} noise-free episodes:")
            console.print(f"{'steps':>9} {'mean return':>12} {'std':>10} {'μ saturated':>12}")
        saturation = 100 * point.metrics.get("learner/mu_saturation", 0.0)
        console.print(f"{point.step:>9} {point.mean:>12.2f} {point.std:>10.2f} {saturation:>10.0f} %")

    with clear_errors():
        settings = parse_settings(overrides or ())
        if "algorithm" in settings:
            fail(f"--set algorithm={settings['algorithm']}: use --algorithm", EXIT_CONFIG)
        config = gym_config({"algorithm": algorithm, **settings})
        try:
            if out:
                out.mkdir(parents=True, exist_ok=True)
            result = train(env_id, config, seed, steps, every, episodes, show)
        except OSError as error:
            fail(f"--out {out}: cannot be made a folder: {error.strerror}; name another", EXIT_CONFIG)
        except GymError as error:
            fail(str(error), EXIT_CONFIG)
        except DivergedError as error:
            fail(str(error), 1)
    report = facts(env_id, config, seed, episodes, result)
    if out:
        save(out, report, result)
    if as_json:
        print_json(report)
    elif result.updates:
        console.print(f"{result.updates} updates, {result.updates_per_s:.0f} a second; {result.wall_s:.0f} s")
    else:
        console.print(f"nothing learned: updates begin after {config.warmup_rows} steps (warmup_rows)")
