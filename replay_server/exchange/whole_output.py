"""Output that appears under its name only when it is whole: a file or a folder of files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.durable_files import fsync_path
from replay_server.logs import LogsError


@contextmanager
def whole_output(out: Path) -> Iterator[Path]:
    """A path beside `out` to write at; then it becomes `out`, durable, or nothing is left of it.

    with whole_output(out) as temporary:
        temporary.write_bytes(content)

    Raises:
        LogsError: `out` exists already.
        OSError: The disk is full, or not writable.
    """
    if os.path.lexists(out):
        raise LogsError(f"{out} exists already: name another --out, or remove that first")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        for path in (temporary, *temporary.rglob("*")):
            fsync_path(path)
        temporary.rename(out)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise
    fsync_path(out.parent)
