"""A robot arm in Gazebo, and the scene around it, in lock-step: the world waits for each step."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fleet.robot_config import RobotConfig
from fleet.scene_config import HANDLE_JOINT, HINGE_JOINT, SceneConfig
from robot_nodes.gazebo.connection import GazeboConnection

Array = NDArray[np.float64]

# ODE's solvers can take constraints in random order; the same seed after each reset repeats it.
SOLVER_SEED = 1


class GazeboArm:
    """A SimulatedArm whose world does nothing between two of its steps.

        arm = GazeboArm(robot, "robot1", scene, GazeboConnection(port), np.random.default_rng(0))
        arm.reset()
        while True:
            arm.command(velocity)  # stays in force until the next command
            arm.step(0.05)

    It takes the arm over as it is in the world: not moved, commanded to zero. In a shared world all arms in
    lock-step step together: `step` waits for the slowest. What `q` and the others return is the state
    at the end of the last step or reset.

    Attributes:
        scene_joints: Names of the scene's moving joints: those of a door, or none.
    """

    def __init__(
        self,
        config: RobotConfig,
        robot_id: str,
        scene: SceneConfig | None,
        connection: GazeboConnection,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Take over the arm.

        Args:
            config: Robot with a `sim` group.
            robot_id: Its name in the world.
            scene: What stands around it there; none: nothing.
            connection: A new one; from now on the arm's, also to close.
            rng: Where `reset()` without a position draws its offsets; none: home exactly.

        Raises:
            ValueError: The config has no `sim`.
            GazeboConnectionError: The world lacks these joints, or another client drives them.
        """
        if config.sim is None:
            connection.close()
            raise ValueError(f"robot {config.name!r} has no sim group in its config: it is real hardware")
        self._config = config
        self._connection = connection
        self._rng = rng
        self.scene_joints: tuple[str, ...] = ()
        if scene is not None and scene.door is not None:
            self.scene_joints = (HINGE_JOINT, HANDLE_JOINT)
        lines = [f"{robot_id}::{name} {config.sim.command_interface}" for name in config.joints]
        lines += [f"{robot_id}_door::{name} passive" for name in self.scene_joints]
        self._timestep_ns = connection.bind(lines).timestep_ns
        self._arm = slice(0, len(config.joints))
        self._scene = slice(len(config.joints), None)
        self._command = np.zeros(len(lines))
        self._state = connection.hold()

    @property
    def q(self) -> Array:
        """Joint positions [nq] (rad)."""
        return self._state.position[self._arm]

    @property
    def qd(self) -> Array:
        """Joint velocities [nq] (rad/s)."""
        return self._state.velocity[self._arm]

    @property
    def effort(self) -> Array:
        """Torque of each joint's motor, or as commanded [nq] (N m)."""
        return self._state.effort[self._arm]

    @property
    def scene_q(self) -> Array:
        """Positions of the scene's joints [ns] (rad)."""
        return self._state.position[self._scene]

    @property
    def scene_qd(self) -> Array:
        """Velocities of the scene's joints [ns] (rad/s)."""
        return self._state.velocity[self._scene]

    @property
    def time_ns(self) -> int:
        """Simulated time since the world started (ns); a reset does not turn it back."""
        return self._state.time_ns

    def command(self, values: ArrayLike) -> None:
        """Ask for joint velocities [nq] (rad/s), or torques (N m), from the next step on."""
        self._command[self._arm] = values

    def step(self, seconds: float) -> None:
        """Advance by a whole number of physics steps, the nearest to `seconds`.

        Raises:
            ValueError: That is less than one step.
            GazeboConnectionError: The world is gone, or refused the command.
        """
        steps = round(seconds * 1e9 / self._timestep_ns)
        if steps < 1:
            raise ValueError(f"step of {seconds} s is shorter than the timestep {self._timestep_ns * 1e-9} s")
        self._connection.command(self._command)
        self._state = self._connection.step(steps)

    def reset(self, q: ArrayLike | None = None) -> None:
        """Put the arm at rest at q [nq] (rad), or at its home offset by the config's `randomise_rad`.

        The scene is put as it is at first. An extra of simulation: a fleet resets by motion.

        Raises:
            GazeboConnectionError: The world is gone, or q is beyond the joints' limits.
        """
        if q is None:
            reset = self._config.reset
            q = np.array(reset.home_rad)
            if self._rng is not None:
                q = q + self._rng.uniform(-reset.randomise_rad, reset.randomise_rad, len(q))
        position = np.zeros(len(self._command))
        position[self._arm] = q
        self._command[:] = 0.0
        self._state = self._connection.reset(position, seed=SOLVER_SEED)

    def reset_scene(self) -> None:
        """Put the scene as it is at first: the door closed. The arm stays where it is, with its command."""
        position = np.full(len(self._command), np.nan)
        position[self._scene] = 0.0
        self._state = self._connection.reset(position)

    def close(self) -> None:
        """Disconnect; the world brakes the arm and goes on without it. Can be called twice."""
        self._connection.close()
