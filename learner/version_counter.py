"""Policy versions that rise even across a crash: robots refuse an older version of the same run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_BLOCK = 1000
_LEAP = 100_000


class VersionCounter:
    """Hands out 0, 1, 2, …; after a restart it goes on above every number handed out before.

    The file holds a number that no version has reached; it is raised a block at a time, so that
    a publication seldom touches the disk.
    """

    def __init__(self, path: Path, published: int = -1) -> None:
        """Continue from the file, or from 0 where nothing was published yet.

        Args:
            path: The file.
            published: Highest version known from elsewhere (checkpoints); -1 if none.
        """
        self._path = path
        try:
            self._next = max(int(path.read_text()), published + 1)
        except (OSError, ValueError) as error:
            self._next = 0
            if published >= 0 or not isinstance(error, FileNotFoundError):
                # More versions than that were never handed out between two checkpoints.
                self._next = published + 1 + _LEAP
                log.error("%s: cannot be read (%r): policy versions go on at %d", path, error, self._next)
        self._reserved = self._next

    @property
    def last(self) -> int:
        """The newest version handed out; -1 before the first."""
        return self._next - 1

    def take(self) -> int:
        """The next version.

        Raises:
            OSError: A new block of them cannot be written to the disk; nothing was handed out.
        """
        if self._next >= self._reserved:
            reserved = self._next + _BLOCK
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            with temporary.open("w") as file:
                file.write(str(reserved))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
            self._reserved = reserved
        self._next += 1
        return self._next - 1
