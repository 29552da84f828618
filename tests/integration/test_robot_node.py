"""The robot node as ROS sees it: a process, topics, lifecycle services. The test is its arm.

The arm here follows velocity commands exactly and answers each with the next joint states and clock,
so a test decides when states are late, wrong or missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

rclpy = pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from fleet.codec import encode  # noqa: E402
from fleet.config import FleetConfig  # noqa: E402
from fleet.messages import PolicyMessage, policy_checksum  # noqa: E402
from fleet.node_specs import node_specs  # noqa: E402
from fleet.run_folder import create_run_folder  # noqa: E402
from fleet.sockets import bind_policy_publisher  # noqa: E402
from replay_server.client import ReplayClient, ReplayRefused  # noqa: E402
from replay_server.episode_store import list_episodes  # noqa: E402
from replay_server.server import run_replay_server  # noqa: E402
from robot_nodes.tasks.task import make_task  # noqa: E402

DT_NS = 50_000_000


def random_policy(fleet: FleetConfig, spec_hash: str = "") -> PolicyMessage:
    spec = make_task(fleet, fleet.robots[0].id).spec
    nx, nu = spec.observation.size, spec.action.size
    parameters = np.random.default_rng(0).normal(0, 0.3, (nx + 1) * 16 + 17 * nu).astype(np.float32)
    mean, scale = np.zeros(nx, np.float32), np.ones(nx, np.float32)
    return PolicyMessage(
        run_id="test",
        version=1,
        learner_step=0,
        spec_hash=spec_hash or spec.hash,
        layer_sizes=[nx, 16, nu],
        exploration_std=0.5,
        exploration_correlation=0.0,
        published_ns=time.time_ns(),
        checksum=policy_checksum(parameters, mean, scale),
        parameters=parameters,
        observation_mean=mean,
        observation_scale=scale,
    )


class Arm:
    """The test's end of the topics, and everything else that the robot process needs."""

    def __init__(self, fleet: FleetConfig, folder: Path) -> None:
        self.fleet, self.robot = fleet, fleet.robots[0].robot
        self.run = create_run_folder(fleet, folder, "run")
        self.stop = threading.Event()
        ready = threading.Event()
        self.server = threading.Thread(
            target=run_replay_server,
            args=(fleet.replay_server, self.run.path, "test", self.stop, ready.set),
        )
        self.server.start()
        assert ready.wait(10)
        self.client = ReplayClient(fleet.replay_server.endpoint, "monitor", "test")
        self.zmq = zmq.Context()
        self.policies = bind_policy_publisher(self.zmq, fleet.learner.policy_endpoint)

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("arm", namespace="robot1", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.commands: list[list[float]] = []
        self.node.create_subscription(
            Float64MultiArray,
            self.robot.topics.command,
            lambda m: self.commands.append(list(m.data)),
            best_effort,
        )
        self.states = self.node.create_publisher(JointState, self.robot.topics.joint_states, 1)
        self.clock = self.node.create_publisher(Clock, "clock", 1)
        self.q, self.time_ns, self.stamp_offset_ns = np.array(self.robot.reset.home_rad), 10**9, 0

        self.log = folder / "robot1.log"
        self.start()

    def start(self) -> None:
        spec = next(s for s in node_specs(self.fleet, self.run.config, self.run.path) if s.name == "robot1")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(spec.argv, env=os.environ | spec.env, stderr=log)

    def step(self) -> None:
        """One control period: follow the last command, tell the new state, wait a little for the answer."""
        velocity = np.array(self.commands[-1]) if self.commands else np.zeros(len(self.q))
        self.q = self.q + velocity * DT_NS * 1e-9
        self.time_ns += DT_NS
        state = JointState(name=self.robot.joints, position=self.q.tolist(), velocity=velocity.tolist())
        seconds, nanoseconds = divmod(self.time_ns - self.stamp_offset_ns, 10**9)
        state.header.stamp.sec, state.header.stamp.nanosec = seconds, nanoseconds
        self.states.publish(state)
        self.tick()

    def tick(self) -> None:
        """Let the robot's clock go on, and hear its command."""
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self.time_ns, 10**9)
        self.clock.publish(clock)
        heard = len(self.commands)
        deadline = time.monotonic() + 0.05
        while len(self.commands) == heard and time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.01)

    def until(
        self, condition: Callable[[], object], what: str, act: Callable[[], None] | None = None
    ) -> None:
        """Live on, step by step, until the condition holds."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"not within 30 s: {what}\n{self.log.read_text()}"
            assert self.process.poll() is None, self.log.read_text()
            (act or self.step)()

    def publish(self, policy: PolicyMessage) -> None:
        self.policies.send(encode(policy))

    def begin(self) -> None:
        """Until an episode is under way and the arm really moves."""
        self.until(lambda: self.policies.poll(0), "the robot subscribes to policies")
        self.policies.recv()
        self.publish(random_policy(self.fleet))
        self.until(lambda: self.state() == "episode", "an episode begins")
        self.until(lambda: self.moves(), "the arm moves")

    def moves(self) -> bool:
        return bool(self.commands) and any(self.commands[-1])

    def stands(self) -> bool:
        return bool(self.commands) and not any(self.commands[-1])

    def state(self) -> str:
        return next(
            (str(p["state"]) for p in self.client.status().processes if p["process_id"] == "robot1"), ""
        )

    def stats(self) -> dict[str, Any]:
        return next((p["stats"] for p in self.client.status().processes if p["process_id"] == "robot1"), {})

    def lifecycle(self) -> str:
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, f"robot_node/{name}")
        self.until(client.service_is_ready, f"service {name} is there")
        futures: list[Any] = []

        def answered() -> Any:
            # A server that was killed counts as ready for a while: what it was asked is asked again.
            if not futures or time.monotonic() - asked_s[-1] > 2.0:
                futures.append(client.call_async(request))
                asked_s.append(time.monotonic())
            return any(future.done() for future in futures)

        asked_s: list[float] = []
        self.until(answered, f"service {name} answers")
        return next(future.result() for future in futures if future.done())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self.client.close()
        self.stop.set()
        self.server.join()
        self.policies.close(linger=0)
        self.zmq.term()


@pytest.fixture
def arm(make_fleet: Callable[..., FleetConfig], tmp_path: Path) -> Iterator[Arm]:
    made = Arm(make_fleet("robot1"), tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_in_zero_commands_and_nothing_is_lost(arm, number):
    arm.begin()
    arm.process.send_signal(number)
    deadline = time.monotonic() + 20
    while arm.process.poll() is None:
        assert time.monotonic() < deadline
        arm.executor.spin_once(timeout_sec=0.02)
    arm.executor.spin_once(timeout_sec=0.1)
    assert arm.process.returncode == 0, arm.log.read_text()
    assert arm.stands()
    produced = arm.stats()["robot/steps"]
    assert produced == arm.client.status().stats["replay/rows_inserted"] > 0
    arm.stop.set()
    arm.server.join()
    episodes = list_episodes(arm.run.path)
    assert sum(episode.info.rows for episode in episodes) == produced
    assert all(episode.info.complete for episode in episodes)
    assert episodes[-1].info.end in ("stopped", "time_limit")  # the signal may have come between episodes


def test_old_joint_states_stop_the_robot_and_fresh_ones_let_it_go_on(arm):
    arm.begin()

    def only_time() -> None:  # the driver hangs, the clock goes on
        arm.time_ns += DT_NS
        arm.tick()

    arm.until(arm.stands, "zero command", only_time)
    arm.until(lambda: arm.state() == "waiting", "the operator is told", only_time)
    assert "joint states are" in arm.stats()["robot/note"]
    arm.until(lambda: arm.state() == "episode" and arm.moves(), "goes on")


def test_silence_stops_the_robot_even_when_its_clock_stands_still(arm):
    arm.begin()
    arm.until(
        lambda: arm.stands() and arm.state() == "waiting",
        "zero command without a tick",
        lambda: arm.executor.spin_once(timeout_sec=0.05),
    )
    assert "no joint states" in arm.stats()["robot/note"]


def test_joint_states_that_are_not_finite_are_a_latched_fault(arm):
    arm.begin()
    good = arm.q.copy()
    arm.q = np.full(7, np.nan)
    arm.until(arm.stands, "zero command")
    arm.q = good
    arm.until(lambda: arm.state() == "fault", "the operator is told")
    assert "not finite" in arm.stats()["robot/note"] and arm.stats()["robot/watchdogs/non_finite"] == 1
    arm.until(lambda: arm.lifecycle() == "inactive", "zeros, then inactive")
    assert len(arm.commands) >= 5 and not any(any(command) for command in arm.commands[-5:])
    heard = len(arm.commands)
    for _ in range(5):
        arm.step()
    assert len(arm.commands) == heard and arm.state() == "fault", "silent, but its heartbeat goes on"
    arm.client.command("resume", "robot1", "encoder replaced")
    arm.until(lambda: arm.state() == "episode", "a person let it go on")
    assert arm.lifecycle() == "active"


def test_estop_is_latched_until_a_person_resets_it(arm):
    arm.begin()
    assert arm.call(Trigger, "estop", Trigger.Request()).success
    arm.until(lambda: arm.state() == "estopped" and arm.stands(), "stopped")
    with pytest.raises(ReplayRefused, match="robot1: e-stopped; reset it at the robot"):
        arm.client.command("resume", "robot1", "")
    for _ in range(10):
        arm.step()
    assert arm.state() == "estopped" and arm.stands()
    arm.process.kill()  # the latch outlives the process
    arm.process.wait()
    arm.start()
    arm.until(lambda: "boot" in arm.log.read_text().rpartition("estopped: ")[2], "the next process runs")
    arm.until(lambda: "e-stop by ROS service (20" in arm.stats()["robot/note"], "its file is heard of")
    assert arm.state() == "estopped" and arm.stands()
    assert arm.call(Trigger, "reset_estop", Trigger.Request()).message == "paused"
    arm.until(lambda: arm.state() == "paused", "the server hears of the reset")
    arm.client.command("resume", "robot1", "")
    arm.until(lambda: arm.policies.poll(0), "it subscribes to policies again")
    arm.publish(random_policy(arm.fleet))
    arm.until(lambda: arm.state() == "episode", "goes on after reset and resume")


def test_it_is_a_lifecycle_node(arm):
    arm.begin()

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(arm.call(ChangeState, "change_state", request).success)

    assert change(Transition.TRANSITION_DEACTIVATE)
    arm.until(arm.stands, "zero command")
    heard = len(arm.commands)
    for _ in range(5):
        arm.step()
    assert len(arm.commands) == heard, "an inactive node does not command"
    assert change(Transition.TRANSITION_ACTIVATE)
    arm.until(lambda: arm.state() == "episode" and arm.moves(), "goes on when active again")


def test_configured_again_it_counts_from_a_new_boot_and_loses_nothing(arm):
    arm.begin()
    arm.until(lambda: arm.stats()["robot/steps"] > 30, "some rows")

    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert arm.call(ChangeState, "change_state", request).success

    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_CLEANUP)
    first = arm.client.status().stats["replay/rows_inserted"]
    assert first > 30
    change(Transition.TRANSITION_CONFIGURE)
    change(Transition.TRANSITION_ACTIVATE)
    arm.until(lambda: arm.policies.poll(0), "it subscribes again")
    arm.publish(random_policy(arm.fleet))
    arm.until(lambda: arm.client.status().stats["replay/rows_inserted"] > first + 30, "new rows are stored")
    assert arm.client.status().stats["replay/duplicates_dropped"] == 0


def test_a_model_that_does_not_fit_is_told_at_once(make_fleet, tmp_path, caplog):
    from robot_nodes.robot_process import run_robot

    fleet = make_fleet("robot1")
    entry = fleet.robots[0]
    robot = entry.robot.model_copy(update={"tool_link": "gripper"})
    fleet = fleet.model_copy(update={"robots": [entry.model_copy(update={"robot": robot})]})
    handlers = {number: signal.getsignal(number) for number in (2, 15, 1, 3)}
    try:
        assert run_robot(fleet, "robot1", tmp_path) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "no link 'gripper'" in caplog.text


def test_a_spool_that_cannot_be_made_is_told_at_once(make_fleet, tmp_path, caplog):
    from robot_nodes.robot_process import run_robot

    (tmp_path / "run").write_text("a file")
    handlers = {number: signal.getsignal(number) for number in (2, 15, 1, 3)}
    try:
        assert run_robot(make_fleet("robot1"), "robot1", tmp_path / "run") == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "run/spool/robot1 cannot be made (Not a directory): give --run-dir" in caplog.text


def test_a_policy_for_another_robot_is_refused_and_reported(arm):
    arm.until(lambda: arm.policies.poll(0), "the robot subscribes to policies")
    arm.policies.recv()
    arm.publish(random_policy(arm.fleet, spec_hash="f" * 32))
    arm.until(lambda: arm.stats().get("robot/policies_refused") == 1, "refused and counted")
    assert arm.state() == "waiting"
    assert "is for other spaces" in arm.log.read_text()
    arm.publish(random_policy(arm.fleet))
    arm.until(lambda: arm.state() == "episode", "the right one is taken")


def test_bad_joint_states_are_told_and_survived(arm):
    arm.begin()

    def wrong() -> None:
        arm.states.publish(JointState(name=["joint_2", "elbow"], position=[0.0, 0.0]))
        arm.executor.spin_once(timeout_sec=0.01)

    arm.until(lambda: "lacks joint_1" in arm.log.read_text(), "named in the log", wrong)
    arm.until(lambda: arm.stats()["robot/bad_joint_states"] >= 1 and arm.moves(), "counted, and it goes on")
