"""Logs: the episodes of run folders, of folders full of those, and single files, in order of arrival.

    logs = open_logs([Path("runs/a"), Path("runs/b")], Selection.parse(["success=yes"]))
    for episode in logs.episodes:               # facts, from the catalogs: a hundred thousand in seconds
        transitions = logs.transitions(episode) # rows, read when asked for

A truncated or foreign file is noted in `damaged` and keeps nobody from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import Transitions
from fleet.run_folder import RunFolder
from fleet.spaces import SpaceSpec
from replay_server.episode_catalog import EpisodeCatalog, EpisodeRows
from replay_server.episode_file import Episode, EpisodeFileError, EpisodeInfo, read_episode, read_spec
from replay_server.episode_store import EpisodeSummary, episode_paths
from replay_server.selection import ALL, Selection

_OF_RUNS = ("episodes", "journal", "config.yaml", "run_id")
"""A folder with one of these is a run folder; a new one has no episodes yet."""

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""


class LogsError(ValueError):
    """Logs cannot be used as asked; the text says which and what to do."""


@dataclass
class Logs:
    """The chosen episodes.

    Attributes:
        folders: The run folders that were looked into, as given.
        episodes: Facts of each episode, in order of arrival.
        damaged: File to what is wrong with it.
    """

    folders: list[Path] = field(default_factory=list)
    episodes: list[EpisodeSummary] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)
    _catalogs: dict[Path, EpisodeCatalog] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Transitions of all episodes."""
        return sum(episode.info.rows for episode in self.episodes)

    @property
    def copies(self) -> int:
        """How many episodes bear the name of another: copies, or the same one told for another task."""
        names = {(e.info.robot_id, e.info.boot_id, e.info.episode) for e in self.episodes}
        return len(self.episodes) - len(names)

    @cached_property
    def spec(self) -> SpaceSpec:
        """The one spec that all episodes follow.

        Raises:
            LogsError: There is no episode that can be read, or there are several specs.
        """
        if not self.episodes:
            raise LogsError("no episodes are there, or none meets the conditions")
        first, spec = self._first_spec()
        for other in self.episodes:
            if other.info.spec_hash == first.info.spec_hash:
                continue
            try:
                difference = spec.difference(read_spec(other.path))
            except EpisodeFileError as error:
                self.damaged[other.path] = _reason(error, other.path)
                continue
            raise LogsError(
                f"{first.path} and {other.path} have different spaces: {difference} (here: the first); "
                "choose episodes of one task on one kind of robot with --where"
            )
        return spec

    def _first_spec(self) -> tuple[EpisodeSummary, SpaceSpec]:
        for summary in self.episodes:
            try:
                return summary, read_spec(summary.path)
            except EpisodeFileError as error:
                self.damaged[summary.path] = _reason(error, summary.path)
        raise LogsError("no episode of these logs can be read")

    def episode(self, summary: EpisodeSummary) -> Episode:
        """One episode, checked whole.

        Raises:
            EpisodeFileError: Its file is damaged.
        """
        episode = read_episode(summary.path)
        _check_rows(summary, episode.transitions)
        return replace(episode, info=summary.info)

    def transitions(self, summary: EpisodeSummary) -> Transitions:
        """The rows of one episode of `spec`, checked; several times as fast as `episode`.

        Raises:
            EpisodeFileError: Its file is damaged.
        """
        return self._rows(summary).transitions

    def read(
        self, on_progress: Progress = lambda done, total: None
    ) -> Iterator[tuple[EpisodeSummary, Transitions]]:
        """All episodes with their rows, one at a time; a damaged one is noted and left out."""
        for summary, rows in self.read_rows(self.episodes, on_progress):
            yield summary, rows.transitions

    def read_by_cursor(
        self, on_progress: Progress = lambda done, total: None
    ) -> Iterator[tuple[EpisodeSummary, EpisodeRows]]:
        """As `read`, with cursors: one run after the other, each one's episodes by their first cursor."""
        ordered = sorted(
            self.episodes, key=lambda s: (s.info.run_id, s.path.parent.parent, s.info.first_cursor)
        )
        return self.read_rows(ordered, on_progress)

    def read_rows(
        self, episodes: Sequence[EpisodeSummary], on_progress: Progress = lambda done, total: None
    ) -> Iterator[tuple[EpisodeSummary, EpisodeRows]]:
        """These episodes with their rows and cursors, one at a time; a damaged one is noted and left out."""
        for done, summary in enumerate(episodes, start=1):
            try:
                rows = self._rows(summary)
            except EpisodeFileError as error:
                self.damaged[summary.path] = _reason(error, summary.path)
            else:
                yield summary, rows
            on_progress(done, len(episodes))

    def _rows(self, summary: EpisodeSummary) -> EpisodeRows:
        folder = run_folder_of(summary.path)
        if folder is None or folder not in self._catalogs:
            episode = read_episode(summary.path)
            rows = EpisodeRows(episode.transitions, episode.cursor)
        else:
            nx, nu = self.spec.observation.size, self.spec.action.size
            rows = self._catalogs[folder].read(summary.path, nx, nu)
        _check_rows(summary, rows.transitions)
        return rows

    def config(self) -> FleetConfig:
        """The fleet's config of the first folder that has one, those of the chosen episodes before others.

        Raises:
            ConfigError: None has one.
        """
        return load_fleet(self.config_file())

    def config_file(self) -> Path:
        """Where that is.

        Raises:
            ConfigError: None has one.
        """
        used = {run_folder_of(episode.path) for episode in self.episodes}
        for folder in sorted(self.folders, key=lambda folder: folder not in used):
            if (file := RunFolder(folder).config).is_file():
                return file
        names = ", ".join(map(str, self.folders)) or "these logs"
        raise ConfigError(f"{names}: no config.yaml there says which robots and task it was: give --fleet")


def run_folder_of(file: Path) -> Path | None:
    """The run folder in whose episodes/ROBOT/ a file lies, if it lies in one."""
    parents = file.parents
    return parents[2] if len(parents) > 2 and parents[1].name == "episodes" else None


def open_logs(
    paths: Sequence[Path],
    selection: Selection = ALL,
    on_progress: Progress = lambda done, total: None,
) -> Logs:
    """Find the episodes that meet the conditions.

    Args:
        paths: Run folders, folders of run folders, or single episode files.
        selection: Which episodes to take.
        on_progress: While files are read that no catalog knows.

    Raises:
        LogsError: A path is none of these.
    """
    logs = Logs()
    files: dict[Path, list[Path]] = {}
    loose: dict[Path, Path] = {}
    as_given: dict[Path, Path] = {}  # one folder may have several names: relative ones, links such as latest
    for path in paths:
        if path.is_file():
            file = path if run_folder_of(path) else path.resolve()
            if (folder := run_folder_of(file)) is None:
                loose.setdefault(file, path)
            else:
                folder = as_given.setdefault(folder.resolve(), folder)
                files.setdefault(folder, []).append(folder / "episodes" / file.parent.name / file.name)
            continue
        for folder in run_folders(path):
            folder = as_given.setdefault(folder.resolve(), folder)
            files.setdefault(folder, []).extend(episode_paths(folder))
    for path in loose.values():
        _add(logs, path, None, "", selection)
    for folder, found in files.items():
        catalog = EpisodeCatalog(folder)
        logs.folders.append(folder)
        logs._catalogs[folder] = catalog
        found = list(dict.fromkeys(found))
        infos = catalog.learn(found, lambda error: None, on_progress)
        task = _task_of(folder)
        for path, info in zip(found, infos, strict=True):
            _add(logs, path, info, task, selection)
    logs.episodes.sort(key=lambda summary: (summary.info.received_ns, summary.info.first_cursor))
    return logs


def run_folders(path: Path) -> list[Path]:
    """The run folder that a path is, or those in it.

    Raises:
        LogsError: It is not there, or none is in it.
    """
    if not path.is_dir():
        raise LogsError(f"{path}: no such file or folder")
    if any((path / name).exists() for name in _OF_RUNS):
        return [path]
    found = sorted(child.parent for child in path.glob("*/episodes") if child.is_dir())
    if not found:
        raise LogsError(
            f"{path}: neither a run folder (it has no episodes/), nor a folder of such, nor an episode file"
        )
    return found


def _add(logs: Logs, path: Path, info: EpisodeInfo | None, task: str, selection: Selection) -> None:
    try:
        info = info or read_episode(path).info
    except EpisodeFileError as error:
        logs.damaged[path] = _reason(error, path)
        return
    if not info.task and task:
        info = replace(info, task=task)
    if selection.takes(info):
        logs.episodes.append(EpisodeSummary(path, info))


def _task_of(folder: Path) -> str:
    """Kind of the task in the folder's config, for files from before they said so; empty if unknown."""
    try:
        return RunFolder(folder).load().task.kind
    except ConfigError:
        return ""


def _check_rows(summary: EpisodeSummary, transitions: Transitions) -> None:
    """Whether these are the rows that the facts speak of.

    Raises:
        EpisodeFileError: The file was replaced since the logs were opened.
    """
    if transitions.rows != summary.info.rows:
        raise EpisodeFileError(
            f"{summary.path}: it had {summary.info.rows} rows when these logs were opened and has "
            f"{transitions.rows} now: a replay server has written it anew; the same command reads it whole"
        )


def _reason(error: EpisodeFileError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
