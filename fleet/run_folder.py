"""Where everything of one run lies: the names of the files under `runs/NAME/`."""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet, save_fleet

POLICY_FILE = "policy.pnaf"
"""Name of the PolicyMessage frame in each checkpoint's folder."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The layout of a run folder; nothing is created by asking for a path."""

    path: Path

    @property
    def config(self) -> Path:
        """The config as run, self-contained."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The learner's checkpoints and the newest policy."""
        return self.path / "checkpoints"

    @property
    def start(self) -> Path:
        """The checkpoint of another run that this one began with, if it did."""
        return self.path / "start"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.path / "logs"

    @property
    def keys(self) -> Path:
        """The keys of all processes, of a run that was started with fresh ones."""
        return self.path / "keys"

    @property
    def spool(self) -> Path:
        """What robots on this machine have recorded and the replay server has not stored yet."""
        return self.path / "spool"

    @property
    def report(self) -> Path:
        """The run in numbers."""
        return self.path / "report.json"

    @property
    def learning_curve(self) -> Path:
        """The run as a picture."""
        return self.path / "learning_curve.png"

    @property
    def policy(self) -> Path:
        """The policy that `final_evaluation` in the report speaks of."""
        return self.path / POLICY_FILE

    @property
    def film(self) -> Path:
        """The learned arm, moving."""
        return self.path / "policy.gif"

    def run_id(self) -> str:
        """The run's identity, made on first use: the folder's name and eight random digits."""
        file = self.path / "run_id"
        if not file.exists():
            temporary = file.with_suffix(".tmp")
            temporary.write_text(f"{self.path.name}-{uuid.uuid4().hex[:8]}\n")
            temporary.rename(file)
        return file.read_text().strip()

    def known_run_id(self) -> str:
        """The same if it was made; otherwise empty."""
        file = self.path / "run_id"
        return file.read_text().strip() if file.is_file() else ""

    def load(self) -> FleetConfig:
        """The config as run.

        Raises:
            ConfigError: This is not a run folder.
        """
        if not self.config.is_file():
            raise ConfigError(f"{self.path}: not a run folder (no config.yaml in it)")
        return load_fleet(self.config)


def check_run_name(name: str) -> None:
    """Make sure that a run folder may have this name.

    Raises:
        ConfigError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"run name {name!r}: use letters, digits, '.', '_' and '-', at most 100")


def create_run_folder(fleet: FleetConfig, runs: Path, name: str) -> RunFolder:
    """Make `runs/name` and write the config as run, with copies of the URDFs it names.

    Raises:
        ConfigError: The name is unusable or taken.
    """
    check_run_name(name)
    folder = RunFolder(runs / name)
    if folder.path.exists():
        raise ConfigError(
            f"{folder.path} exists already: choose another run name, or remove that folder first"
        )
    (folder.path / "urdf").mkdir(parents=True)
    robots = []
    copies: dict[Path, Path] = {}
    for entry in fleet.robots:
        source = entry.robot.urdf
        if not isinstance(source, Path):  # published by the robot's driver
            robots.append(entry)
            continue
        if source not in copies:
            copy = Path("urdf") / source.name
            if copy in copies.values():  # another kind of robot's file of the same name
                copy = copy.with_name(f"{entry.id}-{source.name}")
            copies[source] = copy
            shutil.copy(source, folder.path / copy)
        robot = entry.robot.model_copy(update={"urdf": copies[source]})
        robots.append(entry.model_copy(update={"robot": robot}))
    save_fleet(fleet.model_copy(update={"robots": robots}), folder.config)
    return folder
