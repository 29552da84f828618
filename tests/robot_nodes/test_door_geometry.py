"""Where the parts of a door are, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from fleet.scene_config import Door
from robot_nodes.tasks.door_geometry import DoorGeometry

RIGHT, LEFT = -math.pi / 2, math.pi / 2


def door(**changes: object) -> Door:
    """A door across the x axis half a metre in front of the robot, hinged on its left."""
    handle = {
        "from_hinge_m": 0.4,
        "height_m": 0.45,
        "standoff_m": 0.03,
        "lever_m": 0.12,
        "radius_m": 0.01,
        "mass_kg": 0.3,
        "max_angle_rad": 0.8,
        "spring_nm_rad": 3.0,
        "damping_nms_rad": 0.05,
        "latch_angle_rad": 0.4,
    }
    data = {
        "hinge_m": [0.5, 0.3, 0.1],
        "yaw_rad": RIGHT,
        "width_m": 0.5,
        "height_m": 0.8,
        "thickness_m": 0.04,
        "mass_kg": 6.0,
        "opens": "push",
        "max_angle_rad": 1.2,
        "damping_nms_rad": 1.0,
        "friction_nm": 0.5,
    }
    return Door.model_validate(data | {"handle": handle} | changes)


def test_the_closed_door_stands_where_it_should() -> None:
    geometry = DoorGeometry(door(), 0.0)
    close = {"atol": 1e-12}
    np.testing.assert_allclose(geometry.along, [0, -1, 0], **close)
    np.testing.assert_allclose(geometry.outwards, [-1, 0, 0], **close)  # to the robot
    np.testing.assert_allclose(geometry.panel_center, [0.5, 0.05, 0.5], **close)
    np.testing.assert_allclose(geometry.panel_size, [0.5, 0.04, 0.8], **close)
    np.testing.assert_allclose(
        geometry.rosette, [0.48, -0.1, 0.45], **close
    )  # half a panel before the middle
    np.testing.assert_allclose(geometry.lever_start, [0.44, -0.1, 0.45], **close)  # gap 0.03, radius 0.01
    np.testing.assert_allclose(geometry.lever_end, [0.44, 0.02, 0.45], **close)  # towards the hinge


@pytest.mark.parametrize(
    ("opens", "yaw", "hinge_y", "sign", "x_of_free_edge"),
    [
        ("push", RIGHT, 0.3, 1, 0.5 + 0.5 * math.sin(0.3)),  # its edge goes to +x: turned to the left
        ("pull", RIGHT, 0.3, -1, 0.5 - 0.5 * math.sin(0.3)),
        ("push", LEFT, -0.3, -1, 0.5 + 0.5 * math.sin(0.3)),
        ("pull", LEFT, -0.3, 1, 0.5 - 0.5 * math.sin(0.3)),
    ],
)
def test_a_positive_angle_opens_it(
    opens: str, yaw: float, hinge_y: float, sign: int, x_of_free_edge: float
) -> None:
    geometry = DoorGeometry(door(opens=opens, yaw_rad=yaw, hinge_m=[0.5, hinge_y, 0.1]), 0.0)
    assert geometry.opening_sign == sign
    edge = geometry.turned(geometry.foot + 0.5 * geometry.along, 0.3)
    assert edge == pytest.approx([x_of_free_edge, hinge_y + math.copysign(0.5, yaw) * math.cos(0.3), 0.1])


@pytest.mark.parametrize("yaw", [RIGHT, LEFT, 2.2])
def test_pressing_turns_the_lever_down_about_its_axis(yaw: float) -> None:
    geometry = DoorGeometry(door(yaw_rad=yaw, hinge_m=[0.5, 0.3 if yaw < 0 else -0.3, 0.1]), 0.0)
    lever = geometry.lever_end - geometry.lever_start
    moves = np.cross(geometry.handle_axis, lever)
    np.testing.assert_allclose(moves, [0, 0, -0.12], atol=1e-12)


def test_the_fingertip_presses_from_above() -> None:
    geometry = DoorGeometry(door(), 0.02)
    # 0.09 m out on the lever (three quarters), its radius and the fingertip's above its middle line.
    assert geometry.press_point(0.0, 0.0) == pytest.approx([0.44, -0.01, 0.48])
    # The lever at 30°: 0.09 (cos, −sin) of its own, and 0.03 perpendicular to that.
    cos, sin = math.sqrt(0.75), 0.5
    pressed = geometry.press_point(0.0, math.pi / 6)
    assert pressed == pytest.approx([0.44, -0.1 + 0.09 * cos + 0.03 * sin, 0.45 - 0.09 * sin + 0.03 * cos])
    # The door at a right angle, pushed to +x: what was 0.31 along it and 0.06 before it is beyond the hinge.
    assert geometry.press_point(math.pi / 2, 0.0) == pytest.approx([0.5 + 0.31, 0.3 - 0.06, 0.48])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width_m": 0.35}, r"from_hinge_m 0.4, and that below width_m 0.35"),
        ({"yaw_rad": math.pi, "hinge_m": [0.5, 0.01, 0.1]}, "lies across the robot's root link"),
    ],
)
def test_a_door_that_cannot_be_is_told(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        door(**changes)
