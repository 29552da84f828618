"""The learner's own copy of the replay log, on its device: a minibatch costs no message.

One tensor holds one transition per row, so sampling is a single gather:

    observation | next_observation | action | reward | bootstrap (1, or 0 where the task ended)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fleet.messages import Transitions

_FIRST_ROWS = 4096


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


class ReplayMirror:
    """The newest `capacity` rows of the log, as a ring of rows on a device.

        mirror.extend(client.tail(mirror.cursor, max_rows))
        rows = mirror.sample(generator, batch_size)

    Memory grows with the rows that arrive, by doubling, up to `capacity` rows.

    Attributes:
        layout: Columns of a row.
        cursor: The log's cursor of the next row to ask for.
        inserted: Rows inserted so far; the ring holds min(inserted, capacity) of them.
    """

    def __init__(self, nx: int, nu: int, capacity: int, device: torch.device | str = "cpu") -> None:
        """An empty mirror for observations of `nx` and actions of `nu` numbers."""
        self.layout = RowLayout(nx, nu)
        self.capacity = capacity
        self.cursor = 0
        self.inserted = 0
        self._rows = torch.empty(min(_FIRST_ROWS, capacity), self.layout.width, device=device)

    def __len__(self) -> int:
        """Rows that can be sampled."""
        return min(self.inserted, self.capacity)

    def extend(self, transitions: Transitions) -> None:
        """Append N rows, over the oldest ones when the ring is full.

        Raises:
            ValueError: The columns do not have this mirror's sizes.
        """
        layout = self.layout
        sizes = (transitions.observation.shape[1], transitions.action.shape[1])
        if sizes != (layout.nx, layout.nu):
            raise ValueError(f"rows have (nx, nu) = {sizes}, this mirror holds {(layout.nx, layout.nu)}")
        packed = np.empty((transitions.rows, layout.width), dtype=np.float32)
        packed[:, : layout.nx] = transitions.observation
        packed[:, layout.nx : 2 * layout.nx] = transitions.next_observation
        packed[:, layout.action] = transitions.action
        packed[:, layout.reward] = transitions.reward
        packed[:, layout.bootstrap] = ~transitions.terminated
        self._append(torch.from_numpy(packed[-self.capacity :]), skipped=max(0, len(packed) - self.capacity))

    def _append(self, packed: Tensor, skipped: int) -> None:
        self.inserted += skipped
        self._reserve(min(self.inserted + len(packed), self.capacity))
        start = self.inserted % self.capacity
        first = min(len(packed), self.capacity - start)
        self._rows[start : start + first] = packed[:first].to(self._rows.device)
        self._rows[: len(packed) - first] = packed[first:].to(self._rows.device)
        self.inserted += len(packed)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._rows):
            return
        size = min(self.capacity, max(rows, 2 * len(self._rows)))
        grown = torch.empty(size, self.layout.width, device=self._rows.device)
        grown[: len(self._rows)] = self._rows
        self._rows = grown

    def sample(self, generator: torch.Generator, rows: int) -> Tensor:
        """Gather rows drawn uniformly with replacement [rows, width].

        Raises:
            ValueError: The mirror is empty.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty mirror")
        index = torch.randint(len(self), (rows,), generator=generator, device=self._rows.device)
        return self._rows.index_select(0, index)
