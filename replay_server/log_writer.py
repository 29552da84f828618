"""A new run folder out of episodes that exist already: what merging, cutting, relabelling and importing make.

It is like any other: rows of each boot are numbered without a hole, cursors follow each other, `config.yaml`
and the URDFs come along. So `pnaf logs verify` finds it whole, and a replay server may serve it.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fleet.config import FleetConfig
from fleet.durable_files import fsync_path
from fleet.messages import Transitions
from fleet.run_folder import RunFolder, check_run_name, create_run_folder
from fleet.spaces import SpaceSpec
from replay_server.episode_catalog import seal_episode
from replay_server.episode_file import Episode, EpisodeInfo
from replay_server.logs import LogsError

MADE_FILE = "made.json"
"""How a folder came about, for people."""


def new_info(
    robot_id: str,
    boot_id: str,
    episode: int,
    *,
    received_ns: int,
    end: str,
    success: bool,
    metrics: dict[str, float],
    task: str,
    origin: str = "",
) -> EpisodeInfo:
    """Facts of a whole episode that no policy of ours made; `LogWriter.add` sets all others."""
    return EpisodeInfo(
        run_id="",
        robot_id=robot_id,
        boot_id=boot_id,
        episode=episode,
        rows=0,
        first_seq=0,
        last_seq=0,
        first_cursor=0,
        last_cursor=0,
        received_ns=received_ns,
        spec_hash="",
        policy_version=-1,
        evaluation=False,
        end=end,
        success=success,
        metrics=metrics,
        complete=True,
        task=task,
        origin=origin,
    )


class LogWriter:
    """Writes one folder, episode by episode; under its name it is whole and durable, or not there.

    Until it is closed it lies in a hidden folder, .NAME.RANDOM.tmp; if anything fails, nothing is left of it.

        with LogWriter(out, spec, "merged from runs/a, runs/b", config) as writer:
            for summary, transitions in logs.read():
                writer.add(summary.info, transitions)

    Attributes:
        folder: The folder, as it is called in the end.
        episodes: Episodes written.
        rows: Their transitions.
    """

    def __init__(
        self,
        out: Path,
        spec: SpaceSpec,
        made: str,
        config: FleetConfig | None = None,
        *,
        as_lived: bool = False,
    ) -> None:
        """Make the folder.

        Args:
            out: It must not exist.
            spec: Of all episodes to come.
            made: How they came about; each episode's `origin` unless it has one.
            config: The fleet's, to be kept beside them.
            as_lived: Episodes are as their robots lived them: they stay of their run, and without `origin`.

        Raises:
            LogsError: `out` exists already.
            ConfigError: Its name is none for a run folder.
        """
        if out.exists():
            raise LogsError(f"{out} exists already: name another folder, or remove that first")
        check_run_name(out.name)
        self.spec, self._made = spec, made
        self._as_lived = as_lived
        self.folder = RunFolder(out)
        # Of its own: two processes may write a folder of one name, and the first to end has it.
        self._hidden = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
        self._partial = self._hidden / out.name
        try:
            self._make_folder(config)
        except BaseException:
            shutil.rmtree(self._hidden, ignore_errors=True)
            raise
        self.episodes = self.rows = 0
        self._next_seq: dict[tuple[str, str], int] = {}
        self._last_episode: dict[tuple[str, str], int] = {}

    def _make_folder(self, config: FleetConfig | None) -> None:
        if config is not None:
            create_run_folder(config, self._partial.parent, self._partial.name)
        (self._partial / "episodes").mkdir(parents=True)
        (self._partial / "spec.json").write_text(json.dumps(self.spec.to_json(), indent=1))
        self._run_id = RunFolder(self._partial).run_id()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self._hidden, ignore_errors=True)
            return
        facts: dict[str, Any] = {
            "made": self._made,
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "episodes": self.episodes,
            "rows": self.rows,
        }
        try:
            (self._partial / MADE_FILE).write_text(json.dumps(facts, indent=2) + "\n")
            os.sync()  # once, not for each of maybe a hundred thousand files
            if self.folder.path.exists():
                raise LogsError(f"{self.folder.path} exists already: somebody else has made it meanwhile")
            self._partial.rename(self.folder.path)
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)
        fsync_path(self.folder.path.parent)

    def add(self, info: EpisodeInfo, transitions: Transitions) -> None:
        """Write one episode; of each boot, episodes must come in their order.

        `info` says whose it is and how it ended; counts, numbers and cursors are set here.

        Raises:
            LogsError: This episode or a later one of its boot was added already.
            OSError: The disk is full, or not writable.
        """
        stream = info.robot_id, info.boot_id
        if info.episode <= self._last_episode.get(stream, -1):
            raise LogsError(
                f"episode {info.episode} of {info.robot_id} boot {info.boot_id} comes after episode "
                f"{self._last_episode[stream]}: each must be there once, in order"
            )
        rows, first_seq = transitions.rows, self._next_seq.get(stream, 0)
        seq = np.arange(first_seq, first_seq + rows, dtype=np.int64)
        cursor = np.arange(self.rows, self.rows + rows, dtype=np.int64)
        info = replace(
            info,
            run_id=info.run_id if self._as_lived else self._run_id,
            rows=rows,
            first_seq=first_seq,
            last_seq=first_seq + rows - 1,
            first_cursor=self.rows,
            last_cursor=self.rows + rows - 1,
            spec_hash=self.spec.hash,
            policy_version=int(transitions.policy_version.min()),
            origin=info.origin or ("" if self._as_lived else self._made),
        )
        seal_episode(
            self._partial,
            Episode(info=info, spec=self.spec, transitions=transitions, seq=seq, cursor=cursor),
            durable=False,
        )
        self._next_seq[stream], self._last_episode[stream] = first_seq + rows, info.episode
        self.episodes, self.rows = self.episodes + 1, self.rows + rows
