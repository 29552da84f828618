"""The processes of a fleet under ROS 2 launch: the same as `pnaf fleet up`, from the same node_specs.

    ros2 launch parallel_naf fleet.launch.py config:=hardware_configs/fleets/sim2.yaml run:=monday

They find each other in any start order, so all are started at once. The fleet runs until Ctrl-C, or until
one of them ends with status 0, as robots do after `pnaf fleet stop`; what crashes is started again.
"""

import time
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration

from fleet.config_file import load_fleet
from fleet.node_specs import NodeSpec, node_specs
from fleet.ready import EXIT_CONFIG
from fleet.run_folder import create_run_folder

RESPAWN_DELAY_S = 2.0
# From Ctrl-C until a process that has not ended is sent SIGTERM, and from then until SIGKILL.
PATIENCE_S = "10"


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks this file for."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "config",
                default_value="hardware_configs/fleets/sim2.yaml",
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
            OpaqueFunction(function=start_fleet),
        ]
    )


def start_fleet(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the run folder and one process per node spec."""
    fleet = load_fleet(LaunchConfiguration("config").perform(context))
    name = LaunchConfiguration("run").perform(context) or f"{fleet.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    runs = Path(LaunchConfiguration("runs_dir").perform(context))
    folder = create_run_folder(fleet, runs.resolve(), name)
    return [process(spec) for spec in node_specs(fleet, folder.config, folder.path)]


def process(spec: NodeSpec) -> ExecuteProcess:
    """This node spec as an action of launch."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        # launch would start again whatever ends, unless it is shutting down.
        if not context.is_shutdown and (event.returncode in (0, EXIT_CONFIG) or not spec.respawn):
            return [Shutdown(reason=f"{spec.name} ended with status {event.returncode}")]
        return []

    return ExecuteProcess(
        cmd=list(spec.argv),
        name=spec.name,
        additional_env=spec.env,
        respawn=spec.respawn,
        respawn_delay=RESPAWN_DELAY_S,
        sigterm_timeout=PATIENCE_S,
        sigkill_timeout=PATIENCE_S,
        on_exit=on_exit,
        output="both",
    )
