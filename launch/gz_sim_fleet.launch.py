"""A fleet in gz sim (Harmonic and newer) under ROS 2 launch, through gz_ros2_control. See docs/gz_sim.md.

    ros2 launch parallel_naf gz_sim_fleet.launch.py config:=hardware_configs/fleets/gazebo4.yaml run:=monday

gz sim, its bridge, each arm with its controllers, and then what runs in front of a real arm, too: robot
nodes, replay server and learner. A robot's node is started when its controllers are active.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import (
    PythonLaunchDescriptionSource,
    load_python_launch_file_as_module,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from fleet.fleet_checks import check_robots
from fleet.node_specs import NodeSpec, node_specs, ros_environment
from robot_nodes.gazebo.gz_sim import WORLD, GzFiles, GzRobot, check, export

# launch/ is no package: ROS finds the files in it by name.
fleet_launch = load_python_launch_file_as_module(str(Path(__file__).with_name("fleet.launch.py")))

PACKAGES = (
    "ros_gz_sim",
    "ros_gz_bridge",
    "gz_ros2_control",
    "controller_manager",
    "joint_state_broadcaster",
    "forward_command_controller",
    "robot_state_publisher",
)
SPAWN_TIMEOUT_S = "120"  # for the controller manager, which is up when gz sim has the arm


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks this file for; the arguments are those of fleet.launch.py."""
    return LaunchDescription(
        [
            *fleet_launch.arguments(config="hardware_configs/fleets/gazebo4.yaml"),
            OpaqueFunction(function=start_fleet),
        ]
    )


def start_fleet(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Export the fleet into its run folder, and start all of it."""
    require_packages()
    fleet = fleet_launch.configured_fleet(context)
    check_robots(fleet)
    check(fleet)
    folder = fleet_launch.run_folder(fleet, context)
    files = export(fleet, folder.path / "gz_sim")
    specs = {spec.name: spec for spec in node_specs(fleet, folder.config, folder.path, simulators=False)}
    robots = [actions for robot in files.robots for actions in arm(robot, specs.pop(robot.id))]
    return [
        *(SetEnvironmentVariable(name, value) for name, value in ros_environment(fleet).items()),
        *simulator(files, fleet.gazebo.gui),
        *robots,
        *(fleet_launch.process(spec) for spec in specs.values()),
    ]


def require_packages() -> None:
    """Make sure that ROS has what is started here.

    Raises:
        RuntimeError: With the command that installs what is missing.
    """
    missing = []
    for name in PACKAGES:
        try:
            get_package_share_directory(name)
        except (PackageNotFoundError, OSError):  # the latter: no setup.bash was sourced at all
            missing.append(name)
    if missing:
        names = " ".join(f"ros-$ROS_DISTRO-{name.replace('_', '-')}" for name in missing)
        raise RuntimeError(
            f"ROS 2 packages {', '.join(missing)} are not installed, or their setup.bash is not sourced: "
            f"sudo apt install {names} (Jazzy or newer; docs/gz_sim.md)"
        )


def simulator(files: GzFiles, gui: bool) -> list[LaunchDescriptionEntity]:
    """Gz sim with the world, and the bridge of clocks and doors."""
    gz_sim = Path(get_package_share_directory("ros_gz_sim"), "launch", "gz_sim.launch.py")
    options = "-r" if gui else "-r -s"
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(gz_sim)),
            launch_arguments={
                "gz_args": f"{options} {shlex.quote(str(files.world))}",
                "on_exit_shutdown": "true",
            }.items(),
        ),
        Node(
            package="ros_gz_bridge",
            executable="parameter_bridge",
            parameters=[{"config_file": str(files.bridge)}],
            on_exit=ends_the_launch("the bridge"),
        ),
    ]


def arm(robot: GzRobot, node: NodeSpec) -> list[LaunchDescriptionEntity]:
    """One arm: its description, its model, then its controllers, then its robot node."""
    x, y = robot.place
    rules = [f"-r {ours}:={theirs}" for ours, theirs in robot.remappings.items()]
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        namespace=robot.id,  # the parameters' file has full names: the spawner looks for its own namespace
        arguments=[
            *robot.controller_names,
            *("--controller-manager", f"/{robot.id}/controller_manager"),
            *("--controller-manager-timeout", SPAWN_TIMEOUT_S),
            *("--param-file", str(robot.controllers)),
            *(part for rule in rules for part in ("--controller-ros-args", rule)),
        ],
        on_exit=then(f"{robot.id}'s controllers", lambda: [fleet_launch.process(node)]),
    )
    create = Node(
        package="ros_gz_sim",
        executable="create",
        namespace=robot.id,
        arguments=[
            *("-world", WORLD, "-topic", f"/{robot.id}/robot_description", "-name", robot.id),
            *("-x", f"{x:g}", "-y", f"{y:g}"),
        ],
        on_exit=then(f"{robot.id}'s model", lambda: [spawner]),
    )
    description = {
        "robot_description": ParameterValue(robot.urdf.read_text(), value_type=str),
        "frame_prefix": f"{robot.id}/",
        "use_sim_time": True,
    }
    publisher = Node(
        package="robot_state_publisher",
        executable="robot_state_publisher",
        namespace=robot.id,
        parameters=[description],
        remappings=list(robot.remappings.items()),
        on_exit=ends_the_launch(f"{robot.id}'s robot_state_publisher"),
    )
    return [publisher, create]


OnExit = Callable[[ProcessExited, LaunchContext], list[LaunchDescriptionEntity]]


def then(name: str, actions: Callable[[], list[LaunchDescriptionEntity]]) -> OnExit:
    """What follows when a process that does one thing has done it; its failure ends the launch."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown:
            return []
        if event.returncode != 0:
            return [Shutdown(reason=f"{name} could not be spawned: status {event.returncode}")]
        return actions()

    return on_exit


def ends_the_launch(name: str) -> OnExit:
    """What follows when a process ends that the fleet cannot do without."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        return (
            [] if context.is_shutdown else [Shutdown(reason=f"{name} ended with status {event.returncode}")]
        )

    return on_exit
