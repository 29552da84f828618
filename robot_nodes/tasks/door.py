"""Door: press its handle down and open it.

The paper's door task (arXiv:1610.00633), after our notes of it: the state has joint positions and
velocities, tool position, handle position and door angle; rewarded are being close to the handle, turning
it and opening the door. The weights, the shape of each term and the measures are our choice:

    r = −w_d d + w_h min(φ / φ_latch, 1) + w_a min(θ / θ_success, 1) − w_u mean(u²)

with the distance d of the tool from where it would press the handle, the angle φ of the handle and θ of the
hinge. Once the door is open its handle counts as turned: it may be let go. An unlatched door has no such
term. θ and φ are two of the robots' sensors, as on a real door.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fleet.config import ConfigError, DoorTaskConfig
from fleet.scene_config import LATCHED_BELOW_RAD, Door
from fleet.spaces import Space, SpaceSpec
from robot_nodes.tasks.door_geometry import DoorGeometry
from robot_nodes.tasks.shared_arm import SharedArm
from robot_nodes.tasks.task import ArmState, Vector

_AXES = ("x", "y", "z")


def door_reward(
    distance_m: float, hinge_rad: float, handle_rad: float, action: Vector, config: DoorTaskConfig
) -> float:
    """Reward of a tool so far from the handle, with the door at these angles, after the action [nu]."""
    latch_rad = _door(config).handle.latch_angle_rad
    turned = 0.0
    if latch_rad is not None:
        turned = 1.0 if hinge_rad >= LATCHED_BELOW_RAD else min(handle_rad / latch_rad, 1.0)
    return (
        -config.distance_weight * distance_m
        + config.handle_weight * turned
        + config.angle_weight * min(hinge_rad / config.success_angle_rad, 1.0)
        - config.action_weight * float(np.mean(np.square(action)))
    )


class DoorTask:
    """One door, always the same: there is no goal to draw."""

    def __init__(self, config: DoorTaskConfig, arm: SharedArm, sensors: Space | None) -> None:
        """Find the door's angles among the robots' sensors [ns].

        Raises:
            ConfigError: They are not there.
        """
        names = sensors.names if sensors is not None else ()
        self._hinge = _index(config.hinge, names, "hinge", config)
        self._handle = _index(config.handle, names, "handle", config)
        self._config = config
        self._geometry = DoorGeometry(_door(config), config.scene.fingertip_radius_m or 0.0)
        self.episode_s = config.episode_s
        self.spec = _spec(_door(config), arm)

    def sample_goal(self, rng: np.random.Generator) -> Vector:
        """Nothing [0]."""
        return np.zeros(0)

    def observe(self, state: ArmState, goal: Vector) -> npt.NDArray[np.float32]:
        """q, q̇, tool, and where the tool would press the handle [2 nq + 6]."""
        return np.concatenate(
            (state.q, state.qd, state.tool_position, self._press_point(state)), dtype=np.float32
        )

    def reward(self, next_state: ArmState, goal: Vector, action: Vector) -> float:
        """See the module's docstring."""
        angles = self._angles(next_state)
        return door_reward(self._distance(next_state), *angles, action, self._config)

    def terminated(self, next_state: ArmState, goal: Vector) -> bool:
        """Never: an episode ends by its time limit, which does not stop bootstrapping."""
        return False

    def success(self, last_state: ArmState, goal: Vector) -> bool:
        """Whether the door is open far enough."""
        return self._angles(last_state)[0] >= self._config.success_angle_rad

    def metrics(self, last_state: ArmState, goal: Vector) -> dict[str, float]:
        """Both angles (rad) and the distance of the tool from the handle (m)."""
        hinge, handle = self._angles(last_state)
        return {
            "door_angle_rad": hinge,
            "handle_angle_rad": handle,
            "final_distance_m": self._distance(last_state),
        }

    def goal_of(self, numbers: Mapping[str, float]) -> Vector:
        """Nothing [0]."""
        return np.zeros(0)

    def achieved_goal(self, state: ArmState) -> Vector:
        """Nothing [0]."""
        return np.zeros(0)

    def _angles(self, state: ArmState) -> tuple[float, float]:
        return float(state.sensors[self._hinge]), float(state.sensors[self._handle])

    def _press_point(self, state: ArmState) -> Vector:
        return self._geometry.press_point(*self._angles(state))

    def _distance(self, state: ArmState) -> float:
        return float(np.linalg.norm(state.tool_position - self._press_point(state)))


def _door(config: DoorTaskConfig) -> Door:
    assert config.scene.door is not None  # the config's own check
    return config.scene.door


def _index(name: str, names: tuple[str, ...], key: str, config: DoorTaskConfig) -> int:
    if name in names:
        return names.index(name)
    sensor, _, joint = name.partition("/")
    topic = _door(config).joint_states
    raise ConfigError(
        f"task.{key}: the robots have no sensors' number {name}, the angle of the door's {key}; they have: "
        f"{', '.join(names) or 'none'}. Give every robot a sensor such as {{name: {sensor}, type: "
        f"sensor_msgs/JointState, topic: {topic}, field: position, joints: [{joint}], …}}, or set task.{key}"
    )


def _spec(door: Door, arm: SharedArm) -> SpaceSpec:
    state, (x, y, _), z = arm.state, door.hinge_m, door.handle.height_m
    width, lever = door.width_m, door.handle.lever_m
    observation = Space(
        names=(*state.names, *(f"handle/{axis}" for axis in _AXES)),
        units=(*state.units, "m", "m", "m"),
        low=(*state.low, x - width, y - width, z - lever),
        high=(*state.high, x + width, y + width, z + lever),
    )
    return SpaceSpec(observation=observation, action=arm.action)
