"""Compiles the fused update for the CPU of this machine, once, into the user's cache."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "naf_update.cc"

_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast", "-fPIC", "-shared")
_COMPILE_S = 120.0
_DIGEST_BYTES = 32
_SHOWN_ERROR_LINES = 10


class FusedBuildError(RuntimeError):
    """The fused update cannot be had on this machine; the text says why."""


def cache_folder() -> Path:
    """Where compiled libraries are kept: $XDG_CACHE_HOME/parallel-naf, or ~/.cache/parallel-naf.

    Raises:
        FusedBuildError: There is neither.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallel-naf"
    except RuntimeError as error:
        raise FusedBuildError(f"{error}; set XDG_CACHE_HOME to a folder to compile into") from error


def load_library(source: Path = SOURCE, folder: Path | None = None) -> ctypes.CDLL:
    """The compiled `source`, from the cache if it was compiled for this CPU and is whole.

    Raises:
        FusedBuildError: There is no compiler, it fails, or the folder cannot be written.
    """
    folder = cache_folder() if folder is None else folder
    command = [*shlex.split(find_compiler()), *_FLAGS]
    try:
        library = folder / f"{source.stem}_{_key(source, command)}.so"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{library.stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several learners start at once: one compiles, the others wait
            if not _is_whole(library):
                _compile(command, source, library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise FusedBuildError(f"{folder}: {error}") from error


def find_compiler() -> str:
    """The command of the C++ compiler.

    Raises:
        FusedBuildError: There is none.
    """
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if not found:
        raise FusedBuildError("there is no C++ compiler (on Debian or Ubuntu: sudo apt install g++)")
    return found


def _key(source: Path, command: list[str]) -> str:
    """Another one for another source, compiler, command or kind of CPU."""
    digest = hashlib.sha256(source.read_bytes())
    digest.update("\n".join([*command, _run([command[0], "--version"]), platform.machine()]).encode())
    digest.update(b"\n".join(_cpu_features()))
    return digest.hexdigest()[:16]


def _cpu_features() -> list[bytes]:
    """The lines of /proc/cpuinfo that say what the first CPU is and can do, on x86 and on ARM."""
    names = (b"model name", b"flags", b"CPU implementer", b"CPU part", b"Features")
    first = Path("/proc/cpuinfo").read_bytes().partition(b"\n\n")[0]
    return [line for line in first.splitlines() if line.startswith(names)]


def _compile(command: list[str], source: Path, library: Path) -> None:
    """Write the library with its digest behind it, under its name only when it is complete."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        result = Path(folder) / library.name
        logger.info("compiling the fused update for this CPU: about 10 s, only once")
        _run([*command, str(source), "-o", str(result)])
        with result.open("ab") as file:
            file.write(hashlib.sha256(result.read_bytes()).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(result, library)


def _is_whole(library: Path) -> bool:
    """Whether a library is there as it was compiled: loading a torn one could kill the process."""
    if not library.exists():
        return False
    content = library.read_bytes()
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def _run(command: list[str]) -> str:
    """What a command of the compiler prints, in English and without libraries of other programs."""
    environment = {**{k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_COMPILE_S
        )
    except subprocess.TimeoutExpired as error:
        raise FusedBuildError(f"{shlex.join(command)} took longer than {_COMPILE_S:g} s") from error
    except OSError as error:
        raise FusedBuildError(f"the C++ compiler {command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()[:_SHOWN_ERROR_LINES]
        raise FusedBuildError("\n".join([f"{shlex.join(command)} failed:", *lines]))
    return done.stdout
