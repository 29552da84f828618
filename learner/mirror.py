"""The learner's own copy of the replay log, on its device: a minibatch costs no message.

One tensor holds one transition per row, so sampling is a single gather:

    observation | next_observation | action | reward | bootstrap (1, or 0 where the task ended)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fleet.messages import Transitions
from learner.demonstrations import Demonstrations

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

        reply = client.tail(mirror.cursor, max_rows)
        mirror.seek(reply.first_cursor)
        mirror.extend(reply)
        rows = mirror.sample(generator, batch_size)

    The row with cursor c lies at position c mod capacity, as in the server's ring: which rows a
    generator draws depends on the cursors held, not on when this process began to follow the log.
    Memory grows with the rows that arrive, by doubling, up to `capacity` rows.

    Attributes:
        layout: Columns of a row.
        cursor: The log's cursor of the next row to ask for.
    """

    def __init__(self, nx: int, nu: int, capacity: int, device: torch.device | str = "cpu") -> None:
        """An empty mirror for observations of `nx` and actions of `nu` numbers."""
        self.layout = RowLayout(nx, nu)
        self.capacity = capacity
        self.cursor = 0
        self._first = 0
        self._rows = torch.empty(min(_FIRST_ROWS, capacity), self.layout.width, device=device)
        self._demonstrations = Demonstrations(device)

    @property
    def oldest_cursor(self) -> int:
        """Cursor of the oldest row held; equals `cursor` when empty."""
        return max(self._first, self.cursor - self.capacity)

    def __len__(self) -> int:
        """Rows that can be sampled."""
        return self.cursor - self.oldest_cursor

    @property
    def demonstration_rows(self) -> int:
        """How many of them are of a person who moved the robot."""
        return len(self._demonstrations)

    def seek(self, cursor: int) -> None:
        """Go on at `cursor`, where the server does.

        Above the present cursor: rows in between were overwritten unread, and with them all that are
        held. Below it: the server lost the rows from there on, and so does the mirror.
        """
        if cursor > self.cursor:
            self._first = cursor
        elif cursor < self.cursor:
            self._first = min(self.oldest_cursor, cursor)
        self.cursor = cursor
        self._demonstrations.keep(self.oldest_cursor, cursor)

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
        self._demonstrations.extend(self.cursor + transitions.intervened.nonzero()[0])
        self._append(torch.from_numpy(packed))
        self._demonstrations.keep(self.oldest_cursor, self.cursor)

    def _append(self, packed: Tensor) -> None:
        self.cursor += len(packed)
        packed = packed[-self.capacity :]
        start = (self.cursor - len(packed)) % self.capacity
        head = min(len(packed), self.capacity - start)
        tail = len(packed) - head
        self._reserve(self.capacity if tail else start + head)
        self._rows[start : start + head] = packed[:head].to(self._rows.device)
        self._rows[:tail] = packed[head:].to(self._rows.device)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._rows):
            return
        size = min(self.capacity, max(rows, 2 * len(self._rows)))
        grown = torch.empty(size, self.layout.width, device=self._rows.device)
        grown[: len(self._rows)] = self._rows
        self._rows = grown

    def sample(self, generator: torch.Generator, rows: int, demonstrations: int = 0) -> Tensor:
        """Rows drawn with replacement as `draw` does [rows, width].

        Raises:
            ValueError: The mirror is empty.
        """
        index = torch.empty(rows, dtype=torch.int64, device=self._rows.device)
        self.draw(generator, [index], demonstrations)
        return self._rows.index_select(0, index)

    def draw(self, generator: torch.Generator, indices: Sequence[Tensor], demonstrations: int = 0) -> None:
        """Fill each tensor with positions for `gather`, drawn uniformly with replacement.

        The first `demonstrations` of each are drawn from the rows in which a person moved the robot, if
        there are any, the others from all rows: with half of each, the symmetric sampling of RLPD (Ball
        et al. 2023, arXiv:2302.02948).

        Raises:
            ValueError: The mirror is empty.
        """
        held = len(self)
        if not held:
            raise ValueError("cannot sample from an empty mirror")
        start = 0 if held == self.capacity else self.oldest_cursor % self.capacity
        end = start + held
        shown = demonstrations if len(self._demonstrations) else 0
        for index in indices:
            if shown:
                self._demonstrations.draw(generator, index[:shown])
                index[:shown].remainder_(self.capacity)
            rest = index[shown:] if shown else index
            torch.randint(start, end, rest.shape, generator=generator, out=rest)
            if end > self.capacity:
                rest.remainder_(self.capacity)

    def gather(self, index: Tensor, out: Tensor) -> None:
        """Copy the rows at `index` [N] into `out` [N, width]."""
        torch.index_select(self._rows, 0, index, out=out)
