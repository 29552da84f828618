"""A reset's trajectory and service call on real topics; the loop behind them is a stub."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from fleet.config_file import load_robot  # noqa: E402
from robot_nodes.reset_topics import ResetTopics  # noqa: E402
from robot_nodes.trajectory import Trajectory  # noqa: E402

PLAIN = load_robot(Path(__file__).parents[2] / "hardware_configs/robots/generic7_sim.yaml")
RESET = PLAIN.reset.model_copy(update={"steps": ["trajectory", "service"], "service": "tidy_up"})
ROBOT = PLAIN.model_copy(update={"reset": RESET})


class Loop:
    """What the control loop wants, and what it was told."""

    def __init__(self) -> None:
        self.phase = "resetting"
        self.trajectory: Trajectory | None = None
        self.call = False
        self.told: list[tuple[bool, str]] = []

    def take_trajectory(self) -> Trajectory | None:
        taken, self.trajectory = self.trajectory, None
        return taken

    def take_service_call(self) -> bool:
        taken, self.call = self.call, False
        return taken

    def service_done(self, ok: bool, message: str) -> None:
        self.told.append((ok, message))


class Bench:
    def __init__(self, *, dry_run: bool = False) -> None:
        rclpy.init()
        self.node = rclpy.create_node("robot_node", namespace="robot1")
        self.peer = rclpy.create_node("cell", namespace="robot1")
        self.loop: Any = Loop()
        self.topics = ResetTopics(self.node, ROBOT, self.loop, dry_run=dry_run)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, f"not within 10 s: {what}"
            self.topics.serve()
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.topics.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.peer.destroy_node()
        rclpy.shutdown()


@pytest.fixture
def make_bench(ros_domain_id: int) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_a_trajectory_is_sent_once_with_names_and_times(make_bench):
    bench = make_bench()
    heard: list[JointTrajectory] = []
    bench.peer.create_subscription(JointTrajectory, ROBOT.topics.joint_trajectory, heard.append, 10)
    bench.until(lambda: bench.topics._trajectories.get_subscription_count(), "matched")
    positions, velocities = np.arange(14.0).reshape(2, 7), np.ones((2, 7))
    bench.loop.trajectory = Trajectory(np.array([0.05, 1.1]), positions, velocities)
    bench.until(lambda: heard, "heard")
    assert heard[0].joint_names == ROBOT.joints
    assert heard[0].header.stamp.sec == heard[0].header.stamp.nanosec == 0, "begin at once"
    first, last = heard[0].points
    assert (first.time_from_start.sec, first.time_from_start.nanosec) == (0, 50_000_000)
    assert (last.time_from_start.sec, last.time_from_start.nanosec) == (1, 100_000_000)
    assert list(last.positions) == positions[1].tolist() and list(last.velocities) == [1.0] * 7


def test_the_service_is_called_once_when_it_is_there_and_its_answer_passed_on(make_bench):
    bench = make_bench()
    bench.loop.call = True
    for _ in range(3):  # nobody offers it yet: never waits, keeps it in mind
        bench.topics.serve()
    calls: list[int] = []

    def tidy_up(_request: Any, response: Any) -> Any:
        calls.append(1)
        response.success, response.message = False, "a cup is missing"
        return response

    bench.peer.create_service(Trigger, "tidy_up", tidy_up)
    bench.until(lambda: bench.loop.told, "answered")
    assert bench.loop.told == [(False, "a cup is missing")] and len(calls) == 1


def test_a_call_that_nobody_wants_any_more_is_not_made(make_bench):
    bench = make_bench()
    bench.loop.call = True
    bench.topics.serve()
    bench.loop.phase = "paused"
    bench.topics.serve()
    bench.loop.phase = "resetting"
    calls: list[int] = []
    bench.peer.create_service(Trigger, "tidy_up", lambda _, response: calls.append(1) or response)
    bench.until(lambda: bench.topics._client.service_is_ready(), "the service is there")
    for _ in range(5):
        bench.topics.serve()
        bench.executor.spin_once(timeout_sec=0.02)
    assert calls == [] and bench.loop.told == []


def test_a_dry_run_sends_and_calls_nothing(make_bench):
    bench = make_bench(dry_run=True)
    bench.loop.trajectory = Trajectory(np.array([0.05]), np.zeros((1, 7)), np.zeros((1, 7)))
    bench.loop.call = True
    bench.topics.serve()
    assert bench.topics._trajectories is None and bench.topics._client is None
    assert bench.loop.trajectory is None, "taken and dropped"
