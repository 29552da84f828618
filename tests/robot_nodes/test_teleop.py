"""A person's commands as joint velocities, on a planar arm of two links of 1 m and on the 7-DoF arm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.config_file import load_fleet
from fleet.robot_config import RobotConfig, TeleopConfig
from robot_nodes.kinematics import Kinematics
from robot_nodes.teleop import Teleop, TeleopError
from robot_nodes.urdf_source import Urdf, load_urdf

GENERIC7 = load_fleet("hardware_configs/fleets/sim2.yaml").robots[0].robot
PLANAR = """
<robot name="planar">
  <link name="base"/><link name="upper"/><link name="lower"/><link name="tool"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" velocity="9" effort="9"/>
  </joint>
  <joint name="elbow" type="revolute">
    <parent link="upper"/><child link="lower"/><origin xyz="1 0 0"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" velocity="9" effort="9"/>
  </joint>
  <joint name="flange" type="fixed">
    <parent link="lower"/><child link="tool"/><origin xyz="1 0 0"/>
  </joint>
</robot>
"""
ELBOW_UP = np.array([0.0, math.pi / 2])  # the tool is at (1, 1), its x axis along the base's y axis


def config(robot: RobotConfig, joints: list[str], max_velocity: float, **teleop: float) -> RobotConfig:
    limits = robot.limits.model_copy(update={"max_joint_velocity_rad_s": [max_velocity] * len(joints)})
    settings = TeleopConfig(
        **{"twist_topic": "t", "max_age_s": 0.2, "max_linear_m_s": 9, "max_angular_rad_s": 9} | teleop
    )
    return robot.model_copy(
        update={"joints": joints, "tool_link": "tool", "limits": limits, "teleop": settings}
    )


def planar(max_velocity: float = 9.0, **teleop: float) -> Teleop:
    robot = config(GENERIC7, ["shoulder", "elbow"], max_velocity, **teleop)
    return Teleop(robot, Kinematics(Urdf(PLANAR, "planar"), robot.joints, robot.tool_link))


# The Jacobian of (vx, vy, ωz) at ELBOW_UP is [[-1, -1], [1, 0], [1, 1]], so that with λ² = 0.0025
# (JᵀJ + λ² 1) = [[3.0025, 2], [2, 2.0025]], whose determinant is 2.01250625.
DETERMINANT = 2.01250625


@pytest.mark.parametrize("frame", ["", "base", "/base"])
def test_a_twist_in_the_base_frame_by_hand(frame: str) -> None:
    teleop = planar()
    # What (0.1, 0.2) rad/s does: vx -0.3, vy 0.1, ωz 0.3; Jᵀẋ = (0.7, 0.6).
    teleop.twist([-0.3, 0.1, 0.0], [0.0, 0.0, 0.3], frame, 0.0)
    expected = [(0.7 * 2.0025 - 2 * 0.6) / DETERMINANT, (3.0025 * 0.6 - 2 * 0.7) / DETERMINANT]
    assert expected == pytest.approx([0.1, 0.2], abs=6e-4)
    assert teleop.velocity(ELBOW_UP, 0.0) == pytest.approx(expected, abs=1e-12)


def test_a_twist_in_the_tool_frame_by_hand() -> None:
    teleop = planar()
    # The tool's x is the base's y and its y the base's -x: the same motion as above.
    teleop.twist([0.1, 0.3, 0.0], [0.0, 0.0, 0.3], "tool", 0.0)
    assert teleop.velocity(ELBOW_UP, 0.0) == pytest.approx([0.100248, 0.199503], abs=1e-6)


def test_a_twist_is_turned_into_joint_velocities_where_the_arm_is_now() -> None:
    teleop = planar()
    teleop.twist([-0.2, 0.2, 0.0], [0.0, 0.0, 0.2], "", 0.0)  # what the shoulder alone does at (1, 1)
    assert teleop.velocity(ELBOW_UP, 0.0) == pytest.approx([0.2, 0.0], abs=1e-3)
    # Turned by 90° the Jacobian is [[-1, 0], [-1, -1], [1, 1]]: JᵀJ is the same, Jᵀẋ = (0.2, 0).
    expected = [2.0025 * 0.2 / DETERMINANT, -2 * 0.2 / DETERMINANT]
    turned = teleop.velocity(ELBOW_UP + np.array([math.pi / 2, 0.0]), 0.0)
    assert turned == pytest.approx(expected, abs=1e-12)


def test_fast_twists_are_scaled_down_as_a_whole() -> None:
    teleop = planar(max_linear_m_s=0.25, max_angular_rad_s=1.0)
    teleop.twist([0.3, 0.4, 0.0], [0.0, 0.0, 0.1], "", 0.0)  # 0.5 m/s: twice as fast as allowed
    fast = teleop.velocity(ELBOW_UP, 0.0)
    teleop.twist([0.15, 0.2, 0.0], [0.0, 0.0, 0.05], "", 0.0)
    assert fast == pytest.approx(teleop.velocity(ELBOW_UP, 0.0))
    teleop.twist([0.0, 0.1, 0.0], [0.0, 0.0, 4.0], "", 0.0)
    turning = teleop.velocity(ELBOW_UP, 0.0)
    teleop.twist([0.0, 0.025, 0.0], [0.0, 0.0, 1.0], "", 0.0)
    assert turning == pytest.approx(teleop.velocity(ELBOW_UP, 0.0))


def test_no_joint_is_asked_for_more_than_its_limit_and_the_direction_stays() -> None:
    free, limited = planar(), planar(max_velocity=0.1)
    for teleop in (free, limited):
        teleop.twist([-0.3, 0.1, 0.0], [0.0, 0.0, 0.3], "", 0.0)
    wished, got = free.velocity(ELBOW_UP, 0.0), limited.velocity(ELBOW_UP, 0.0)
    assert wished is not None and got is not None
    assert got.max() == pytest.approx(0.1)
    assert got / got.max() == pytest.approx(wished / wished.max())


def test_at_a_singular_pose_the_joints_do_not_race() -> None:
    teleop = planar(max_velocity=100.0)
    teleop.twist([0.2, 0.0, 0.0], [0.0, 0.0, 0.0], "", 0.0)
    for bend in (0.0, 1e-6, 1e-3, 0.01, 0.1):  # stretched along x: x is the direction it cannot go
        velocity = teleop.velocity(np.array([0.0, bend]), 0.0)
        assert velocity is not None and np.abs(velocity).max() <= 0.2 / (2 * 0.05) + 1e-9


def test_a_command_counts_while_it_is_fresh_and_the_newest_one_counts() -> None:
    teleop = planar()
    assert teleop.velocity(ELBOW_UP, 0.0) is None
    teleop.joint_velocity([0.5, -20.0], 10.0)
    assert teleop.velocity(ELBOW_UP, 10.2).tolist() == [0.5, -20.0]  # type: ignore[union-attr]
    assert teleop.velocity(ELBOW_UP, 10.21) is None
    teleop.twist([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], "", 10.3)
    assert teleop.velocity(ELBOW_UP, 10.3).tolist() == [0.0, 0.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("linear", "angular", "frame", "text"),
    [
        ([math.nan, 0, 0], [0, 0, 0], "", "linear must be finite"),
        ([0, 0, 0], [0, math.inf, 0], "", "angular must be finite"),
        ([0, 0], [0, 0, 0], "", "linear must be 3 numbers"),
        ([0, 0, 0], [0, 0, 0], "camera", "frame_id must be 'base', '' .* or 'tool', got 'camera'"),
    ],
)
def test_a_bad_twist_is_refused_and_the_good_one_before_stays(
    linear: list[float], angular: list[float], frame: str, text: str
) -> None:
    teleop = planar()
    teleop.joint_velocity([0.5, 0.0], 0.0)
    with pytest.raises(TeleopError, match=text):
        teleop.twist(linear, angular, frame, 0.1)
    assert teleop.velocity(ELBOW_UP, 0.1).tolist() == [0.5, 0.0]  # type: ignore[union-attr]
    assert teleop.velocity(ELBOW_UP, 0.25) is None, "a refused message must not keep an old one alive"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.1], r"joint velocities must be 2 numbers, got shape \(1,\)"),
        ([[0.1, 0.1]], "must be 2 numbers"),
        ([0.1, math.nan], "must be finite"),
    ],
)
def test_bad_joint_velocities_are_refused(values: list[float], text: str) -> None:
    teleop = planar()
    with pytest.raises(TeleopError, match=text):
        teleop.joint_velocity(values, 0.0)
    assert teleop.velocity(ELBOW_UP, 0.0) is None


def test_a_message_that_changes_after_arrival_changes_nothing() -> None:
    teleop, values = planar(), np.array([0.1, 0.2])
    teleop.joint_velocity(values, 0.0)
    values[:] = 99.0
    assert teleop.velocity(ELBOW_UP, 0.0).tolist() == [0.1, 0.2]  # type: ignore[union-attr]


ARM = config(GENERIC7, GENERIC7.joints, 1.5, max_linear_m_s=0.25, max_angular_rad_s=1.0)
ARM_KINEMATICS = Kinematics(load_urdf(GENERIC7.urdf), ARM.joints, ARM.tool_link)
NUMBERS = st.floats(-1e6, 1e6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=7, max_size=7),
    st.lists(NUMBERS, min_size=6, max_size=6),
    st.sampled_from(["", "base_link", "tool"]),
)
def test_whatever_is_asked_joint_velocities_are_finite_and_in_the_limits(
    q: list[float], twist: list[float], frame: str
) -> None:
    teleop = Teleop(ARM, ARM_KINEMATICS)
    teleop.twist(twist[:3], twist[3:], frame, 0.0)
    velocity = teleop.velocity(np.array(q), 0.0)
    assert velocity is not None and np.isfinite(velocity).all()
    assert np.abs(velocity).max() <= 1.5 + 1e-12


def test_the_seven_joint_arm_follows_a_twist() -> None:
    teleop = Teleop(ARM, ARM_KINEMATICS)
    home = np.array(GENERIC7.reset.home_rad)
    teleop.twist([0.05, -0.03, 0.02], [0.0, 0.0, 0.1], "", 0.0)
    velocity = teleop.velocity(home, 0.0)
    assert velocity is not None
    moved = (ARM_KINEMATICS.tool_position(home + 1e-6 * velocity) - ARM_KINEMATICS.tool_position(home)) / 1e-6
    assert moved == pytest.approx([0.05, -0.03, 0.02], abs=0.005)
