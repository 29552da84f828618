"""Foreign episodes as rows of ours.

The learner's μ is bounded by tanh, and every action in our logs lies in [-1, 1]. So actions that are declared
with other finite bounds are mapped linearly from those to [-1, 1]; without declared bounds they must lie
there, or the caller says what range [-1, 1] stands for. An episode with an action outside is not clipped,
since nobody knows what its robot did then: it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.messages import COLUMNS, Array, Transitions
from fleet.spaces import Space, SpaceError, SpaceSpec
from replay_server.exchange.source import Box, EpisodeError, ForeignEpisode, ForeignSource
from replay_server.logs import LogsError

UNIT = "unknown"
"""Unit of numbers whose unit nobody says."""

_TOLERANCE = 1e-6  # of bounds, relative: float32 of a float64


@dataclass(frozen=True)
class ActionScale:
    """The linear map of a dataset's actions to [-1, 1].

    Attributes:
        low: What becomes -1 [nu].
        high: What becomes 1 [nu].
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @classmethod
    def of(cls, box: Box, given: tuple[float, float] | None = None) -> ActionScale:
        """From the declared bounds, or the same given ones for all dimensions; where there are none, none."""
        if given is not None:
            return cls(np.full(box.size, given[0]), np.full(box.size, given[1]))
        bounded = np.isfinite(box.low) & np.isfinite(box.high) & (box.low < box.high)
        return cls(np.where(bounded, box.low, -1.0), np.where(bounded, box.high, 1.0))

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.low == -1).all() and (self.high == 1).all())

    def __call__(self, action: Array) -> Array:
        """Actions [N, nu] in [-1, 1], float32; bit for bit the same if they were declared so.

        Raises:
            EpisodeError: One lies outside.
        """
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        scaled = action if self.identity else (action - middle) / half
        outside = (scaled > 1 + _TOLERANCE) | (scaled < -1 - _TOLERANCE)  # |-128| is -128 in 8 bits
        if outside.any():
            row, i = np.argwhere(outside)[0]
            raise EpisodeError(
                f"action {i} of row {row} is {action[row, i]:g}, outside [{self.low[i]:g}, "
                f"{self.high[i]:g}]: say with --action-range LOW..HIGH what [-1, 1] stands for"
            )
        return np.clip(scaled, -1.0, 1.0).astype("<f4")


def to_transitions(
    episode: ForeignEpisode, nx: int, scale: ActionScale, step_ns: int, done_is_time_limit: bool = False
) -> Transitions:
    """The rows of an episode whose observations have `nx` numbers.

    Args:
        episode: As read.
        nx: Size of an observation.
        scale: Of its actions.
        step_ns: Time between rows (ns).
        done_is_time_limit: What it calls terminated was only cut off: do bootstrap.

    Raises:
        EpisodeError: Sizes do not fit, a value is not finite, or an action is out of range.
    """
    rows = len(episode.reward) if episode.reward.ndim else 0
    if not rows:
        raise EpisodeError("it has no rows")
    nu = len(scale.low)
    wanted = {
        "observation": (rows, nx),
        "action": (rows, nu),
        "reward": (rows,),
        "next_observation": (rows, nx),
        "terminated": (rows,),
        "truncated": (rows,),
    }
    arrays = {name: _shaped(name, getattr(episode, name), shape) for name, shape in wanted.items()}
    for name in ("observation", "action", "reward", "next_observation"):
        with np.errstate(over="ignore"):  # too large for float32 is not finite either
            array = arrays[name].astype("<f4")
        if not (finite := np.isfinite(array).reshape(rows, -1).all(axis=1)).all():
            raise EpisodeError(f"{name} of row {int(np.argmin(finite))} is not finite")
        if name != "action":
            arrays[name] = array
    if done_is_time_limit:
        arrays["truncated"] = arrays["truncated"] | arrays["terminated"]
        arrays["terminated"] = np.zeros(rows, bool)
    truncated = arrays["truncated"].copy()
    truncated[-1] |= not arrays["terminated"][-1]  # the file ends here, not the task
    action = scale(arrays["action"])
    flags = np.zeros(rows, bool)
    columns = {
        **arrays,
        "action": action,
        "policy_action": action,
        "truncated": truncated,
        "intervened": flags,
        "clipped": flags,
        "policy_version": np.full(rows, -1),
        "stamp_ns": np.arange(rows) * step_ns,
    }
    return Transitions(**{name: columns[name].astype(COLUMNS[name]["dtype"], copy=False) for name in COLUMNS})


def _shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    if not array.ndim or array.size != np.prod(shape) or len(array) != shape[0]:
        raise EpisodeError(f"{name} has shape {array.shape} where {shape} is needed")
    return array.reshape(shape)


def draft_spec(sources: Sequence[ForeignSource], on_episode: Callable[[], None] = lambda: None) -> SpaceSpec:
    """A spec for foreign datasets: their names, the declared bounds, or else those of the data.

    Args:
        sources: At least one.
        on_episode: Called after each episode whose rows had to be looked at.

    Raises:
        LogsError: They have different dimensions, or make no spec.
    """
    first = sources[0]
    for other in sources:
        for side in ("observation", "action"):
            mine, theirs = getattr(first, side).names, getattr(other, side).names
            if mine != theirs:
                raise LogsError(
                    f"{first.path} and {other.path} have different {side}s: "
                    f"{', '.join(mine)[:300]} and {', '.join(theirs)[:300]}"
                )
    low = np.min([source.observation.low for source in sources], axis=0)
    high = np.max([source.observation.high for source in sources], axis=0)
    undeclared = ~(np.isfinite(low) & np.isfinite(high) & (low < high))
    if undeclared.any():
        seen_low, seen_high = _seen_bounds(sources, on_episode)
        low, high = np.where(undeclared, seen_low, low), np.where(undeclared, seen_high, high)
    nx, nu = first.observation.size, first.action.size
    try:
        return SpaceSpec(
            Space(first.observation.names, (UNIT,) * nx, tuple(low.tolist()), tuple(high.tolist())),
            Space(first.action.names, ("1",) * nu, (-1.0,) * nu, (1.0,) * nu),
        )
    except SpaceError as error:
        raise LogsError(f"{first.path}: {error}") from error


def _seen_bounds(
    sources: Sequence[ForeignSource], on_episode: Callable[[], None]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Smallest and largest observations in all whole episodes; a constant gets room on both sides."""
    size = sources[0].observation.size
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for source in sources:
        for key in source.keys:
            on_episode()
            try:
                episode = source.read(key)
            except EpisodeError:
                continue  # named when it is imported
            sides = episode.observation, episode.next_observation
            if not all(side.shape[1:] == (size,) and len(side) for side in sides):
                continue
            rows = np.concatenate(sides)
            if np.isfinite(rows).all():
                low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    low, high = np.where(low > high, -1.0, low), np.where(low > high, 1.0, high)
    return np.where(low == high, low - 1.0, low), np.where(low == high, high + 1.0, high)
