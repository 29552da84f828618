"""The processes of a fleet: what to start, with what, and after whom.

One pure function feeds both `pnaf fleet up` (fleet/supervisor.py) and `launch/fleet.launch.py`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from fleet.config import FleetConfig


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One process.

    Attributes:
        name: Unique in the fleet; also the name of its log file.
        argv: The command.
        env: Variables added to the environment.
        after: Processes that must be ready before this one is started.
        respawn: Whether to start it again when it ends by itself.
        essential: The fleet is not up without it, and ends if it cannot be kept running.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    respawn: bool = True
    essential: bool = True


def arm_name(robot_id: str) -> str:
    """Name of the process that simulates this robot's arm."""
    return f"{robot_id}_arm"


def gazebo_name(fleet: FleetConfig, world: str) -> str:
    """Name of the gzserver process of this world."""
    return "gazebo" if fleet.gazebo.worlds == "shared" else f"{world}_gazebo"


def node_specs(fleet: FleetConfig, config: Path, run_dir: Path, *, simulators: bool = True) -> list[NodeSpec]:
    """Every process of the fleet, in an order in which they may be started.

    Args:
        fleet: The loaded config.
        config: Its self-contained file, given to every process.
        run_dir: Where the run's files go.
        simulators: Also those which simulate its arms; without, something else does, as gz sim.
    """
    pnaf = (sys.executable, "-m", "fleet.cli")
    ros = ros_environment(fleet) | {"ROS_LOG_DIR": str(run_dir / "logs" / "ros")}
    # One process, one core: several BLAS threads on a busy machine only wait for each other.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    specs = [
        NodeSpec("replay_server", (*pnaf, "replay-server", str(config), "--run-dir", str(run_dir)), single),
        NodeSpec(
            "learner",
            (*pnaf, "learner", str(config), "--run-dir", str(run_dir)),
            {"OMP_NUM_THREADS": str(fleet.learner.threads)},
            after=("replay_server",),
        ),
    ]
    gazebo_of: dict[str, str] = {}
    for world, robot_ids in (fleet.gazebo_worlds if simulators else {}).items():
        name = gazebo_name(fleet, world)
        gazebo_of |= dict.fromkeys(robot_ids, name)
        options = (str(config), "--world", world, "--run-dir", str(run_dir))
        specs.append(NodeSpec(name, (*pnaf, "gazebo", "server", *options), single))
        if fleet.gazebo.gui:
            gui = (*pnaf, "gazebo", "gui", *options)
            specs.append(NodeSpec(f"{world}_gui", gui, after=(name,), respawn=False, essential=False))
    for entry in fleet.robots:
        after: tuple[str, ...] = ("replay_server",)
        if simulators and entry.robot.sim is not None:
            arm = arm_name(entry.id)
            simulate = (*pnaf, "sim-arm", str(config), "--id", entry.id, "--run-dir", str(run_dir))
            gazebo = (gazebo_of[entry.id],) if entry.id in gazebo_of else ()
            specs.append(NodeSpec(arm, simulate, ros | single, gazebo))
            after = (*after, arm)
        robot = (*pnaf, "robot", str(config), "--id", entry.id, "--run-dir", str(run_dir))
        specs.append(NodeSpec(entry.id, robot, ros | single, after))
    return specs


def ros_environment(fleet: FleetConfig) -> dict[str, str]:
    """ROS 2 variables for this fleet's processes, whatever the shell has set."""
    return {
        "ROS_DOMAIN_ID": str(fleet.ros.domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": fleet.ros.discovery_range,
    }
