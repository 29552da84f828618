"""Training curves for TensorBoard; a disk that refuses them is reported and does not stop anything."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from replay_server.log_throttle import LogThrottle


class Curves:
    """Scalars over updates, appended to event files in one folder."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder` from the first `add` on."""
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._log = LogThrottle(logging.getLogger(__name__))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Append one point to each curve."""
        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder))
            for key, value in values.items():
                self._writer.add_scalar(key, value, step)
        except OSError as error:  # of this call, or of the writer's thread since the last one
            self._log.warning(f"{self._folder}: cannot write the curves: {error}")
            self._writer = None  # that one has given up for good: the next call begins a new file

    def close(self) -> None:
        """Write out what is still in memory."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
