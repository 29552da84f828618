"""What every simulated arm can do, whichever simulator it is in."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class SimulatedArm(Protocol):
    """One arm and the scene around it: no ROS, no wall clock.

        arm.reset()
        while True:
            arm.command(velocity)  # stays in force until the next command
            arm.step(0.05)

    Arrays [nq] are in the order of the config's `joints`, arrays [ns] in that of `scene_joints`.

    Attributes:
        scene_joints: Names of the scene's moving joints: those of a door or of an object, or none.
    """

    scene_joints: tuple[str, ...]

    @property
    def q(self) -> Array:
        """Joint positions [nq] (rad)."""

    @property
    def qd(self) -> Array:
        """Joint velocities [nq] (rad/s)."""

    @property
    def effort(self) -> Array:
        """Torque of each joint's servo [nq] (N m)."""

    @property
    def scene_q(self) -> Array:
        """Positions of the scene's joints [ns] (rad, or m where they slide)."""

    @property
    def scene_qd(self) -> Array:
        """Velocities of the scene's joints [ns] (rad/s, or m/s where they slide)."""

    @property
    def time_ns(self) -> int:
        """Simulated time (ns); a reset does not turn it back."""

    def command(self, values: ArrayLike) -> None:
        """Ask for joint velocities [nq] (rad/s), or torques (N m), until the next command."""

    def step(self, seconds: float) -> None:
        """Advance by a whole number of physics steps, the nearest to `seconds`."""

    def reset(self, q: ArrayLike | None = None) -> None:
        """Put the arm at rest at q [nq] (rad), or near home, and the scene as it is at first."""

    def reset_scene(self) -> None:
        """Put the scene as it is at first: the door closed, the object hung up. The arm stays."""

    def close(self) -> None:
        """Free what the simulator holds; can be called twice."""
