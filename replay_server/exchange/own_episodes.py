"""Episodes that we exported ourselves, found and checked: they come back bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter

import numpy as np

from fleet.messages import COLUMNS, Transitions
from replay_server.columns import shape_error
from replay_server.episode_file import EpisodeInfo
from replay_server.exchange.facts import EpisodeFacts
from replay_server.exchange.source import EpisodeError, Found, OwnSource


def own_episodes(source: OwnSource) -> list[Found]:
    """Episodes put together from their pieces, in order of arrival, and those of a boot in their order."""
    found: list[Found] = []
    pieces: dict[tuple[str, str, int], list[tuple[str, EpisodeFacts]]] = {}
    for key in source.keys:
        try:
            facts = source.facts(key)
        except EpisodeError as error:
            found.append(Found(f"{source.path}: {key}", partial(_refuse, str(error))))
            continue
        parts = pieces.setdefault((facts.info.robot_id, facts.info.boot_id, facts.info.episode), [])
        if facts.piece < len(parts):
            stream = f"{facts.info.robot_id} boot {facts.info.boot_id}"
            why = f"episode {facts.info.episode} of {stream} is there already"
            found.append(Found(f"{source.path}: {key}", partial(_refuse, why)))
            continue
        parts.append((key, facts))
    ordered: list[tuple[int, Found]] = []
    latest: dict[tuple[str, str], int] = {}
    for (robot, boot, _), parts in sorted(pieces.items()):
        arrived = max(latest.get((robot, boot), 0), parts[0][1].info.received_ns)
        latest[robot, boot] = arrived
        keys = "+".join(key for key, _ in parts)
        ordered.append((arrived, Found(f"{source.path}: {keys}", partial(_read_own, source, parts))))
    ordered.sort(key=itemgetter(0))
    return found + [item for _, item in ordered]


def _refuse(why: str) -> tuple[EpisodeInfo, Transitions]:
    raise EpisodeError(why)


def _read_own(
    source: OwnSource, parts: Sequence[tuple[str, EpisodeFacts]]
) -> tuple[EpisodeInfo, Transitions]:
    read = []
    for number, (key, facts) in enumerate(parts):
        if facts.piece != number:
            raise EpisodeError(f"its piece {number} is missing")
        transitions = source.read(key)
        if error := shape_error(transitions, source.spec.observation.size, source.spec.action.size):
            raise EpisodeError(error)
        facts.check(transitions)
        read.append(transitions)
    info = parts[0][1].info
    if (rows := sum(transitions.rows for transitions in read)) != info.rows:
        raise EpisodeError(f"it has {rows} rows of {info.rows}: a piece is missing")
    columns = {name: np.concatenate([getattr(part, name) for part in read]) for name in COLUMNS}
    return info, Transitions(**columns)
