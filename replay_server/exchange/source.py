"""What can be imported: a dataset that we exported, or a foreign one. Each format opens as one of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fleet.messages import Array, Transitions
from fleet.spaces import MAX_DIMENSIONS, SpaceSpec
from replay_server.logs import LogsError

if TYPE_CHECKING:
    from replay_server.episode_file import EpisodeInfo
    from replay_server.exchange.facts import EpisodeFacts


class EpisodeError(ValueError):
    """One episode of a dataset cannot be read or imported; the others can."""


@dataclass(frozen=True)
class Box:
    """Numbers as a foreign dataset declares them.

    Attributes:
        names: One per dimension [n].
        low: Lower bounds [n]; −inf where it declares none.
        high: Upper bounds [n]; inf where it declares none.
    """

    names: tuple[str, ...]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @classmethod
    def unbounded(cls, names: Sequence[str]) -> Box:
        """Names alone."""
        return cls(tuple(names), np.full(len(names), -np.inf), np.full(len(names), np.inf))

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return len(self.names)


def numbered(name: str, size: int) -> list[str]:
    """Names of the dimensions of what has one name: `name/0`, `name/1` and so on.

    Raises:
        LogsError: There are more than a space may have.
    """
    if size > MAX_DIMENSIONS:
        raise LogsError(f"{name} has {size} numbers a step, at most {MAX_DIMENSIONS} can be imported")
    return [f"{name}/{i}" for i in range(size)]


@dataclass(frozen=True, eq=False)
class ForeignEpisode:
    """The rows of a foreign episode as they stand: columns as in `Transitions`, in its own dtypes."""

    observation: Array
    action: Array
    reward: Array
    next_observation: Array
    terminated: Array
    truncated: Array
    success: bool


@dataclass
class OwnSource:
    """A dataset that `pnaf logs export` wrote.

    Attributes:
        path: Its HDF5 file.
        spec: Of all episodes.
        keys: Names of the episodes, or of their pieces, in the file.
    """

    path: Path
    spec: SpaceSpec
    keys: list[str]

    def facts(self, key: str) -> EpisodeFacts:
        """What the file says about an episode.

        Raises:
            EpisodeError: It cannot be read.
        """
        raise NotImplementedError

    def read(self, key: str) -> Transitions:
        """Its rows.

        Raises:
            EpisodeError: They cannot be read.
        """
        raise NotImplementedError


@dataclass
class ForeignSource:
    """A dataset that another program wrote.

    Attributes:
        path: Its HDF5 file.
        format: What begins the boot id of its episodes.
        keys: Names of the episodes in the file, in order.
        observation: What its observations are, flattened.
        action: What its actions are.
        task: What it calls its environment or itself.
        rate_hz: Steps per second; None if it does not say.
        parts: Keys of the observations taken, in the order of the dimensions.
        ordered: A person chose them in this order.
        skipped: Those that are no vectors, such as images, with what they are.
    """

    path: Path
    format: str
    keys: list[str]
    observation: Box
    action: Box
    task: str
    rate_hz: float | None = None
    parts: list[str] = field(default_factory=list)
    ordered: bool = False
    skipped: list[str] = field(default_factory=list)

    def read(self, key: str) -> ForeignEpisode:
        """The rows of an episode.

        Raises:
            EpisodeError: They cannot be read.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Found:
    """An episode that is to be imported.

    Attributes:
        where: File and place, for people.
        read: Gives it, or raises EpisodeError.
    """

    where: str
    read: Callable[[], tuple[EpisodeInfo, Transitions]]
