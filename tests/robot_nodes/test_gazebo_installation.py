"""Gazebo is found where it should be, gets an environment of its own, and our plugin is compiled for it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robot_nodes.gazebo import debian_prefix, installation
from robot_nodes.gazebo.debian_prefix import install_prefix
from robot_nodes.gazebo.installation import (
    GazeboError,
    GazeboInstallation,
    default_prefixes,
    find_gazebo,
    in_prefix,
    install_target,
)
from robot_nodes.gazebo.plugin_build import build_plugin, built_path

LIB = "usr/lib/x86_64-linux-gnu"


def make_fake(prefix: Path, version: str = "11.9.0", headers: bool = True) -> Path:
    """What makes a folder look like an installation of Gazebo."""
    for folder in ("usr/bin", f"{LIB}/gazebo-11/plugins", f"{LIB}/OGRE-1.9.0", "usr/share/sdformat9"):
        (prefix / folder).mkdir(parents=True)
    make_program(prefix / "usr/bin/gzserver")
    if headers:
        header = prefix / "usr/include/gazebo-11/gazebo/gazebo_config.h"
        header.parent.mkdir(parents=True)
        header.write_text(f'#define GAZEBO_VERSION_FULL "{version}"\n')
    return prefix


def make_program(file: Path, text: str = "exit 1") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Gazebo: a folder for its checkout, its user's data and its programs."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/setup.py").touch()
    monkeypatch.setattr(installation, "_CODE", tmp_path / "checkout")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("PNAF_GAZEBO_PREFIX", raising=False)
    return tmp_path


# Finding it ---------------------------------------------------------------------------------


def test_the_first_of_variable_system_checkout_and_user_is_taken(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, checkout = machine / "data/parallel-naf/gazebo11", machine / "checkout/.gazebo"
    assert find_from(make_fake(user, "11.1.0")) == find_gazebo()
    assert find_from(make_fake(checkout, "11.2.0")) == find_gazebo()
    make_fake(machine / "system", "11.3.0")
    monkeypatch.setenv("PATH", str(machine / "system/usr/bin"))
    assert find_gazebo() == GazeboInstallation(machine / "system/usr", "11.3.0")
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", str(make_fake(machine / "chosen", "11.4.0")))
    assert find_gazebo() == GazeboInstallation(machine / "chosen/usr", "11.4.0", machine / "chosen")
    assert find_gazebo().gzserver.exists()


def find_from(prefix: Path) -> GazeboInstallation:
    return GazeboInstallation(prefix / "usr", in_prefix(prefix).version, prefix)


def test_a_program_on_the_path_stands_for_the_place_it_links_to(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fake(machine / "opt")
    (machine / "bin").mkdir()
    (machine / "bin/gzserver").symlink_to(machine / "opt/usr/bin/gzserver")
    assert find_gazebo().usr == machine / "opt/usr"


def test_installed_from_a_wheel_there_is_no_checkout(machine: Path) -> None:
    make_fake(machine / "checkout/.gazebo")
    (machine / "checkout/setup.py").unlink()  # site-packages
    assert default_prefixes() == [machine / "data/parallel-naf/gazebo11"] == [install_target()]
    with pytest.raises(GazeboError, match=r"pnaf gazebo install"):
        find_gazebo()


def test_a_chosen_prefix_without_gazebo_is_an_error_not_a_hint(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fake(machine / "checkout/.gazebo")
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", str(machine / "nothing"))
    with pytest.raises(GazeboError, match=r"PNAF_GAZEBO_PREFIX: .*nothing/usr has no bin/gzserver"):
        find_gazebo()
    assert install_target() == machine / "nothing"


def test_an_interrupted_installation_is_not_taken(machine: Path) -> None:
    make_fake(machine / "checkout/.gazebo.partial/root")
    with pytest.raises(GazeboError, match=r"No Gazebo 11 \(classic\) found"):
        find_gazebo()


def test_gazebo_without_headers_is_passed_over_and_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(make_fake(machine / "system", headers=False) / "usr/bin"))
    with pytest.raises(GazeboError, match=r"not the headers of Gazebo 11.*apt install libgazebo-dev"):
        find_gazebo()
    make_fake(machine / "checkout/.gazebo")
    assert find_gazebo().prefix == machine / "checkout/.gazebo"


@pytest.mark.parametrize("name", ["gz", "ign"])
def test_where_only_modern_gazebo_is_the_message_says_how_to_use_it(machine: Path, name: str) -> None:
    make_program(machine / "bin" / name)
    with pytest.raises(GazeboError, match=r"gz_sim_fleet\.launch\.py \(docs/gz_sim\.md\)"):
        find_gazebo()


# Its environment ----------------------------------------------------------------------------

LEFT_BY_OTHERS = {
    "LD_LIBRARY_PATH": f"{sys.prefix}/lib:/site-packages/ros_x.libs:/opt/other",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
    "PYTHONPATH": "/a",
    "GAZEBO_MODEL_PATH": "/models",
    "QT_PLUGIN_PATH": "/other/qt",
    "QT_QPA_PLATFORM": "wayland",
    "DISPLAY": ":7",
    "PNAF_READY_FD": "5",
    "PATH": "/usr/bin",
}


def test_a_prefix_sees_nothing_but_itself(tmp_path: Path) -> None:
    gazebo = in_prefix(make_fake(tmp_path))
    found = gazebo.environment(tmp_path / "home", tmp_path / "plugins", LEFT_BY_OTHERS)
    assert {"PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "QT_QPA_PLATFORM"} & set(found) == set()
    paths = ":".join(value for name, value in found.items() if name.endswith(("_PATH", "_ROOT")))
    assert [path for path in paths.split(":") if not Path(path).is_relative_to(tmp_path)] == []
    assert found["LD_LIBRARY_PATH"].startswith(f"{tmp_path}/{LIB}:{tmp_path}/lib/x86_64-linux-gnu:")
    assert found["GAZEBO_PLUGIN_PATH"] == f"{tmp_path}/plugins:{tmp_path}/{LIB}/gazebo-11/plugins"
    assert found["OGRE_RESOURCE_PATH"] == f"{tmp_path}/{LIB}/OGRE-1.9.0"
    assert found["SDF_PATH"] == f"{tmp_path}/usr/share/sdformat9"
    assert (found["GAZEBO_IP"], found["GAZEBO_MODEL_DATABASE_URI"]) == ("127.0.0.1", "")
    assert found["HOME"] == str(tmp_path / "home")
    kept = {name: found[name] for name in ("DISPLAY", "PNAF_READY_FD", "PATH")}
    assert kept == {"DISPLAY": ":7", "PNAF_READY_FD": "5", "PATH": "/usr/bin"}


def test_the_systems_gazebo_keeps_what_the_person_has_set_but_not_the_ros_wheels(tmp_path: Path) -> None:
    gazebo = GazeboInstallation(tmp_path, "11.0.0")
    found = gazebo.environment(tmp_path / "home", base=LEFT_BY_OTHERS)
    assert found["LD_LIBRARY_PATH"] == "/opt/other"
    assert (found["GAZEBO_MODEL_PATH"], found["GAZEBO_IP"]) == ("/models", "127.0.0.1")
    assert {"PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"} & set(found) == set()
    sourced = {"LD_LIBRARY_PATH": f"/opt/ros/lib:{sys.prefix}/lib"}  # no wheels: all of it is wanted
    assert gazebo.environment(tmp_path, base=sourced)["LD_LIBRARY_PATH"] == sourced["LD_LIBRARY_PATH"]


def test_the_real_gzserver_starts_in_it(gazebo: GazeboInstallation, tmp_path: Path) -> None:
    done = subprocess.run(
        [gazebo.gzserver, "--version"],
        env=gazebo.environment(tmp_path, base=os.environ | LEFT_BY_OTHERS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"version {gazebo.version}" in done.stdout, done.stderr


# The plugin ---------------------------------------------------------------------------------

SOURCE = 'extern "C" int answer() { return %d; }\n'


def answer_of(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).answer())


def test_the_plugin_is_compiled_once_and_again_when_its_source_changes(
    gazebo: GazeboInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = tmp_path / "world.cc", tmp_path / "out"
    source.write_text(SOURCE % 42)
    first = build_plugin(source, [], "11.1.0", folder)
    assert (answer_of(first), first.parent) == (42, folder)
    assert built_path(source, "11.2.0", folder) != first  # another Gazebo needs another one
    source.write_text(SOURCE % 43)
    assert answer_of(build_plugin(source, [], "11.1.0", folder)) == 43
    source.write_text(SOURCE % 42)
    monkeypatch.setenv("CXX", "/bin/false")
    assert build_plugin(source, [], "11.1.0", folder) == first


def test_several_processes_compile_it_once(gazebo: GazeboInstallation, tmp_path: Path) -> None:
    source, folder, calls = tmp_path / "world.cc", tmp_path / "out", tmp_path / "calls"
    source.write_text(SOURCE % 42)
    compiler = make_program(tmp_path / "slow", f'echo call >> "{calls}"\nsleep 0.3\nexec g++ "$@"')
    code = (
        "from pathlib import Path; from robot_nodes.gazebo.plugin_build import build_plugin; "
        f"print(build_plugin(Path({str(source)!r}), [], '11.1.0', Path({str(folder)!r})))"
    )
    builds = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"CXX": str(compiler)},
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(3)
    ]
    libraries = {build.communicate(timeout=60)[0].strip() for build in builds}
    assert [answer_of(Path(library)) for library in libraries] == [42]
    assert calls.read_text() == "call\n"


def test_an_error_of_the_compiler_is_shown_with_its_command(
    gazebo: GazeboInstallation, tmp_path: Path
) -> None:
    source = tmp_path / "world.cc"
    source.write_text("#include <not_there.hh>\n")
    with pytest.raises(GazeboError, match=r"(?s)-isystem /headers.*world\.cc.*not_there\.hh: No such file"):
        build_plugin(source, [Path("/headers")], "11.1.0", tmp_path / "out")
    assert list((tmp_path / "out").glob("*.so")) == []


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "world.cc"
    source.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(GazeboError, match=r"apt install g\+\+"):
        build_plugin(source, [], "11.1.0", tmp_path)


def test_the_plugin_lies_beside_gazebo_or_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert in_prefix(make_fake(tmp_path / "own")).plugin_folder() == tmp_path / "own/pnaf"
    system = GazeboInstallation(tmp_path / "own/usr", "11.9.0")
    assert system.plugin_folder() == tmp_path / "cache/parallel-naf"
    assert system.plugin_path().parent == tmp_path / "cache/parallel-naf"


# Installing it ------------------------------------------------------------------------------


def silent(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ({}, r"apt-get is missing.*docs/gz_sim\.md"),
        ({"apt-get": "exit 1", "dpkg": "exit 1"}, r"apt install g\+\+"),
        (
            {"apt-get": "exit 1", "g++": "exit 1", "dpkg": "echo mips64el"},
            r"amd64 only and this machine is mips64el: use modern",
        ),
    ],
)
def test_what_this_machine_lacks_is_said_before_anything_is_downloaded(
    machine: Path, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str], message: str
) -> None:
    for name, text in programs.items():
        make_program(machine / "bin" / name, text)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(debian_prefix, "_KEYRING", machine)  # is there
    with pytest.raises(GazeboError, match=message):
        install_prefix(machine / "gazebo", silent)
    assert not list(machine.glob("gazebo*"))


@pytest.fixture
def debian(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that passes the checks."""
    for name, text in {"apt-get": "exit 1", "dpkg": "echo amd64", "g++": "exit 1"}.items():
        make_program(machine / "bin" / name, text)
    monkeypatch.setattr(debian_prefix, "_KEYRING", machine)
    return machine


def test_without_debians_keys_nothing_is_downloaded(debian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_prefix, "_KEYRING", debian / "keyring.gpg")
    with pytest.raises(GazeboError, match=r"keyring\.gpg is missing.*apt install debian-archive-keyring"):
        install_prefix(debian / "gazebo", silent)


def test_a_full_disk_is_said_before_anything_is_downloaded(
    debian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_prefix, "_NEEDED_BYTES", shutil.disk_usage(debian).total + 1)
    with pytest.raises(GazeboError, match=r"GB free and Gazebo needs .* --prefix"):
        install_prefix(debian / "gazebo", silent)


def test_a_folder_that_holds_something_else_is_left_alone(debian: Path) -> None:
    (debian / "thesis").mkdir()
    with pytest.raises(GazeboError, match="thesis is there and not made by"):
        install_prefix(debian / "thesis", silent)
    assert (debian / "thesis").exists()


def test_two_installations_into_one_folder_do_not_meet(debian: Path) -> None:
    (debian / "gazebo.partial").mkdir()
    with (debian / "gazebo.partial/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(GazeboError, match="another `pnaf gazebo install` is filling"):
            install_prefix(debian / "gazebo", silent)


def test_without_a_network_the_mirrors_and_apts_reasons_are_named(debian: Path) -> None:
    make_program(debian / "bin/apt-get", "echo 'E: no route to host' >&2; exit 100")
    with pytest.raises(GazeboError, match=r"(?s)is there a network.*deb\.debian\.org.*no route to host"):
        install_prefix(debian / "gazebo", silent)
    assert not (debian / "gazebo").exists()
