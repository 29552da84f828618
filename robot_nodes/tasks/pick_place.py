"""Pick and place: grasp an object that hangs on a string and carry it to a target.

The paper's task (arXiv:1610.00633), after our notes of it: near the hand hangs a slender object; rewarded are
the hand near it, the gripper closed, and the object near the target. The weights and the shape of each term
are our choice:

    r = −w_h d − w_g (g − h) + h (w_g + w_c max(0, 1 − D / D0) + w_p exp(−k D²)) − w_u mean(u²)
    h = g f exp(−(d / d0)⁴)

with the distance d of hand and object, the distance D of object and target, how far the gripper is closed, g
from 0 to 1, and so how well it holds the object, h. If it is closed further than an object lets it, there is
nothing in it: f falls from 1 to 0. h is flat near d = 0, where the hand cannot be exact, and steep beyond:
what is held off-centre slips out of the fingers in the seconds that follow, which a discount hides. Only what
is held earns anything by being near the target, so where that is matters to the values of no other states.
A target is higher than the object hangs: nothing but a grasp brings it there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fleet.config import ConfigError
from fleet.pick_place_config import PickPlaceTaskConfig
from fleet.spaces import Space, SpaceSpec
from robot_nodes.tasks.shared_arm import SharedArm
from robot_nodes.tasks.task import ArmState, Vector

_AXES = ("x", "y", "z")


def pick_place_reward(
    hand_m: float, gripper_rad: float, target_m: float, action: Vector, config: PickPlaceTaskConfig
) -> float:
    """Reward of a hand so far from the object, a gripper so far open and an object so far from the target."""
    closed = _share(gripper_rad, config.open_rad, config.closed_rad)
    filled = _share(gripper_rad, config.empty_rad, config.closed_rad)
    held = closed * filled * math.exp(-((hand_m / config.grasp_range_m) ** 4))
    carried = max(0.0, 1.0 - target_m / config.carry_range_m)
    placed = math.exp(-config.place_scale_per_m2 * target_m**2)
    return (
        -config.hand_weight * hand_m
        - config.grasp_weight * (closed - held)
        + held * (config.grasp_weight + config.carry_weight * carried + config.place_weight * placed)
        - config.action_weight * float(np.mean(np.square(action)))
    )


def _share(value: float, start: float, end: float) -> float:
    """How much of the way from start to end, 0 to 1."""
    return min(max((value - start) / (end - start), 0.0), 1.0)


class PickPlaceTask:
    """Random targets in a box; where the object starts is the scene's, or a person's."""

    def __init__(self, config: PickPlaceTaskConfig, arm: SharedArm, sensors: Space | None) -> None:
        """Find the gripper among the joints and the object among the robots' sensors [ns].

        Raises:
            ConfigError: They are not there.
        """
        names = sensors.names if sensors is not None else ()
        self._object = _object_index(config, names)
        if config.gripper not in arm.joints:
            raise ConfigError(
                f"task.gripper: the robots have no joint {config.gripper!r}; they have: "
                f"{', '.join(arm.joints)}. Take robots with a gripper among their joints, or set task.gripper"
            )
        self._gripper = arm.joints.index(config.gripper)
        self._config = config
        self.episode_s = config.episode_s
        self.spec = _spec(config, arm)

    def sample_goal(self, rng: np.random.Generator) -> Vector:
        """A target [3] (m), uniform in the box."""
        return rng.uniform(self._config.target_low_m, self._config.target_high_m)

    def observe(self, state: ArmState, goal: Vector) -> npt.NDArray[np.float32]:
        """q, q̇, tool, then the ways from tool to object and from object to target [2 nq + 9]."""
        thing = self._object_position(state)
        return np.concatenate(
            (state.q, state.qd, state.tool_position, thing - state.tool_position, goal - thing),
            dtype=np.float32,
        )

    def reward(self, next_state: ArmState, goal: Vector, action: Vector) -> float:
        """See the module's docstring."""
        hand_m, target_m = self._distances(next_state, goal)
        gripper_rad = float(next_state.q[self._gripper])
        return pick_place_reward(hand_m, gripper_rad, target_m, action, self._config)

    def terminated(self, next_state: ArmState, goal: Vector) -> bool:
        """Never: an episode ends by its time limit, which does not stop bootstrapping."""
        return False

    def success(self, last_state: ArmState, goal: Vector) -> bool:
        """Whether the object is within the success radius of the target."""
        return self._distances(last_state, goal)[1] <= self._config.success_radius_m

    def metrics(self, last_state: ArmState, goal: Vector) -> dict[str, float]:
        """The distances left, of object and target and of hand and object (m), and the target."""
        hand_m, target_m = self._distances(last_state, goal)
        metrics = {"final_distance_m": target_m, "hand_distance_m": hand_m}
        metrics.update({f"target_{axis}_m": float(goal[i]) for i, axis in enumerate(_AXES)})
        return metrics

    def goal_of(self, numbers: Mapping[str, float]) -> Vector:
        """The target [3] (m)."""
        name = self._config.object
        return np.array([numbers[f"{name}/{a}"] + numbers[f"target_from_object/{a}"] for a in _AXES])

    def achieved_goal(self, state: ArmState) -> Vector:
        """Where the object is [3] (m)."""
        return self._object_position(state)

    def _object_position(self, state: ArmState) -> Vector:
        return state.sensors[self._object]

    def _distances(self, state: ArmState, goal: Vector) -> tuple[float, float]:
        thing = self._object_position(state)
        return float(np.linalg.norm(state.tool_position - thing)), float(np.linalg.norm(thing - goal))


def _object_index(config: PickPlaceTaskConfig, names: tuple[str, ...]) -> list[int]:
    wanted = [f"{config.object}/{axis}" for axis in _AXES]
    if missing := [name for name in wanted if name not in names]:
        assert config.scene.object is not None  # the config's own check
        raise ConfigError(
            f"task.object: the robots have no sensors' number {missing[0]}, the object's position; they "
            f"have: {', '.join(names) or 'none'}. Give every robot a sensor such as {{name: {config.object}, "
            f"type: geometry_msgs/PoseStamped, topic: {config.scene.object.pose}, field: position, …}}, or "
            "set task.object"
        )
    return [names.index(name) for name in wanted]


def _spec(config: PickPlaceTaskConfig, arm: SharedArm) -> SpaceSpec:
    assert config.scene.object is not None  # the config's own check
    state, reach = arm.state, 2.0 * config.scene.object.string_m  # nothing gets farther, on a string
    observation = Space(
        names=(
            *state.names,
            *(f"object_from_tool/{axis}" for axis in _AXES),
            *(f"target_from_object/{axis}" for axis in _AXES),
        ),
        units=(*state.units, *("m",) * 6),
        low=(*state.low, *(-reach,) * 6),
        high=(*state.high, *(reach,) * 6),
    )
    return SpaceSpec(observation=observation, action=arm.action)
