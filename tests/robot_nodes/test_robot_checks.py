"""The doctor's verdicts on joint states, watchdogs and the URDF, without ROS."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fleet.config_file import PACKAGED_CONFIGS, load_robot
from fleet.doctor import Finding
from fleet.robot_config import RobotConfig
from robot_nodes.findings import Heard, near_misses
from robot_nodes.model_checks import pose_findings, published_urdf_finding, read_joints, urdf_findings
from robot_nodes.robot_checks import joint_state_findings
from robot_nodes.timing_checks import watchdog_findings
from robot_nodes.urdf_source import Urdf, load_urdf

GENERIC7 = load_robot(PACKAGED_CONFIGS / "robots/generic7_sim.yaml")
URDF = load_urdf(GENERIC7.urdf)
NOW_NS = 1_900_000_000 * 10**9


def robot_with(**changes: Any) -> RobotConfig:
    data = GENERIC7.model_dump(mode="json")
    for key, value in changes.items():
        group, _, inner = key.partition("__")
        if inner:
            data[group][inner] = value
        else:
            data[group] = value
    return RobotConfig.model_validate(data)


def stream(n: int = 31, period_s: float = 0.01, age_s: float = 0.002, **fields: Any) -> list[Heard]:
    """n messages of an arm at home; a field may be a function of the message's number."""
    heard = []
    for i in range(n):
        values: dict[str, Any] = {
            "name": list(GENERIC7.joints),
            "position": list(GENERIC7.reset.home_rad),
            "velocity": [0.0] * 7,
            "effort": [],
        }
        values |= {key: value(i) if callable(value) else value for key, value in fields.items()}
        now_ns = NOW_NS + round(i * period_s * 1e9)
        stamp_ns = values.pop("stamp_ns", now_ns - round(age_s * 1e9))
        stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        message = SimpleNamespace(header=SimpleNamespace(stamp=stamp), **values)
        heard.append(Heard(message, now_ns, 100.0 + i * period_s))
    return heard


def examined(heard: list[Heard], robot: RobotConfig = GENERIC7) -> dict[str, Finding]:
    findings = joint_state_findings(heard, robot)
    assert all(finding.advice for finding in findings if not finding.ok)
    return {finding.name: finding for finding in findings}


def verdict(finding: Finding) -> str:
    return "ok" if finding.ok else "wrong" if finding.needed else "note"


def test_a_healthy_stream() -> None:
    found = examined(stream())
    assert all(finding.ok for finding in found.values())
    assert found["joint_states rate"].found == (
        "100.0 Hz, jitter 0.0 ms (p99), longest gap 10 ms; control at 20 Hz"
    )
    assert found["clocks"].found == "joint_states are 2.0 ms old on arrival (spread 0.0 ms)"
    # Home is [0, 0.3, 0, 1.7, 0, 1, 0]; joint_4 may go to 2.5.
    assert found["joint positions"].found == "inside limits; nearest to its limit: joint_4 (0.80 rad)"


HOME = list(GENERIC7.reset.home_rad)
FAULTS: list[tuple[str, dict[str, Any], str, str, str, str]] = [
    # name, stream, finding, verdict, part of found, part of advice
    ("order", {"name": GENERIC7.joints[::-1]}, "joint names", "ok", "in another order", ""),
    ("gripper", {"name": [*GENERIC7.joints, "finger"], "position": [*HOME, 0.0], "velocity": []},
     "joint names", "ok", "ignored: finger", ""),
    ("missing", {"name": [*GENERIC7.joints[:6], "wrist"]}, "joint names", "wrong", "joint_7 missing",
     "joints"),
    ("misspelt", {"name": [*GENERIC7.joints[:6], "joint_77"]}, "joint names", "wrong", "joint_7 missing",
     "joint_7: did you mean joint_77?"),
    ("prefix", {"name": [f"left_{j}" for j in GENERIC7.joints]}, "joint names", "wrong", "missing",
     "the driver puts 'left_' before each name"),
    ("none", {"name": [], "position": []}, "joint names", "wrong", "the driver has: none", "joints"),
    ("lengths", {"position": HOME[:6]}, "joint names", "wrong", "7 names but 6 positions", "fills"),
    ("slow", {"period_s": 0.1}, "joint_states rate", "wrong", "10.0 Hz", "raise the driver's rate to 20 Hz"),
    ("one", {"n": 1}, "joint_states rate", "wrong", "only 1 came", "20 Hz"),
    ("old", {"age_s": 3.5}, "clocks", "wrong", "3.500 s old", "chrony"),
    ("future", {"age_s": -0.4}, "clocks", "wrong", "0.400 s in the future", "chrony"),
    ("ahead", {"age_s": -0.02}, "clocks", "note", "20 ms in the future", "chrony"),
    ("no stamp", {"stamp_ns": 0}, "clocks", "wrong", "zero", "header.stamp"),
    ("simulated", {"stamp_ns": lambda i: 42 * 10**9 + i * 10**7}, "clocks", "wrong", "a simulator's time",
     "same clock"),
    ("frozen stamp", {"stamp_ns": NOW_NS}, "clocks", "wrong", "30 of 31", "two publishers"),
    ("one repeated", {"stamp_ns": lambda i: NOW_NS + (i - (i == 5)) * 10**7}, "clocks", "note", "1 of 31",
     "repeats old stamps"),
    ("NaN", {"position": [math.nan, *HOME[1:]]}, "joint positions", "wrong",
     "not finite: joint_1", "encoders"),
    ("degrees", {"position": [0.0, 17.2, 0.0, 97.4, 0.0, 57.3, 0.0]}, "joint positions", "wrong",
     "joint_4 97.4", "degrees"),
    ("outside", {"position": [3.0, *HOME[1:]]}, "joint positions", "wrong",
     "joint_1 is at 3.000, outside [-2.8, 2.8]", "teach pendant"),
    ("a turn", {"position": [6.5, *HOME[1:]]}, "joint positions", "wrong", "joint_1 is at 6.500",
     "one full turn"),
    ("no velocity", {"velocity": []}, "joint velocities", "note", "none", "differenced"),
    ("velocity lengths", {"velocity": [0.0]}, "joint velocities", "wrong", "1 velocities for 7",
     "one for each"),
    ("velocity NaN", {"velocity": [math.nan, *[0.0] * 6]}, "joint velocities", "wrong", "not finite", "see"),
    ("all NaN", {"velocity": [math.nan] * 7}, "joint velocities", "note", "none", "differenced"),
    ("moving", {"position": lambda i: [0.01 * i, *HOME[1:]]}, "at rest", "note", "joint_1 moved 0.300 rad",
     "what moves the arm"),
    ("frozen position", {"velocity": [0.0, 0.3] + [0.0] * 5}, "at rest", "note", "joint_2 reports 0.30 rad/s",
     "disagree"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "name", "expected", "text", "advice"),
    [fault[1:] for fault in FAULTS],
    ids=[fault[0] for fault in FAULTS],
)
def test_each_fault_is_told(fields: dict[str, Any], name: str, expected: str, text: str, advice: str) -> None:
    finding = examined(stream(**fields))[name]
    assert (verdict(finding), text in finding.found) == (expected, True), finding
    assert advice in finding.advice


def test_gaps_in_the_stream() -> None:
    heard = stream(31, 0.01)
    early = [Heard(h.message, h.now_ns, h.steady_s - 0.11) for h in heard[:15]]
    found = examined([*early, *heard[15:]])["joint_states rate"]
    assert verdict(found) == "note" and "longest gap 120 ms" in found.found, "watchdog at 150 ms"
    early = [Heard(h.message, h.now_ns, h.steady_s - 0.2) for h in heard[:15]]
    found = examined([*early, *heard[15:]])["joint_states rate"]
    assert verdict(found) == "wrong" and "state_age.limit_s (0.15 s)" in found.advice


def test_a_gripper_on_the_same_topic_is_told_apart() -> None:
    heard = stream(30, name=lambda i: list(GENERIC7.joints) if i % 3 else [f"f{j}" for j in range(7)])
    found = examined(heard)
    assert found["joint names"].ok and "ignored: f0, f1" in found["joint names"].found
    assert found["joint_states rate"].found.startswith("67.9 Hz"), (
        "19 gaps in 0.28 s: messages 1 to 29, 20 of them"
    )
    half = stream(30, name=lambda i: list(GENERIC7.joints) if i % 3 else ["joint_1", *"abcdef"])
    assert examined(half)["joint names"].found.startswith("10 of 30 messages lack joint_2, joint_3")
    split = stream(
        30, name=lambda i: [*GENERIC7.joints[:3], *"abcd"] if i % 2 else [*GENERIC7.joints[3:], *"abc"]
    )
    assert verdict(examined(split)["joint names"]) == "wrong"


def test_efforts_that_a_limit_needs() -> None:
    robot = robot_with(limits__max_effort=[20.0] * 7)
    assert verdict(examined(stream(), robot)["joint efforts"]) == "wrong"
    assert examined(stream(effort=[0.0] * 7), robot)["joint efforts"].found == "all are zero"
    over = examined(stream(effort=[1.0, -25.0, *[1.0] * 5]), robot)["joint efforts"]
    assert verdict(over) == "wrong" and over.found.endswith("joint_2 -25.0 (limit 20)")
    fine = examined(stream(effort=[1.0, -5.0, *[1.0] * 5]), robot)["joint efforts"]
    assert fine.ok and fine.found == "at most 25 % of limits.max_effort (joint_2)"


def test_near_misses() -> None:
    assert near_misses(["elbow_joint"], ["elbow", "wrist"]) == "elbow_joint: did you mean elbow?"
    assert near_misses(["elbow"], ["table"]) == ""


def test_watchdogs_that_never_or_always_trip() -> None:
    assert [finding.ok for finding in watchdog_findings(GENERIC7)] == [True]
    wait = {"action": "wait"}
    short = robot_with(
        watchdogs__state_age={"limit_s": 0.09} | wait,  # two periods of 20 Hz are 0.1 s
        watchdogs__state_silence={"limit_s": 0.05} | wait,
        watchdogs__loop_hang_s=0.1,
        watchdogs__tracking={"window_s": 0.5, "limit_rad": 0.75} | wait,  # 1.5 rad/s for 0.5 s is 0.75 rad
    )
    found = watchdog_findings(short)
    assert [verdict(f) for f in found] == ["wrong", "note", "wrong", "wrong"]
    assert "state_age.limit_s (0.09 s)" in found[0].found
    assert found[3].found.startswith("tracking cannot see that joint_1, joint_2")


# URDF ---------------------------------------------------------------------------------------


def test_limits_of_the_urdf() -> None:
    joints = read_joints(URDF)
    assert list(joints) == GENERIC7.joints
    one = joints["joint_1"]
    text = """<robot name="a"><joint name="j" type="continuous"><limit effort="0" velocity="2"/></joint>
    <joint name="k" type="revolute"><limit lower="-1" upper="1.5" effort="9" velocity="0"/></joint></robot>"""
    j, k = read_joints(Urdf(text, "text")).values()
    assert (j.low_rad, j.high_rad, j.velocity_rad_s, j.effort) == (None, None, 2.0, None)
    assert (k.low_rad, k.high_rad, k.velocity_rad_s, k.effort) == (-1.0, 1.5, None, 9.0)
    assert one.low_rad is not None and one.low_rad < GENERIC7.limits.position_low_rad[0]


def test_limits_beyond_the_urdf_are_named() -> None:
    of_urdf = read_joints(URDF)["joint_2"]
    assert of_urdf.low_rad is not None and of_urdf.velocity_rad_s is not None
    low, velocity = GENERIC7.limits.position_low_rad, GENERIC7.limits.max_joint_velocity_rad_s
    robot = robot_with(
        limits__position_low_rad=[low[0], of_urdf.low_rad - 0.1, *low[2:]],
        limits__max_joint_velocity_rad_s=[velocity[0], of_urdf.velocity_rad_s + 1.0, *velocity[2:]],
    )
    found, kinematics = urdf_findings(robot, URDF)
    assert kinematics is not None
    finding = next(f for f in found if f.name == "limits and URDF")
    assert verdict(finding) == "wrong"
    assert (
        f"joint_2: position_low_rad {of_urdf.low_rad - 0.1:g}, the URDF has {of_urdf.low_rad:g}"
        in finding.found
    )
    assert "joint_2: max_joint_velocity_rad_s" in finding.found
    assert all(f.ok or not f.needed for f in urdf_findings(GENERIC7, URDF)[0])


@pytest.mark.parametrize(
    ("changes", "urdf", "found", "advice"),
    [
        (
            {"joints": [*GENERIC7.joints[:6], "joint7"]},
            URDF,
            "no moving joint 'joint7'",
            "joint7: did you mean",
        ),
        ({"tool_link": "gripper"}, URDF, "no link 'gripper'; it has:", "tool_link"),
        ({}, Urdf("<robot", "broken"), "broken: is not XML", "urdf"),
    ],
)
def test_a_urdf_that_is_not_this_robots(changes: dict[str, Any], urdf: Urdf, found: str, advice: str) -> None:
    findings, kinematics = urdf_findings(robot_with(**changes), urdf)
    assert kinematics is None and len(findings) == 1
    assert found in findings[0].found and advice in findings[0].advice


def test_poses_beyond_the_workspace() -> None:
    kinematics = urdf_findings(GENERIC7, URDF)[1]
    assert kinematics is not None
    home, now = pose_findings(GENERIC7, kinematics, np.zeros(7))  # straight up, above the sphere
    assert home.ok and "tool at (0.443, 0.000, 0.472) m; nearest limit: workspace sphere" in home.found
    assert verdict(now) == "wrong" and "beyond a limit: workspace sphere" in now.found
    floor = {"name": "floor", "normal": [0, 0, 2], "offset_m": 0.5}
    low = robot_with(limits__workspace_planes=[floor])
    (refused,) = pose_findings(low, kinematics, None)
    assert verdict(refused) == "wrong" and "floor" in refused.found


def test_homes_that_a_reset_cannot_reach_are_told() -> None:
    kinematics = urdf_findings(GENERIC7, URDF)[1]
    assert kinematics is not None
    # The tool is at x = 0.443 at home: about half of the random homes bring it behind x = 0.43.
    wall = {"name": "wall", "normal": [1, 0, 0], "offset_m": 0.43}
    home, random = pose_findings(robot_with(limits__workspace_planes=[wall]), kinematics, None)
    assert home.ok and verdict(random) == "note"
    share = float(random.found.split(" %")[0])
    assert 20 < share < 60 and "mostly workspace plane wall" in random.found
    calm = robot_with(limits__workspace_planes=[wall], reset__randomise_rad=0.01)
    assert len(pose_findings(calm, kinematics, None)) == 1


@pytest.mark.parametrize(
    "path", sorted((PACKAGED_CONFIGS / "robots").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_robots_that_come_with_the_package_fit_their_urdfs(path: Path) -> None:
    robot = load_robot(path)
    assert isinstance(robot.urdf, Path)
    findings, kinematics = urdf_findings(robot, load_urdf(robot.urdf))
    assert kinematics is not None
    findings += pose_findings(robot, kinematics, None) + watchdog_findings(robot)
    assert [finding for finding in findings if not finding.ok and finding.name != "limits and maker"] == []


def test_the_drivers_urdf_on_another_root_and_of_another_arm() -> None:
    kinematics = urdf_findings(GENERIC7, URDF)[1]
    assert kinematics is not None

    def compared(text: str) -> Finding:
        assert text != URDF.text
        published = Urdf(text, "topic /robot_description")
        return published_urdf_finding(GENERIC7, kinematics, published, np.random.default_rng(1))

    turned = URDF.text.replace(
        '<link name="base_link">',
        '<link name="world"/><joint name="stand" type="fixed"><parent link="world"/><child link="base_link"/>'
        '<origin xyz="0.2 0 0.8" rpy="0 0 1.2"/></joint><link name="base_link">',
    )
    moved = compared(turned)
    assert verdict(moved) == "note" and "another root link" in moved.found
    longer = compared(URDF.text.replace('<origin xyz="0 0 0.06"', '<origin xyz="0 0 0.07"'))
    assert verdict(longer) == "wrong" and "up to 10 mm from" in longer.found
    same = compared(URDF.text.replace('<origin xyz="0 0 0.06"', '<origin xyz="0 0 0.064"'))
    assert verdict(same) == "ok" and "within 4.0 mm" in same.found
    other = compared(URDF.text.replace('"joint_3"', '"elbow"'))
    assert verdict(other) == "wrong" and "joint_3" in other.found
