"""What does not fit between a robot's config, its URDF and where the arm is. Pure: no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

from fleet.doctor import Finding
from fleet.robot_config import RobotConfig
from robot_nodes.clearance import GuardGeometry
from robot_nodes.findings import Array, good, near_misses, note, wrong
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import Urdf

TOOL_TOLERANCE_M = 0.005
_CONFIGURATIONS = 20  # at which tools are compared
_HOMES = 500


@dataclass(frozen=True, slots=True)
class UrdfJoint:
    """The limits of one joint in a URDF; none: it says nothing."""

    low_rad: float | None
    high_rad: float | None
    velocity_rad_s: float | None
    effort: float | None


def read_joints(urdf: Urdf) -> dict[str, UrdfJoint]:
    """The moving joints of a URDF.

    Raises:
        ValueError: It is not XML.
    """
    try:
        root = ElementTree.fromstring(urdf.text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{urdf.name}: is not XML: {error}") from error
    joints = {}
    for joint in root.findall("joint"):
        if joint.get("type") == "fixed":
            continue
        limit = joint.find("limit")
        given = {} if limit is None else {key: float(value) for key, value in limit.attrib.items()}
        turns = joint.get("type") == "continuous"
        joints[joint.get("name", "")] = UrdfJoint(
            low_rad=None if turns else given.get("lower"),
            high_rad=None if turns else given.get("upper"),
            velocity_rad_s=given.get("velocity") or None,  # 0 is how many files say "unknown"
            effort=given.get("effort") or None,
        )
    return joints


def urdf_findings(robot: RobotConfig, urdf: Urdf) -> tuple[list[Finding], Kinematics | None]:
    """Whether the config's joints, tool and limits are those of the URDF; and its kinematics, if they are."""
    try:
        joints = read_joints(urdf)
        kinematics = Kinematics(urdf, robot.joints, robot.tool_link)
    except ValueError as error:
        hint = ""
        if "joint" in str(error):
            hint = near_misses([j for j in robot.joints if j not in joints], list(joints))
        advice = hint or "correct `joints`, `tool_link` or `urdf` in the robot's YAML"
        return [wrong("URDF", str(error), advice)], None
    found = f"{urdf.name}: has the joints and the link {robot.tool_link}"
    return [good("URDF", found), _limits(robot, joints), _rated(robot)], kinematics


def _limits(robot: RobotConfig, joints: dict[str, UrdfJoint]) -> Finding:
    name, limits = "limits and URDF", robot.limits
    beyond = []
    for i, joint in enumerate(robot.joints):
        of_urdf = joints[joint]
        efforts = limits.max_effort
        checks = (
            ("position_low_rad", -limits.position_low_rad[i], of_urdf.low_rad, -1.0),
            ("position_high_rad", limits.position_high_rad[i], of_urdf.high_rad, 1.0),
            ("max_joint_velocity_rad_s", limits.max_joint_velocity_rad_s[i], of_urdf.velocity_rad_s, 1.0),
            ("max_effort", efforts[i] if efforts else None, of_urdf.effort, 1.0),
        )
        for key, value, most, sign in checks:
            if value is not None and most is not None and value > sign * most:
                beyond.append(f"{joint}: {key} {sign * value:g}, the URDF has {most:g}")
    if beyond:
        return wrong(name, "; ".join(beyond), "the arm cannot do that: keep `limits` inside the URDF's")
    return good(name, "position, velocity and effort limits are inside the URDF's")


def _rated(robot: RobotConfig) -> Finding:
    if robot.rated is None:
        advice = "add the group `rated` with the maker's values: limits beyond them are then refused"
        return note("limits and maker", "the config has no `rated` group", advice)
    return good("limits and maker", f"inside the values of {robot.rated.source}")  # or it had not loaded


# Poses --------------------------------------------------------------------------------------


def pose_findings(robot: RobotConfig, kinematics: Kinematics, now: Array | None) -> list[Finding]:
    """Whether home and the pose `now` [nq] (rad), if it is known, keep workspace, planes and themselves."""
    home = np.array(robot.reset.home_rad)
    try:
        geometry = GuardGeometry(robot, kinematics)  # refuses a home that is beyond a limit
    except ValueError as error:
        return [wrong("home pose", str(error), "correct `limits` or `reset.home_rad` in the robot's YAML")]
    findings = [good("home pose", _where(kinematics, home, *geometry.least_clearance(home)))]
    findings += _random_homes(robot, geometry, np.random.default_rng(0))
    if now is None:
        return findings
    clearance, label = geometry.least_clearance(now)
    where = _where(kinematics, now, clearance, label)
    if clearance < 0:
        advice = "move the arm inside by hand: outside, the guard lets it only come back"
        return [*findings, wrong("pose now", where, advice)]
    return [*findings, good("pose now", where)]


def _random_homes(robot: RobotConfig, geometry: GuardGeometry, rng: np.random.Generator) -> list[Finding]:
    """How many of the homes that resets draw are beyond a limit."""
    offset = robot.reset.randomise_rad
    homes = robot.reset.home_rad + rng.uniform(-offset, offset, (_HOMES, len(robot.joints)))
    homes = np.clip(homes, robot.limits.position_low_rad, robot.limits.position_high_rad)
    beyond = [label for clearance, label in map(geometry.least_clearance, homes) if clearance < 0]
    if not beyond:
        return []
    worst = max(set(beyond), key=beyond.count)
    found = (
        f"{100 * len(beyond) / _HOMES:.0f} % of homes within randomise_rad are beyond a limit, mostly {worst}"
    )
    advice = "such homes are drawn again; if it is most of them, lower randomise_rad"
    return [note("random homes", found, advice)]


def _where(kinematics: Kinematics, q: Array, clearance: float, label: str) -> str:
    tool = ", ".join(f"{x:.3f}" for x in kinematics.tool_position(q))
    if clearance < 0:
        return f"tool at ({tool}) m, {-1e3 * clearance:.0f} mm beyond a limit: {label}"
    return f"tool at ({tool}) m; nearest limit: {label}, {1e3 * clearance:.0f} mm"


# The URDF that the driver publishes ---------------------------------------------------------


def published_urdf_finding(
    robot: RobotConfig, kinematics: Kinematics, published: Urdf, rng: np.random.Generator
) -> Finding:
    """Whether the driver's URDF puts the tool where the config's does."""
    name = "URDF of the driver"
    try:
        other = Kinematics(published, robot.joints, robot.tool_link)
    except ValueError as error:
        return wrong(name, str(error), "it is another robot's, or the config's names are not the driver's")
    low, high = np.array(robot.limits.position_low_rad), np.array(robot.limits.position_high_rad)
    q = rng.uniform(low, high, (_CONFIGURATIONS, len(low)))
    ours = np.array([kinematics.tool_position(row) for row in q])
    theirs = np.array([other.tool_position(row) for row in q])
    worst = float(np.linalg.norm(ours - theirs, axis=1).max())
    if worst <= TOOL_TOLERANCE_M:
        return good(
            name, f"{published.name}: same tool position as the config's, within {1e3 * worst:.1f} mm"
        )
    left = _residual(ours, theirs)
    if left <= TOOL_TOLERANCE_M:
        found = f"{published.name}: same arm on another root link (tool up to {1e3 * worst:.0f} mm away)"
        return note(name, found, "workspace, planes and targets are in the frame of the config's root link")
    found = f"{published.name}: tool up to {1e3 * worst:.0f} mm from where the config's URDF has it"
    advice = (
        "another tool, arm or calibration: workspace limits would be wrong. Use the driver's: "
        "urdf: {topic: robot_description}, or correct the file"
    )
    return wrong(name, found, advice)


def _residual(a: Array, b: Array) -> float:
    """Largest distance (m) of points a [n, 3] from b [n, 3] after the best rigid motion (Kabsch)."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    u, _, vt = np.linalg.svd(a.T @ b)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return float(np.linalg.norm(a @ (u @ flip @ vt) - b, axis=1).max())
