"""A fleet in Gazebo under ROS 2 launch: fleet.launch.py with four arms in one world, unless told otherwise.

    ros2 launch parallel_naf gazebo_fleet.launch.py gui:=true run:=monday

Gazebo, drivers, robot nodes, replay server and learner. docs/gazebo.md goes through it.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks this file for; the arguments are those of fleet.launch.py."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "config",
                default_value="hardware_configs/fleets/gazebo4.yaml",
                description="The fleet's YAML: a file, or one of those installed with this package.",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(Path(__file__).with_name("fleet.launch.py")))
            ),
        ]
    )
