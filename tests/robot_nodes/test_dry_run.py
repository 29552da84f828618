"""What a dry run shows, and with what it acts while nobody sends a policy."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fleet.config import FleetConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from robot_nodes.actor import NewestPolicy
from robot_nodes.dry_run import DryRun, RandomPolicy
from robot_nodes.dry_run_view import (
    TITLE,
    DryRunView,
    JointView,
    WatchdogView,
    as_data,
    as_line,
    as_screen,
    summary,
)
from robot_nodes.guard_state import Interventions
from robot_nodes.joint_states import JointReading

VIEW = DryRunView(
    robot_id="ur1",
    elapsed_s=12.3,
    phase="episode",
    note="evaluating",
    policy="v7, heard 0.4 s ago",
    joints=[
        JointView("shoulder_lift_joint", -1.5, 0.5, 0.01, 0.4, 0.25),
        JointView("elbow_joint", 1.0, 0.99, 0.0, 0.1, 0.1),
    ],
    guard={"acceleration": 0.15, "link_planes": 0.02},
    where="table: ball 3 on forearm_link",
    tool_m=[0.4, 0.1, 0.3],
    clearance_m=0.042,
    clearance_of="workspace sphere",
    watchdogs=[],
    tick_ms=(0.412, 0.9),
    ticks=240,
    episodes=3,
    guard_counts={"acceleration": 17},
)


def screen(view: DryRunView) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_screen(view))
    console.file.close()
    return " ".join(console.export_text().replace("│", " ").split())


def test_the_screen_of_80_columns_has_it_all() -> None:
    text = screen(VIEW)
    for part in (
        TITLE, "shoulder_lift_joint -1.500 ······●······ +0.010 +0.400 +0.250", "············●", "ur1, 12 s",
        "episode (evaluating)", "v7, heard 0.4 s ago",
        "acceleration by 0.150 rad/s, link_planes by 0.020 rad/s",
        "(table: ball 3 on forearm_link)", "at (0.400, 0.100, 0.300) m, 42 mm to workspace sphere",
        "0.41 ms, p99 0.90 ms", "none has tripped",
    ):  # fmt: skip
        assert part in text, part


def test_the_line_and_the_json_have_it_all() -> None:
    assert as_line(VIEW) == (
        "12 s episode (evaluating) | policy v7, heard 0.4 s ago | at [-1.50, +1.00] rad asked [+0.40, +0.10] "
        "would send [+0.25, +0.10] rad/s | guard acceleration by 0.150 rad/s, link_planes by 0.020 rad/s "
        "(table: ball 3 on forearm_link) | tool at (0.400, 0.100, 0.300) m, 42 mm to workspace sphere | "
        "watchdogs none has tripped | tick 0.41 ms"
    )
    data = json.loads(json.dumps(as_data(VIEW)))
    assert data["dry_run"] is True and data["joints"][1]["command_rad_s"] == 0.1
    assert summary(VIEW) == (
        "Dry run ended after 12 s: 240 ticks, 3 episodes; commands that the guard changed: acceleration 17. "
        "Nothing was sent, nothing was recorded."
    )


def test_trouble_is_said() -> None:
    dog = WatchdogView("state_age", "joint states are 3.00 s old", "latch")
    view = dataclasses.replace(
        VIEW, phase="fault", note="joint states are 3.00 s old", watchdogs=[dog], clearance_m=-0.004, guard={}
    )
    text = screen(view)
    assert "fault (joint states are 3.00 s old); a dry run goes on by itself in a few seconds" in text
    assert "state_age: joint states are 3.00 s old (latch)" in text
    assert "4 mm beyond workspace sphere" in text and "lets it through" in text
    nothing = dataclasses.replace(VIEW, joints=[], tool_m=[], watchdogs=[dog])
    assert "unknown: no joint states" in screen(nothing) and "would send" not in screen(nothing)
    assert "pnaf doctor --robot" in summary(nothing) and summary(nothing) == summary(None)


# What it looks at ---------------------------------------------------------------------------


class FakeRobot:
    """What a dry run reads of a robot."""

    def __init__(self, fleet: FleetConfig) -> None:
        home = np.array(fleet.robots[0].robot.reset.home_rad)
        self.policies = SimpleNamespace(newest=None)
        self.reading: JointReading | None = JointReading(home, np.zeros(7), 0)
        self.loop = SimpleNamespace(
            phase="episode", note="", asked=np.full(7, 0.5), command=np.full(7, 0.25), ticks=5, episodes=0,
            last_interventions=Interventions({"jerk": 0.25}, 0.25), interventions={"jerk": 5},
        )  # fmt: skip
        dogs = {"state_age": SimpleNamespace(name="state_age", text="", reaction="wait")}
        self.watchdogs = SimpleNamespace(by_name=dogs)
        self.stats = SimpleNamespace(tick_percentiles_ms=(0.4, 0.8))


@pytest.fixture
def fleet() -> FleetConfig:
    return load_fleet(PACKAGED_CONFIGS / "fleets/sim2.yaml")


def test_random_actions_begin_after_five_seconds_without_a_policy(fleet: FleetConfig) -> None:
    now = [100.0]
    robot: Any = FakeRobot(fleet)
    shown: list[DryRunView] = []
    dry_run = DryRun(fleet, "robot1", lambda: now[0])
    dry_run.show = shown.append
    dry_run.on_tick(robot)
    assert robot.policies.newest is None and "random actions after 5 s" in shown[-1].policy
    now[0] += 0.5
    dry_run.on_tick(robot)
    assert len(shown) == 1, "one a second"
    robot.loop.phase = "fault"
    dry_run.on_tick(robot)
    assert len(shown) == 2 and shown[-1].phase == "fault", "but a new phase at once"
    now[0] += 5.0
    dry_run.on_tick(robot)
    policy = robot.policies.newest.policy
    assert shown[-1].policy.startswith("none from tcp://127.0.0.1:5711: random actions")
    actions = np.array([policy.mean_action(np.zeros(20)) for _ in range(500)])
    assert actions.shape == (500, 7) and -1.0 <= actions.min() < -0.9 and 0.9 < actions.max() <= 1.0
    assert abs(actions.mean()) < 0.05 and abs(actions.std() - 3**-0.5) < 0.02, "uniform"
    assert now[0] - robot.policies.newest.received_s < 0, "never too old for watchdogs.policy_age"

    learned: Any = SimpleNamespace(version=3)
    robot.policies.newest = NewestPolicy(learned, received_s=now[0] - 0.2)
    now[0] += 1.0
    dry_run.on_tick(robot)
    assert robot.policies.newest.policy is learned
    assert shown[-1].policy == "v3, heard 1.2 s ago"


def test_what_is_shown_of_the_robot(fleet: FleetConfig) -> None:
    robot: Any = FakeRobot(fleet)
    dry_run = DryRun(fleet, "robot1", lambda: 0.0)
    dry_run.on_tick(robot)
    view = dry_run.view
    assert view is not None and len(view.joints) == 7
    # joint_4 is at 1.7 between 0.1 and 2.5.
    assert view.joints[3] == JointView("joint_4", 1.7, pytest.approx(1.6 / 2.4), 0.0, 0.5, 0.25)
    assert view.guard == {"jerk": 0.25} and view.watchdogs == [] and view.tick_ms == (0.4, 0.8)
    assert view.tool_m == pytest.approx([0.443, 0.0, 0.472], abs=1e-3)
    assert view.clearance_of == "workspace sphere" and 0.6 < view.clearance_m < 0.61
    robot.reading = None
    robot.loop.phase = "waiting"
    robot.watchdogs.by_name["state_age"].text = "old"
    dry_run.on_tick(robot)
    assert dry_run.view is not None and dry_run.view.joints == []
    assert dry_run.view.watchdogs == [WatchdogView("state_age", "old", "wait")]


def test_a_random_policy_is_a_policy() -> None:
    policy = RandomPolicy(3, np.random.default_rng(0))
    assert policy.mean_action(np.zeros(4)).dtype == np.float32
    assert (policy.version, policy.exploration_std, policy.exploration_correlation) == (0, 0.0, 0.0)
