from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard_state import GuardState
from robot_nodes.kinematics import Kinematics
from robot_nodes.link_points import LinkPoints
from robot_nodes.urdf_source import Urdf, load_urdf

ROBOTS = Path(__file__).parents[2] / "hardware_configs/robots"

# Three links of 1 m in the plane z = 0, turning about z; a finger hangs on the last by a joint that is not
# the robot's, and a plate is fixed to that.
PLANAR = Urdf(
    """<robot name="planar"><link name="base"/><link name="a"/><link name="b"/><link name="c"/>
    <link name="finger"/><link name="plate"/>
    <joint name="j1" type="revolute"><parent link="base"/><child link="a"/><axis xyz="0 0 1"/>
      <limit lower="-3" upper="3" velocity="1" effort="1"/></joint>
    <joint name="j2" type="revolute"><parent link="a"/><child link="b"/><axis xyz="0 0 1"/>
      <origin xyz="1 0 0"/><limit lower="-3" upper="3" velocity="1" effort="1"/></joint>
    <joint name="j3" type="revolute"><parent link="b"/><child link="c"/><axis xyz="0 0 1"/>
      <origin xyz="1 0 0"/><limit lower="-3" upper="3" velocity="1" effort="1"/></joint>
    <joint name="grip" type="prismatic"><parent link="c"/><child link="finger"/><axis xyz="1 0 0"/>
      <origin xyz="1 0 0"/><limit lower="0" upper="1" velocity="1" effort="1"/></joint>
    <joint name="glue" type="fixed"><parent link="finger"/><child link="plate"/></joint></robot>""",
    "planar.urdf",
)


def planar(home: list[float] | None = None, joints: list[str] | None = None, **limits: Any) -> RobotConfig:
    """The three-link arm with no more limits than it must have, but for those named."""
    data = yaml.safe_load((ROBOTS / "generic7_sim.yaml").read_text())
    joints = joints or ["j1", "j2", "j3"]
    n = len(joints)
    data |= {"urdf": "/planar.urdf", "joints": joints, "tool_link": "finger"}
    data["reset"]["home_rad"] = home or [0.0] * n
    data["limits"] |= {
        "position_low_rad": [-3.0] * n,
        "position_high_rad": [3.0] * n,
        "max_joint_velocity_rad_s": [1.0] * n,
        "max_joint_acceleration_rad_s2": [10.0] * n,
        "workspace_sphere": {"center_m": [0, 0, 0], "radius_m": 10.0},
        **limits,
    }
    return RobotConfig.model_validate(data)


def geometry_of(robot: RobotConfig) -> GuardGeometry:
    return GuardGeometry(robot, Kinematics(PLANAR, robot.joints, robot.tool_link))


def state_at(geometry: GuardGeometry, q: list[float]) -> GuardState:
    zeros = np.zeros(len(q))
    return geometry.state(np.array(q), zeros, zeros, zeros)


def ball(link: str, radius: float = 0.1, x: float = 0.5) -> dict[str, Any]:
    return {"link": link, "center_m": [x, 0, 0], "radius_m": radius}


def test_without_further_limits_there_are_no_rows_and_the_tool_is_that_of_the_kinematics() -> None:
    robot = planar()
    geometry, kinematics = geometry_of(robot), Kinematics(PLANAR, robot.joints, robot.tool_link)
    q = np.array([0.3, -0.8, 1.1])
    state = state_at(geometry, q.tolist())
    assert geometry.rows == () == state.clearance_rows
    assert state.clearance.shape == (0,)
    assert state.clearance_gradient.shape == (0, 3)
    assert state.clearance_curvature.shape == (0, 3, 3)
    np.testing.assert_allclose(state.tool_position, kinematics.tool_position(q), atol=1e-12)
    np.testing.assert_allclose(state.jacobian, kinematics.jacobian(q), atol=1e-12)


def test_box_and_planes_of_the_tool() -> None:
    """Stretched along x the tool is at (3, 0, 0); turning a joint by dq moves it by its arm dq along y."""
    geometry = geometry_of(
        planar(
            workspace_box={"low_m": [-4, -1, -1], "high_m": [3.5, 2, 1]},
            workspace_planes=[{"name": "post", "normal": [3, 4, 0], "offset_m": 1.0}],
        )
    )
    state = state_at(geometry, [0, 0, 0])
    distances = dict(zip((row.label for row in state.clearance_rows), state.clearance, strict=True))
    assert distances == {
        "workspace box: lowest x": pytest.approx(7.0),
        "workspace box: highest x": pytest.approx(0.5),
        "workspace box: lowest y": pytest.approx(1.0),
        "workspace box: highest y": pytest.approx(2.0),
        "workspace box: lowest z": pytest.approx(1.0),
        "workspace box: highest z": pytest.approx(1.0),
        "workspace plane post": pytest.approx(0.6 * 3 - 1.0),
    }
    assert {row.limit for row in state.clearance_rows} == {"workspace"}
    np.testing.assert_allclose(state.clearance_gradient[2], [3, 2, 1], atol=1e-12)  # lowest y
    np.testing.assert_allclose(state.clearance_gradient[6], [2.4, 1.6, 0.8], atol=1e-12)  # 0.8 of that
    # Highest x: on its circle about the base the tool falls back by 3 dq² / 2, so clearance grows.
    np.testing.assert_allclose(state.clearance_curvature[1], [[3, 2, 1], [2, 2, 1], [1, 1, 1]], atol=1e-12)
    np.testing.assert_allclose(state.tool_curvature[0], [[-3, -2, -1], [-2, -2, -1], [-1, -1, -1]])


def test_balls_keep_their_radius_and_the_margin_from_a_table() -> None:
    geometry = geometry_of(
        planar(
            home=[0.5, 0.0, 0.0],
            link_planes=[{"name": "wall", "normal": [0, 2, 0], "offset_m": -0.3}],
            link_spheres=[ball("base"), ball("a"), ball("c", radius=0.2)],
            link_margin_m=0.05,
        )
    )
    # The base cannot move: nothing could be done about its ball.
    assert [row.label for row in geometry.rows] == ["wall: ball 1 on a", "wall: ball 2 on c"]
    assert {row.limit for row in geometry.rows} == {"link_planes"}
    state = state_at(geometry, [np.pi / 6, 0, 0])
    np.testing.assert_allclose(
        state.clearance, [0.3 + 0.25 - 0.1 - 0.05, 0.3 + 1.25 - 0.2 - 0.05], atol=1e-12
    )
    sqrt3 = np.sqrt(3.0)
    np.testing.assert_allclose(
        state.clearance_gradient, [[sqrt3 / 4, 0, 0], [5 * sqrt3 / 4, 3 * sqrt3 / 4, sqrt3 / 4]], atol=1e-12
    )
    assert state.clearance_curvature[0, 0, 0] == pytest.approx(-0.25)  # y = sin(q) / 2


def test_balls_of_links_that_no_joint_joins_keep_apart() -> None:
    geometry = geometry_of(
        planar(
            self_collision=True,
            link_spheres=[ball("base", x=-0.5), ball("a"), ball("b"), ball("c", radius=0.2)],
            link_margin_m=0.05,
        )
    )
    assert [row.label for row in geometry.rows] == [
        "ball 0 on base and ball 2 on b",
        "ball 0 on base and ball 3 on c",
        "ball 1 on a and ball 3 on c",
    ]
    # A square: base at (-0.5, 0), a's ball at (0.5, 0), b's at (1, 0.5), c's at (0.5, 1).
    state = state_at(geometry, [0, np.pi / 2, np.pi / 2])
    np.testing.assert_allclose(
        state.clearance, [np.hypot(1.5, 0.5) - 0.25, np.hypot(1, 1) - 0.35, 1 - 0.35], atol=1e-12
    )
    # a and c: j1 turns both; j2 at (1, 0) moves c's ball by (-1, -0.5) per rad, j3 at (1, 1) by (0, -0.5).
    np.testing.assert_allclose(state.clearance_gradient[2], [0, -0.5, -0.5], atol=1e-12)
    assert geometry.least_clearance(np.array([0, np.pi / 2, np.pi / 2])) == (
        pytest.approx(0.65),
        "ball 1 on a and ball 3 on c",
    )
    assert geometry.clearances(np.array([0, np.pi / 2, np.pi / 2])) == {
        "sphere": pytest.approx(10 - 1),  # the tool is at (0, 1)
        "self_collision": pytest.approx(0.65),
    }


def test_links_on_one_rigid_body_and_ignored_pairs_may_touch() -> None:
    """Finger and plate hang on c by joints that are not the robot's: to it they are one piece."""
    spheres = [ball("a"), ball("b"), ball("c"), ball("finger", x=0.0), ball("plate", x=0.1)]
    everything = geometry_of(planar(self_collision=True, link_spheres=spheres))
    assert [row.label for row in everything.rows] == [
        "ball 0 on a and ball 2 on c",
        "ball 0 on a and ball 3 on finger",
        "ball 0 on a and ball 4 on plate",
    ]
    fewer = geometry_of(
        planar(
            self_collision=True,
            link_spheres=spheres,
            self_collision_ignore=[["c", "a"], ["a", "plate"]],
        )
    )
    assert [row.label for row in fewer.rows] == ["ball 0 on a and ball 3 on finger"]
    # With j2 not the robot's, a and b are one piece, and c is joined to it.
    stiff = geometry_of(planar(joints=["j1", "j3"], self_collision=True, link_spheres=spheres))
    assert stiff.rows == ()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"link_spheres": [ball("d")]}, r"limits\.link_spheres: no link 'd' in the URDF; it has: base, a,"),
        ({"self_collision_ignore": [["a", "hand"]]}, r"limits\.self_collision_ignore: no link 'hand'"),
        (
            {"self_collision": True, "link_spheres": [ball("a", 0.6), ball("c", 1.5)]},
            r"0\.100 m beyond a limit \(ball 0 on a and ball 1 on c\).*self_collision_ignore",
        ),
        (
            {
                "link_spheres": [ball("a", 0.6)],
                "link_planes": [{"name": "wall", "normal": [0, 1, 0], "offset_m": -0.5}],
            },
            r"0\.100 m beyond a limit \(wall: ball 0 on a\): choose another home",
        ),
        ({"workspace_sphere": {"center_m": [0, 0, 0], "radius_m": 2.5}}, r"0\.500 m.*workspace sphere"),
        ({"workspace_box": {"low_m": [0, -1, -1], "high_m": [2.5, 1, 1]}}, r"0\.500 m.*box: highest x"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometry_of(planar(**limits))


@pytest.mark.parametrize("joints", [["joint_1", "joint_2"], ["joint_6", "joint_2", "joint_4"], None])
def test_derivatives_are_those_of_the_distances(joints: list[str] | None) -> None:
    """Of a real arm, with its joints in another order and some of them fixed."""
    data = yaml.safe_load((ROBOTS / "generic7_sim.yaml").read_text())
    path = (ROBOTS / data["urdf"]).resolve()
    names = joints or data["joints"]
    n = len(names)
    data |= {"urdf": str(path), "joints": names}
    data["reset"]["home_rad"] = [0.3] * n
    data["limits"] |= {
        "position_low_rad": [-3.0] * n,
        "position_high_rad": [3.0] * n,
        "max_joint_velocity_rad_s": [1.0] * n,
        "max_joint_acceleration_rad_s2": [10.0] * n,
        "workspace_sphere": {"center_m": [0, 0, 0], "radius_m": 9.0},
        "workspace_planes": [{"name": "roof", "normal": [0.1, 0.2, -1], "offset_m": -3.0}],
        "link_planes": [{"name": "table", "normal": [0.1, 0, 1], "offset_m": -2.0}],
        "link_spheres": [
            {"link": f"link_{i}", "center_m": [0.02 * i, 0.01, 0.05], "radius_m": 0.01} for i in range(1, 8)
        ],
        "self_collision": True,
    }
    robot = RobotConfig.model_validate(data)
    geometry = GuardGeometry(robot, Kinematics(load_urdf(path), robot.joints, robot.tool_link))
    pairs = np.array([row.limit == "self_collision" for row in geometry.rows])
    rng = np.random.default_rng(0)
    step = 1e-6
    for _ in range(5):
        q = rng.uniform(-2, 2, n)
        state = state_at(geometry, q.tolist())
        ours = [state.clearance_gradient.copy(), state.jacobian.copy()]
        curvature, tool_curvature = state.clearance_curvature.copy(), state.tool_curvature.copy()
        columns: list[list[np.ndarray]] = [[], [], [], []]
        for unit in np.eye(n):
            up, down = [
                [array.copy() for array in (s.clearance, s.tool_position, s.clearance_gradient, s.jacobian)]
                for s in (state_at(geometry, (q + sign * step * unit).tolist()) for sign in (1, -1))
            ]
            for column, a, b in zip(columns, up, down, strict=True):
                column.append((a - b) / (2 * step))
        np.testing.assert_allclose(ours[0], np.stack(columns[0], -1), atol=1e-8)
        np.testing.assert_allclose(ours[1], np.stack(columns[1], -1), atol=1e-8)
        np.testing.assert_allclose(tool_curvature, np.stack(columns[3], -1), atol=1e-8)
        true = np.stack(columns[2], -1)
        np.testing.assert_allclose(curvature[~pairs], true[~pairs], atol=1e-8)
        if pairs.any():  # of a distance between balls it is at most that: what is left out is never negative
            left_out = true[pairs] - curvature[pairs]
            assert np.linalg.eigvalsh((left_out + left_out.transpose(0, 2, 1)) / 2).min() > -1e-7


def test_points_move_with_their_links() -> None:
    kinematics = Kinematics(PLANAR, ["j1", "j2"], "finger")
    points = LinkPoints(kinematics, [("b", (0.0, 0.5, 0.0)), ("base", (1.0, 2.0, 3.0))])
    points.update(np.array([np.pi / 2, 0.0]))
    np.testing.assert_allclose(points.positions, [[-0.5, 1, 0], [1, 2, 3], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(points.jacobians[0], [[-1, 0], [-0.5, -0.5], [0, 0]], atol=1e-12)
    np.testing.assert_array_equal(points.jacobians[1:], 0.0)
    with pytest.raises(ValueError, match=r"no link 'hand'.*finger"):
        LinkPoints(kinematics, [("hand", (0.0, 0.0, 0.0))])
