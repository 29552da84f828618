"""A folder of files that is whole or absent, and that shows any damage that came later.

    0000000320-0000000012/manifest.json    facts; size and BLAKE2b of every other file, and of itself
    .0000000320-0000000012.tmp/            being written or removed: of no use to anyone

Files are written into the temporary folder and fsynced, then the folder is renamed and its parent
fsynced: whatever is killed or unplugged meanwhile, a folder of the right name is a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fleet.durable_files import fsync_path

MANIFEST_FILE = "manifest.json"


class DamagedFolderError(RuntimeError):
    """A file of the folder is missing or not what was written; the text names it."""


def write_sealed(path: Path, files: dict[str, bytes], facts: dict[str, Any]) -> None:
    """Write a folder that does not exist yet; `facts` is what JSON can hold.

    Raises:
        OSError: The disk refuses; nothing is left of the folder.
    """
    manifest = facts | {
        "files": {name: {"bytes": len(data), "blake2b": _blake2b(data)} for name, data in files.items()}
    }
    manifest["checksum"] = _blake2b(_canonical(manifest))
    text = json.dumps(manifest, indent=2).encode()
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        for name, data in (files | {MANIFEST_FILE: text}).items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        fsync_path(temporary)
        temporary.rename(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_path(path.parent)
    fsync_path(path.parent.parent)  # the parent may be new, too


def read_sealed(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The facts and the files, all checked.

    Raises:
        DamagedFolderError: Anything differs from what was written.
    """
    manifest_file = path / MANIFEST_FILE
    try:
        manifest = json.loads(_read(manifest_file))
        checksum = manifest.pop("checksum")
        if checksum != _blake2b(_canonical(manifest)):
            raise DamagedFolderError(f"{manifest_file}: is damaged: it does not match its own checksum")
        entries = manifest.pop("files")
        files = {
            name: _checked(path / name, entry["bytes"], entry["blake2b"]) for name, entry in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFolderError(f"{manifest_file}: is damaged: {error!r}") from error
    return manifest, files


def remove_sealed(path: Path) -> None:
    """Remove a folder in such a way that half of one never bears its name; best effort."""
    with contextlib.suppress(OSError):
        path.rename(_temporary(path))
        shutil.rmtree(_temporary(path), ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed processes left half written or half removed; none may be at work here."""
    for leftover in parent.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _checked(file: Path, size: int, checksum: str) -> bytes:
    data = _read(file)
    if len(data) != size:
        raise DamagedFolderError(f"{file}: is damaged: {len(data)} bytes, {size} were written")
    if _blake2b(data) != checksum:
        raise DamagedFolderError(f"{file}: is damaged: it does not match its checksum")
    return data


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DamagedFolderError(f"{file}: cannot be read: {error.strerror}") from error


def _blake2b(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()
