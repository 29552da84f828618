"""Foreign episodes, found and named: ids, stamps and facts that their files do not have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fleet.messages import Transitions
from fleet.spaces import SpaceSpec
from replay_server.episode_file import EpisodeInfo
from replay_server.exchange.foreign import ActionScale, to_transitions
from replay_server.exchange.source import ForeignSource, Found
from replay_server.log_writer import new_info

DEFAULT_RATE_HZ = 20.0
"""Steps per second of a dataset that does not say; only the stamps of its rows depend on it."""


@dataclass(frozen=True)
class Foreign:
    """What a person may say about foreign datasets.

    Attributes:
        robot_id: Whose episodes they become.
        rate_hz: Steps per second, if they do not say so themselves.
        action_range: What becomes [-1, 1], for all dimensions, instead of what they declare.
        done_is_time_limit: Their ends are time limits: do bootstrap there.
        task: Its kind; by default what they call it.
    """

    robot_id: str = "imported"
    rate_hz: float | None = None
    action_range: tuple[float, float] | None = None
    done_is_time_limit: bool = False
    task: str = ""


NOTHING_SAID = Foreign()
"""What holds if a person says nothing."""


def foreign_episodes(source: ForeignSource, about: Foreign, spec: SpaceSpec) -> list[Found]:
    """All episodes of a foreign dataset, in its order."""
    boot_id = f"{source.format}-{_content_hash(source.path)}"
    received_ns = source.path.stat().st_mtime_ns
    scale = ActionScale.of(source.action, about.action_range)
    step_ns = round(1e9 / (about.rate_hz or source.rate_hz or DEFAULT_RATE_HZ))

    def read(number: int, key: str) -> tuple[EpisodeInfo, Transitions]:
        episode = source.read(key)
        rows = to_transitions(episode, spec.observation.size, scale, step_ns, about.done_is_time_limit)
        ended = "failure" if rows.terminated[-1] else "time_limit"
        info = new_info(
            about.robot_id,
            boot_id,
            number,
            received_ns=received_ns + number,
            end="success" if episode.success else ended,
            success=episode.success,
            metrics={"return": float(rows.reward.sum(dtype=np.float64))},
            task=about.task,
        )
        return info, rows

    return [
        Found(f"{source.path}: {key}", partial(read, number, key)) for number, key in enumerate(source.keys)
    ]


def _content_hash(path: Path) -> str:
    """Twelve hex digits that two different files do not share."""
    digest = hashlib.blake2b(digest_size=6)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
