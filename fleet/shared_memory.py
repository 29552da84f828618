"""Sweeps up the shared memory of ROS processes that were killed.

Fast DDS talks through files in /dev/shm on one machine (with discovery range LOCALHOST whatever
FASTDDS_BUILTIN_TRANSPORTS says), and a process that ends by SIGKILL leaves its files behind for ever.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SEGMENT = re.compile(r"(?:sem\.)?(fastdds_(?:port\d+|[0-9a-f]{16}))(?:_el|_sl|_mutex)?")
_YOUNG_S = 2.0  # a process that is just starting may not have mapped its file yet


def remove_stale_segments(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove this user's Fast DDS files that no living process has mapped; returns the segments' names."""
    files: dict[str, list[Path]] = {}
    newest_s: dict[str, float] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _SEGMENT.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):
            if match and path.stat().st_uid == os.getuid():
                files.setdefault(match[1], []).append(path)
                newest_s[match[1]] = max(newest_s.get(match[1], 0.0), path.stat().st_ctime)
    mapped = _mapped_segments()
    stale = [name for name in files if name not in mapped and time.time() - newest_s[name] > _YOUNG_S]
    for name in stale:
        for path in files[name]:
            path.unlink(missing_ok=True)
    return sorted(stale)


def _mapped_segments() -> set[str]:
    """Names of the segments that are in the memory of some process we may look into."""
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            mapped.update(re.findall(r"/(fastdds_(?:port\d+|[0-9a-f]{16}))", maps.read_text()))
    return mapped
