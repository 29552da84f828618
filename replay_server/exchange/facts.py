"""How our own knowledge travels in other projects' files, so that an import gives back what was exported.

The dataset says once that we wrote it and which spec it follows; each episode carries its `EpisodeInfo` and a
checksum of its columns. Other programs leave these texts alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from fleet.messages import COLUMNS, Transitions
from fleet.spaces import SpaceSpec
from replay_server.episode_file import EpisodeInfo, is_safe_id
from replay_server.exchange.source import EpisodeError
from replay_server.logs import LogsError

KEY = "parallel_naf"
"""Under which name they lie in a file."""

_FORMAT = 1


def dataset_facts(spec: SpaceSpec, **more: Any) -> dict[str, Any]:
    """What is said once for a dataset, as JSON's kinds of values."""
    return {"format": _FORMAT, "spec": spec.to_json(), **more}


def read_dataset_facts(text: object, where: str) -> tuple[SpaceSpec, Mapping[str, Any]]:
    """The spec, and all that `dataset_facts` was given, out of its JSON.

    Raises:
        LogsError: It is malformed, or a newer version wrote it.
    """
    try:
        facts = json.loads(text) if isinstance(text, str | bytes) else text
        if not isinstance(facts, dict):
            raise ValueError("no JSON object")
        if facts.get("format") != _FORMAT:
            raise ValueError(
                f"format {facts.get('format')!r}, of a newer parallel-naf: this one reads {_FORMAT}"
            )
        return SpaceSpec.from_json(facts["spec"]), facts
    except (KeyError, ValueError) as error:
        raise LogsError(f"{where}: what parallel-naf wrote there ({KEY}) is damaged: {error}") from error


@dataclass(frozen=True)
class EpisodeFacts:
    """What is said of each episode, or of each piece of one.

    Attributes:
        info: Facts of the whole episode.
        crc32: Of the columns of these rows, in the order of `COLUMNS`.
        piece: Which part of the episode this is, from 0, if its rows do not follow each other.
        cut: The last row is truncated here only; in the logs it is not.
    """

    info: EpisodeInfo
    crc32: int
    piece: int = 0
    cut: bool = False

    @classmethod
    def of(
        cls, info: EpisodeInfo, transitions: Transitions, piece: int = 0, cut: bool = False
    ) -> EpisodeFacts:
        """Those of these rows."""
        return cls(info, columns_crc32(transitions), piece, cut)

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(vars(self) | {"info": vars(self.info)})  # asdict copies deeply, and slowly

    @classmethod
    def from_text(cls, text: object) -> EpisodeFacts:
        """Parse and check what `to_text` made.

        Raises:
            EpisodeError: It is malformed.
        """
        try:
            facts = _FACTS.validate_json(str(text), strict=True)
        except ValidationError as error:
            [first, *_] = error.errors()
            place = ".".join([KEY, *map(str, first["loc"])])
            raise EpisodeError(f"its attribute {place}: {first['msg']}") from error
        info = facts.info
        for name in (info.robot_id, info.boot_id):
            if not is_safe_id(name) or info.episode < 0:
                raise EpisodeError(f"{KEY}: no name for an episode: {name[:80]!r}, {info.episode}")
        if not all(abs(value) < 2**63 for value in vars(info).values() if isinstance(value, int)):
            raise EpisodeError(f"{KEY}: a number of it is too large")
        return facts

    def check(self, transitions: Transitions) -> None:
        """Whether these are the rows that were exported.

        Raises:
            EpisodeError: They are not.
        """
        if columns_crc32(transitions) != self.crc32:
            raise EpisodeError(
                "its rows do not have the checksum that was exported: damaged, or changed by another program "
                f"(on purpose? without its {KEY!r} the dataset is imported as a foreign one)"
            )


def columns_crc32(transitions: Transitions) -> int:
    """CRC-32 over the bytes of all columns, in their order."""
    value = 0
    for name in COLUMNS:
        array = np.ascontiguousarray(getattr(transitions, name))
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return value


_FACTS = TypeAdapter(EpisodeFacts)
