"""The processes of a fleet under ROS 2 launch: the same as `pnaf fleet up`, from the same node_specs.

    ros2 launch parallel_naf fleet.launch.py config:=hardware_configs/fleets/sim2.yaml run:=monday

They find each other in any start order, so all are started at once. The fleet runs until Ctrl-C, or until
one of them ends with status 0, as robots do after `pnaf fleet stop`; what crashes is started again. The
replay server ends last: robots ship their last steps to it.
"""

import time
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.fleet_checks import check_robots, prepare_gazebo
from fleet.node_specs import NodeSpec, node_specs
from fleet.ready import EXIT_CONFIG, LINGER_S_VARIABLE
from fleet.run_folder import RunFolder, create_run_folder
from fleet.shared_memory import remove_stale_segments

RESPAWN_DELAY_S = 2.0
# From Ctrl-C until a process that has not ended is sent SIGTERM, and from then until SIGKILL; a robot tries
# for ten seconds to deliver its last steps.
PATIENCE_S = "15"
# From Ctrl-C until the replay server ends: robots ship their last steps meanwhile.
LINGER_S = "3"


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks this file for."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start_fleet)])


def arguments(config: str = "hardware_configs/fleets/sim2.yaml") -> list[DeclareLaunchArgument]:
    """What can be said on the command line; without, the fleet is that of `config`."""
    return [
        DeclareLaunchArgument(
            "config",
            default_value=config,
            description="The fleet's YAML: a file, or one of those installed with this package.",
        ),
        DeclareLaunchArgument(
            "run",
            default_value="",
            description="Name of the new folder in runs_dir for all this run writes; "
            "empty: the fleet's name and the time.",
        ),
        DeclareLaunchArgument(
            "runs_dir", default_value="runs", description="The folder that holds the run folders."
        ),
        DeclareLaunchArgument(
            "gui",
            default_value="false",
            choices=["true", "false"],
            description="Also open Gazebo's window, of a fleet that is in Gazebo.",
        ),
    ]


def start_fleet(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the run folder and one process per node spec."""
    fleet = configured_fleet(context)
    check_robots(fleet)
    prepare_gazebo(fleet)
    folder = run_folder(fleet, context)
    return [process(spec) for spec in node_specs(fleet, folder.config, folder.path)]


def configured_fleet(context: LaunchContext) -> FleetConfig:
    """The fleet that the arguments name."""
    overrides = ["gazebo.gui=true"] if LaunchConfiguration("gui").perform(context) == "true" else []
    return load_fleet(LaunchConfiguration("config").perform(context), overrides)


def run_folder(fleet: FleetConfig, context: LaunchContext) -> RunFolder:
    """A new run folder, named as the arguments say."""
    remove_stale_segments()  # of an earlier run
    name = LaunchConfiguration("run").perform(context) or f"{fleet.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    runs = Path(LaunchConfiguration("runs_dir").perform(context))
    return create_run_folder(fleet, runs.resolve(), name)


def process(spec: NodeSpec) -> ExecuteProcess:
    """This node spec as an action of launch."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if not spec.essential:
            return []
        # launch would start again whatever ends, unless it is shutting down.
        if not context.is_shutdown and (event.returncode in (0, EXIT_CONFIG) or not spec.respawn):
            return [Shutdown(reason=f"{spec.name} ended with status {event.returncode}")]
        return []

    return ExecuteProcess(
        cmd=list(spec.argv),
        name=spec.name,
        additional_env=spec.env | ({LINGER_S_VARIABLE: LINGER_S} if spec.name == "replay_server" else {}),
        respawn=spec.respawn,
        respawn_delay=RESPAWN_DELAY_S,
        sigterm_timeout=PATIENCE_S,
        sigkill_timeout=PATIENCE_S,
        on_exit=on_exit,
        output="both",
    )
