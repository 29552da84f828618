"""Where Gazebo 11 is on this machine, and the environment in which its programs run."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robot_nodes.gazebo.gazebo_error import GazeboError as GazeboError
from robot_nodes.gazebo.plugin_build import PLUGIN_SOURCE, build_plugin, built_path

PREFIX_VARIABLE = "PNAF_GAZEBO_PREFIX"

_CODE = Path(__file__).resolve().parents[2]  # of a source checkout, or site-packages

# Written for other programs: a sourced ROS 2, the ROS wheels, a Python environment, another Gazebo.
_FOREIGN = re.compile(
    r"LD_LIBRARY_PATH|LD_PRELOAD|PYTHON.*|_ROS_WHEELS_.*|(AMENT|CMAKE|COLCON)_PREFIX_PATH"
    r"|(GAZEBO|IGN|GZ|SDF|OGRE|QT|LIBGL|XKB|FONTCONFIG)_.*"
)


@dataclass(frozen=True, slots=True)
class GazeboInstallation:
    """A Gazebo 11 whose gzserver runs here and whose headers the world plugin can be compiled with.

        gazebo = find_gazebo()
        environment = gazebo.environment(home=run_dir / "home")
        os.execve(gazebo.gzserver, [str(gazebo.gzserver), "world.sdf"], environment)

    Attributes:
        usr: Folder that holds its bin, include, lib and share.
        version: As "11.1.0".
        prefix: Folder that `pnaf gazebo install` filled; None for one that the system's programs find.
    """

    usr: Path
    version: str
    prefix: Path | None = None

    @property
    def gzserver(self) -> Path:
        """The simulator."""
        return self.usr / "bin" / "gzserver"

    @property
    def gzclient(self) -> Path:
        """The window that shows a world."""
        return self.usr / "bin" / "gzclient"

    def environment(
        self, home: Path, plugin_dir: Path | None = None, base: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """All variables of a gzserver or gzclient; the caller adds GAZEBO_MASTER_URI.

        Args:
            home: Writable folder for its logs and settings.
            plugin_dir: Where else plugins are looked for.
            base: What to start from; by default this process's environment.
        """
        base = os.environ if base is None else base
        if self.prefix is None:
            result = {**base, "LD_LIBRARY_PATH": _without_wheels(base)}
        else:
            result = {name: value for name, value in base.items() if not _FOREIGN.fullmatch(name)}
            result |= _paths_of_prefix(self.prefix)
        for name in ("PYTHONPATH", "PYTHONHOME", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
            result.pop(name, None)
        if plugin_dir is not None:
            result["GAZEBO_PLUGIN_PATH"] = _join(plugin_dir, result.get("GAZEBO_PLUGIN_PATH", ""))
        result |= {
            "HOME": str(home),
            "GAZEBO_IP": "127.0.0.1",  # nobody else's Gazebo, and nobody else in ours
            "GAZEBO_MODEL_DATABASE_URI": "",  # asks the internet for models otherwise, and waits
        }
        return result

    def plugin(self) -> Path:
        """Our world plugin, compiled for this Gazebo unless that has been done.

        Raises:
            GazeboError: There is no compiler, or it fails.
        """
        return build_plugin(PLUGIN_SOURCE, self.include_dirs(), self.version, self.plugin_folder())

    def plugin_path(self) -> Path:
        """Where `plugin` puts it; it need not be there."""
        return built_path(PLUGIN_SOURCE, self.version, self.plugin_folder())

    def include_dirs(self) -> list[Path]:
        """Folders of the headers of Gazebo and of what those include."""
        include = self.usr / "include"
        found = sorted(
            path for name in ("gazebo-*", "sdformat-*", "ignition/*") for path in include.glob(name)
        )
        return found if include == Path("/usr/include") else [*found, include]

    def plugin_folder(self) -> Path:
        """Where the compiled plugin is kept: beside Gazebo, or in the user's cache if that is read-only."""
        if self.prefix is not None and os.access(self.prefix, os.W_OK):
            return self.prefix / "pnaf"
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "parallel-naf"


def find_gazebo() -> GazeboInstallation:
    """The Gazebo 11 to use: $PNAF_GAZEBO_PREFIX, the system's, this checkout's, or this user's.

    Raises:
        GazeboError: There is none; says how to get it.
    """
    if chosen := os.environ.get(PREFIX_VARIABLE):
        try:
            return in_prefix(Path(chosen).expanduser().absolute())
        except GazeboError as error:
            raise GazeboError(
                f"{PREFIX_VARIABLE}: {error}; `pnaf gazebo install` installs it there"
            ) from error
    lacks = []
    program = shutil.which("gzserver")
    if program is not None:
        try:
            return GazeboInstallation(usr := Path(program).resolve().parent.parent, _version(usr))
        except GazeboError as error:
            lacks.append(f"{error}; on Ubuntu 22.04 and older: sudo apt install libgazebo-dev.")
    for prefix in default_prefixes():
        if prefix.exists():
            try:
                return in_prefix(prefix)
            except GazeboError as error:
                lacks.append(f"{error}.")
    if program is None and (modern := shutil.which("gz") or shutil.which("ign")):
        lacks.append(
            f"{modern} is modern Gazebo: for that, use launch/gz_sim_fleet.launch.py (docs/gz_sim.md)."
        )
    raise GazeboError(
        " ".join(["No Gazebo 11 (classic) found.", *lacks, "`pnaf gazebo install` gets one without root."])
    )


def default_prefixes() -> list[Path]:
    """Where an installed one is looked for: in this checkout, if it is one, and in this user's data."""
    checkout = [_CODE / ".gazebo"] if (_CODE / "setup.py").exists() else []
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return [*checkout, data / "parallel-naf" / "gazebo11"]


def install_target() -> Path:
    """Where `pnaf gazebo install` puts it, unless it is told."""
    chosen = os.environ.get(PREFIX_VARIABLE)
    return Path(chosen) if chosen else default_prefixes()[0]


def in_prefix(prefix: Path) -> GazeboInstallation:
    """The Gazebo 11 that was unpacked into a folder.

    Raises:
        GazeboError: None is there.
    """
    return GazeboInstallation(prefix / "usr", _version(prefix / "usr"), prefix)


def _version(usr: Path) -> str:
    """Version of the Gazebo in a folder that has both its gzserver and its headers.

    Raises:
        GazeboError: Something is missing, or it is not Gazebo 11.
    """
    if not (usr / "bin/gzserver").exists():
        raise GazeboError(f"{usr} has no bin/gzserver")
    header = usr / "include/gazebo-11/gazebo/gazebo_config.h"
    try:
        match = re.search(r'GAZEBO_VERSION_FULL "([^"]+)"', header.read_text())
    except OSError as error:
        raise GazeboError(
            f"{usr}/bin/gzserver is there but not the headers of Gazebo 11: {header}: {error.strerror}"
        ) from error
    if match is None:
        raise GazeboError(f"{header} names no version")
    return match[1]


def _join(*paths: Path | str) -> str:
    return ":".join(str(path) for path in paths if path)


def _without_wheels(base: Mapping[str, str]) -> str:
    """LD_LIBRARY_PATH without what the ROS wheels add when Python starts."""
    paths = base.get("LD_LIBRARY_PATH", "").split(":")
    if "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in base:
        return _join(*paths)
    own = str(Path(sys.prefix) / "lib")
    return _join(*(p for p in paths if p != own and not re.fullmatch(r"ros_.*\.libs", Path(p).name)))


def _paths_of_prefix(prefix: Path) -> dict[str, str]:
    """Variables that make programs look in the prefix for what they were built to find under /usr."""
    usr = prefix / "usr"
    share = usr / "share"
    plugins = next((usr / "lib").glob("*/gazebo-11/plugins"), usr / "lib")  # the * is the architecture's
    lib = plugins.parent.parent
    ogre = next(lib.glob("OGRE-*"), lib)
    # Names that update-alternatives would have linked into lib, and folders that programs were linked for.
    libraries = [lib, prefix / "lib" / lib.name, usr / "lib"]
    libraries += [lib / name for name in ("blas", "lapack", "pulseaudio", "gazebo-11/plugins")]
    return {
        "LD_LIBRARY_PATH": _join(*libraries),
        "GAZEBO_RESOURCE_PATH": str(share / "gazebo-11"),
        "GAZEBO_PLUGIN_PATH": str(plugins),
        "GAZEBO_MODEL_PATH": str(share / "gazebo-11" / "models"),
        "OGRE_RESOURCE_PATH": str(ogre),
        "SDF_PATH": _join(*share.glob("sdformat*")),
        "LIBGL_DRIVERS_PATH": str(lib / "dri"),
        "QT_QPA_PLATFORM_PLUGIN_PATH": str(lib / "qt5" / "plugins" / "platforms"),
        "QT_PLUGIN_PATH": str(lib / "qt5" / "plugins"),
        "QT_XKB_CONFIG_ROOT": str(share / "X11" / "xkb"),
    }
