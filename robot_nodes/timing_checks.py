"""Rate and stamps of what a robot's driver publishes, and whether the watchdogs fit them. Pure: no ROS."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from fleet.doctor import Finding
from fleet.robot_config import RobotConfig
from robot_nodes.findings import Heard, good, note, wrong

_EPOCH_NS = 10**9 * 86400 * 365  # stamps of wall time are later than 1971


def rate_finding(heard: Sequence[Heard], robot: RobotConfig) -> Finding:
    """Whether joint states come often and evenly enough for the control loop."""
    name = "joint_states rate"
    wanted = robot.control_rate_hz
    arrivals = np.array([h.steady_s for h in heard])
    if len(arrivals) < 3 or arrivals[-1] <= arrivals[0]:
        return wrong(name, f"only {len(arrivals)} came", f"{wanted:g} Hz or more are needed: see the driver")
    gaps = np.diff(arrivals)
    rate, longest = 1.0 / float(gaps.mean()), float(gaps.max())
    jitter = float(np.percentile(np.abs(gaps - np.median(gaps)), 99))
    found = f"{rate:.1f} Hz, jitter {1e3 * jitter:.1f} ms (p99), longest gap {1e3 * longest:.0f} ms"
    if rate < 0.95 * wanted:
        advice = (
            f"each control tick needs a new reading: raise the driver's rate to {wanted:g} Hz or more "
            "(update_rate of its controller_manager and joint_state_broadcaster), or lower control_rate_hz"
        )
        return wrong(name, found, advice)
    limit = robot.watchdogs.state_age.limit_s
    if longest > limit:
        advice = (
            f"gaps above watchdogs.state_age.limit_s ({limit:g} s) stop the robot: look for a busy computer, "
            "Wi-Fi, or a driver that hangs; a cable to the robot and a real-time kernel help"
        )
        return wrong(name, found, advice)
    if longest > 1.9 / wanted:
        advice = "steps with gaps of two control periods are dropped: experience is lost, the robot is safe"
        return note(name, found, advice)
    return good(name, f"{found}; control at {wanted:g} Hz")


def stamp_finding(heard: Sequence[Heard], robot: RobotConfig) -> Finding:
    """Whether the driver's clock is this machine's, and stamps go forward."""
    name = "clocks"
    stamps = [h.message.header.stamp.sec * 10**9 + h.message.header.stamp.nanosec for h in heard]
    ages = [(h.now_ns - stamp) * 1e-9 for h, stamp in zip(heard, stamps, strict=True)]
    limit = robot.watchdogs.state_age.limit_s
    age = float(np.median(ages))
    if not any(stamps):
        return wrong(
            name,
            "stamps of joint_states are zero",
            "the driver must fill header.stamp: a watchdog looks at it",
        )
    if max(stamps) < _EPOCH_NS < heard[-1].now_ns:
        found = f"joint_states are stamped {stamps[-1] * 1e-9:.1f} s after zero: a simulator's time"
        return wrong(name, found, "this machine has wall time: driver and robot node need the same clock")
    behind = [later <= earlier for earlier, later in itertools.pairwise(stamps)]
    if any(behind):
        longest = max(len(list(run)) for is_behind, run in itertools.groupby(behind) if is_behind)
        found = f"{sum(behind)} of {len(heard)} joint_states are not newer than the one before"
        kind = wrong if longest >= robot.watchdogs.state_order.limit else note
        return kind(name, found, "two publishers on the topic, or a driver that repeats old stamps")
    if abs(age) > limit:
        when = f"{age:.3f} s old on arrival" if age > 0 else f"stamped {-age:.3f} s in the future"
        advice = (
            f"more than watchdogs.state_age.limit_s ({limit:g} s) stops the robot: synchronise the clocks of "
            "this machine and of the one the driver runs on (chrony; `chronyc tracking` shows the offset)"
        )
        return wrong(name, f"joint_states are {when}", advice)
    if age < -0.001:
        found = f"joint_states are stamped {-1e3 * age:.0f} ms in the future"
        return note(name, found, "synchronise the clocks (chrony): the age of joint states is a watchdog")
    spread = 1e3 * (max(ages) - min(ages))
    return good(name, f"joint_states are {1e3 * age:.1f} ms old on arrival (spread {spread:.1f} ms)")


def watchdog_findings(robot: RobotConfig) -> list[Finding]:
    """Limits of watchdogs that would trip on a healthy robot, or never."""
    name, dogs, period_s = "watchdogs", robot.watchdogs, 1.0 / robot.control_rate_hz
    findings = []
    if dogs.state_age.limit_s < 2 * period_s:
        findings.append(
            wrong(
                name,
                f"state_age.limit_s ({dogs.state_age.limit_s:g} s) is below two control periods",
                f"one late joint state stops the robot: give it {3 * period_s:g} s or so",
            )
        )
    if dogs.state_silence.limit_s < dogs.state_age.limit_s:
        found = f"state_silence.limit_s ({dogs.state_silence.limit_s:g} s) is below state_age.limit_s"
        findings.append(note(name, found, "it is meant for a robot whose clock stands still: make it longer"))
    if dogs.loop_hang_s < 3 * period_s:
        found = f"loop_hang_s ({dogs.loop_hang_s:g} s) is below three control periods"
        findings.append(wrong(name, found, "one slow tick latches the robot: make it longer"))
    if dogs.tracking is not None:
        farthest = [v * dogs.tracking.window_s for v in robot.limits.max_joint_velocity_rad_s]
        blind = [
            joint
            for joint, travel in zip(robot.joints, farthest, strict=True)
            if travel <= dogs.tracking.limit_rad
        ]
        if blind:
            found = f"tracking cannot see that {', '.join(blind)} moved without a command"
            advice = (
                f"at full speed a joint travels {min(farthest):.3g} rad in window_s: limit_rad "
                f"({dogs.tracking.limit_rad:g} rad) must be well below that (a stuck joint is found at any "
                "speed, once it was commanded limit_rad)"
            )
            findings.append(wrong(name, found, advice))
    return findings or [good(name, "their limits fit the control rate")]
