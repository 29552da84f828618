"""The control loop on a real simulated arm: what it records, what it commands, and when it stops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, TransitionBatch, policy_checksum
from fleet.robot_config import Reaction
from robot_nodes.actor import NewestPolicy
from robot_nodes.batch_former import BatchFormer
from robot_nodes.control_loop import ControlLoop, ControlLoopError
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.joint_states import JointReading
from robot_nodes.kinematics import Kinematics
from robot_nodes.policy import NumpyPolicy
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.tasks.reach import reach_reward
from robot_nodes.tasks.task import make_task
from robot_nodes.trajectory import Trajectory
from robot_nodes.urdf_source import load_urdf

NQ, NX = 7, 20


def fleet_with(*overrides: str) -> FleetConfig:
    lines = ["task.episode_s=0.6", "robots.0.robot.reset.timeout_s=2.0"]  # 12 steps
    return load_fleet("hardware_configs/fleets/sim2.yaml", [*lines, *overrides])


FLEET = fleet_with()
STEPS = 12
DT = 0.05


def make_policy(version: int = 0, seed: int = 0, std: float = 0.3, gain: float = 1.0) -> NumpyPolicy:
    """A random network [20, 16, 7]; gain 0 always asks for zero velocity."""
    rng = np.random.default_rng(seed)
    arrays = (
        (gain * rng.normal(0, 0.3, (NX + 1) * 16 + 17 * NQ)).astype("<f4"),
        np.zeros(NX, "<f4"),
        np.ones(NX, "<f4"),
    )
    spec = make_task(FLEET, FLEET.robots[0].id).spec
    message = PolicyMessage(
        run_id="run",
        version=version,
        learner_step=version,
        spec_hash=spec.hash,
        layer_sizes=[NX, 16, NQ],
        exploration_std=std,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(*arrays),
        parameters=arrays[0],
        observation_mean=arrays[1],
        observation_scale=arrays[2],
    )
    return NumpyPolicy.from_message(message, spec)


@dataclass
class Tick:
    """What happened at one tick."""

    phase: str
    stamp_ns: int
    q: np.ndarray
    tool: np.ndarray
    command: np.ndarray


class Robot:
    """The loop, its arm and everything they did."""

    def __init__(
        self, evaluate_every: int = 0, fleet: FleetConfig = FLEET, seed: int = 0, dry_run: bool = False
    ) -> None:
        self.config, self.task_config = fleet.robots[0].robot, fleet.task
        task = make_task(fleet, fleet.robots[0].id)
        self.arm = MujocoArm(self.config)
        self.batches: list[TransitionBatch] = []
        self.log: list[Tick] = []
        self.policy: NewestPolicy | None = NewestPolicy(make_policy(), 0.0)
        self.steady_s = 0.0
        self.max_velocity = np.array(self.config.limits.max_joint_velocity_rad_s)
        sizes = task.spec.observation.size, task.spec.action.size
        former = BatchFormer("robot1", "boot", task.spec.hash, *sizes, emit=self.batches.append)
        self.loop = ControlLoop(
            self.config,
            task,
            Kinematics(load_urdf(self.config.urdf), self.config.joints, self.config.tool_link),
            EpisodeRecorder(task.spec, former),
            lambda: self.policy,
            np.random.default_rng(seed),
            evaluate_every=evaluate_every,
            dry_run=dry_run,
        )

    def tick(self, frozen: bool = False) -> np.ndarray:
        """One tick; with `frozen` the arm does not move."""
        arm = self.arm
        q, qd, tool = arm.q.copy(), arm.qd.copy(), arm.tool_position
        command = self.loop.tick(JointReading(q, qd, arm.time_ns), self.steady_s).copy()
        self.log.append(Tick(self.loop.phase, arm.time_ns, q, tool, command))
        arm.command(np.zeros(NQ) if frozen else command)
        arm.step(DT)
        self.steady_s += DT
        return command

    def tick_until(self, condition: Callable[[], object], limit: int = 1000) -> None:
        for _ in range(limit):
            if condition():
                return
            self.tick()
        pytest.fail(f"not within {limit} ticks; the robot is {self.loop.phase}: {self.loop.note}")

    def begin_episode(self, steps: int = 3) -> None:
        self.tick_until(lambda: self.loop.phase == "episode")
        for _ in range(steps):
            self.tick()

    def run_episodes(self, count: int) -> None:
        self.tick_until(lambda: sum(bool(b.end) for b in self.batches) >= count)

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """All columns of one episode."""
        mine = [b for b in self.batches if b.episode == index]
        names = ("observation", "action", "policy_action", "reward", "next_observation", "terminated",
                 "truncated", "intervened", "clipped", "policy_version", "stamp_ns")  # fmt: skip
        return {name: np.concatenate([getattr(b, name) for b in mine]) for name in names}

    def last_batch(self, index: int) -> TransitionBatch:
        return [b for b in self.batches if b.episode == index][-1]

    def at(self, stamp_ns: int) -> Tick:
        return next(tick for tick in self.log if tick.stamp_ns == stamp_ns)


@pytest.fixture
def robot() -> Robot:
    return Robot()


@pytest.fixture(scope="module")
def three_episodes() -> Robot:
    """Three training episodes, one of them wilder than the guard allows, for tests that only read."""
    robot = Robot(seed=3)
    for i, policy in enumerate((make_policy(std=1.0), make_policy(gain=0.1, std=0.1), make_policy())):
        robot.policy = NewestPolicy(policy, 0.0)
        robot.run_episodes(i + 1)
    return robot


# What is recorded ----------------------------------------------------------------------------


def test_an_episode_has_its_length_and_only_its_last_row_is_truncated(three_episodes: Robot) -> None:
    for i in range(3):
        rows = three_episodes.episode(i)
        assert rows["truncated"].tolist() == [False] * (STEPS - 1) + [True]
        assert not rows["terminated"].any() and not rows["intervened"].any()
        last = three_episodes.last_batch(i)
        assert last.end == "time_limit" and not last.evaluation
        assert last.metrics["return"] == pytest.approx(rows["reward"].sum(), abs=1e-4)
    assert three_episodes.loop.episodes == 3
    assert len(three_episodes.loop.training_outcomes) == 3


def test_rows_are_contiguous_within_an_episode(three_episodes: Robot) -> None:
    for i in range(3):
        rows = three_episodes.episode(i)
        assert np.array_equal(rows["next_observation"][:-1], rows["observation"][1:])
        assert np.diff(rows["stamp_ns"]).tolist() == [50_000_000] * (STEPS - 1)
        assert not np.array_equal(rows["observation"][0], rows["observation"][1])


def test_the_first_row_begins_where_the_robot_was(three_episodes: Robot) -> None:
    rows = three_episodes.episode(1)
    for k in range(STEPS):
        tick = three_episodes.at(rows["stamp_ns"][k])
        assert rows["observation"][k, :NQ] == pytest.approx(tick.q, abs=1e-6)
        assert rows["observation"][k, 14:17] == pytest.approx(tick.tool, abs=1e-6)


def test_the_action_is_what_was_executed(three_episodes: Robot) -> None:
    for i in range(3):
        rows = three_episodes.episode(i)
        commands = np.array([three_episodes.at(stamp).command for stamp in rows["stamp_ns"]])
        assert rows["action"] == pytest.approx(commands / three_episodes.max_velocity, abs=1e-6)
        assert np.abs(rows["action"]).max() <= 1.0
        assert np.abs(rows["policy_action"]).max() <= 1.0


def test_clipped_says_whether_the_guard_changed_the_action(three_episodes: Robot) -> None:
    rows = {
        k: np.concatenate([three_episodes.episode(i)[k] for i in range(3)]) for k in three_episodes.episode(0)
    }
    changed = np.abs(rows["action"] - rows["policy_action"]).max(axis=1) > 1e-6
    assert np.array_equal(rows["clipped"], changed)
    assert 0 < changed.sum() < len(changed), "this test needs rows of both kinds"
    assert sum(three_episodes.loop.interventions.values()) >= changed.sum()


def test_a_policy_that_stands_still_is_never_clipped(robot: Robot) -> None:
    robot.policy = NewestPolicy(make_policy(gain=0.0, std=0.0), 0.0)
    robot.run_episodes(1)
    rows = robot.episode(0)
    assert not rows["policy_action"].any()
    # The first command may still brake from the reset, which the acceleration limit spreads over ticks.
    assert not rows["clipped"][2:].any() and not rows["action"][2:].any()


def test_the_reward_is_that_of_the_state_it_led_to(three_episodes: Robot) -> None:
    for i in range(3):
        rows = three_episodes.episode(i)
        goal = rows["observation"][0, 17:20]
        assert (rows["next_observation"][:, 17:20] == goal).all()
        for k in range(STEPS):
            tool = three_episodes.at(rows["stamp_ns"][k] + 50_000_000).tool  # one tick later
            distance = float(np.linalg.norm(tool - goal))
            expected = reach_reward(distance, rows["action"][k], three_episodes.task_config)
            assert rows["reward"][k] == pytest.approx(expected, abs=1e-5)
        final = three_episodes.last_batch(i)
        assert final.metrics["final_distance_m"] == pytest.approx(distance, abs=1e-5)
        assert final.success == (distance <= 0.05)


def test_goals_and_starts_differ_from_episode_to_episode(three_episodes: Robot) -> None:
    first = np.array([three_episodes.episode(i)["observation"][0] for i in range(3)])
    assert len(np.unique(first[:, 17:20], axis=0)) == 3
    assert np.ptp(first[:, :NQ], axis=0).max() > 0.1


# Policies ------------------------------------------------------------------------------------


def test_training_episodes_swap_at_once(robot: Robot) -> None:
    robot.begin_episode(steps=4)
    robot.policy = NewestPolicy(make_policy(version=1, seed=1), 0.0)
    robot.run_episodes(1)
    versions = robot.episode(0)["policy_version"]
    assert versions.tolist() == [0] * 5 + [1] * (STEPS - 5)


def test_training_is_noisy_and_as_strong_as_the_policy_says(robot: Robot) -> None:
    quiet, loud = make_policy(std=0.05), make_policy(std=0.5)
    for index, policy in enumerate((quiet, loud)):
        robot.policy = NewestPolicy(policy, 0.0)
        robot.run_episodes(index + 1)
    spread = []
    for index in range(2):
        rows = robot.episode(index)
        mean = np.array([quiet.mean_action(x) for x in rows["observation"]])
        inside = np.abs(rows["policy_action"]) < 1  # what was not clipped to the box
        spread.append((rows["policy_action"] - mean)[inside].std())
    assert spread[0] == pytest.approx(0.05, rel=0.3)
    assert spread[1] > 0.25


def test_every_second_episode_evaluates_noise_free_with_one_policy() -> None:
    robot = Robot(evaluate_every=2)
    robot.run_episodes(1)
    robot.begin_episode(steps=3)
    held = robot.policy
    robot.policy = NewestPolicy(make_policy(version=1, seed=1), 0.0)
    robot.run_episodes(4)
    assert [robot.last_batch(i).evaluation for i in range(4)] == [False, True, False, True]
    assert held is not None
    for index, policy in ((1, held.policy), (3, robot.policy.policy)):
        rows = robot.episode(index)
        assert rows["policy_version"].tolist() == [policy.version] * STEPS
        expected = np.array([policy.mean_action(x) for x in rows["observation"]])
        assert rows["policy_action"] == pytest.approx(expected, abs=1e-6)
    assert robot.episode(2)["policy_version"].tolist() == [1] * STEPS
    assert (len(robot.loop.training_outcomes), len(robot.loop.evaluation_outcomes)) == (2, 2)


@pytest.mark.parametrize(("every", "expected"), [(0, "TTTT"), (1, "EEEE"), (2, "TETE"), (3, "TTET")])
def test_which_episodes_evaluate(every: int, expected: str) -> None:
    robot = Robot(evaluate_every=every)
    robot.run_episodes(4)
    assert "".join("E" if robot.last_batch(i).evaluation else "T" for i in range(4)) == expected


def test_without_a_policy_it_waits_at_rest(robot: Robot) -> None:
    robot.policy = None
    for _ in range(5):
        assert not robot.tick().any()
    assert (robot.loop.phase, robot.loop.note) == ("waiting", "for the first policy")
    robot.policy = NewestPolicy(make_policy(), 0.0)
    robot.run_episodes(1)


def test_an_old_policy_stops_a_robot_that_must_hold() -> None:
    robot = Robot(fleet=fleet_with("robots.0.robot.watchdogs.policy_age={limit_s: 5.0, action: wait}"))
    robot.begin_episode()
    robot.steady_s = 6.0
    assert not robot.tick().any()
    assert (robot.loop.phase, robot.loop.note) == ("waiting", "policy is 6 s old")
    rows = robot.episode(0)
    assert robot.last_batch(0).end == "stopped" and rows["truncated"][-1]
    for _ in range(3):
        assert not robot.tick().any()
    robot.policy = NewestPolicy(make_policy(version=1), robot.steady_s)
    robot.run_episodes(2)
    assert robot.episode(1)["policy_version"].tolist() == [1] * STEPS


def test_an_old_policy_goes_on_where_the_config_says_so(robot: Robot) -> None:
    assert robot.config.watchdogs.policy_age.action == "keep_acting"
    robot.steady_s = 1e6
    robot.run_episodes(1)


# Reset ---------------------------------------------------------------------------------------


def test_resets_are_motions_within_the_limits(three_episodes: Robot) -> None:
    log, limits = three_episodes.log, three_episodes.config.limits
    commands = np.array([tick.command for tick in log])
    positions = np.array([tick.q for tick in log])
    assert {"resetting", "episode"} == {tick.phase for tick in log}
    assert (np.abs(commands) <= three_episodes.max_velocity).all()
    change = np.array(limits.max_joint_acceleration_rad_s2) * DT
    assert (np.abs(np.diff(commands, axis=0)) <= change + 1e-9).all()
    assert np.abs(np.diff(positions, axis=0)).max() <= three_episodes.max_velocity.max() * DT * 1.02
    assert positions.min(axis=0) == pytest.approx(np.maximum(positions.min(axis=0), limits.position_low_rad))


def test_episodes_start_near_home_and_almost_at_rest(three_episodes: Robot) -> None:
    reset = three_episodes.config.reset
    for i in range(3):
        first = three_episodes.episode(i)["observation"][0]
        offset = np.abs(first[:NQ] - reset.home_rad)
        assert offset.max() <= reset.randomise_rad + reset.tolerance_rad
        assert np.abs(first[NQ : 2 * NQ]).max() < reset.gain_per_s * reset.tolerance_rad


def test_a_reset_that_does_not_arrive_is_a_fault(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.5)
    with caplog.at_level(logging.ERROR):
        ticks = 0
        while robot.loop.phase != "fault" and ticks < 100:
            command = robot.tick(frozen=True)
            ticks += 1
    assert ticks == 42  # 41 periods: more than timeout_s = 2.0
    assert not command.any()
    assert robot.loop.note.startswith("reset took more than 2 s: joint_")
    assert "rad from home" in caplog.text
    robot.loop.resume("by the test")
    robot.run_episodes(1)


# Being told ----------------------------------------------------------------------------------


def test_pause_ends_the_episode_and_resume_goes_on(robot: Robot) -> None:
    robot.begin_episode(steps=5)
    robot.loop.pause("by the operator")
    for _ in range(3):
        assert not robot.tick().any()
    assert (robot.loop.phase, robot.loop.note) == ("paused", "by the operator")
    rows = robot.episode(0)
    assert robot.last_batch(0).end == "stopped" and not robot.last_batch(0).success
    assert len(rows["reward"]) == 5, "the step under way has no outcome and is not recorded"
    assert rows["truncated"].tolist() == [False] * 4 + [True]
    robot.loop.resume("by the operator")
    robot.run_episodes(2)
    assert len(robot.episode(1)["reward"]) == STEPS
    assert np.diff(robot.episode(1)["stamp_ns"]).tolist() == [50_000_000] * (STEPS - 1)


def test_seq_has_no_gap_over_a_pause(robot: Robot) -> None:
    robot.begin_episode(steps=5)
    robot.loop.pause("")
    robot.tick()
    robot.loop.resume("")
    robot.run_episodes(3)
    ends = np.cumsum([batch.rows for batch in robot.batches])
    assert [batch.first_seq for batch in robot.batches] == [0, *ends[:-1].tolist()]


def test_a_pause_during_a_reset_leaves_no_episode(robot: Robot) -> None:
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
    robot.tick()
    assert robot.loop.phase == "resetting"
    robot.loop.pause("")
    assert not robot.tick().any()
    assert robot.batches == []


def test_a_fault_is_latched_until_resumed(robot: Robot) -> None:
    robot.begin_episode()
    robot.loop.fault("drive 3 is hot")
    assert not robot.tick().any()
    robot.loop.pause("by the operator")
    assert (robot.loop.phase, robot.loop.note) == ("fault", "drive 3 is hot"), "a pause must not hide a fault"
    assert robot.last_batch(0).end == "fault"
    robot.loop.resume("")
    assert robot.loop.phase == "waiting"
    robot.run_episodes(2)


def test_an_estop_survives_everything_but_its_reset(robot: Robot) -> None:
    robot.begin_episode()
    robot.loop.estop("by the operator")
    robot.loop.resume("")
    robot.loop.pause("")
    robot.loop.fault("")
    robot.loop.hold("", "wait")
    for _ in range(3):
        assert not robot.tick().any()
    assert (robot.loop.phase, robot.loop.note) == ("estopped", "by the operator")
    assert robot.last_batch(0).end == "fault"
    robot.loop.reset_estop("cleared at the robot")
    assert robot.loop.phase == "paused"
    assert not robot.tick().any()
    robot.loop.resume("")
    robot.run_episodes(2)


@pytest.mark.parametrize("phase", ["waiting", "episode", "paused", "fault"])
def test_only_an_estop_is_reset_by_reset_estop(robot: Robot, phase: str) -> None:
    if phase == "episode":
        robot.begin_episode()
    elif phase != "waiting":
        getattr(robot.loop, {"paused": "pause", "fault": "fault"}[phase])("")
    robot.loop.reset_estop("")
    assert robot.loop.phase == phase


@pytest.mark.parametrize("where", ["q", "qd"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_joint_states_that_are_no_numbers_are_a_fault(
    robot: Robot, caplog: pytest.LogCaptureFixture, where: str, value: float
) -> None:
    robot.begin_episode()
    reading: dict[str, Any] = {"q": robot.arm.q.copy(), "qd": robot.arm.qd.copy()}
    reading[where][2] = value
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            assert not robot.loop.tick(JointReading(**reading, stamp_ns=robot.arm.time_ns), 0.0).any()
    assert robot.loop.phase == "fault" and "not finite" in robot.loop.note
    assert robot.last_batch(0).end == "fault"
    assert len(caplog.records) == 1, "told once, not twenty times a second"
    assert all(np.isfinite(column).all() for column in robot.episode(0).values())


def test_a_watchdog_that_waits_stops_and_goes_on_with_the_next_tick(robot: Robot) -> None:
    robot.begin_episode()
    robot.loop.hold("joint states are 0.30 s old", "wait")
    assert (robot.loop.phase, robot.loop.note) == ("waiting", "joint states are 0.30 s old")
    assert not robot.loop.command.any()
    assert robot.last_batch(0).end == "fault"
    robot.run_episodes(2)
    assert len(robot.episode(1)["reward"]) == STEPS


@pytest.mark.parametrize("phase", ["waiting", "resetting", "episode"])
def test_a_watchdog_that_latches_is_a_fault(robot: Robot, phase: str) -> None:
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
    robot.tick_until(lambda: robot.loop.phase == phase) if phase != "waiting" else None
    robot.loop.hold("joint states are 0.30 s old", "latch")
    assert robot.loop.phase == "fault"
    for _ in range(3):
        assert not robot.tick().any()


@pytest.mark.parametrize("action", ["wait", "latch"])
def test_a_watchdog_changes_nothing_for_a_robot_that_waits_for_a_person(
    robot: Robot, action: Reaction
) -> None:
    robot.loop.pause("by the operator")
    robot.loop.hold("old", action)
    assert (robot.loop.phase, robot.loop.note) == ("paused", "by the operator")


def test_a_full_queue_stops_the_robot_before_the_next_step(robot: Robot) -> None:
    robot.begin_episode(steps=5)
    robot.loop.blocked = "experience queue is full"
    assert not robot.tick().any()
    assert (robot.loop.phase, robot.loop.note) == ("waiting", "experience queue is full")
    assert len(robot.episode(0)["reward"]) == 6, "the step before it is complete and kept"
    for _ in range(3):
        assert not robot.tick().any()
    robot.loop.blocked = ""
    robot.run_episodes(2)


def test_commands_after_a_stop_begin_from_rest(robot: Robot) -> None:
    robot.policy = NewestPolicy(make_policy(std=1.0), 0.0)
    robot.begin_episode(steps=6)
    assert np.abs(robot.log[-1].command).max() > 1.0
    robot.loop.pause("")  # the node publishes zeros
    robot.loop.resume("")
    command = robot.tick()
    limit = np.array(robot.config.limits.max_joint_acceleration_rad_s2) * DT
    assert (np.abs(command) <= limit + 1e-9).all()


def test_late_ticks_are_counted_only_in_episodes(robot: Robot) -> None:
    robot.begin_episode(steps=2)
    before = robot.loop.late_ticks
    robot.arm.step(2 * DT)
    robot.tick()
    assert robot.loop.late_ticks == before + 1
    assert robot.loop.ticks == len(robot.log)


def test_dropped_episodes_are_told_at_most_every_five_seconds(
    robot: Robot, caplog: pytest.LogCaptureFixture
) -> None:
    for steady_s in (100.0, 102.0, 104.9, 105.0):
        robot.begin_episode(steps=2)
        robot.steady_s = steady_s
        robot.arm.step(2 * DT)
        robot.tick()
    told = [record.message for record in caplog.records if "episode dropped" in record.message]
    assert len(told) == 2
    assert "joint states 0.150 s apart, a step takes 0.050 s (1 since" in told[0]
    assert "(3 since the last such line)" in told[1]


def test_the_same_reading_again_is_no_step(robot: Robot) -> None:
    robot.begin_episode(steps=5)
    command = robot.tick()
    rows = robot.loop._recorder.rows_produced
    reading = JointReading(robot.arm.q.copy(), robot.arm.qd.copy(), robot.arm.time_ns)
    first = robot.loop.tick(reading, 0.0).copy()
    assert robot.loop._recorder.rows_produced == rows + 1
    assert np.array_equal(robot.loop.tick(reading, 0.0), first)
    assert robot.loop._recorder.rows_produced == rows + 1
    assert not np.array_equal(first, command)


@pytest.mark.parametrize("jump_ns", [150_000_000, -500_000_000])
def test_a_step_of_another_length_is_dropped_and_the_episode_ends(robot: Robot, jump_ns: int) -> None:
    robot.begin_episode(steps=10)
    rows = robot.loop._recorder.rows_produced
    stamp_ns = robot.log[-1].stamp_ns + jump_ns
    robot.loop.tick(JointReading(robot.arm.q.copy(), robot.arm.qd.copy(), stamp_ns), 0.0)
    assert robot.loop.phase == "resetting"
    assert robot.loop._recorder.rows_produced == rows
    assert robot.batches[-1].end == "fault" and robot.batches[-1].truncated[-1]


# People --------------------------------------------------------------------------------------

TELEOP = "robots.0.robot.teleop={twist_topic: t, joint_velocity_topic: j, max_age_s: 0.22}"
LABELS = "robots.0.robot.labels={success_reward: 10.0, failure_reward: -3.0}"
PUSH = np.array([0.3, -0.2, 0.1, 0.0, 0.2, -0.1, 0.4])


def teleoperated(**arguments: Any) -> Robot:
    return Robot(fleet=fleet_with(TELEOP, LABELS), **arguments)


def push(robot: Robot, ticks: int, velocity: np.ndarray = PUSH) -> None:
    """A person moves the joints for some ticks."""
    assert robot.loop.teleop is not None
    for _ in range(ticks):
        robot.loop.teleop.joint_velocity(velocity, robot.steady_s)
        robot.tick()


def test_a_person_takes_over_and_the_policy_goes_on_in_the_same_episode() -> None:
    robot = teleoperated()
    robot.begin_episode(steps=3)
    push(robot, 4)
    for _ in range(3):
        robot.steady_s += 0.2  # the person has let go
        robot.tick()
    robot.run_episodes(1)
    rows = robot.episode(0)
    assert rows["intervened"].tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert robot.last_batch(0).end == "time_limit"
    hand = rows["intervened"]
    commands = np.array([robot.at(stamp).command for stamp in rows["stamp_ns"]])
    assert rows["action"] == pytest.approx(commands / robot.max_velocity, abs=1e-6)
    assert commands[hand][-1] == pytest.approx(PUSH, abs=1e-6)
    assert np.abs(rows["policy_action"][hand] - PUSH / robot.max_velocity).max() > 0.05, "the policy's wish"
    assert len(np.unique(rows["policy_action"], axis=0)) == STEPS
    assert not robot.loop.training_outcomes, "an episode with help says nothing about the policy"


def test_a_command_of_the_person_lasts_as_long_as_it_is_fresh() -> None:
    robot = teleoperated()
    robot.begin_episode(steps=2)
    assert robot.loop.teleop is not None
    robot.loop.teleop.joint_velocity(PUSH, robot.steady_s)
    robot.run_episodes(1)
    assert robot.episode(0)["intervened"].sum() == 5  # at 0, 0.05, … 0.2 s; it lasts for 0.22 s


def test_in_an_evaluation_a_person_ends_it_and_the_rest_is_an_episode_for_training() -> None:
    robot = teleoperated(evaluate_every=1)
    robot.begin_episode(steps=4)
    assert robot.loop.note == "evaluating"
    push(robot, 3)
    assert (robot.loop.phase, robot.loop.note) == ("episode", "")
    robot.run_episodes(2)
    measured, helped = robot.last_batch(0), robot.last_batch(1)
    assert (measured.end, measured.success, measured.evaluation) == ("intervention", False, True)
    assert (helped.end, helped.evaluation) == ("time_limit", False)
    assert not robot.loop.evaluation_outcomes
    before, after = robot.episode(0), robot.episode(1)
    assert not before["intervened"].any() and before["truncated"][-1] and not before["terminated"].any()
    assert after["intervened"].tolist() == [True] * 3 + [True] * 4 + [False] * 5  # fresh for 0.2 s more
    assert np.array_equal(after["observation"][0], before["next_observation"][-1]), (
        "without a reset in between"
    )


def test_a_person_may_move_the_robot_while_it_waits_and_while_it_resets() -> None:
    robot = teleoperated()
    robot.policy = None
    robot.tick()
    push(robot, 3)
    assert robot.loop.phase == "waiting"
    assert robot.loop.command == pytest.approx(PUSH)
    robot.policy = NewestPolicy(make_policy(), 0.0)
    push(robot, 100, np.array([0.0, 0, 0, 0, 0, 0, 0.1]))
    assert robot.loop.phase == "resetting", "not home within the timeout, but a person is at it"
    assert robot.batches == []
    robot.run_episodes(1)
    assert not robot.episode(0)["intervened"].any()


@pytest.mark.parametrize("stop", ["pause", "fault", "estop"])
def test_nobody_moves_a_robot_that_was_stopped(stop: str) -> None:
    robot = teleoperated()
    robot.begin_episode()
    getattr(robot.loop, stop)("")
    push(robot, 3)
    assert not robot.loop.command.any() and not robot.log[-1].command.any()


def test_a_hostile_person_stays_within_the_limits() -> None:
    robot = teleoperated()
    rng = np.random.default_rng(0)
    robot.begin_episode()
    teleop = robot.loop.teleop
    assert teleop is not None
    for i in range(400):
        if i % 100 < 50:
            teleop.joint_velocity(rng.choice([-1e9, -2.0, 0.0, 1e9], NQ), robot.steady_s)
        elif i % 100 < 75:
            teleop.joint_velocity(np.full(NQ, 1e300), robot.steady_s)
        else:
            teleop.twist(rng.normal(0, 1e6, 3), rng.normal(0, 1e6, 3), "", robot.steady_s)
        robot.tick()
    limits = robot.config.limits
    commands, positions = (np.array([getattr(t, name) for t in robot.log]) for name in ("command", "q"))
    assert (np.abs(commands) <= robot.max_velocity).all()
    # Stopping wins over smoothness; nothing else may exceed the acceleration limit.
    faster = (
        np.abs(commands[1:])
        > np.abs(commands[:-1]) + np.array(limits.max_joint_acceleration_rad_s2) * DT + 1e-9
    )
    assert not faster.any()
    assert (positions >= np.array(limits.position_low_rad) - 0.02).all()
    assert (positions <= np.array(limits.position_high_rad) + 0.02).all()
    tools = np.array([t.tool for t in robot.log])
    sphere = limits.workspace_sphere
    assert np.linalg.norm(tools - sphere.center_m, axis=1).max() <= sphere.radius_m + 0.02
    assert any(batch.intervened.any() and batch.clipped.any() for batch in robot.batches)


@pytest.mark.parametrize(("success", "end", "bonus"), [(True, "success", 10.0), (False, "failure", -3.0)])
def test_a_label_ends_the_episode_with_the_step_under_way(success: bool, end: str, bonus: float) -> None:
    robot = teleoperated()
    robot.begin_episode(steps=5)
    robot.loop.label(success)
    robot.run_episodes(1)
    rows, last = robot.episode(0), robot.last_batch(0)
    assert (last.end, last.success) == (end, success)
    assert rows["terminated"].tolist() == [False] * 5 + [True]
    assert not rows["truncated"].any()
    goal, tool = rows["observation"][0, 17:20], robot.at(rows["stamp_ns"][-1] + 50_000_000).tool
    plain = reach_reward(float(np.linalg.norm(tool - goal)), rows["action"][-1], robot.task_config)
    assert rows["reward"][-1] == pytest.approx(plain + bonus, abs=1e-5)
    assert rows["reward"][:-1].max() < 1.0
    assert last.metrics["return"] == pytest.approx(rows["reward"].sum(), abs=1e-4)
    assert list(robot.loop.training_outcomes) == [success]
    assert robot.loop.phase == "resetting"


def test_a_label_is_for_one_episode_and_the_last_one_counts(robot: Robot) -> None:
    robot.begin_episode(steps=3)
    robot.loop.label(True)
    robot.loop.label(False)
    robot.run_episodes(2)
    assert [robot.last_batch(i).end for i in range(2)] == ["failure", "time_limit"]


def test_a_verdict_is_not_lost_when_the_next_episode_is_asked_for_at_once(robot: Robot) -> None:
    robot.begin_episode(steps=3)
    robot.loop.label(True)
    robot.loop.next_episode()
    robot.run_episodes(2)
    assert [robot.last_batch(i).end for i in range(2)] == ["success", "time_limit"]


@pytest.mark.parametrize(("success", "end"), [(True, "success"), (False, "failure")])
def test_a_verdict_stands_when_the_step_under_way_is_lost(robot: Robot, success: bool, end: str) -> None:
    robot.begin_episode(steps=3)
    robot.loop.label(success)
    robot.loop.fault("by the test")
    rows, last = robot.episode(0), robot.last_batch(0)
    assert (last.end, last.success, robot.loop.phase) == (end, success, "fault")
    assert len(rows["reward"]) == 3 and rows["truncated"][-1] and not rows["terminated"].any()


def test_a_person_may_ask_for_the_next_episode(robot: Robot) -> None:
    robot.begin_episode(steps=5)
    robot.loop.next_episode()
    assert robot.loop.phase == "resetting"
    rows, last = robot.episode(0), robot.last_batch(0)
    assert (last.end, last.success) == ("intervention", False)
    assert len(rows["reward"]) == 5 and rows["truncated"][-1] and not rows["terminated"].any()
    robot.run_episodes(2)


@pytest.mark.parametrize("phase", ["waiting", "resetting", "paused", "fault", "estopped"])
def test_what_a_person_asks_for_is_refused_where_it_does_not_apply(robot: Robot, phase: str) -> None:
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
    if phase == "resetting":
        robot.tick()
    elif phase != "waiting":
        getattr(robot.loop, {"paused": "pause", "fault": "fault", "estopped": "estop"}[phase])("by the test")
    for ask in (lambda: robot.loop.label(True), robot.loop.next_episode):
        with pytest.raises(ControlLoopError, match=f"^no episode is running: the robot is {phase}"):
            ask()
    with pytest.raises(ControlLoopError, match=f"^nobody is waited for: the robot is {phase}"):
        robot.loop.ready()
    assert robot.loop.phase == phase


# Resets with people, services and trajectories -----------------------------------------------


def stepping(*steps: str, **arguments: Any) -> Robot:
    service = ["robots.0.robot.reset.service=/reset_world"] if "service" in steps else []
    lines = [f"robots.0.robot.reset.steps=[{', '.join(steps)}]", *service]
    return Robot(fleet=fleet_with(*lines), **arguments)


def test_a_reset_by_person_and_service_begins_the_episode_in_the_end() -> None:
    robot = stepping("velocity", "service", "person")
    robot.tick_until(robot.loop.take_service_call)
    assert robot.loop.note == "for the service /reset_world"
    assert not robot.loop.take_service_call()
    robot.loop.service_done(True, "")
    robot.tick()
    assert (robot.loop.phase, robot.loop.note) == (
        "resetting",
        "for a person: put things in place, then call ~/ready",
    )
    for _ in range(100):
        assert not robot.tick().any()
    robot.loop.ready()
    robot.run_episodes(1)


def test_the_service_is_called_after_two_commands_of_zero() -> None:
    """An arm that has reached its home is slow, not still: the call must not meet it while it moves."""
    robot = stepping("velocity", "service")
    commands = [robot.tick().copy()]
    while not robot.loop.take_service_call():
        commands.append(robot.tick().copy())
        assert len(commands) < 1000
    assert [bool(command.any()) for command in commands[-3:]] == [True, False, False]


def test_a_service_that_fails_is_a_fault() -> None:
    robot = stepping("service")
    robot.tick_until(robot.loop.take_service_call)
    robot.loop.service_done(False, "no such object")
    assert not robot.tick().any()
    assert (robot.loop.phase, robot.loop.note) == (
        "fault",
        "reset: service /reset_world failed: no such object",
    )


def follow(robot: Robot, trajectory: Trajectory, ticks: int) -> None:
    """A trajectory controller: the arm goes where the trajectory is, whatever the velocity command says."""
    start, start_s = robot.arm.q.copy(), robot.arm.time_ns * 1e-9
    times_s, points = np.append(0.0, trajectory.times_s), np.vstack((start, trajectory.positions))
    for _ in range(ticks):
        arm = robot.arm
        robot.log.append(
            Tick(
                robot.loop.phase,
                arm.time_ns,
                arm.q.copy(),
                arm.tool_position,
                robot.loop.tick(
                    JointReading(arm.q.copy(), arm.qd.copy(), arm.time_ns), robot.steady_s
                ).copy(),
            )
        )
        if robot.loop.phase == "episode":
            return
        ahead_s = arm.time_ns * 1e-9 - start_s + DT
        target = np.array([np.interp(ahead_s, times_s, column) for column in points.T])
        arm.command((target - arm.q) / DT)
        arm.step(DT)


def test_a_reset_by_trajectory_begins_the_episode_at_home() -> None:
    robot = stepping("trajectory")
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
    trajectories: list[Trajectory | None] = []

    def sent() -> bool:
        trajectories.append(robot.loop.take_trajectory())
        return trajectories[-1] is not None

    robot.tick_until(sent)
    trajectory = trajectories[-1]
    assert trajectory is not None
    follow(robot, trajectory, 60)
    assert robot.loop.phase == "episode"
    assert not any(tick.command.any() for tick in robot.log[:-1])
    robot.run_episodes(1)


def test_a_trajectory_under_way_is_stopped_when_the_robot_is() -> None:
    for stop in ("pause", "fault", "estop"):
        robot = stepping("trajectory")
        robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
        trajectories: list[Trajectory] = []
        while not trajectories:
            robot.tick()
            if (trajectory := robot.loop.take_trajectory()) is not None:
                trajectories.append(trajectory)
        follow(robot, trajectories[0], 5)
        getattr(robot.loop, stop)("by the test")
        halt = robot.loop.take_trajectory()
        assert halt is not None and len(halt.times_s) == 1
        assert np.abs(halt.positions[0] - robot.arm.q).max() < 0.15


def test_a_person_who_takes_over_stops_a_trajectory_under_way() -> None:
    robot = Robot(fleet=fleet_with(TELEOP, "robots.0.robot.reset.steps=[trajectory]"))
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
    trajectory = None
    while trajectory is None:
        robot.tick()
        trajectory = robot.loop.take_trajectory()
    follow(robot, trajectory, 5)
    push(robot, 1)
    halt = robot.loop.take_trajectory()
    assert halt is not None and len(halt.times_s) == 1
    assert robot.loop.command == pytest.approx(PUSH)
    assert robot.loop.phase == "resetting"


def test_a_dry_run_begins_the_episode_though_nothing_moves() -> None:
    robot = Robot(dry_run=True)
    robot.arm.reset(np.array(robot.config.reset.home_rad) + 0.8)
    for _ in range(100):
        robot.tick(frozen=True)
    assert robot.loop.phase == "episode" or robot.loop.episodes > 0
    first = next(i for i, tick in enumerate(robot.log) if tick.phase == "episode")
    assert first == 41


# What the guard did --------------------------------------------------------------------------


def test_interventions_are_counted_with_their_values_and_go_into_the_episode() -> None:
    robot = Robot()
    robot.policy = NewestPolicy(make_policy(std=1.0), 0.0)
    robot.begin_episode(steps=0)
    acted = [robot.loop.last_interventions]
    while not robot.batches:
        robot.tick()
        if not robot.batches:
            acted.append(robot.loop.last_interventions)
    assert len(acted) == STEPS
    names = {name for interventions in acted for name in interventions.names}
    assert "acceleration" in names
    metrics = robot.last_batch(0).metrics
    for name in names:
        values = [interventions.values[name] for interventions in acted if name in interventions.values]
        assert metrics[f"guard/{name}"] == len(values)
        assert metrics[f"guard/{name}_max_rad_s"] == pytest.approx(max(values))
        assert robot.loop.interventions[name] >= len(values)
        assert robot.loop.largest_interventions[name] >= max(values)
    assert {key.split("/")[1].removesuffix("_max_rad_s") for key in metrics if "/" in key} == names
    assert robot.loop.stopped_commands + robot.loop.smoothed_commands >= robot.episode(0)["clipped"].sum()


def test_asked_and_commanded_can_be_seen_after_each_tick(robot: Robot) -> None:
    robot.begin_episode(steps=2)
    for _ in range(5):
        command = robot.tick()
        assert np.array_equal(robot.loop.command, command)
        change = np.abs(robot.loop.asked - command).max()
        assert robot.loop.last_interventions.max_change == pytest.approx(change, abs=1e-9)
    robot.loop.pause("")
    robot.tick()
    assert not robot.loop.asked.any() and not robot.loop.last_interventions.any


STRAIN = "robots.0.robot.limits.max_effort=[50, 50, 50, 50, 50, 50, 50]"


@pytest.mark.parametrize("action", ["wait", "latch"])
def test_too_much_effort_stops_the_robot_and_the_joint_is_named(
    action: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "robot_nodes.control_loop")
    robot = Robot(fleet=fleet_with(STRAIN, f"robots.0.robot.watchdogs.effort={action}"))
    robot.begin_episode(steps=4)
    effort = np.array([1.0, 2, 3, -71, 5, 6, 7])
    for _ in range(5):
        reading = JointReading(robot.arm.q.copy(), robot.arm.qd.copy(), robot.arm.time_ns, effort)
        assert not robot.loop.tick(reading, 0.0).any()
        robot.arm.step(DT)
    assert robot.loop.phase == ("fault" if action == "latch" else "waiting")
    assert robot.loop.note.startswith("joint_4 has an effort of -71 N m, more than its limits.max_effort 50")
    assert len(caplog.records) == 1, "told once: it does not try to reset while the effort is there"
    last = robot.last_batch(0)
    assert last.end == "fault" and last.truncated[-1]
    assert last.metrics["guard/effort"] == 1
    assert robot.loop.interventions["effort"] >= 1
    if action == "latch":
        robot.loop.resume("by a person")
    robot.run_episodes(2)
