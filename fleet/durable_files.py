"""Files and names that outlast a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def fsync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable.

    Raises:
        OSError: It is not there, or the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raise_flag(path: Path, text: str) -> None:
    """Make a file whose presence says something; `text` is for people.

    Raises:
        OSError: The disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    fsync_path(path.parent)  # it counts from here on, even if there is no room for the text
    path.write_text(text)
    fsync_path(path)


def lower_flag(path: Path) -> None:
    """Remove such a file, if it is there.

    Raises:
        OSError: The disk refuses.
    """
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        fsync_path(path.parent)
