"""What an export has written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from replay_server.logs import Logs, LogsError


@dataclass(frozen=True)
class Exported:
    """What is there now.

    Attributes:
        path: The file or folder.
        episodes: Episodes in it.
        rows: Their transitions.
        hint: How the other project reads it, for people.
    """

    path: Path
    episodes: int
    rows: int
    hint: str


def task_name(logs: Logs) -> str:
    """The task of all episodes; "parallel_naf" if they have several or none."""
    tasks = {summary.info.task for summary in logs.episodes}
    return (tasks.pop() if len(tasks) == 1 else "") or "parallel_naf"


def check_some(episodes: int, logs: Logs) -> None:
    """Whether anything could be written.

    Raises:
        LogsError: Every episode is damaged.
    """
    if not episodes:
        path, reason = next(iter(logs.damaged.items()))
        raise LogsError(f"every episode is damaged; the first: {path}: {reason}")
