"""Synchronous updates: real server, learner, uplinks and control loops; only the arms are simulated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from learner.process import run_learner
from replay_server.server import run_replay_server
from robot_nodes.control_loop import ControlLoop
from robot_nodes.joint_states import JointReading
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.tasks.task import make_task
from robot_nodes.uplink import FleetUplink
from robot_nodes.urdf_source import load_urdf

SIM2 = Path(__file__).parents[2] / "hardware_configs/fleets/sim2.yaml"
STEPS, WARMUP_ROWS, UPDATES_PER_ROW = 12, 30, 2.5


class Robot:
    """A robot without ROS: its loop, its arm and its connection."""

    def __init__(self, fleet: FleetConfig, number: int, folder: Path, parts: ExitStack) -> None:
        self.id, self.config = fleet.robots[number].id, fleet.robots[number].robot
        task = make_task(fleet, self.id)
        self.arm = MujocoArm(self.config)
        self.uplink = FleetUplink(
            fleet, self.id, folder / "spool", task.spec, lambda command: None, self._heartbeat
        )
        self.loop = ControlLoop(
            self.config,
            task,
            Kinematics(load_urdf(self.config.urdf), self.config.joints, self.config.tool_link),
            self.uplink.recorder,
            lambda: self.uplink.policies.newest,
            np.random.default_rng(number),
            learner_behind=self.uplink.learner_behind,
        )
        self.notes = list[str]()
        self.begins = list[tuple[int, int, int]]()
        self.moved_waiting = 0.0
        self.uplink.start()
        parts.callback(self.uplink.close)

    def _heartbeat(self) -> tuple[str, dict[str, Any]]:
        return self.loop.phase, {"robot/note": self.loop.note}

    def tick(self, rows_of_all: Callable[[], int]) -> None:
        """One tick; `begins` gets all robots' rows, and those the policy has learned from, at each start."""
        episode = self.uplink.recorder.episode
        self.loop.blocked = self.uplink.blocked
        command = self.loop.tick(JointReading(self.arm.q, self.arm.qd, self.arm.time_ns), time.monotonic())
        newest = self.uplink.policies.newest
        if self.uplink.recorder.episode > episode and newest is not None:
            self.begins.append((rows_of_all(), newest.policy.learned_rows, newest.policy.learner_step))
        if self.loop.phase == "waiting":
            self.notes.append(self.loop.note)
            self.moved_waiting = max(self.moved_waiting, float(np.abs(command).max()))
        self.arm.command(command)
        self.arm.step(1.0 / self.config.control_rate_hz)


class Fleet:
    """Two robots that take turns in this thread, beside a replay server and a learner in theirs."""

    def __init__(self, config: FleetConfig, folder: Path) -> None:
        self.config, self._folder = config, folder
        self._stop, self._parts = threading.Event(), ExitStack()
        self._threads = [
            threading.Thread(target=self._serve), threading.Thread(target=self._learn)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()
        self.robots = [Robot(config, number, folder, self._parts) for number in range(2)]

    def _serve(self) -> None:
        run_replay_server(self.config.replay_server, self._folder, "run1", self._stop, lambda: None, seed=0)

    def _learn(self) -> None:
        run_learner(self.config, self._folder, self._stop, lambda: None)

    @property
    def rows(self) -> int:
        return sum(robot.uplink.recorder.rows_produced for robot in self.robots)

    def tick_until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            states = [f"{robot.loop.phase}: {robot.loop.note}" for robot in self.robots]
            assert time.monotonic() < deadline, f"not within {timeout_s} s; robots are {states}"
            for robot in self.robots:
                robot.tick(lambda: self.rows)
            if all(robot.loop.phase == "waiting" for robot in self.robots):
                time.sleep(0.001)  # the others are to work now

    def close(self) -> None:
        self._parts.close()
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def begin(make_endpoint: Callable[[], str], tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    with ExitStack() as fleets:

        def make(*overrides: str) -> Fleet:
            config = load_fleet(
                SIM2,
                [
                    f"replay_server.endpoint={make_endpoint()}",
                    f"learner.policy_endpoint={make_endpoint()}",
                    f"task.episode_s={STEPS / 20}",
                    f"learner.warmup_rows={WARMUP_ROWS}",
                    f"learner.updates_per_row={UPDATES_PER_ROW}",
                    "learner.hidden_sizes=[8, 8]",
                    "learner.batch_size=8",
                    "learner.publish_period_s=0.1",
                    *overrides,
                ],
            )
            fleet = Fleet(config, tmp_path)
            fleets.callback(fleet.close)
            return fleet

        yield make


def test_every_episode_begins_with_a_policy_that_has_learned_from_all_before(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin("learner.synchronous=true")
    fleet.tick_until(lambda: all(len(robot.begins) == 6 for robot in fleet.robots))
    rounds = [2 * STEPS * n for n in range(6)]
    for robot in fleet.robots:
        for before, (rows, learned, updates) in zip(rounds, robot.begins, strict=True):
            assert before <= rows < before + 2 * STEPS, "nobody is a round ahead"
            assert learned == before
            assert updates == (int(UPDATES_PER_ROW * learned) if learned >= WARMUP_ROWS else 0)
        assert robot.moved_waiting == 0.0
        texts = (
            "for the learner (learner.synchronous): it has learned from",
            "for the replay server (learner.s",
        )
        assert any(note.startswith(texts) for note in robot.notes)


def test_a_robot_that_is_missing_is_not_waited_for_for_ever(
    begin: Callable[..., Fleet], caplog: pytest.LogCaptureFixture
) -> None:
    fleet = begin("learner.synchronous=true", "learner.round_timeout_s=0.3")
    first, second = fleet.robots
    fleet.tick_until(lambda: first.begins and second.loop.phase == "episode")
    second.loop.pause("for the test")
    begun = len(first.begins)
    fleet.tick_until(lambda: len(first.begins) == begun + 2)
    rows, learned, _ = first.begins[-1]
    assert learned == rows
    assert "1 of 2 robots have ended their episodes, and no row came for 0.3 s: going on" in caplog.text
    assert "for the learner (learner.synchronous): it has learned from" in "\n".join(first.notes)


def test_by_default_nobody_waits(begin: Callable[..., Fleet]) -> None:
    fleet = begin()
    fleet.tick_until(lambda: all(len(robot.begins) >= 3 for robot in fleet.robots))
    for robot in fleet.robots:
        assert not [note for note in robot.notes if "synchronous" in note]
