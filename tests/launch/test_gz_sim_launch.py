"""launch/gz_sim_fleet.launch.py under the real launch and launch_ros, with stand-ins for what gz sim brings.

gz sim itself can be had from no package registry: programs that write down how they were started take the
places of its own, found through the ament index as those would be.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fleet.config import FleetConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from fleet.node_specs import NodeSpec
from robot_nodes.gazebo.gazebo_error import GazeboError

pytest.importorskip("launch_ros.actions", reason="ROS 2 launch_ros is not installed", exc_type=ImportError)

# launch is used as it is; what it deprecates or leaves open is not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FILE = Path(__file__).resolve().parents[2] / "launch" / "gz_sim_fleet.launch.py"
SIM2 = PACKAGED_CONFIGS / "fleets" / "sim2.yaml"

# Appends its name, arguments and ROS domain to a file; waits if it is one of those that stay.
PROGRAM = """#!{python}
import json, os, signal, sys
name = os.path.basename(sys.argv[0])
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
with open("{started}", "a") as file:
    file.write(json.dumps([name, sys.argv[1:], os.environ["ROS_DOMAIN_ID"]]) + "\\n")
if name in ("parameter_bridge", "robot_state_publisher", "gz"):
    signal.pause()
sys.exit({failing!r} == name)
"""
GZ_SIM_LAUNCH = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration

def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("gz_args"),
        DeclareLaunchArgument("on_exit_shutdown"),
        ExecuteProcess(cmd=["exec {gz}", LaunchConfiguration("gz_args")], shell=True),
    ])
"""
PROGRAMS = {
    "ros_gz_sim": "create",
    "ros_gz_bridge": "parameter_bridge",
    "controller_manager": "spawner",
    "robot_state_publisher": "robot_state_publisher",
    "gz_ros2_control": None,
    "joint_state_broadcaster": None,
    "forward_command_controller": None,
}


@pytest.fixture
def launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gz_sim_fleet_launch", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(prefix: Path, started: Path, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
    """What ROS packages look like on a disk."""

    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    program = PROGRAM.format(python=sys.executable, started=started, failing=failing)
    for package, executable in PROGRAMS.items():
        write(prefix / "share/ament_index/resource_index/packages" / package, "")
        (prefix / "share" / package).mkdir()
        if executable:
            write(prefix / "lib" / package / executable, program)
    gz = prefix / "bin" / "gz"
    write(gz, program)
    write(prefix / "share/ros_gz_sim/launch/gz_sim.launch.py", GZ_SIM_LAUNCH.format(gz=gz))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))


def short_specs(fleet: FleetConfig, _config: Path, run: Path, *, simulators: bool) -> list[NodeSpec]:
    """In place of the fleet's processes: the second robot's node ends all, once the first one's has run."""
    assert not simulators
    wait = """
import pathlib, sys, time
run, own, other = pathlib.Path(sys.argv[1]), *sys.argv[2:]
(run / own).touch()
while not (run / other).exists():
    time.sleep(0.01)
"""
    first, second = (entry.id for entry in fleet.robots)
    server = NodeSpec("replay_server", (sys.executable, "-c", "import signal; signal.pause()"))
    nodes = [
        NodeSpec(own, (sys.executable, "-c", wait, str(run), own, other), respawn=True)
        for own, other in ((first, second), (second, first))
    ]
    return [server, *nodes]


def launched(launch_file: ModuleType, runs: Path, run: str, config: Path) -> int:
    from launch import LaunchDescription, LaunchService
    from launch.actions import SetLaunchConfiguration

    service = LaunchService(noninteractive=True)
    arguments = {"config": str(config), "run": run, "runs_dir": str(runs)}
    service.include_launch_description(
        LaunchDescription(
            [
                *(SetLaunchConfiguration(name, value) for name, value in arguments.items()),
                launch_file.generate_launch_description(),
            ]
        )
    )
    return int(service.run())


def calls(started: Path) -> list[tuple[str, list[str]]]:
    lines = [json.loads(line) for line in started.read_text().splitlines()]
    assert {domain for _, _, domain in lines} == {"71"}  # as in sim2.yaml, for gz sim's own nodes, too
    return [(name, arguments) for name, arguments, _ in lines]


def test_every_argument_is_described_and_has_a_default(launch_file: ModuleType) -> None:
    arguments = launch_file.generate_launch_description().get_launch_arguments()
    assert [argument.name for argument in arguments] == ["config", "run", "runs_dir", "gui"]
    for argument in arguments:
        assert argument.description
        assert argument.default_value is not None
        default = "".join(part.text for part in argument.default_value)
        assert argument.name != "config" or load_fleet(default).in_gazebo


def test_missing_ros_packages_are_named_with_the_command_that_installs_them(
    launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    with pytest.raises(
        RuntimeError, match=r"sudo apt install ros-\$ROS_DISTRO-ros-gz-sim .*-gz-ros2-control"
    ):
        launch_file.require_packages()
    install(tmp_path, tmp_path / "started", monkeypatch)
    launch_file.require_packages()


def test_fleet_that_cannot_be_simulated_is_refused_before_a_run_folder_is_made(
    launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch import LaunchContext

    install(tmp_path, tmp_path / "started", monkeypatch)
    context = LaunchContext()
    lab = PACKAGED_CONFIGS / "fleets" / "lab_example.yaml"
    context.launch_configurations.update(config=str(lab), run="one", runs_dir=str(tmp_path), gui="false")
    with pytest.raises(GazeboError, match="has no group `sim`"):
        launch_file.start_fleet(context)
    assert not (tmp_path / "one").exists()


def test_arms_then_controllers_then_their_robot_nodes(
    launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    install(tmp_path, started, monkeypatch)
    monkeypatch.setattr(launch_file, "node_specs", short_specs)
    runs = tmp_path / "Ada's runs"  # gz sim is started by a shell
    assert launched(launch_file, runs, "one", SIM2) == 0
    run = runs / "one"
    assert (run / "robot1").exists() and (run / "robot2").exists()

    found = calls(started)
    (gz_args,) = [arguments for name, arguments in found if name == "gz"]
    assert gz_args == ["-r", "-s", str(run / "gz_sim" / "world.sdf")]
    (bridge,) = [arguments for name, arguments in found if name == "parameter_bridge"]
    assert parameters(bridge) == {"config_file": str(run / "gz_sim" / "bridge.yaml")}

    for robot, place in (("robot1", "0"), ("robot2", "3")):
        mine = [name for name, arguments in found if f"__ns:=/{robot}" in arguments]
        assert mine.index("create") < mine.index("spawner")
        arguments = {name: rest for name, rest in found if f"__ns:=/{robot}" in rest}
        create = arguments["create"]
        assert create[: create.index("--ros-args")] == [
            *("-world", "fleet", "-topic", f"/{robot}/robot_description", "-name", robot),
            *("-x", "0", "-y", place),
        ]
        spawner = arguments["spawner"]
        assert spawner[: spawner.index("--ros-args")] == [
            "joint_state_broadcaster",
            "forward_velocity_controller",
            *("--controller-manager", f"/{robot}/controller_manager"),
            *("--controller-manager-timeout", "120"),
            *("--param-file", str(run / "gz_sim" / f"{robot}_controllers.yaml")),
        ]
        assert parameters(arguments["robot_state_publisher"]) == {
            "robot_description": (run / "gz_sim" / f"{robot}.urdf").read_text(),
            "frame_prefix": f"{robot}/",
            "use_sim_time": True,
        }


def parameters(arguments: list[str]) -> dict[str, object]:
    """What launch_ros has written for a node."""
    file = Path(arguments[arguments.index("--params-file") + 1])
    (found,) = yaml.safe_load(file.read_text()).values()
    return dict(found["ros__parameters"])


def test_failed_spawn_ends_the_launch_and_no_robot_node_is_started(
    launch_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    install(tmp_path, started, monkeypatch, failing="spawner")
    monkeypatch.setattr(launch_file, "node_specs", short_specs)
    launched(launch_file, tmp_path, "one", SIM2)
    assert "spawner" in [name for name, _ in calls(started)]
    assert not (tmp_path / "one" / "robot1").exists()
