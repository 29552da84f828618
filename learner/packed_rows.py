"""Transitions as the replay mirror holds them, one row of floats each.

observation | next_observation | action | reward | bootstrap (1, or 0 where the task ended)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.messages import Transitions


@dataclass(frozen=True)
class RowLayout:
    """Which columns of a row hold what."""

    nx: int
    nu: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return 2 * self.nx + self.nu + 2

    @property
    def observations(self) -> slice:
        """Observation and next observation, side by side: normalised in one operation."""
        return slice(0, 2 * self.nx)

    @property
    def action(self) -> slice:
        """The executed action."""
        return slice(2 * self.nx, 2 * self.nx + self.nu)

    @property
    def reward(self) -> int:
        """The reward, unscaled."""
        return 2 * self.nx + self.nu

    @property
    def bootstrap(self) -> int:
        """1 where the value of the next observation counts, 0 where the task ended."""
        return 2 * self.nx + self.nu + 1


@dataclass(frozen=True)
class PackedRows:
    """N transitions, ready to be copied into a mirror.

    Attributes:
        values: One row each [N, width], float32.
        demonstrations: Which of them are of a person who moved the robot, ascending [n].
        ends: Which of them are the last of their episodes, ascending [m].
    """

    values: npt.NDArray[np.float32]
    demonstrations: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def pack(cls, transitions: Transitions, layout: RowLayout) -> PackedRows:
        """Bring transitions into a layout.

        Raises:
            ValueError: The columns do not have its sizes.
        """
        sizes = (transitions.observation.shape[1], transitions.action.shape[1])
        if sizes != (layout.nx, layout.nu):
            raise ValueError(f"rows have (nx, nu) = {sizes}, this mirror holds {(layout.nx, layout.nu)}")
        values = np.empty((transitions.rows, layout.width), dtype=np.float32)
        values[:, : layout.nx] = transitions.observation
        values[:, layout.nx : 2 * layout.nx] = transitions.next_observation
        values[:, layout.action] = transitions.action
        values[:, layout.reward] = transitions.reward
        values[:, layout.bootstrap] = ~transitions.terminated
        ends = (transitions.terminated | transitions.truncated).nonzero()[0]
        return cls(values, transitions.intervened.nonzero()[0], ends)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.values)

    def split(self, most: int) -> list[PackedRows]:
        """The same rows in pieces of at most `most`, at least one piece."""
        pieces = []
        for start in range(0, max(1, len(self)), most):
            shown, ends = (
                places[slice(*places.searchsorted([start, start + most]))] - start
                for places in (self.demonstrations, self.ends)
            )
            pieces.append(PackedRows(self.values[start : start + most], shown, ends))
        return pieces
