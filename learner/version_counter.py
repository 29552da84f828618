"""Policy versions that rise even across a crash: robots refuse an older version of the same run."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK = 1000


class VersionCounter:
    """Hands out 0, 1, 2, …; after a restart it goes on above every number handed out before.

    The file holds a number that no version has reached; it is raised a block at a time, so that
    a publication seldom touches the disk.
    """

    def __init__(self, path: Path) -> None:
        """Continue from the file, or from 0 without one."""
        self._path = path
        try:
            self._next = int(path.read_text())
        except (FileNotFoundError, ValueError):
            self._next = 0
        self._reserved = self._next

    @property
    def last(self) -> int:
        """The newest version handed out; -1 before the first."""
        return self._next - 1

    def take(self) -> int:
        """The next version."""
        if self._next >= self._reserved:
            self._reserved = self._next + _BLOCK
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            with temporary.open("w") as file:
                file.write(str(self._reserved))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
        self._next += 1
        return self._next - 1
