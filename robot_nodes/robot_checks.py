"""What is wrong with the joint states that a robot's driver publishes, in plain words. Pure: no ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.doctor import Finding
from fleet.robot_config import RobotConfig
from robot_nodes.findings import Heard, good, near_misses, note, pick, wrong
from robot_nodes.timing_checks import rate_finding, stamp_finding

REST_RAD = 0.01  # travel while listening that still counts as rest: encoder noise, not motion
REST_RAD_S = 0.05
_DEGREES_RAD = 13.0  # beyond two turns either way: no arm's joint, most likely degrees


def joint_state_findings(heard: Sequence[Heard], robot: RobotConfig) -> list[Finding]:
    """Names, rate, stamps and values of the messages that came on the joint_states topic."""
    findings = [_names(heard, robot)]
    usable = [h for h in heard if set(robot.joints) <= set(h.message.name)]
    usable = [h for h in usable if len(h.message.position) == len(h.message.name)]
    if not usable:
        return findings
    findings += [
        rate_finding(usable, robot),
        stamp_finding(usable, robot),
        _positions(usable[-1].message, robot),
    ]
    findings += [_velocities(usable[-1].message, robot), _efforts(usable[-1].message, robot)]
    return [*findings, _rest(usable, robot)]


# Names --------------------------------------------------------------------------------------


def _names(heard: Sequence[Heard], robot: RobotConfig) -> Finding:
    name = "joint names"
    seen = list(dict.fromkeys(joint for h in heard for joint in h.message.name))
    missing = [joint for joint in robot.joints if joint not in seen]
    if missing:
        hint = near_misses(missing, [joint for joint in seen if joint not in robot.joints])
        found = f"{', '.join(missing)} missing; the driver has: {', '.join(seen) or 'none'}"
        return wrong(name, found, hint or "correct `joints` in the robot's YAML, or the driver's config")
    ours = set(robot.joints)
    lacking = [h for h in heard if ours & set(h.message.name) and not ours <= set(h.message.name)]
    if lacking:
        absent = sorted(ours - set(lacking[-1].message.name))
        found = f"{len(lacking)} of {len(heard)} messages lack {', '.join(absent)}"
        return wrong(name, found, "each message must have all joints of the arm, or none of them")
    message = [h.message for h in heard if ours <= set(h.message.name)][-1]
    if len(message.position) != len(message.name):
        found = f"{len(message.name)} names but {len(message.position)} positions"
        return wrong(name, found, "the driver fills JointState wrongly: it cannot be used like this")
    order = [joint for joint in message.name if joint in robot.joints]
    extra = [joint for joint in seen if joint not in ours]
    found = f"all {len(robot.joints)} are there"
    if order != robot.joints:
        found += ", in another order (they are mapped by name)"
    if extra:
        found += f"; others, which are ignored: {', '.join(extra)}"
    return good(name, found)


# Values -------------------------------------------------------------------------------------


def _positions(message: Any, robot: RobotConfig) -> Finding:
    name = "joint positions"
    q = pick(message, "position", robot.joints)
    if bad := [joint for joint, value in zip(robot.joints, q, strict=True) if not math.isfinite(value)]:
        return wrong(name, f"not finite: {', '.join(bad)}", "look at the encoders, their wiring, the driver")
    if np.abs(q).max() > _DEGREES_RAD:
        found = ", ".join(f"{joint} {v:.4g}" for joint, v in zip(robot.joints, q, strict=True))
        return wrong(name, found, "these look like degrees: JointState is in radians (REP-103)")
    limits = robot.limits
    outside, turned = [], False
    for joint, value, low, high in zip(
        robot.joints, q, limits.position_low_rad, limits.position_high_rad, strict=True
    ):
        if not low <= value <= high:
            outside.append(f"{joint} is at {value:.3f}, outside [{low:g}, {high:g}]")
            turned |= any(low <= value + turn <= high for turn in (2 * math.pi, -2 * math.pi))
    if outside:
        advice = "move it inside by hand or with the teach pendant: outside, the guard only lets it come back"
        if turned:
            advice += "; one full turn away would be inside: unwind that joint"
        return wrong(name, "; ".join(outside), advice)
    room = np.minimum(q - limits.position_low_rad, np.array(limits.position_high_rad) - q)
    nearest = int(room.argmin())
    found = f"inside limits; nearest to its limit: {robot.joints[nearest]} ({room[nearest]:.2f} rad)"
    return good(name, found)


def _velocities(message: Any, robot: RobotConfig) -> Finding:
    name = "joint velocities"
    if len(message.velocity) == 0 or np.isnan(message.velocity).all():  # NaN throughout is none, too
        return note(
            name,
            "the driver publishes none",
            "positions are differenced instead, which is noisier: publish velocities if the driver can",
        )
    qd = pick(message, "velocity", robot.joints)
    if not len(qd):
        found = f"{len(message.velocity)} velocities for {len(message.name)} names"
        return wrong(name, found, "the driver must publish one for each name, or none at all")
    if not np.isfinite(qd).all():
        return wrong(name, "not finite", "see the driver: some joints have a velocity, others NaN")
    return good(name, "published")


def _efforts(message: Any, robot: RobotConfig) -> Finding:
    name = "joint efforts"
    limits = robot.limits.max_effort
    efforts = pick(message, "effort", robot.joints)
    usable = len(efforts) > 0 and bool(np.isfinite(efforts).all()) and bool(efforts.any())
    if limits is None:
        return good(
            name, ("published" if usable else "not published") + "; limits.max_effort is null: not used"
        )
    if not usable:
        state = "none" if not len(efforts) else "all are zero" if not efforts.any() else "not finite"
        advice = "limits.max_effort can never act: let the driver publish efforts, or set it to null"
        return wrong(name, state, advice)
    over = [
        f"{joint} {value:.1f} (limit {limit:g})"
        for joint, value, limit in zip(robot.joints, efforts, limits, strict=True)
        if abs(value) > limit
    ]
    if over:
        return wrong(name, f"above limits.max_effort now: {', '.join(over)}", "the robot would stop at once")
    share = np.abs(efforts) / np.array(limits)
    worst = int(share.argmax())
    return good(name, f"at most {100 * share[worst]:.0f} % of limits.max_effort ({robot.joints[worst]})")


def _rest(heard: Sequence[Heard], robot: RobotConfig) -> Finding:
    name = "at rest"
    q = np.array([pick(h.message, "position", robot.joints) for h in heard])
    travel = np.ptp(q, axis=0)
    if not np.isfinite(travel).all():
        return note(name, "cannot be told", "positions are not finite")
    fastest = int(travel.argmax())
    if travel[fastest] > REST_RAD:
        found = f"{robot.joints[fastest]} moved {travel[fastest]:.3f} rad while this listened"
        return note(name, found, "find out what moves the arm before the robot node starts")
    qd = [pick(h.message, "velocity", robot.joints) for h in heard]
    if all(len(v) for v in qd):
        median = np.median(np.abs(np.array(qd)), axis=0)
        if (median > REST_RAD_S).any():
            joint = int(median.argmax())
            found = f"{robot.joints[joint]} reports {median[joint]:.2f} rad/s but stays where it is"
            return note(name, found, "velocities and positions disagree: wrong units, or a frozen position")
    if not travel.any():
        return good(name, "yes; positions never changed at all: on hardware, see that they do when it moves")
    return good(name, f"yes, travel up to {travel[fastest]:.4f} rad")
