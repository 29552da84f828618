"""What is looked at before a fleet's processes start, so that a mistake is told at once and in one place.

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from fleet.config import ConfigError, FleetConfig
from fleet.keys import key_problems

logger = logging.getLogger(__name__)


def check_robots(fleet: FleetConfig) -> None:
    """Load every robot's model and task once, so that a mistake in them is told before anything starts.

    Raises:
        ConfigError: A link, a joint or a target region does not exist.
    """
    from robot_nodes.kinematics import Kinematics
    from robot_nodes.tasks.task import make_task
    from robot_nodes.urdf_source import load_urdf

    for entry in fleet.robots:
        try:
            make_task(fleet, entry.id)
            if isinstance(entry.robot.urdf, Path):  # otherwise its driver publishes it, once it is up
                Kinematics(load_urdf(entry.robot.urdf), entry.robot.joints, entry.robot.tool_link)
        except ValueError as error:
            raise ConfigError(f"robot {entry.id}: {error}") from error


def check_keys(fleet: FleetConfig) -> None:
    """Make sure that every process finds its key, so that a missing one is told before anything starts.

    Raises:
        ConfigError: With one line per problem.
    """
    if problems := key_problems(fleet):
        raise ConfigError("\n".join(problems))


def prepare_gazebo(fleet: FleetConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Find Gazebo, compile its plugin and describe its worlds once, before every process does it.

    Args:
        fleet: The loaded config.
        environment: Variables, of which DISPLAY names the display.

    Raises:
        ConfigError: There is no Gazebo, a world cannot be built, or there is no display for its window.
    """
    if fleet.gazebo.gui and not fleet.in_gazebo:
        raise ConfigError(
            "gazebo.gui: no robot of this fleet is in Gazebo; try --set override.sim.simulator=gazebo"
        )
    if fleet.gazebo.gui and not environment.get("DISPLAY"):
        raise ConfigError(
            "gazebo.gui: there is no X display for the window (DISPLAY is not set): start without it, from a "
            "desktop or with ssh -X"
        )
    if not fleet.in_gazebo:
        return
    from robot_nodes.gazebo.installation import find_gazebo
    from robot_nodes.gazebo.world import world_sdf

    try:
        gazebo = find_gazebo()
        logger.info("Gazebo %s in %s", gazebo.version, gazebo.usr)
        plugin = gazebo.plugin()
        for world in fleet.gazebo_worlds:
            world_sdf(fleet, world, plugin.name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
