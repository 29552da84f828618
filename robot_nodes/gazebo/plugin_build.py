"""Compiles the world plugin for the Gazebo of this machine."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from robot_nodes.gazebo.gazebo_error import GazeboError

logger = logging.getLogger(__name__)

PLUGIN_SOURCE = Path(__file__).parent / "plugin" / "pnaf_world.cc"

_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra")
_SHOWN_ERROR_LINES = 30


def built_path(source: Path, version: str, folder: Path) -> Path:
    """Where the plugin lies once compiled; another name when its source or Gazebo is another one."""
    digest = hashlib.sha256(source.read_bytes())
    digest.update("\n".join([version, platform.machine(), *_FLAGS]).encode())
    return folder / f"lib{source.stem}_{digest.hexdigest()[:12]}.so"


def build_plugin(source: Path, include_dirs: Sequence[Path], version: str, folder: Path) -> Path:
    """Compile a plugin, unless it has been; returns the shared library.

    Args:
        source: The C++ file.
        include_dirs: Folders of Gazebo's headers.
        version: Gazebo's.
        folder: Where the library is kept; made if it is missing.

    Raises:
        GazeboError: There is no compiler, it fails, or the folder cannot be written.
    """
    library = built_path(source, version, folder)
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "build.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several worlds start at once: one compiles, the others wait
            if not library.exists():
                _compile(source, include_dirs, library)
    except OSError as error:
        raise GazeboError(f"the world plugin cannot be built in {folder}: {error.strerror}") from error
    return library


def _compile(source: Path, include_dirs: Sequence[Path], library: Path) -> None:
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        result = Path(folder) / library.name
        includes = [argument for path in include_dirs for argument in ("-isystem", str(path))]
        command = [*shlex.split(compiler), *_FLAGS, *includes, str(source), "-o", str(result)]
        logger.info("compiling the world plugin for Gazebo: about 15 s, only once")
        done = subprocess.run(command, env=_plain_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()[:_SHOWN_ERROR_LINES]
            raise GazeboError("\n".join(["the world plugin does not compile:", shlex.join(command), *lines]))
        os.replace(result, library)


def find_compiler() -> str:
    """The command of the C++ compiler.

    Raises:
        GazeboError: There is none.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise GazeboError("the world plugin needs a C++ compiler: on Debian or Ubuntu, sudo apt install g++")
    return compiler


def _plain_environment() -> dict[str, str]:
    """For the compiler: messages in English, and no libraries of other programs."""
    return {**{k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}, "LC_ALL": "C"}
