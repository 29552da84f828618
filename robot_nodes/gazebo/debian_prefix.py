"""Installs Debian 11's Gazebo 11 into a folder: no root, and the system's own packages stay as they are.

apt resolves and verifies the packages in a state of its own that knows nothing of this machine's; dpkg only
unpacks them. libc and libstdc++ are the machine's: newer ones serve older programs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.installation import GazeboInstallation, in_prefix
from robot_nodes.gazebo.plugin_build import find_compiler

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

PROGRAMS = ("gazebo", "gazebo-plugin-base")
"""Debian packages that are wanted with all they depend on."""

HEADERS = (
    "libboost1.74-dev",
    "libgazebo-dev",
    "libignition-common-dev",
    "libignition-math-dev",
    "libignition-msgs-dev",
    "libignition-transport-dev",
    "libprotobuf-dev",
    "libsdformat-dev",
)
"""What the plugin includes; without dependencies, which would be 400 packages more."""

OF_THE_MACHINE = {"libc6", "libgcc-s1", "libstdc++6"}
"""Not unpacked: the machine has newer ones."""

# The archive keeps releases that the mirrors no longer have.
_MIRRORS = ("http://deb.debian.org/debian", "http://archive.debian.org/debian")
_MARKER = "installed-by-pnaf"  # in a folder that may be replaced
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ARCHITECTURE = "amd64"  # the only one that Debian 11 built Gazebo for
_NEEDED_BYTES = 2_000_000_000

_APT_CONFIG = """\
Dir::State "{apt}/state";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}/cache";
Dir::Log "{apt}/log";
Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "{apt}/none";
Dir::Etc::preferences "{apt}/none/preferences";
Dir::Etc::preferencesparts "{apt}/none";
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def install_prefix(prefix: Path, progress: Progress) -> GazeboInstallation:
    """Fill a folder with Gazebo 11; it appears under its name only when it is complete.

    Args:
        prefix: The folder; an older installation there is replaced in the end.
        progress: Hears what is going on.

    Raises:
        GazeboError: It cannot be had here; says why and what to do.
    """
    _check_machine(prefix)
    partial = prefix.with_name(prefix.name + ".partial")
    with _locked(partial):
        root, debs = partial / "root", partial / "debs"
        for folder in (root, partial / "apt"):
            shutil.rmtree(folder, ignore_errors=True)  # of an interrupted installation; its debs serve again
            folder.mkdir()
        debs.mkdir(exist_ok=True)
        _download(_Apt(partial / "apt"), debs, progress)
        _unpack(sorted(debs.glob("*.deb")), root, progress)
        _try(in_prefix(root), partial / "home")
        (root / _MARKER).touch()
        if prefix.exists():
            prefix.rename(partial / "replaced")
        root.rename(prefix)
        shutil.rmtree(partial)
    return in_prefix(prefix)


def _check_machine(prefix: Path) -> None:
    """Say at once what would fail later."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise GazeboError(
                f"{program} is missing: Gazebo can be installed like this on Debian and Ubuntu. Elsewhere, "
                "install Gazebo 11 with its headers so that gzserver is on the PATH, or use modern Gazebo: "
                "docs/gz_sim.md"
            )
    find_compiler()
    if not _KEYRING.exists():
        raise GazeboError(
            f"{_KEYRING} is missing, with which Debian's packages are verified: "
            "sudo apt install debian-archive-keyring"
        )
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    if architecture != _ARCHITECTURE:
        raise GazeboError(
            f"Debian has Gazebo 11 for {_ARCHITECTURE} only and this machine is {architecture}: use modern "
            "Gazebo (docs/gz_sim.md)"
        )
    if prefix.exists() and not (prefix / _MARKER).exists():
        raise GazeboError(f"{prefix} is there and not made by `pnaf gazebo install`: choose another folder")
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(prefix.parent).free
    except OSError as error:
        raise GazeboError(
            f"{prefix.parent}: {error.strerror}; choose another folder with --prefix"
        ) from error
    if free < _NEEDED_BYTES:
        raise GazeboError(
            f"{prefix.parent} has {free / 1e9:.1f} GB free and Gazebo needs {_NEEDED_BYTES / 1e9:g} GB while "
            "it is installed: make room or choose another folder with --prefix"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """This installation alone writes the folder."""
    try:
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise GazeboError(f"another `pnaf gazebo install` is filling {folder}: wait for it") from None
    except OSError as error:
        raise GazeboError(f"{error.filename or folder}: {error.strerror}") from error


class _Apt:
    """apt-get with a state of its own and Debian 11 as its only source."""

    def __init__(self, folder: Path) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "log", "none"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(_APT_CONFIG.format(apt=folder, architecture=_ARCHITECTURE))
        self._folder = folder
        self.command = ["apt-get", "-c", str(folder / "apt.conf"), "-q", "-y"]

    def update(self) -> None:
        """Read the list of packages from the first mirror that has it."""
        failures = []
        for mirror in _MIRRORS:
            source = f"deb [arch={_ARCHITECTURE} signed-by={_KEYRING}] {mirror} bullseye main\n"
            (self._folder / "sources.list").write_text(source)
            try:
                _run([*self.command, "-o", "Acquire::Retries=1", "update"])
                return
            except GazeboError as error:
                failures.append(f"{mirror}: {error}")
        raise GazeboError(
            "\n".join(
                ["Debian's packages cannot be reached: is there a network, or a proxy to set?", *failures]
            )
        )

    def needed(self) -> list[str]:
        """Names of the packages to download."""
        output = _run([*self.command, "install", "--print-uris", *PROGRAMS])
        found = re.findall(r"^'\S+' ([^_\s]+)_\S+\.deb ", output, re.MULTILINE)
        return [*(name for name in found if name not in OF_THE_MACHINE), *HEADERS]


def _download(apt: _Apt, debs: Path, progress: Progress) -> None:
    progress("Reading Debian's list of packages", 0, 1)
    apt.update()
    packages = apt.needed()
    progress("Reading Debian's list of packages", 1, 1)
    log = debs.parent / "download.log"
    with log.open("w") as output:
        command = [*apt.command, "download", *packages]
        downloading = subprocess.Popen(command, cwd=debs, stdout=output, stderr=subprocess.STDOUT)
        try:
            while downloading.poll() is None:
                progress("Downloading packages", len(list(debs.glob("*.deb"))), len(packages))
                time.sleep(0.2)
        finally:
            downloading.terminate()
            downloading.wait()
    if downloading.returncode:
        raise GazeboError(f"downloading failed; run it again to go on.\n{_errors(log.read_text())}")
    progress("Downloading packages", len(packages), len(packages))


def _unpack(debs: list[Path], root: Path, progress: Progress) -> None:
    def unpack(deb: Path) -> None:
        _run(["dpkg-deb", "--extract", str(deb), str(root)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(unpack, debs), start=1):
            progress("Unpacking packages", done, len(debs))


def _try(gazebo: GazeboInstallation, home: Path) -> None:
    """See whether its programs find all their libraries."""
    home.mkdir(exist_ok=True)
    command, environment = [str(gazebo.gzserver), "--version"], gazebo.environment(home)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if f"version {gazebo.version}" not in done.stdout:  # its exit status is 255 even so
        raise GazeboError(f"the unpacked gzserver does not start: {_errors(done.stdout + done.stderr)}")


def _run(command: list[str]) -> str:
    """What a command prints.

    Raises:
        GazeboError: It fails; with what it says about that.
    """
    done = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GazeboError(
            f"{command[0]} failed with status {done.returncode}: {_errors(done.stdout + done.stderr)}"
        )
    return done.stdout


def _errors(output: str) -> str:
    """The lines that say why, or the last ones."""
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join([line for line in lines if line.startswith(("E:", "Err"))][-5:] or lines[-5:])
