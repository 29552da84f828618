"""Config models of simulation: what stands behind a robot's topics, and the worlds of Gazebo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from fleet.config_model import Model, NonNegative, Positive, Topic

Simulator = Literal["mujoco", "gazebo"]

SHARED_WORLD = "world"
"""Name of the one Gazebo world of robots that share it; otherwise a world is named as its robot."""


class SimConfig(Model):
    """The simulated arm behind the topics."""

    simulator: Simulator = Field(
        "mujoco",
        description="mujoco: in the arm's own process; gazebo: in a gzserver, see the fleet's `gazebo`.",
    )
    timestep_s: Positive = Field(0.002, description="Physics step (s).")
    joint_state_rate_hz: Positive = Field(100.0, description="Also the rate of /clock.")
    speed: NonNegative = Field(1.0, description="Simulated seconds per second; 0: as fast as it can.")
    lockstep_timeout_s: NonNegative = Field(
        0.0,
        description="At each control period wait up to this wall time for the next command, so that "
        "faster-than-real-time runs have the timing of real time; 0: never wait.",
    )
    shuffle_joint_order: bool = Field(True, description="Publish joints in another order than the URDF's.")
    command_interface: Literal["velocity", "effort"] = Field(
        "velocity",
        description="velocity: the arm obeys the robot's topics.command; effort, gazebo only: it obeys joint "
        "torques on effort_command, of a controller of yours that hears topics.command.",
    )
    effort_command: Topic = Field(
        "forward_effort_controller/commands",
        description="std_msgs/Float64MultiArray, in: joint torques (N m), with command_interface effort.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.command_interface == "effort" and self.simulator != "gazebo":
            raise ValueError("command_interface effort needs simulator: gazebo")
        return self


class GazeboConfig(Model):
    """The worlds of robots whose sim.simulator is gazebo."""

    worlds: Literal["shared", "own"] = Field(
        "shared", description="shared: one gzserver for all robots; own: one for each."
    )
    spacing_m: Positive = Field(3.0, description="Between the bases of two robots in a shared world (m).")
    solver_iterations: int = Field(
        0,
        ge=0,
        le=1000,
        description="Of ODE's iterative solver, per physics step; 0: its direct solver, which is exact, and "
        "faster as long as little touches.",
    )
    gui: bool = Field(False, description="Also open gzclient on each world; needs a display.")
