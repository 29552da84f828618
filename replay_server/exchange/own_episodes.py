"""Episodes that we exported ourselves, found and checked: they come back bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import numpy as np

from fleet.messages import COLUMNS, Transitions
from replay_server.columns import shape_error
from replay_server.episode_file import EpisodeInfo
from replay_server.exchange.facts import EpisodeFacts
from replay_server.exchange.source import EpisodeError, Found, OwnSource


def own_episodes(sources: Sequence[OwnSource]) -> list[Found]:
    """Episodes put together from their pieces, in order of arrival, and those of a boot in their order."""
    found: list[Found] = []
    episodes: dict[tuple[str, str, int], list[_Piece]] = {}
    for source in sources:
        for key in source.keys:
            try:
                piece = _Piece(source, key, source.facts(key))
                info = piece.facts.info
                pieces = episodes.setdefault((info.robot_id, info.boot_id, info.episode), [])
                if piece.facts.piece < len(pieces):
                    raise EpisodeError(
                        f"episode {info.episode} of {info.robot_id} boot {info.boot_id} is there already"
                    )
                pieces.append(piece)
            except EpisodeError as error:
                found.append(Found(f"{source.path}: {key}", partial(_refuse, error)))
    ordered: list[tuple[int, Found]] = []
    latest: dict[tuple[str, str], int] = {}
    for (robot, boot, _), pieces in sorted(episodes.items()):
        arrived = max(latest.get((robot, boot), 0), pieces[0].facts.info.received_ns)
        latest[robot, boot] = arrived
        where = f"{pieces[0].source.path}: {'+'.join(piece.key for piece in pieces)}"
        ordered.append((arrived, Found(where, partial(_join, pieces))))
    ordered.sort(key=itemgetter(0))
    return found + [episode for _, episode in ordered]


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of an episode, and where they lie."""

    source: OwnSource
    key: str
    facts: EpisodeFacts


def _refuse(error: EpisodeError) -> tuple[EpisodeInfo, Transitions]:
    raise error


def _join(pieces: Sequence[_Piece]) -> tuple[EpisodeInfo, Transitions]:
    read = []
    for piece in pieces:
        spec, transitions = piece.source.spec, piece.source.read(piece.key)
        if error := shape_error(transitions, spec.observation.size, spec.action.size):
            raise EpisodeError(error)
        piece.facts.check(transitions)
        read.append(transitions)
    info, rows = pieces[0].facts.info, sum(transitions.rows for transitions in read)
    if [piece.facts.piece for piece in pieces] != list(range(len(pieces))) or rows != info.rows:
        raise EpisodeError(f"it has {rows} rows of {info.rows}: a piece is missing")
    columns = {name: np.concatenate([getattr(part, name) for part in read]) for name in COLUMNS}
    return info, Transitions(**columns)
