"""`pnaf gazebo …` as a person types it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from fleet.cli import app
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from fleet.doctor import _gazebo as gazebo_finding  # all findings take seconds
from fleet.gazebo_cli import _progress
from robot_nodes.gazebo import installation
from robot_nodes.gazebo.gui import _check_display, _master_uri
from robot_nodes.gazebo.installation import GazeboError, GazeboInstallation
from robot_nodes.gazebo.server_state import lock_file, state_file

FLEETS = PACKAGED_CONFIGS / "fleets"
GAZEBO4 = str(FLEETS / "gazebo4.yaml")


def pnaf(*args: str) -> Result:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["gazebo", *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def no_gazebo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Gazebo, and without what is needed to install it."""
    monkeypatch.setattr(installation, "_CODE", tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PNAF_GAZEBO_PREFIX", raising=False)


def test_status_says_which_gazebo_is_used(gazebo: GazeboInstallation) -> None:
    said = json.loads(pnaf("status", "--json").stdout)
    plugin = gazebo.plugin_path()
    assert said == {
        "version": gazebo.version,
        "gzserver": str(gazebo.gzserver),
        "plugin": str(plugin) if plugin.exists() else None,
    }
    assert f"Gazebo {gazebo.version}: {gazebo.gzserver}\n" in pnaf("status").stdout


def test_an_installed_gazebo_is_not_installed_again(gazebo: GazeboInstallation) -> None:
    answer = pnaf("install")
    assert answer.exit_code == 0
    assert f"Gazebo {gazebo.version} is there: {gazebo.gzserver}" in answer.stderr.replace("\n", "")
    assert gazebo.plugin_path().exists()


@pytest.mark.usefixtures("no_gazebo")
def test_without_gazebo_each_command_says_how_to_get_it() -> None:
    for args in (["status"], ["server", GAZEBO4, "--run-dir", "nowhere"], ["gui", GAZEBO4]):
        answer = pnaf(*args)
        assert (answer.exit_code, answer.stdout) == (2, "")
        assert "`pnaf gazebo install` gets one without root" in answer.stderr
    answer = pnaf("install")
    assert answer.exit_code == 2
    assert "apt-get is missing" in answer.stderr
    assert not Path("nowhere").exists()


@pytest.mark.usefixtures("no_gazebo")
@pytest.mark.parametrize(("config", "needed"), [("gazebo4.yaml", True), ("sim2.yaml", False)])
def test_the_doctor_asks_for_gazebo_only_where_a_robot_is_in_it(config: str, needed: bool) -> None:
    finding = gazebo_finding(load_fleet(FLEETS / config))
    assert (finding.ok, finding.needed) == (False, needed)
    assert "pnaf gazebo install" in finding.advice


def test_a_world_is_printed_as_sdf() -> None:
    root = ElementTree.fromstring(pnaf("world", GAZEBO4).stdout)
    models = {model.get("name") for model in root.iter("model")}
    assert {"robot1", "robot2", "robot3", "robot4"} <= models


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([GAZEBO4, "--world", "moon"], "no Gazebo world 'moon' in fleet 'gazebo4'; it has: world"),
        (
            [GAZEBO4, "--set", "gazebo.worlds=own"],
            "--world is missing: which world of fleet 'gazebo4'; it has: robot1, robot2, robot3, robot4",
        ),
        (
            [str(FLEETS / "sim2.yaml")],
            "no robot of fleet 'sim2' is in Gazebo: set sim.simulator: gazebo, for all robots with override: "
            "{sim: {simulator: gazebo}}",
        ),
    ],
)
def test_a_world_that_is_not_there_is_named_with_those_that_are(args: list[str], message: str) -> None:
    answer = pnaf("world", *args)
    assert answer.exit_code == 2
    assert message in answer.stderr


def test_the_files_for_gz_sim_are_written(tmp_path: Path) -> None:
    answer = pnaf("export-gz-sim", GAZEBO4, str(tmp_path / "out"))
    assert (answer.exit_code, answer.stdout.strip()) == (0, str(tmp_path / "out/world.sdf"))
    ElementTree.parse(tmp_path / "out/world.sdf")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (file := tmp_path / "taken").write_text("")
    for folder in (file, file / "below", Path("/dev/null")):
        answer = pnaf("export-gz-sim", GAZEBO4, str(folder))
        assert (answer.exit_code, answer.stdout) == (2, "")
        assert answer.stderr.startswith(f"pnaf: {folder}: cannot be written: "), answer.stderr
        assert answer.stderr.count("\n") == 1


# The window ---------------------------------------------------------------------------------


@pytest.fixture
def fake_gazebo(tmp_path: Path) -> Path:
    """A prefix whose gzclient says which world it was given."""
    for name in ("gzserver", "gzclient"):
        file = tmp_path / "prefix/usr/bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "{name} $GAZEBO_MASTER_URI on $DISPLAY $HOME $XAUTHORITY"\n')
        file.chmod(0o755)
    header = tmp_path / "prefix/usr/include/gazebo-11/gazebo/gazebo_config.h"
    header.parent.mkdir(parents=True)
    header.write_text('#define GAZEBO_VERSION_FULL "11.9.0"\n')
    return tmp_path / "prefix"


@pytest.fixture
def display() -> Iterator[str]:
    """An X display, as far as somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1] - 6000}.0"


def test_the_window_shows_the_world_that_runs(fake_gazebo: Path, display: str, tmp_path: Path) -> None:
    state = state_file(tmp_path / "run", "world")
    state.parent.mkdir(parents=True)
    with subprocess.Popen(["true"]) as killed:
        pass
    state.write_text(json.dumps({"pid": killed.pid, "master_uri": "http://127.0.0.1:1"}))
    with pytest.raises(GazeboError, match=f"no gzserver runs there: {state} .*--run-dir"):  # that one is dead
        _master_uri(tmp_path / "run", "world", timeout_s=0.0)
    (user := tmp_path / "user").mkdir()
    (user / ".Xauthority").touch()
    environment = {name: value for name, value in os.environ.items() if name != "XAUTHORITY"}
    window = subprocess.Popen(
        [sys.executable, "-m", "fleet.cli", "gazebo", "gui", GAZEBO4, "--run-dir", str(tmp_path / "run")],
        env=environment | {"PNAF_GAZEBO_PREFIX": str(fake_gazebo), "DISPLAY": display, "HOME": str(user)},
        cwd=PACKAGED_CONFIGS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert window.stderr is not None
    assert f"waiting for {state}" in window.stderr.readline()
    new = state.with_suffix(".tmp")
    new.write_text(json.dumps({"pid": os.getpid(), "master_uri": "http://127.0.0.1:2"}))
    new.rename(state)
    home = state.parent / "home"
    expected = f"gzclient http://127.0.0.1:2 on {display} {home} {user / '.Xauthority'}\n"
    assert window.communicate(timeout=30)[0] == expected
    assert window.returncode == 0


def test_the_window_waits_for_a_gzserver_that_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    state = state_file(tmp_path, "world")
    state.parent.mkdir(parents=True)
    lock_file(tmp_path, "world").write_text(str(os.getpid()))
    with caplog.at_level("INFO"), ThreadPoolExecutor(1) as pool:
        uri = pool.submit(_master_uri, tmp_path, "world", timeout_s=0.0)
        wait_until(lambda: f"waiting for {state}" in caplog.text)
        new = state.with_suffix(".tmp")
        new.write_text(json.dumps({"pid": os.getpid(), "master_uri": "http://127.0.0.1:2"}))
        new.rename(state)
        assert uri.result(10) == "http://127.0.0.1:2"


def test_without_a_display_the_window_says_so(fake_gazebo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", str(fake_gazebo))
    monkeypatch.delenv("DISPLAY", raising=False)
    answer = pnaf("gui", GAZEBO4)
    assert answer.exit_code == 2
    assert "DISPLAY is not set" in answer.stderr


@pytest.mark.parametrize("dead", ["127.0.0.1:59000.0", ":59000", "unix:59000"])
def test_a_display_without_an_x_server_is_named(
    fake_gazebo: Path, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", str(fake_gazebo))
    monkeypatch.setenv("DISPLAY", dead)
    answer = pnaf("gui", GAZEBO4)
    assert answer.exit_code == 2
    assert f"no X server answers at DISPLAY={dead}" in answer.stderr.replace("\n", " ")


@pytest.mark.parametrize("start", ["", "\0"], ids=["file", "abstract"])
def test_a_local_display_is_a_socket_of_either_kind(start: str) -> None:
    folder, number = Path("/tmp/.X11-unix"), 50_000 + os.getpid() % 9000
    file = folder / f"X{number}"
    made = not (start or folder.exists())
    if made:
        folder.mkdir()
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{start}{file}")
            server.listen()
            _check_display(f":{number}.0")
    finally:
        file.unlink(missing_ok=True)
        if made:  # an X server wants it to be root's
            folder.rmdir()


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    out = io.StringIO()
    with _progress(Console(file=out)) as report:
        report("Reading", 0, 1)
        for done in range(100):
            report("Unpacking", done, 100)
    assert out.getvalue() == "Reading: 0 of 1\nUnpacking: 0 of 100\n"
