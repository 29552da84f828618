"""A small file system in memory that can be filled up, where the machine lets this process mount one.

Mounts live in a namespace of this process and its children: nobody else sees them, and they vanish
with the last of these processes, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)
_BALLAST = ".ballast"


def own_mounts() -> bool:
    """Give this process a namespace of mounts of its own; False where the machine does not allow it.

    Without root rights it takes a namespace of users, too, which works only before the first thread.
    """
    uid, gid = os.getuid(), os.getgid()
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        if _LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWUSER) != 0:
            return False
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        except OSError:
            return False
    return bool(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0)


class SmallDisk:
    """A file system of a few megabytes at a folder.

    disk = SmallDisk(folder, size=64 * 2**20)
    disk.fill(); …; disk.free()
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Mount it.

        Raises:
            OSError: It cannot be mounted.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if _LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size},mode=700".encode()) != 0:
            raise OSError(ctypes.get_errno(), f"no small disk can be mounted at {folder}")

    def fill(self) -> None:
        """Leave no room: every write that needs some fails with ENOSPC."""
        ballast = os.open(self._folder / _BALLAST, os.O_WRONLY | os.O_CREAT)
        try:
            size = 0
            step = 2**24
            while step >= 512:
                try:
                    os.posix_fallocate(ballast, size, step)
                    size += step
                except OSError:
                    step //= 2
        finally:
            os.close(ballast)

    def free(self) -> None:
        """Give the room back."""
        (self._folder / _BALLAST).unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away with all that is on it, even while files are open."""
        with contextlib.suppress(OSError):
            self.free()
        _LIBC.umount2(os.fsencode(self._folder), 2)
