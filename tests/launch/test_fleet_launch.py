"""The launch file over the node_specs of `pnaf fleet up`; needs ROS 2 launch, which no wheel brings."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fleet.config import ConfigError
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from fleet.node_specs import NodeSpec, node_specs
from fleet.ready import EXIT_CONFIG
from robot_nodes.gazebo.installation import GazeboInstallation

# Not just "launch": this repository's folder of that name can be imported as a namespace package.
launch = pytest.importorskip("launch.actions", reason="ROS 2 launch is not installed")

# launch is used as it is; what it deprecates or leaves open is not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SIM2 = PACKAGED_CONFIGS / "fleets" / "sim2.yaml"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), LAUNCH / f"{name}.launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def launch_file() -> ModuleType:
    return load("fleet")


def run_until_idle(description: object) -> int:
    from launch import LaunchService

    service = LaunchService(noninteractive=True)
    service.include_launch_description(description)
    return int(service.run())


def python(code: str, name: str, env: dict[str, str], respawn: bool = False) -> NodeSpec:
    return NodeSpec(name, (sys.executable, "-c", code), env, respawn=respawn)


def test_every_argument_is_described_and_has_a_default(launch_file: ModuleType) -> None:
    arguments = launch_file.generate_launch_description().get_launch_arguments()
    assert [argument.name for argument in arguments] == ["config", "run", "runs_dir", "gui"]
    for argument in arguments:
        assert argument.description
        assert argument.default_value is not None


def test_one_process_per_node_spec(launch_file: ModuleType, tmp_path: Path) -> None:
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(config=str(SIM2), run="one", runs_dir=str(tmp_path), gui="false")
    processes = launch_file.start_fleet(context)
    run = tmp_path / "one"
    fleet = load_fleet(run / "config.yaml")
    specs = node_specs(fleet, run / "config.yaml", run)
    commands = [[part.perform(context) for (part,) in process.cmd] for process in processes]
    assert commands == [list(spec.argv) for spec in specs]
    names = ["".join(part.perform(context) for part in process.name) for process in processes]
    assert names == [spec.name for spec in specs]


def test_process_gets_its_environment_and_its_end_ends_the_launch(
    launch_file: ModuleType, tmp_path: Path
) -> None:
    from launch import LaunchDescription

    code = "import os, pathlib; pathlib.Path(os.environ['OUT']).write_text(os.environ['ROS_DOMAIN_ID'])"
    out = tmp_path / "domain"
    first = python(code, "first", {"OUT": str(out), "ROS_DOMAIN_ID": "7"})
    waiting = python("import time; time.sleep(60)", "waiting", {}, respawn=True)
    run_until_idle(LaunchDescription([launch_file.process(first), launch_file.process(waiting)]))
    assert out.read_text() == "7"


def test_who_ends_in_order_is_not_respawned_and_ends_the_launch(
    launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch import LaunchDescription

    monkeypatch.setattr(launch_file, "RESPAWN_DELAY_S", 0.05)
    starts, ended = tmp_path / "starts", tmp_path / "ended"
    # As a robot after `pnaf fleet stop`; the second start would fail and end the launch too.
    code = f"""
import os, pathlib, sys, time
starts, other_runs = pathlib.Path(os.environ["STARTS"]), pathlib.Path(os.environ["OTHER"])
again = starts.exists()
starts.write_text("xx" if again else "x")
while not other_runs.exists():
    time.sleep(0.01)
sys.exit({EXIT_CONFIG} if again else 0)
"""
    waiting = """
import os, pathlib, signal, sys
def end(*_):
    pathlib.Path(os.environ["OTHER"]).write_text("ended")
    sys.exit(0)
signal.signal(signal.SIGINT, end)
pathlib.Path(os.environ["OTHER"]).write_text("runs")
signal.pause()
"""
    files = {"STARTS": str(starts), "OTHER": str(ended)}
    processes = [
        launch_file.process(python(code, "robot", files, respawn=True)),
        launch_file.process(python(waiting, "waiting", files, respawn=True)),
    ]
    assert run_until_idle(LaunchDescription(processes)) == 0
    assert starts.read_text() == "x"
    assert ended.read_text() == "ended"


def test_crash_is_respawned_and_config_error_ends_the_launch(
    launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch import LaunchDescription

    monkeypatch.setattr(launch_file, "RESPAWN_DELAY_S", 0.05)
    out = tmp_path / "starts"
    # Crashes at its first start, finds its config unusable at the second.
    code = f"""
import os, pathlib, sys
out = pathlib.Path(os.environ["OUT"])
starts = out.read_text() if out.exists() else ""
out.write_text(starts + "x")
sys.exit({EXIT_CONFIG} if starts else 1)
"""
    spec = python(code, "crashes", {"OUT": str(out)}, respawn=True)
    run_until_idle(LaunchDescription([launch_file.process(spec)]))
    assert out.read_text() == "xx"


def test_end_of_a_window_ends_nothing(launch_file: ModuleType, tmp_path: Path) -> None:
    from launch import LaunchDescription

    out = tmp_path / "window"
    window = python("import os, pathlib; pathlib.Path(os.environ['OUT']).touch()", "w", {"OUT": str(out)})
    # Waits for the window to end; had that ended the launch, this would be interrupted.
    code = """
import os, pathlib, sys, time
out = pathlib.Path(os.environ["OUT"])
while not out.exists():
    time.sleep(0.01)
time.sleep(0.5)
out.write_text("went on")
"""
    server = python(code, "server", {"OUT": str(out)})
    processes = [launch_file.process(replace(window, essential=False)), launch_file.process(server)]
    assert run_until_idle(LaunchDescription(processes)) == 0
    assert out.read_text() == "went on"


# A fleet in Gazebo -----------------------------------------------------------------------------


def test_the_fleet_in_gazebo_has_the_same_arguments() -> None:
    default = {
        a.name: a.default_value for a in load("fleet").generate_launch_description().get_launch_arguments()
    }
    arguments = load("gazebo_fleet").generate_launch_description().get_launch_arguments()
    assert sorted(argument.name for argument in arguments) == sorted(default)
    assert all(argument.description for argument in arguments)
    (config,) = [a.default_value for a in arguments if a.name == "config"]
    assert config[0].text == "hardware_configs/fleets/gazebo4.yaml"


def test_the_fleet_in_gazebo_is_that_of_its_node_specs(gazebo: GazeboInstallation, tmp_path: Path) -> None:
    """Visited as `ros2 launch` does, up to the processes, which are not started."""
    from launch import LaunchContext
    from launch.actions import ExecuteProcess

    context = LaunchContext(noninteractive=True)
    context.launch_configurations.update(run="one", runs_dir=str(tmp_path))
    todo: list[Any] = [load("gazebo_fleet").generate_launch_description()]
    names = []
    while todo:
        entity = todo.pop(0)
        if isinstance(entity, ExecuteProcess):
            names.append("".join(part.perform(context) for part in entity.name))
        else:
            todo = [*(entity.visit(context) or []), *todo]
    fleet = load_fleet("fleets/gazebo4.yaml")
    assert names == [spec.name for spec in node_specs(fleet, tmp_path, tmp_path)]
    assert "gazebo" in names and len(fleet.robots) == 4
    assert load_fleet(tmp_path / "one" / "config.yaml").in_gazebo == fleet.in_gazebo


def test_a_window_without_a_display_is_refused(
    gazebo: GazeboInstallation, launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch import LaunchContext

    monkeypatch.delenv("DISPLAY", raising=False)
    context = LaunchContext()
    config = str(PACKAGED_CONFIGS / "fleets/gazebo2.yaml")
    context.launch_configurations.update(config=config, run="one", runs_dir=str(tmp_path), gui="true")
    with pytest.raises(ConfigError, match="no X display"):
        launch_file.start_fleet(context)
    assert not (tmp_path / "one").exists()
