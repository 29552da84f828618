"""One training run of the study, and the matrix settings × tasks × seeds that a YAML file asks for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common.in_process_fleet import InProcessFleet
from benchmarks.common.paper_cell import configure, learning_settings
from benchmarks.common.virtual_time import Asynchronous
from fleet.config import FleetConfig
from fleet.gym_run import gym_config, train
from learner.trainer import DivergedError

BASE = "base"
Record = dict[str, Any]


@dataclass(frozen=True)
class StudyCell:
    """A run, and all that decides its outcome.

    Attributes:
        setting: `base`, or group and variant as in `gamma=0.95`.
        task: A Gymnasium id, or the name of a fleet's task.
        seed: Of everything.
        overrides: Keys of AlgorithmConfig that are not as in the defaults.
        steps: Transitions after which it ends.
        every: Transitions between two measurements.
        episodes: Noise-free ones of each.
        fleet: The fleet's YAML; empty: `task` is a Gymnasium id.
    """

    setting: str
    task: str
    seed: int
    overrides: dict[str, Any]
    steps: int
    every: int
    episodes: int
    fleet: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.task}, {self.setting}, seed {self.seed}"

    def configure(self) -> FleetConfig:
        """The fleet that learns, where `fleet` names one."""
        overrides = [f"learner.{key}={json.dumps(value)}" for key, value in self.overrides.items()]
        return configure(self.fleet, self.overrides.get("algorithm", "naf"), 2, overrides)

    @property
    def settings(self) -> Record:
        """Every knob of learning and its value, as today's defaults have it."""
        if self.fleet:
            return learning_settings(self.configure())
        return gym_config(self.overrides).model_dump(mode="json")


@dataclass(frozen=True)
class Task:
    """What the study measures settings on.

    Attributes:
        size: `steps`, `every`, `episodes` and perhaps `fleet` of `StudyCell`.
        low: Return that counts as nothing learned.
        high: Return that counts as all there is to learn.
        solved: Return that is good enough.
    """

    size: dict[str, Any]
    low: float
    high: float
    solved: float

    def share(self, value: float) -> float:
        """How far from low to high, within [0, 1]."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Study:
    """A settings file.

    Attributes:
        tasks: By name.
        groups: Names of the settings of each group; base belongs to all of them.
        settings: Overrides by name of the setting.
        seeds: Of each setting on each task.
    """

    tasks: dict[str, Task]
    groups: dict[str, list[str]]
    settings: dict[str, dict[str, Any]]
    seeds: list[int]

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read a file like benchmarks/study/settings.yaml; every setting is checked before anything runs.

        Raises:
            fleet.config.ConfigError: A setting has an unknown key or a bad value.
        """
        data = yaml.safe_load(path.read_text())
        tasks = {}
        for name, task in data["tasks"].items():
            size = {key: task[key] for key in ("steps", "every", "episodes", "fleet") if key in task}
            tasks[name] = Task(size, task["low"], task["high"], task["solved"])
        settings, groups = {BASE: data.get("base") or {}}, {}
        for group, variants in data["groups"].items():
            groups[group] = [f"{group}={variant}" for variant in variants]
            for name, overrides in zip(groups[group], variants.values(), strict=True):
                settings[name] = settings[BASE] | overrides
        for overrides in settings.values():
            gym_config(overrides)
        return cls(tasks, groups, settings, data["seeds"])

    def cells(self) -> list[StudyCell]:
        """All of them; the first seed of everything comes first."""
        return [
            StudyCell(setting, name, seed, overrides, **task.size)
            for seed in self.seeds
            for setting, overrides in self.settings.items()
            for name, task in self.tasks.items()
        ]


def run_cell(cell: StudyCell) -> Record:
    """Learn, measure now and then, and return all of it, ready for JSON."""
    torch.set_num_threads(1)
    return (_run_fleet if cell.fleet else _run_gym)(cell)


def _run_gym(cell: StudyCell) -> Record:
    config = gym_config(cell.overrides)
    curve: list[list[float]] = []
    metrics: list[dict[str, float]] = []

    def keep(point: Any) -> None:
        curve.append([point.step, point.mean, point.std])
        metrics.append(point.metrics)

    diverged, updates_per_s = "", 0.0
    try:
        result = train(cell.task, config, cell.seed, cell.steps, cell.every, cell.episodes, keep)
        updates_per_s = result.updates_per_s
    except DivergedError as error:
        diverged = str(error)
    return {
        "settings": cell.settings,
        "curve": curve,
        "metrics": metrics,
        "diverged": diverged,
        "updates_per_s": updates_per_s,
    }


def _run_fleet(cell: StudyCell) -> Record:
    """The curve is of the success rate."""
    fleet = cell.configure()
    curve: list[list[float]] = []
    metrics: list[dict[str, float]] = []
    diverged = ""
    with InProcessFleet(fleet, cell.seed) as robots:
        clock = Asynchronous(robots, updates_per_s=math.inf)
        try:
            while robots.mirror.cursor < cell.steps:
                clock.advance()
                if robots.mirror.cursor >= (len(curve) + 1) * cell.every:
                    measured = robots.measure(cell.episodes)
                    curve.append([robots.mirror.cursor, measured.success, 0.0])
                    metrics.append(measured.metrics)
        except DivergedError as error:
            diverged = str(error)
        return {
            "settings": cell.settings,
            "curve": curve,
            "metrics": metrics,
            "diverged": diverged,
            "updates_per_s": robots.trainer.updates / max(robots.train_cpu_s, 1e-9),
        }
