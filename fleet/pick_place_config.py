"""Config model of the task `pick_place`: `hardware_configs/tasks/pick_place.yaml`."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from fleet.config_model import Model, Name, NonNegative, Positive, Vector3
from fleet.scene_config import HangingObject, SceneConfig


class PickPlaceTaskConfig(Model):
    """Grasp an object that hangs on a string and carry it to a target."""

    kind: Literal["pick_place"] = Field(description="Which task: picking something up and carrying it away.")
    scene: SceneConfig = Field(
        description="What stands around a simulated robot: a file of hardware_configs/worlds, relative to "
        "the task's file. On a real robot the task reads the object's start and string, too."
    )
    object: Name = Field(
        "object",
        description="The sensor that is the object's position: its x, y and z (m), root link's frame.",
    )
    gripper: str = Field("gripper", description="The robot's joint that closes the gripper as it falls.")
    open_rad: float = Field(description="Position of that joint when the gripper is open (m if it slides).")
    closed_rad: float = Field(description="Its position when the gripper holds the object.")
    empty_rad: float = Field(
        description="Its position when the gripper is closed and there is nothing in it."
    )
    episode_s: Positive = Field(description="Length of an episode in robot time (s).")
    success_radius_m: Positive = Field(
        description="Success is the object this near to the target when the episode ends (m)."
    )
    target_low_m: Vector3 = Field(
        description="Lowest corner of the box in which targets are drawn, in the frame of the root link (m)."
    )
    target_high_m: Vector3 = Field(description="Highest corner of that box; the same: one fixed target (m).")
    hand_weight: NonNegative = Field(1.0, description="Reward taken per metre from hand to object (1/m).")
    grasp_weight: NonNegative = Field(1.0, description="Reward of the gripper closed around the object.")
    grasp_range_m: Positive = Field(
        description="d0: it falls off as exp(−(d / d0)⁴) with the distance d from hand to object (m)."
    )
    carry_weight: NonNegative = Field(1.0, description="Reward of an object that is held near the target.")
    carry_range_m: Positive = Field(
        description="D0: it falls to nothing, evenly, this far from the target (m)."
    )
    place_weight: NonNegative = Field(1.0, description="Reward of the object at the target.")
    place_scale_per_m2: Positive = Field(
        100.0, description="k: it falls off as exp(−k D²) with the distance D from object to target (1/m²)."
    )
    action_weight: NonNegative = Field(0.01, description="Reward taken for the mean of the squared actions.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scene.object is None:
            raise ValueError("scene has no object: the task pick_place needs one")
        if not self.empty_rad < self.closed_rad < self.open_rad:
            raise ValueError(
                f"empty_rad {self.empty_rad} must be below closed_rad {self.closed_rad}, and that below "
                f"open_rad {self.open_rad}"
            )
        if any(low > high for low, high in zip(self.target_low_m, self.target_high_m, strict=True)):
            raise ValueError(
                f"target_low_m {self.target_low_m} must not be above target_high_m {self.target_high_m}"
            )
        _check_targets(self.scene.object, self.target_low_m, self.target_high_m, self.success_radius_m)
        return self


def _check_targets(thing: HangingObject, low_m: Vector3, high_m: Vector3, radius_m: float) -> None:
    """Every target must be lifted to, and be no farther than the string is long."""
    x, y, z = thing.start_m
    dx, dy, dz = thing.randomise_m
    lift_m = low_m[2] - (z + dz)
    if lift_m <= radius_m:
        raise ValueError(
            f"target_low_m: targets must be more than success_radius_m {radius_m} above the highest start of "
            f"the object, z = {z + dz:g}: otherwise it succeeds without being lifted"
        )
    # The farthest corner from the hanging points, the highest of which is farthest from the lowest target.
    far_m = math.hypot(
        max(abs(low_m[0] - x), abs(high_m[0] - x)) + dx,
        max(abs(low_m[1] - y), abs(high_m[1] - y)) + dy,
        max(abs(z + thing.string_m + dz - low_m[2]), abs(z + thing.string_m - dz - high_m[2])),
    )
    if far_m > thing.string_m:
        raise ValueError(
            f"target_low_m and target_high_m: a target may be {far_m:.3f} m from where the object hangs, "
            f"beyond its string_m {thing.string_m}: bring them nearer or give it a longer string"
        )
