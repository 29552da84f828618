"""The arms of hardware_configs/robots: our URDFs against the makers' DH tables, each arm in simulation."""

from __future__ import annotations

from functools import cache, partial
from itertools import product
from math import pi
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from fleet.config import RobotEntry
from fleet.config_file import load_fleet, load_robot
from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.guard import GuardLimits
from robot_nodes.guarded_commands import GuardedCommands
from robot_nodes.kinematics import Kinematics
from robot_nodes.reset import Reset
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.tasks.task import make_task
from robot_nodes.urdf_source import load_urdf

ARMS = ("generic_arm7", "ur5e", "franka_fr3", "kinova_gen3", "xarm7")
H = pi / 2

# Rows (a, d, alpha, theta) as the makers publish them (m, rad).
# universal-robots.com, DH Parameters for calculations of kinematics and dynamics, UR5e.
UR5E = [
    (0, 0.1625, H, 0),
    (-0.425, 0, 0, 0),
    (-0.3922, 0, 0, 0),
    (0, 0.1333, H, 0),
    (0, 0.0997, -H, 0),
    (0, 0.0996, 0, 0),
]
# Kinova Gen3 User Guide, 7 DoF spherical wrist, classical DH parameters, in tenths of a millimetre.
GEN3 = [
    (0, -(0.1564 + 0.1284), H, 0),
    (0, -(0.0054 + 0.0064), H, pi),
    (0, -(0.2104 + 0.2104), H, pi),
    (0, -(0.0064 + 0.0064), H, pi),
    (0, -(0.2084 + 0.1059), H, pi),
    (0, 0, H, pi),
    (0, -(0.1059 + 0.0615), pi, pi),
]
# frankarobotics.github.io/docs/robot_specifications.html, Denavit-Hartenberg Parameters (Craig).
FR3 = [
    (0, 0.333, 0, 0),
    (0, 0, -H, 0),
    (0, 0.316, H, 0),
    (0.0825, 0, H, 0),
    (-0.0825, 0.384, -H, 0),
    (0, 0, H, 0),
    (0.088, 0, H, 0),
]
# UFACTORY, Kinematic and Dynamic Parameters, xArm 7, modified DH.
XARM7 = [
    (0, 0.267, 0, 0),
    (0, 0, -H, 0),
    (0, 0.293, H, 0),
    (0.0525, 0, H, 0),
    (0.0775, 0.3425, H, 0),
    (0, 0, H, 0),
    (0.076, 0.097, -H, 0),
]


def turn(axis: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    i, j = {"x": (1, 2), "z": (0, 1)}[axis]
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


def move(x: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, 0, z
    return matrix


def standard_dh(table: list[tuple[float, ...]], q: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    for (a, d, alpha, offset), angle in zip(table, q, strict=True):
        pose = pose @ turn("z", angle + offset) @ move(a, d) @ turn("x", alpha)
    return pose


def modified_dh(table: list[tuple[float, ...]], q: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    for (a, d, alpha, offset), angle in zip(table, q, strict=True):
        pose = pose @ turn("x", alpha) @ move(a, 0) @ turn("z", angle + offset) @ move(0, d)
    return pose


# In the frame of the URDF's root link: UR's DH base is turned half a turn against base_link, Gen3's is
# upside down, and the FR3's flange is 0.107 m beyond joint 7.
PUBLISHED = {
    "ur5e": lambda q: turn("z", pi) @ standard_dh(UR5E, q),
    "franka_fr3": lambda q: modified_dh(FR3, q) @ move(0, 0.107),
    "kinova_gen3": lambda q: turn("x", pi) @ standard_dh(GEN3, q),
    "xarm7": lambda q: modified_dh(XARM7, q),
}


@cache
def robot_of(name: str) -> RobotConfig:
    return load_robot(f"robots/{name}.yaml")


@cache
def kinematics_of(name: str) -> Kinematics:
    robot = robot_of(name)
    return Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)


@cache
def geometry_of(name: str) -> GuardGeometry:
    return GuardGeometry(robot_of(name), kinematics_of(name))


def simulated(name: str) -> RobotConfig:
    return RobotConfig.model_validate(robot_of(name).model_dump() | {"sim": {"joint_state_rate_hz": 20}})


# Kinematics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tool_is_where_the_makers_dh_table_puts_it(name: str) -> None:
    kinematics = kinematics_of(name)
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = rng.uniform(-3, 3, len(robot_of(name).joints))
        expected = PUBLISHED[name](q)
        position, (x, y, z, w) = kinematics.tool_pose(q)
        assert np.linalg.norm(position - expected[:3, 3]) < 0.001, "Gen3's table is rounded to 0.1 mm"
        third_column = [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)]
        np.testing.assert_allclose(third_column, expected[:3, 2], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("ur5e", [0.425 + 0.3922, 0.1333 + 0.0996, 0.1625 - 0.0997]),  # lying forward
        ("franka_fr3", [0.088, 0, 0.333 + 0.316 + 0.384 - 0.107]),  # upright, flange down
        ("kinova_gen3", [0, -0.0246, 0.1564 + 0.1284 + 0.4208 + 0.3143 + 0.1674]),  # upright
        ("xarm7", [0.0525 + 0.0775 + 0.076, 0, 0.267 + 0.293 - 0.3425 - 0.097]),  # folded, flange down
    ],
)
def test_the_tool_at_zero_by_hand(name: str, tool: list[float]) -> None:
    zero = np.zeros(len(robot_of(name).joints))
    np.testing.assert_allclose(kinematics_of(name).tool_position(zero), tool, atol=3e-4)


@pytest.mark.parametrize("name", ARMS)
def test_the_urdf_has_the_rated_limits(name: str) -> None:
    robot = robot_of(name)
    assert robot.rated is not None and isinstance(robot.urdf, Path)
    limits = {
        joint.get("name"): joint.find("limit").attrib  # type: ignore[union-attr]
        for joint in ElementTree.parse(robot.urdf).getroot().findall("joint")
        if joint.get("type") == "revolute"
    }
    assert list(limits) == robot.joints
    for key, values in (
        ("lower", robot.rated.position_low_rad),
        ("upper", robot.rated.position_high_rad),
        ("velocity", robot.rated.max_joint_velocity_rad_s),
        ("effort", robot.rated.max_effort),
    ):
        assert [float(limit[key]) for limit in limits.values()] == pytest.approx(values, abs=1e-4), key


@pytest.mark.parametrize("name", ARMS)
def test_exploration_is_far_below_what_the_arm_can_do(name: str) -> None:
    robot = robot_of(name)
    limits, rated = robot.limits, robot.rated
    assert rated is not None and rated.source
    assert robot.sim is None, "a robot's YAML is for hardware; a fleet may add a sim group"
    slow = np.divide(limits.max_joint_velocity_rad_s, rated.max_joint_velocity_rad_s)
    assert slow.max() <= 0.67
    for action in ("state_age", "state_silence", "state_order", "bad_states", "non_finite", "tracking"):
        assert getattr(robot.watchdogs, action).action == "latch", action
    assert robot.watchdogs.policy_age.action == "wait"
    # The fastest the tool can be at all: every joint at its limit, in the worst direction.
    signs = np.array(list(product((-1.0, 1.0), repeat=len(robot.joints)))).T
    rng = np.random.default_rng(0)
    fastest = max(
        np.linalg.norm(
            (kinematics_of(name).jacobian(q) * limits.max_joint_velocity_rad_s) @ signs, axis=0
        ).max()
        for q in rng.uniform(limits.position_low_rad, limits.position_high_rad, (500, len(robot.joints)))
        if geometry_of(name).least_clearance(q)[0] > 0.0
    )
    assert fastest < 0.9


# Link spheres --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
def test_home_is_clear_of_everything(name: str) -> None:
    robot, geometry = robot_of(name), geometry_of(name)
    assert geometry.least_clearance(np.array(robot.reset.home_rad))[0] > 0.02
    rng = np.random.default_rng(0)
    for offset in rng.uniform(-1, 1, (200, len(robot.joints))) * robot.reset.randomise_rad:
        assert geometry.least_clearance(robot.reset.home_rad + offset)[0] > 0.0


@pytest.mark.parametrize(
    ("name", "q", "label"),
    [
        ("ur5e", [0, -0.4, 2.7, 0.4, -1.57, 0], "link"),  # folded back onto its own upper arm
        ("ur5e", [0, -0.2, 0.7, -1.6, -1.57, 0], "table"),  # reaching down over the edge of the table
        ("franka_fr3", [0, 1.3, 0, -2.7, 0, 0.9, 0], "link"),  # hand on its own foot
        ("franka_fr3", [0, 1.4, 0, -1.2, 0, 1.2, 0], "table"),
        ("kinova_gen3", [0, 1.5, 0, 2.4, 0, 1.5, 0], "link"),
        ("kinova_gen3", [0, 1.9, 0, 0.3, 0, 0, 0], "table"),
        ("xarm7", [0, 1.0, 0, 0.3, 0, 0.1, 0], "link"),
        ("xarm7", [0, 1.7, 0, 0.4, 0, 0, 0], "table"),
        ("generic_arm7", [0, 1.6, 0, 2.4, 0, 0.4, 0], "link"),
        ("generic_arm7", [0, 1.7, 0, 1.0, 0, 0, 0], "table"),
    ],
)
def test_a_folded_arm_touches_itself_and_a_low_one_the_table(name: str, q: list[float], label: str) -> None:
    limits = robot_of(name).limits
    assert np.all((limits.position_low_rad <= np.array(q)) & (np.array(q) <= limits.position_high_rad))
    state = geometry_of(name).state(*(np.array(q, float), *np.zeros((3, len(q)))))
    found = {
        row.label
        for clearance, row in zip(state.clearance, state.clearance_rows, strict=True)
        if clearance < 0.0 and row.label.startswith("table") == (label == "table") and "ball" in row.label
    }
    assert found, f"nothing of {label}"


def surface(origin: ElementTree.Element, cylinder: ElementTree.Element) -> np.ndarray:
    """Points on a cylinder of a URDF [n, 3], in the frame of its link."""
    roll, pitch, yaw = map(float, origin.get("rpy", "").split())
    assert yaw == 0.0
    around_y = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
    radius, length = float(cylinder.get("radius", "")), float(cylinder.get("length", ""))
    angles = np.linspace(0, 2 * pi, 24)
    ring = np.stack([radius * np.cos(angles), radius * np.sin(angles), 0 * angles], axis=1)
    points = np.concatenate([ring + np.array([0, 0, z]) for z in np.linspace(-length / 2, length / 2, 15)])
    center = np.array(list(map(float, origin.get("xyz", "").split())))
    return points @ (around_y @ turn("x", roll)[:3, :3]).T + center


@pytest.mark.parametrize("name", ARMS)
def test_the_spheres_cover_the_arm(name: str) -> None:
    robot = robot_of(name)
    assert isinstance(robot.urdf, Path)
    for link in ElementTree.parse(robot.urdf).getroot().findall("link"):
        balls = [ball for ball in robot.limits.link_spheres if ball.link == link.get("name")]
        for shape in link.findall("visual"):
            origin, cylinder = shape.find("origin"), shape.find("geometry/cylinder")
            if origin is None or cylinder is None:
                continue  # the fingertips of generic7 are boxes
            points = surface(origin, cylinder)
            distance = min_over([np.linalg.norm(points - b.center_m, axis=1) - b.radius_m for b in balls])
            assert distance.max() < 0.02, f"{link.get('name')}: {distance.max():.3f} m beyond its spheres"


def min_over(distances: list[np.ndarray]) -> np.ndarray:
    return np.min(distances, axis=0)


# In simulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
def test_mujoco_and_pinocchio_agree(name: str) -> None:
    robot = robot_of(name)
    arm = MujocoArm(simulated(name))
    assert isinstance(robot.urdf, Path)
    mujoco.MjModel.from_xml_path(str(robot.urdf))  # the inertias are physical
    rng = np.random.default_rng(0)
    for q in rng.uniform(
        robot.limits.position_low_rad, robot.limits.position_high_rad, (20, len(robot.joints))
    ):
        arm.reset(q)
        np.testing.assert_allclose(arm.tool_position, kinematics_of(name).tool_position(q), atol=1e-5)


@pytest.mark.parametrize("name", ARMS)
def test_a_guarded_reset_brings_it_home(name: str) -> None:
    """From 20 random starts around home, by the reset's own steps, without leaving a limit."""
    robot = robot_of(name)
    arm, geometry, limits = (
        MujocoArm(simulated(name)),
        geometry_of(name),
        GuardLimits.from_config(robot.limits),
    )
    reset = Reset(robot, geometry, partial(GuardedCommands, limits, geometry), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    low, high = np.array(robot.limits.position_low_rad), np.array(robot.limits.position_high_rad)
    starts = 0
    while starts < 20:
        start = np.clip(robot.reset.home_rad + rng.uniform(-0.6, 0.6, len(low)), low + 0.05, high - 0.05)
        if geometry.least_clearance(start)[0] < 0.01:
            continue
        starts += 1
        arm.reset(start)
        commands = GuardedCommands(limits, geometry, 1 / robot.control_rate_hz)
        reset.begin()
        for _ in range(round(15 * robot.control_rate_hz)):
            wish = reset.tick(arm.q.copy(), arm.qd.copy(), arm.time_ns)
            if wish is None:
                break
            commands.next(wish, arm.q, arm.qd, arm.effort)
            arm.command(commands.last)
            arm.step(1 / robot.control_rate_hz)
            assert geometry.least_clearance(arm.q)[0] > -0.002
        else:
            pytest.fail(
                f"start {start.round(2)}: still {np.abs(arm.q - robot.reset.home_rad).max():.2f} rad off"
            )
        assert np.abs(arm.q - robot.reset.home_rad).max() < robot.reset.randomise_rad + 0.051


@pytest.mark.parametrize("name", ARMS)
def test_the_targets_of_reach_can_be_reached_within_an_episode(name: str) -> None:
    """Inside joint limits and workspace, clear of the table and of the arm itself."""
    robot, kinematics, geometry = robot_of(name), kinematics_of(name), geometry_of(name)
    fleet = load_fleet("fleets/sim2.yaml")
    fleet = fleet.model_copy(update={"robots": [RobotEntry(id=name, robot=robot)]})
    task = make_task(fleet, name)
    limits, home = robot.limits, np.array(robot.reset.home_rad)
    low, high = np.array(limits.position_low_rad), np.array(limits.position_high_rad)
    speed = np.array(limits.max_joint_velocity_rad_s)

    def way(target: np.ndarray, q: np.ndarray) -> float:
        """Time from home to a solution near q at full speed (s); infinite: there is none."""
        for _ in range(60):
            error = target - kinematics.tool_position(q)
            if np.linalg.norm(error) < 0.01:
                clear = geometry.least_clearance(q)[0] > 0
                return float((np.abs(q - home) / speed).max()) if clear else np.inf
            jacobian = kinematics.jacobian(q) * speed
            damped = jacobian @ jacobian.T + 1e-4 * np.eye(3)
            q = np.clip(
                q + speed * (jacobian.T @ np.linalg.solve(damped, np.clip(error, -0.1, 0.1))), low, high
            )
        return np.inf

    rng = np.random.default_rng(0)
    ways = []
    for _ in range(40):
        target = task.sample_goal(rng)
        spreads = (0.0, *(0.5, 0.8) * 8)
        tries = (way(target, np.clip(home + rng.normal(0, s, len(home)), low, high)) for s in spreads)
        ways.append(next((t for t in tries if np.isfinite(t)), np.inf))
    assert np.mean(np.isfinite(ways)) >= 0.95
    assert np.percentile(ways, 90) < fleet.task.episode_s
