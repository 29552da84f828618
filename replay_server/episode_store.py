"""The run folder of the replay server: episode files written by a background thread, and the run's spec.

RUN/replay_server.lock                        held while a server has the folder
RUN/spec.json                                 the spec every robot of the run must have
RUN/episodes/<robot_id>/<boot_id>-000042.h5   one per episode, see `episode_file`
RUN/episodes/catalog                          see `episode_catalog`
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fleet.spaces import SpaceError, SpaceSpec
from replay_server.episode_catalog import EpisodeCatalog, seal_episode
from replay_server.episode_file import (
    Episode,
    EpisodeFileError,
    EpisodeInfo,
    episode_path,
    read_episode,
    read_info,
    write_atomically,
    write_episode,
)

__all__ = [
    "Episode",
    "EpisodeFileError",
    "EpisodeInfo",
    "EpisodeStore",
    "EpisodeSummary",
    "StoreError",
    "list_episodes",
    "read_episode",
    "write_episode",
]

logger = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """The run folder cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class EpisodeSummary:
    """Where an episode lies and the facts about it, without its rows."""

    path: Path
    info: EpisodeInfo


def _log_unreadable(error: EpisodeFileError) -> None:
    logger.warning("skipped %s", error)


def episode_paths(run_dir: Path) -> list[Path]:
    """All episode files of a run, by robot, boot and episode."""
    found = []
    for folder in sorted((run_dir / "episodes").glob("*/")):
        with contextlib.suppress(OSError):  # a file, or not ours to look into
            names = sorted(os.listdir(folder))
            found += [folder / name for name in names if name.endswith(".h5") and name[0] != "."]
    return found


def list_episodes(
    run_dir: Path,
    on_error: Callable[[EpisodeFileError], None] = _log_unreadable,
    catalog: EpisodeCatalog | None = None,
) -> list[EpisodeSummary]:
    """Summaries of all readable episodes of a run, in order of arrival; others go to `on_error`.

    What a catalog knows is not read from the files.
    """

    def summaries() -> Iterator[EpisodeSummary]:
        for path in episode_paths(run_dir):
            try:
                info = catalog.info(path) if catalog else None
                yield EpisodeSummary(path, info or read_info(path))
            except EpisodeFileError as error:
                on_error(error)

    return sorted(summaries(), key=lambda summary: summary.info.first_cursor)


class EpisodeStore:
    """Writes episodes in order of submission, in a thread, and never drops one while it is open.

    When the disk fails it tries again every `retry_s`; meanwhile episodes wait in memory, and
    `accepting` turns false so that the server takes no more rows than it can keep.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        max_backlog: int = 1024,
        retry_s: float = 1.0,
        write: Callable[[Path, Episode], Path] = seal_episode,
        task: str = "",
    ) -> None:
        """Lock the folder, tidy it and start the thread.

        Raises:
            StoreError: Another replay server has the folder.
        """
        self.run_dir, self.task = run_dir, task
        self.episodes_written = 0
        self.write_errors = 0
        self._max_backlog = max_backlog
        self._retry_s = retry_s
        self._write = write
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lock_fd: int | None = lock_run(run_dir)
        for leftover in (run_dir / "episodes").glob("*/.*.tmp"):
            leftover.unlink()
        self.catalog = EpisodeCatalog(run_dir)
        self._written: queue.SimpleQueue[EpisodeInfo] = queue.SimpleQueue()
        self._waiting: dict[Path, Episode] = {}
        self._waiting_lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Path, Episode] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._unwritten: list[Path] = []
        self._thread = threading.Thread(target=self._run, name="episode-writer", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Number of episodes that wait to be written."""
        return self._queue.qsize()

    @property
    def accepting(self) -> bool:
        """Whether the backlog is small enough to take more rows."""
        return self.backlog < self._max_backlog

    def take_written(self) -> list[EpisodeInfo]:
        """What was written since the last call, in order."""
        written = []
        with contextlib.suppress(queue.Empty):
            while True:
                written.append(self._written.get_nowait())
        return written

    def submit(self, episode: Episode) -> None:
        """Hand over an episode; returns at once."""
        info = episode.info
        path = episode_path(self.run_dir, info.robot_id, info.boot_id, info.episode)
        with self._waiting_lock:
            self._waiting[path] = episode
        self._queue.put((path, episode))

    def load_unfinished(self, robot_id: str, boot_id: str, episode: int) -> Episode | None:
        """What was sealed of an episode before its end, if anything."""
        path = episode_path(self.run_dir, robot_id, boot_id, episode)
        with self._waiting_lock:
            found = self._waiting.get(path)
        if found is None:
            try:
                found = read_episode(path) if path.exists() else None
            except EpisodeFileError as error:
                _log_unreadable(error)
        return found if found is not None and not found.info.complete else None

    def save_spec(self, spec: SpaceSpec) -> None:
        """Pin the run's spec."""
        text = json.dumps(spec.to_json(), indent=1)
        write_atomically(self.run_dir / "spec.json", lambda temporary: temporary.write_text(text))

    def load_spec(self) -> SpaceSpec | None:
        """The run's spec, if a robot has said hello before.

        Raises:
            StoreError: spec.json is damaged.
        """
        path = self.run_dir / "spec.json"
        try:
            return SpaceSpec.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, SpaceError) as error:
            raise StoreError(f"{path} is damaged ({error}): restore it, or start a new run folder") from error

    def close(self) -> list[Path]:
        """Write all that waits, release the folder and return what could not be written."""
        if self._lock_fd is not None:
            self._closing.set()
            self._queue.put(None)
            self._thread.join()
            os.close(self._lock_fd)
            self._lock_fd = None
        return self._unwritten

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            path, episode = entry
            while not self._try_write(episode):
                if self._closing.wait(self._retry_s):
                    # One more try after the end was announced, then the loss is named.
                    if not self._try_write(episode):
                        self._unwritten.append(path)
                        logger.error("LOST: %s with %d rows could not be written", path, episode.info.rows)
                    break
            with self._waiting_lock:
                if self._waiting.get(path) is episode:
                    del self._waiting[path]

    def _try_write(self, episode: Episode) -> bool:
        try:
            self._write(self.run_dir, episode)
        except (OSError, RuntimeError) as error:
            self.write_errors += 1
            if self.write_errors & (self.write_errors - 1) == 0:
                logger.error("episode not written, will try again (error %d): %s", self.write_errors, error)
            return False
        self.episodes_written += 1
        self._written.put(episode.info)
        return True


def lock_run(run_dir: Path) -> int:
    """Keep other replay servers out of a run folder until the returned file descriptor is closed.

    Raises:
        StoreError: One is there.
    """
    fd = os.open(run_dir / "replay_server.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StoreError(
            f"{run_dir} is in use by another replay server: stop it, or use another run"
        ) from error
    return fd
