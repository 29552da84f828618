"""The learner's own copy of the replay log, on its device: a minibatch costs no message.

One tensor holds one transition per row (`learner/packed_rows.py`), so sampling is a single gather.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fleet.config import ConfigError
from fleet.messages import Transitions
from learner.demonstrations import Demonstrations
from learner.packed_rows import PackedRows, RowLayout


class ReplayMirror:
    """The newest `capacity` rows of the log, as a ring of rows on a device.

        reply = client.tail(mirror.cursor, max_rows)
        mirror.seek(reply.first_cursor)
        mirror.extend(reply)
        rows = mirror.sample(generator, batch_size)

    The row with cursor c lies at position c mod capacity, as in the server's ring: which rows a
    generator draws depends on the cursors held, not on when this process began to follow the log.
    Room for `capacity` rows is set aside at once, as moving them would hold up updates; on a CPU, rows
    that have not come yet take up no memory.

    Attributes:
        layout: Columns of a row.
        cursor: The log's cursor of the next row to ask for.
    """

    def __init__(self, nx: int, nu: int, capacity: int, device: torch.device | str = "cpu") -> None:
        """An empty mirror for observations of `nx` and actions of `nu` numbers.

        Raises:
            ConfigError: The device has no room for it.
        """
        self.layout = RowLayout(nx, nu)
        self.capacity = capacity
        self.cursor = 0
        self._first = 0
        try:
            self._rows = torch.empty(capacity, self.layout.width, device=device)
        except RuntimeError as error:
            raise ConfigError(
                f"replay_server.capacity_rows {capacity}: {4e-9 * capacity * self.layout.width:.1f} GB for "
                f"the learner's copy of the rows do not fit its device {device}: lower it ({error})"
            ) from error
        # Between updates numpy copies a few rows in a fraction of the time that PyTorch takes.
        self._host = self._rows.numpy() if self._rows.device.type == "cpu" else None
        self._demonstrations = Demonstrations(device)

    @classmethod
    def of(
        cls,
        rows: Tensor,
        layout: RowLayout,
        demonstrations: npt.NDArray[np.int64],
        device: torch.device | str = "cpu",
    ) -> ReplayMirror:
        """A full mirror of rows that are there already [N, width], the first with cursor 0.

        On a CPU they stay where they are, and may be a file that is mapped into memory.

        Raises:
            ConfigError: The device has no room for them.
        """
        mirror = cls(layout.nx, layout.nu, 0, device)
        try:
            mirror._rows = rows.to(device)
        except RuntimeError as error:
            raise ConfigError(
                f"learner.device {device}: {4e-9 * rows.numel():.1f} GB of logged rows do not fit it: "
                f"choose fewer episodes, or learner.device=cpu ({error})"
            ) from error
        mirror.capacity = mirror.cursor = len(rows)
        mirror._host = None
        mirror._demonstrations.extend(demonstrations)
        return mirror

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
        if cursor == self.cursor:
            return
        self._first = cursor if cursor > self.cursor else min(self.oldest_cursor, cursor)
        self.cursor = cursor
        self._demonstrations.keep(self.oldest_cursor, cursor)

    def extend(self, transitions: Transitions) -> None:
        """Append N rows, over the oldest ones when the ring is full.

        Raises:
            ValueError: The columns do not have this mirror's sizes.
        """
        self.append(PackedRows.pack(transitions, self.layout))

    def append(self, rows: PackedRows) -> None:
        """Append N packed rows, as `extend` does."""
        if len(rows.demonstrations):
            self._demonstrations.extend(self.cursor + rows.demonstrations)
        self.cursor += len(rows)
        values = rows.values[-self.capacity :]
        start = (self.cursor - len(values)) % self.capacity
        head = min(len(values), self.capacity - start)
        self._write(start, values[:head])
        if head < len(values):
            self._write(0, values[head:])
        if len(self._demonstrations):
            self._demonstrations.keep(self.oldest_cursor, self.cursor)

    def _write(self, start: int, values: npt.NDArray[np.float32]) -> None:
        if self._host is not None:
            self._host[start : start + len(values)] = values
        else:
            self._rows[start : start + len(values)] = torch.from_numpy(values)

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

    @property
    def rows(self) -> Tensor:
        """All rows of the ring, by position, as `draw` gives them [capacity, width]."""
        return self._rows

    def after(self, index: Tensor, rows: int) -> Tensor:
        """Positions `rows` after those of `index`; of whatever lies there."""
        return (index + rows).remainder_(len(self._rows)) if rows else index

    def gather(self, index: Tensor, out: Tensor) -> None:
        """Copy the rows at `index` [N] into `out` [N, width]."""
        torch.index_select(self._rows, 0, index, out=out)
