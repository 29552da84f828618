from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import Urdf, load_urdf

URDF = Path(__file__).parents[2] / "hardware_configs/urdf/generic7.urdf"
JOINTS = [f"joint_{i}" for i in range(1, 8)]
LOW = np.array([-2.8, -1.9, -2.8, 0.1, -2.8, -2.0, -2.8])
HIGH = np.array([2.8, 1.9, 2.8, 2.5, 2.8, 2.0, 2.8])


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(load_urdf(URDF), JOINTS, "tool")


def random_configurations(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(LOW, HIGH, (n, 7))


def test_straight_up_the_tool_is_at_the_sum_of_the_links(kinematics: Kinematics) -> None:
    position, quaternion = kinematics.tool_pose(np.zeros(7))
    np.testing.assert_allclose(position, [0, 0, 0.34 + 0.40 + 0.34 + 0.11], atol=1e-12)
    np.testing.assert_allclose(quaternion, [0, 0, 0, 1], atol=1e-12)


def test_leaning_forward_a_quarter_turn_the_arm_points_along_x(kinematics: Kinematics) -> None:
    q = np.array([0, np.pi / 2, 0, 0, 0, 0, 0])
    position, quaternion = kinematics.tool_pose(q)
    np.testing.assert_allclose(position, [0.85, 0, 0.34], atol=1e-12)
    np.testing.assert_allclose(quaternion, [0, np.sqrt(0.5), 0, np.sqrt(0.5)], atol=1e-12)
    # Turning joint 1 sweeps the tool sideways, joint 2 lowers it, joint 7 only spins it.
    jacobian = kinematics.jacobian(q)
    np.testing.assert_allclose(jacobian[:, 0], [0, 0.85, 0], atol=1e-12)
    np.testing.assert_allclose(jacobian[:, 1], [0, 0, -0.85], atol=1e-12)
    np.testing.assert_allclose(jacobian[:, 6], 0, atol=1e-12)


def test_mujoco_and_pinocchio_agree_on_the_urdf(kinematics: Kinematics) -> None:
    spec = mujoco.MjSpec.from_string(URDF.read_text())
    spec.compiler.fusestatic = False
    model = spec.compile()  # the plain file, as any MuJoCo user would load it
    data = mujoco.MjData(model)
    tool = model.body("tool").id
    for q in random_configurations(200):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        position, quaternion = kinematics.tool_pose(q)
        np.testing.assert_allclose(position, data.xpos[tool], atol=1e-6)
        np.testing.assert_allclose(kinematics.tool_position(q), data.xpos[tool], atol=1e-6)
        wxyz = data.xquat[tool] * np.sign(data.xquat[tool][0])
        np.testing.assert_allclose(quaternion, wxyz[[1, 2, 3, 0]], atol=1e-6)


def test_the_jacobian_is_the_derivative_of_the_position(kinematics: Kinematics) -> None:
    step = 1e-6
    for q in random_configurations(50):
        columns = [
            (kinematics.tool_position(q + step * unit) - kinematics.tool_position(q - step * unit))
            / (2 * step)
            for unit in np.eye(7)
        ]
        np.testing.assert_allclose(kinematics.jacobian(q), np.transpose(columns), atol=1e-8)


def test_the_twist_is_the_motion_of_the_tools_frame_along_the_axes_of_the_base(
    kinematics: Kinematics,
) -> None:
    q = np.array([0, np.pi / 2, 0, 0, 0, 0, 0])  # forward: joint 7 spins about x, joint 1 about z
    jacobian = kinematics.twist_jacobian(q)
    np.testing.assert_allclose(jacobian[:, 0], [0, 0.85, 0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(jacobian[:, 6], [0, 0, 0, 1, 0, 0], atol=1e-12)
    step = 1e-6
    for q in random_configurations(20):
        jacobian = kinematics.twist_jacobian(q)
        np.testing.assert_array_equal(jacobian[:3], kinematics.jacobian(q))
        for i, unit in enumerate(np.eye(7)):
            (x0, y0, z0, w0), (x1, y1, z1, w1) = (
                kinematics.tool_pose(q + side * step * unit)[1] for side in (-1, 1)
            )
            # Twice the vector part of (q1 conj(q0)) is the small rotation between them.
            v0, v1 = np.array([x0, y0, z0]), np.array([x1, y1, z1])
            turn = 2 * (w0 * v1 - w1 * v0 - np.cross(v1, v0)) * np.sign(w0 * w1 + v0 @ v1)
            np.testing.assert_allclose(jacobian[3:, i], turn / (2 * step), atol=1e-7)


def test_joints_may_be_named_in_any_order_and_others_stay_at_zero(kinematics: Kinematics) -> None:
    q = np.zeros(7)
    q[[3, 1]] = 0.7, -0.4
    two = Kinematics(load_urdf(URDF), ["joint_4", "joint_2"], "tool")
    np.testing.assert_allclose(two.tool_position([0.7, -0.4]), kinematics.tool_position(q), atol=1e-12)
    np.testing.assert_allclose(two.jacobian([0.7, -0.4]), kinematics.jacobian(q)[:, [3, 1]], atol=1e-12)


def test_results_are_not_overwritten_by_the_next_query(kinematics: Kinematics) -> None:
    q, other = random_configurations(2)
    first = kinematics.tool_position(q), *kinematics.tool_pose(q), kinematics.jacobian(q)
    kept = [array.copy() for array in first]
    kinematics.tool_pose(other)
    kinematics.jacobian(other)
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("joints", "tool", "message"),
    [
        ([*JOINTS[:6], "wrist"], "tool", "no moving joint 'wrist'.*joint_7"),
        (["tool_mount"], "tool", "no moving joint 'tool_mount'"),
        (JOINTS, "gripper", "no link 'gripper'.*link_7"),
        (["joint_1", "joint_1"], "tool", "unique"),
    ],
)
def test_an_unknown_name_is_named(joints: list[str], tool: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kinematics(load_urdf(URDF), joints, tool)


def test_a_file_that_is_no_urdf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.urdf"
    with pytest.raises(ValueError, match=r"broken\.urdf"):
        Kinematics(load_urdf(path), JOINTS, "tool")
    path.write_text("<robot")
    with pytest.raises(ValueError, match=r"broken\.urdf"):
        Kinematics(load_urdf(path), JOINTS, "tool")


def test_a_continuous_joint_is_one_number_and_turns_as_far_as_it_likes(kinematics: Kinematics) -> None:
    """As joints 1, 3, 5 and 7 of a Kinova Gen3 are in the URDF that its driver publishes."""
    text = URDF.read_text()
    endless = text.replace(
        '<joint name="joint_1" type="revolute">', '<joint name="joint_1" type="continuous">'
    )
    assert endless != text
    q = random_configurations(1)[0]
    turned = q + 4 * np.pi * np.eye(7)[0]
    other = Kinematics(Urdf(endless, "text"), JOINTS, "tool")
    np.testing.assert_allclose(other.tool_position(turned), kinematics.tool_position(q), atol=1e-9)
    np.testing.assert_allclose(other.twist_jacobian(turned), kinematics.twist_jacobian(q), atol=1e-9)
