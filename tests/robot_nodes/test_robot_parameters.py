"""The robot's config as ROS parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleet.config_file import load_robot
from robot_nodes.robot_parameters import config_leaves

ROBOT = load_robot(Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml")


def test_every_leaf_has_a_name_a_value_and_a_description():
    leaves = {leaf.name: leaf for leaf in config_leaves(ROBOT)}
    speed = leaves["limits.max_joint_velocity_rad_s"]
    assert speed.value == [1.5] * 7 and "rad/s" in speed.description
    assert leaves["control_rate_hz"].value == 20.0
    assert leaves["joints"].value == ROBOT.joints
    assert leaves["watchdogs.state_age.limit_s"].value == 0.15
    assert leaves["watchdogs.tracking"].value == "null"
    assert leaves["limits.workspace_planes"].value == "[]"
    assert leaves["urdf"].value == json.dumps(str(ROBOT.urdf))
    assert [name for name, leaf in leaves.items() if not leaf.description] == []


@pytest.mark.parametrize("name", ["limits.link_planes", "limits.self_collision_ignore"])
def test_what_ros_cannot_hold_is_json(name):
    plane = {"name": "table", "normal": [0.0, 0.0, 1.0], "offset_m": 0.02}
    data = ROBOT.model_dump()
    data["limits"] |= {
        "link_planes": [plane],
        "link_spheres": [{"link": "link_3", "center_m": [0, 0, 0], "radius_m": 0.1}],
        "self_collision_ignore": [["link_1", "link_3"]],
    }
    leaves = {leaf.name: leaf.value for leaf in config_leaves(type(ROBOT).model_validate(data))}
    expected = {"limits.link_planes": [plane], "limits.self_collision_ignore": [["link_1", "link_3"]]}
    value = leaves[name]
    assert isinstance(value, str) and json.loads(value) == expected[name]
