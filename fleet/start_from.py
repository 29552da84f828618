"""A run that begins with what another has learned: from logs, in simulation, or with other robots.

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from fleet.config import ConfigError, FleetConfig
from fleet.run_folder import RunFolder

logger = logging.getLogger(__name__)


def find_start(fleet: FleetConfig, run: Path) -> Path:
    """The newest whole checkpoint of a run, if a fleet can begin with it.

    Raises:
        ConfigError: There is none, or it is of other spaces or another network than this fleet's.
    """
    from learner.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
    from learner.trainer import Trainer
    from robot_nodes.tasks.task import make_task

    spec = make_task(fleet, fleet.robots[0].id).spec
    trainer = Trainer(fleet.learner.model_copy(update={"engine": "eager", "device": "cpu"}), spec)
    for path in reversed(list_checkpoints(RunFolder(run).checkpoints)):
        try:
            load_checkpoint(path, trainer, run_id=None)
        except CheckpointError as error:
            logger.warning("%s; looking for an older one", error)
        else:
            return path
    raise ConfigError(f"--from {run}: there is no checkpoint in {RunFolder(run).checkpoints}")


def keep_start(folder: RunFolder, checkpoint: Path) -> None:
    """Copy a checkpoint to where the learner of a new run looks for it.

    Raises:
        ConfigError: The run has begun already.
    """
    if folder.start.exists() or (folder.checkpoints.is_dir() and any(folder.checkpoints.iterdir())):
        raise ConfigError(
            f"--from: the run in {folder.path} has begun already: leave --from out to go on with it, or "
            "choose another run folder"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    temporary = folder.start.with_name(".start.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoint, temporary)
    temporary.rename(folder.start)
