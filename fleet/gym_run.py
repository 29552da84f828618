"""Training on a Gymnasium environment: the same settings for all of them, and what is kept of a run."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from fleet.algorithm_config import AlgorithmConfig
from fleet.config import ConfigError, LearnerConfig
from fleet.config_errors import explain

if TYPE_CHECKING:
    from learner.gym_training import CurvePoint, GymResult

RESULT_FILE = "result.json"


def gym_config(settings: Mapping[str, Any]) -> AlgorithmConfig:
    """How to learn: the defaults, the preset of `algorithm`, `settings`; the later wins.

    Raises:
        ConfigError: With one line per problem.
    """
    try:
        return AlgorithmConfig.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(Path("--set"), e) for e in error.errors())) from None


def parse_settings(lines: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` lines, values in YAML, as a mapping.

    Raises:
        ConfigError: A line is something else.
    """
    settings = {}
    for line in lines:
        key, separator, text = line.partition("=")
        if not separator:
            raise ConfigError(f"--set {line!r}: must look like learning_rate=0.001")
        if key.startswith("learner."):
            raise ConfigError(f"--set {line!r}: leave the 'learner.' out, there is nothing else here")
        try:
            settings[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {line!r}: the value is not valid YAML: {error}") from error
    return settings


def train(
    env_id: str,
    config: AlgorithmConfig,
    seed: int,
    steps: int,
    every: int,
    episodes: int,
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> GymResult:
    """Train on an environment, with one thread; the same seed gives the same curve.

    Raises:
        robot_nodes.gym_robot.GymError: The environment cannot be had or is not one of continuous control.
        learner.trainer.DivergedError: The network left the finite numbers.
    """
    import torch

    from learner.gym_training import GymTraining
    from robot_nodes.gym_robot import GymRobot

    torch.set_num_threads(1)
    robot, judge = GymRobot(env_id, seed), GymRobot(env_id, seed)
    try:
        learner = LearnerConfig.model_validate(config.model_dump())
        return GymTraining(learner, robot, judge, seed).run(steps, every, episodes, on_point)
    finally:
        robot.close()
        judge.close()


def facts(
    env_id: str, config: AlgorithmConfig, seed: int, episodes: int, result: GymResult
) -> dict[str, Any]:
    """All that a comparison needs, for JSON."""
    return {
        "env": env_id,
        "seed": seed,
        "episodes": episodes,
        "settings": config.model_dump(mode="json"),
        "versions": _versions(),
        "curve": result.curve,
        "metrics": [{"step": point.step, **point.metrics} for point in result.points],
        "updates": result.updates,
        "updates_per_s": result.updates_per_s,
        "wall_s": result.wall_s,
    }


def _versions() -> dict[str, str]:
    names = ("parallel-naf", "torch", "numpy", "gymnasium", "mujoco")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def save(folder: Path, facts: Mapping[str, Any], result: GymResult) -> None:
    """Write result.json, policy.pnaf and curve.png."""
    from fleet.codec import encode
    from fleet.run_folder import POLICY_FILE

    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    (folder / POLICY_FILE).write_bytes(encode(result.policy))
    _draw(folder / "curve.png", f"{facts['env']}, seed {facts['seed']}", result)


def _draw(path: Path, title: str, result: GymResult) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, mean, std = (list(column) for column in zip(*result.curve, strict=True))
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, alpha=0.25, linewidth=0)
    axes.plot(steps, mean)
    axes.set(title=title, xlabel="steps", ylabel="return without noise, mean ± std")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
