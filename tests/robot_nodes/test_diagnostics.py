"""Diagnostics of a robot, from snapshots made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from robot_nodes.diagnostics import Diagnosis, Level, Snapshot, diagnose
from robot_nodes.watchdog import Watchdog

WELL = {
    "lifecycle": "active",
    "phase": "episode",
    "policy_version": 7,
    "policy_age_s": 0.5,
    "connected": True,
}


def diagnoses(**changes: Any) -> dict[str, Diagnosis]:
    return {diagnosis.name: diagnosis for diagnosis in diagnose(Snapshot(**(WELL | changes)))}


def test_a_robot_that_is_well():
    found = diagnoses(watchdogs=[Watchdog("state_age", "0.15 s", "latch", trips=3)])
    assert {name: d.level for name, d in found.items()} == dict.fromkeys(
        ["state", "guard", "policy", "experience", "watchdog state_age"], Level.OK
    )
    assert found["watchdog state_age"].values == {"limit": "0.15 s", "reaction": "latch", "trips": "3"}
    assert found["policy"].message == "version 7"


@pytest.mark.parametrize(
    ("lifecycle", "phase", "level"),
    [
        ("active", "resetting", Level.OK),
        ("active", "waiting", Level.WARN),
        ("active", "paused", Level.WARN),
        ("inactive", "paused", Level.WARN),
        ("inactive", "fault", Level.ERROR),
        ("active", "estopped", Level.ERROR),
    ],
)
def test_the_state_says_phase_and_reason(lifecycle, phase, level):
    state = diagnoses(lifecycle=lifecycle, phase=phase, note="because")["state"]
    assert (state.level, state.message) == (level, f"{phase}: because")
    assert state.values["lifecycle"] == lifecycle


def test_before_configure_there_is_only_the_state():
    (state,) = diagnose(Snapshot("unconfigured"))
    assert state.level == Level.WARN and state.message.startswith("unconfigured")


@pytest.mark.parametrize(
    ("watchdog", "level"),
    [
        (Watchdog("w", "", "latch", text="bad"), Level.ERROR),
        (Watchdog("w", "", "wait", text="bad"), Level.WARN),
        (Watchdog("w", "", "keep_acting", text="bad"), Level.WARN),
        (Watchdog("w", "", "latch", text="nothing heard yet", armed=False), Level.STALE),
    ],
)
def test_a_watchdog_says_what_is_wrong(watchdog, level):
    found = diagnoses(watchdogs=[watchdog])["watchdog w"]
    assert (found.level, found.message) == (level, watchdog.text)


def test_the_guard_names_limits_and_values():
    guard = diagnoses(
        interventions={"position": 4}, largest_interventions={"position": 0.25}, stopped_commands=4
    )["guard"]
    assert guard.message == "4 commands held back"
    assert guard.values["position"] == "4 commands, a joint by up to 0.250 rad/s"


def test_policy_and_experience():
    assert diagnoses(policy_version=None)["policy"].level == Level.STALE
    old = [Watchdog("policy_age", "60 s", "keep_acting", text="policy is 70 s old")]
    assert diagnoses(watchdogs=old)["policy"] == Diagnosis(
        "policy", Level.WARN, "policy is 70 s old", {"version": "7", "age_s": "0.5", "refused": "0"}
    )
    assert diagnoses(blocked="spool full")["experience"].level == Level.ERROR
    assert diagnoses(connected=False)["experience"].level == Level.WARN
    assert diagnoses(rows_dropped=3)["experience"].message == "3 steps lost: spool full"
