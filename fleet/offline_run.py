"""One training from logs, from the rows to the report: what `pnaf offline train` does.

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.run_folder import RunFolder, create_run_folder

if TYPE_CHECKING:
    from learner.offline_training import OfflineProgress
    from learner.row_store import RowStore
    from replay_server.logs import Logs

REPORT_FILE = "offline.json"
Method = Literal["careful", "plain", "clone"]
METHODS: dict[Method, list[str]] = {
    "careful": ["learner.behaviour_weight=0.2"],
    "plain": ["learner.behaviour_weight=0"],
    "clone": ["learner.behaviour_weight=1", "learner.behaviour_temperature=0"],
}
"""What each sets; keys that are given win."""


@dataclass(frozen=True)
class OfflineReport:
    """`offline.json`, in the folder from the first moment: it marks a training from logs.

    Attributes:
        logs: The folders and files, as given.
        where: Conditions on episodes.
        fingerprint: Of the episodes.
        method: How μ was kept near the data.
        episodes: Episodes learned from.
        rows: Their transitions.
        damaged: Files that could not be read.
        updates: Updates done.
        train_s: Time spent in them (s).
        metrics: The trainer's last.
    """

    logs: list[str]
    where: list[str]
    fingerprint: str
    method: str
    episodes: int = 0
    rows: int = 0
    damaged: list[str] = field(default_factory=list)
    updates: int = 0
    train_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, run: RunFolder) -> OfflineReport | None:
        """The report in a run folder; none if it is no training from logs."""
        try:
            return cls(**json.loads((run.path / REPORT_FILE).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{run.path / REPORT_FILE}: is damaged: {error}") from error

    def write(self, run: RunFolder) -> None:
        """Write it into a run folder."""
        from replay_server.episode_file import write_atomically

        text = json.dumps(asdict(self), indent=2) + "\n"
        write_atomically(run.path / REPORT_FILE, lambda temporary: temporary.write_text(text))


def offline_config(logs: Logs, fleet: Path | None, method: Method, overrides: Sequence[str]) -> FleetConfig:
    """The config to train with: the logs' own or another fleet's, changed by method and overrides.

    Raises:
        ConfigError: There is none, or it is wrong.
    """
    file = fleet or logs.config_file()
    try:
        return load_fleet(file, [*METHODS[method], *overrides])
    except ConfigError:
        if method != "plain" and load_fleet(file, overrides).learner.algorithm == "ddpg":
            raise ConfigError(
                f"--method {method} keeps NAF's μ near the data, which algorithm ddpg has not: give "
                "--method plain, or --set learner.algorithm=naf"
            ) from None
        raise


class OfflineRun:
    """A training in its run folder.

        run = OfflineRun(config, Path("runs") / name, report)
        run.load_rows(logs, on_progress)
        finished = run.train(100_000, stop, on_progress)

    Attributes:
        folder: The run's folder.
        report: What is known by now.
    """

    def __init__(self, config: FleetConfig, path: Path, report: OfflineReport) -> None:
        """Make the folder, or take up that of an earlier training from the same logs.

        Raises:
            ConfigError: The folder is of something else, or of a training with other logs or settings.
        """
        self.folder, self.report = RunFolder(path), report
        self._store: RowStore | None = None
        if not path.exists():
            create_run_folder(config, path.parent, path.name)
            report.write(self.folder)
            self._config = self.folder.load()
            return
        before = OfflineReport.read(self.folder)
        if before is None:
            raise ConfigError(f"{path} exists and is no training from logs: choose another --run")
        self._config = self.folder.load()
        old, new = (c.learner.model_dump(mode="json") for c in (self._config, config))
        changed = [f"learner.{key} = {old[key]} there, {new[key]} now" for key in new if new[key] != old[key]]
        if self._config.seed != config.seed:
            changed.append(f"seed = {self._config.seed} there, {config.seed} now")
        if before.fingerprint != report.fingerprint:
            changed.append("it was trained from other episodes")
        if changed:
            raise ConfigError(
                f"{path} is of another training: {'; '.join(changed)}. To go on there give the same logs, "
                "conditions and settings; or choose another --run"
            )
        self.report = before

    def load_rows(self, logs: Logs, on_progress: Callable[[int, int], None]) -> None:
        """Write the rows of the logs into the run's folder, unless they are there.

        Raises:
            LogsError: No episode can be read.
        """
        from learner.row_store import RowStore

        folder = self.folder.path / "rows"
        store = RowStore.open(folder) if folder.is_dir() else RowStore.build(folder, logs, on_progress)
        self._store = store
        self.report = replace(
            self.report,
            episodes=store.file.episodes,
            rows=store.file.rows,
            damaged=[str(path) for path in logs.damaged] or self.report.damaged,
        )

    def train(
        self, steps: int, stop: threading.Event, on_progress: Callable[[OfflineProgress], None]
    ) -> bool:
        """Train until `steps` updates are done in all, then save; False if `stop` came before.

        Raises:
            ConfigError: They are done already.
            DivergedError: The network left the finite numbers; older checkpoints stay.
            CheckpointError: The disk refuses.
        """
        from learner.offline_training import OfflineTraining

        assert self._store is not None, "load_rows first"
        training = OfflineTraining(self._config, self.folder, self._store)
        if training.updates >= steps:
            raise ConfigError(
                f"{self.folder.path} has {training.updates:,} updates already: ask for more with --steps"
            )
        started, spent_s = time.monotonic(), self.report.train_s

        def note(progress: OfflineProgress) -> None:
            self.report = replace(self.report, metrics=progress.metrics)
            on_progress(progress)

        try:
            finished = training.train(steps, stop, note)
            training.save()
        finally:
            training.close()
            took_s = round(spent_s + time.monotonic() - started, 1)
            self.report = replace(self.report, updates=training.updates, train_s=took_s)
            if self.folder.path.is_dir():  # or else somebody has removed it: it is not to come back
                self.report.write(self.folder)
        return finished
