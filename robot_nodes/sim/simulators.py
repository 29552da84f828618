"""The simulators that an arm can be put into, for episodes without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np

from fleet.config import ConfigError, FleetConfig
from fleet.robot_config import RobotConfig
from fleet.scene_config import NO_OBJECT_IN_GAZEBO
from fleet.sim_config import Simulator
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.sim.simulated_arm import SimulatedArm


@contextmanager
def simulated_arm(
    fleet: FleetConfig, robot_id: str, seed: int, simulator: Simulator | None = None
) -> Iterator[SimulatedArm]:
    """A robot's arm and scene in a simulator of its own, which obeys velocities as fast as it can.

        with simulated_arm(fleet, "robot1", seed=0) as arm:
            result = Rollout(fleet, "robot1", message, seed=0, arm=arm).episode()

    Args:
        fleet: With the robot, its scene and Gazebo's settings.
        robot_id: Which robot.
        seed: Of what the simulator draws.
        simulator: None: the one in the robot's config.

    Raises:
        ConfigError: There is no such robot, it is real hardware, or its scene is not for Gazebo.
        GazeboError: There is no Gazebo on this machine, or it does not start.
    """
    robot, simulator = fleet.entry(robot_id).robot, simulator or own_simulator(fleet, robot_id)
    if robot.sim is None:
        raise ConfigError(
            f"{robot_id} is real hardware (no sim group in its config): only a simulated robot can be "
            "evaluated"
        )
    rng = np.random.default_rng(seed)
    sim = robot.sim.model_copy(update={"simulator": simulator, "command_interface": "velocity"})
    robot = robot.model_copy(update={"sim": sim})
    if simulator == "mujoco":
        yield MujocoArm(robot, rng, fleet.task.scene)
        return
    if fleet.task.scene is not None and fleet.task.scene.object is not None:
        raise ConfigError(NO_OBJECT_IN_GAZEBO)
    # Only here: who stays in MuJoCo needs nothing of Gazebo.
    from robot_nodes.gazebo.private_gazebo import PrivateGazebo

    with (
        PrivateGazebo(_with_robot(fleet, robot_id, robot), robot_id, seed) as gazebo,
        closing(gazebo.arm(rng)) as arm,
    ):
        yield arm


def own_simulator(fleet: FleetConfig, robot_id: str) -> Simulator:
    """The simulator in a robot's config."""
    return "gazebo" if robot_id in fleet.in_gazebo else "mujoco"


def _with_robot(fleet: FleetConfig, robot_id: str, robot: RobotConfig) -> FleetConfig:
    robots = [e.model_copy(update={"robot": robot}) if e.id == robot_id else e for e in fleet.robots]
    return fleet.model_copy(update={"robots": robots})
