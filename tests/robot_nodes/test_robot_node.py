"""The robot node from ROS's side: lifecycle, parameters, diagnostics, e-stop. In one process, as a dry run
where no commands are needed; tests/integration has it as a process with everything around it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from std_msgs.msg import Bool, Float64MultiArray, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from fleet.config import FleetConfig  # noqa: E402
from fleet.config_file import load_fleet  # noqa: E402
from fleet.messages import FleetCommand  # noqa: E402
from robot_nodes.command_channel import CommandChannel  # noqa: E402
from robot_nodes.estop import KEPT  # noqa: E402
from robot_nodes.other_commanders import OtherCommanders  # noqa: E402
from robot_nodes.robot_node import RobotNode  # noqa: E402

FLEETS = Path(__file__).parents[2] / "hardware_configs/fleets"


@pytest.fixture
def fleet(make_endpoint: Callable[[], str]) -> FleetConfig:
    loaded = load_fleet(
        FLEETS / "sim2.yaml",
        [f"replay_server.endpoint={make_endpoint()}", f"learner.policy_endpoint={make_endpoint()}"],
    )
    entry = loaded.robots[0]
    robot = entry.robot.model_copy(update={"sim": None})  # real hardware: wall time
    return loaded.model_copy(update={"robots": [entry.model_copy(update={"id": "robot1", "robot": robot})]})


class Bench:
    """The node, and somebody else's node that talks to it."""

    def __init__(self, fleet: FleetConfig, folder: Path, cli: list[str], dry_run: bool) -> None:
        rclpy.init(args=["--ros-args", *cli] if cli else [])
        self.node = RobotNode(fleet, "robot1", folder, dry_run)
        self.peer = rclpy.create_node("operator", namespace="robot1")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.clients: dict[str, Any] = {}

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, kind: Any, name: str, request: Any = None) -> Any:
        if name not in self.clients:
            self.clients[name] = self.peer.create_client(kind, f"robot_node/{name}")
            self.until(self.clients[name].service_is_ready, f"service {name}")
        future = self.clients[name].call_async(request or kind.Request())
        self.until(future.done, f"answer of {name}")
        return future.result()

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, "change_state", request).success)

    @property
    def state(self) -> int:
        return int(self.call(GetState, "get_state").current_state.id)

    def close(self) -> None:
        self.node.stop_moving()
        self.node.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.peer.destroy_node()
        rclpy.shutdown()


@pytest.fixture
def make_bench(fleet: FleetConfig, ros_domain_id: int, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(fleet: FleetConfig = fleet, cli: list[str] | None = None, dry_run: bool = True) -> Bench:
        made.append(Bench(fleet, tmp_path, cli or [], dry_run))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_every_transition_from_a_standard_client(make_bench):
    bench = make_bench()
    assert bench.state == State.PRIMARY_STATE_UNCONFIGURED
    for transition, state in (
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
    ):
        assert bench.change(transition)
        assert bench.state == state
    assert not bench.change(Transition.TRANSITION_CONFIGURE), "not from active"
    assert bench.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert bench.state == State.PRIMARY_STATE_FINALIZED and bench.node.stop_requested


def test_a_dry_run_goes_on_after_a_fault(make_bench, monkeypatch):
    monkeypatch.setattr("robot_nodes.robot._DRY_FAULT_S", 0.6)  # above what ends a real run
    bench = make_bench()
    phases: list[str] = []
    bench.node.on_tick = lambda robot: phases.append(robot.loop.phase)
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    bench.node.robot.loop.fault("an arm that was pushed away")
    bench.until(lambda: phases.count("fault") >= 5, "the view goes on meanwhile")
    bench.until(lambda: phases[-1] == "waiting", "it goes on by itself")
    assert bench.state == State.PRIMARY_STATE_ACTIVE


def test_a_failed_configure_can_be_repeated(make_bench, fleet, tmp_path, caplog):
    entry = fleet.robots[0]
    urdf = tmp_path / "arm.urdf"
    robot = entry.robot.model_copy(update={"urdf": urdf})
    bench = make_bench(fleet.model_copy(update={"robots": [entry.model_copy(update={"robot": robot})]}))
    assert not bench.change(Transition.TRANSITION_CONFIGURE)
    assert "arm.urdf: cannot be read" in caplog.text
    assert bench.state == State.PRIMARY_STATE_UNCONFIGURED
    urdf.write_text(entry.robot.urdf.read_text())
    assert bench.change(Transition.TRANSITION_CONFIGURE)


def test_an_error_in_a_transition_ends_unconfigured_and_can_be_left(make_bench, monkeypatch, caplog):
    bench = make_bench()
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    monkeypatch.setattr(bench.node.robot, "start", lambda: 1 / 0)
    assert not bench.change(Transition.TRANSITION_ACTIVATE)
    assert "on_activate failed" in caplog.text and "ZeroDivisionError" in caplog.text
    assert bench.state == State.PRIMARY_STATE_UNCONFIGURED and bench.node.robot is None
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)


def test_parameters_are_described_and_only_the_exploration_can_be_set(make_bench):
    bench = make_bench(cli=["-p", "control_rate_hz:=100.0", "-p", "exploration_scale:=0.5"])
    names = ["limits.max_joint_velocity_rad_s", "control_rate_hz", "exploration_scale"]
    described = bench.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names))
    assert all(d.description for d in described.descriptors)
    assert [d.read_only for d in described.descriptors] == [True, True, False]
    assert described.descriptors[2].floating_point_range[0].to_value == 10.0
    values = bench.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
    assert list(values[0].double_array_value) == [1.5] * 7
    assert values[1].double_value == 20.0, "the config counts, not the command line"
    assert values[2].double_value == 0.5

    def set_parameter(name: str, value: float) -> bool:
        parameter = Parameter(name=name, value=ParameterValue(type=3, double_value=value))
        request = SetParameters.Request(parameters=[parameter])
        return bool(bench.call(SetParameters, "set_parameters", request).results[0].successful)

    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.node.robot.loop.exploration_scale == 0.5
    assert not set_parameter("control_rate_hz", 100.0)
    assert not set_parameter("exploration_scale", 11.0)
    assert bench.node.robot.loop.exploration_scale == 0.5
    assert set_parameter("exploration_scale", 0.25)
    assert bench.node.robot.loop.exploration_scale == 0.25


def test_diagnostics_and_state_are_told_active_or_not(make_bench):
    bench = make_bench()
    heard: list[DiagnosticArray] = []
    states: list[str] = []
    bench.peer.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    bench.peer.create_subscription(String, "robot_node/state", lambda m: states.append(m.data), KEPT)
    bench.until(lambda: heard, "diagnostics before configure")
    assert [s.name for s in heard[-1].status] == ["robot1: state"]
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    heard.clear()
    bench.until(lambda: heard and len(heard[-1].status) > 10, "diagnostics when active")
    status = {s.name: s for s in heard[-1].status}
    assert all(s.hardware_id == "robot1" for s in heard[-1].status)
    assert "no joint states yet on /robot1/joint_states" in status["robot1: watchdog state_silence"].message
    assert status["robot1: watchdog state_silence"].level == b"\x03"
    assert status["robot1: policy"].level == b"\x03"
    bench.until(lambda: any("no joint states yet" in s for s in states), "the state is told")
    assert states[-1].startswith("waiting: ")


def with_external_estop(fleet: FleetConfig, **changes: Any) -> FleetConfig:
    external = {"topic": "stop_button", "stop_when": True, "max_age_s": 1.0} | changes
    entry = fleet.robots[0]
    robot = type(entry.robot).model_validate(entry.robot.model_dump() | {"external_estop": external})
    return fleet.model_copy(update={"robots": [entry.model_copy(update={"robot": robot})]})


def test_the_external_estop_stops_by_word_and_by_silence(make_bench, fleet):
    bench = make_bench(with_external_estop(fleet))
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    estopped: list[bool] = []
    bench.peer.create_subscription(Bool, "robot_node/estopped", lambda m: estopped.append(m.data), KEPT)
    button = bench.peer.create_publisher(Bool, "stop_button", 1)
    robot = bench.node.robot

    def says(value: bool, condition: Callable[[], object], what: str) -> None:
        def talking() -> bool:
            button.publish(Bool(data=value))
            return bool(condition())

        bench.until(talking, what)

    assert "no message yet on /robot1/stop_button" in robot._estop.missing
    says(False, lambda: not robot._estop.missing, "the input is heard")
    says(False, lambda: estopped == [False], "the latched topic is heard")
    assert robot.loop.phase == "waiting"
    says(True, lambda: robot.loop.phase == "estopped", "stops")
    assert robot.loop.note == "e-stop from outside (stop_button)"
    refused = bench.call(Trigger, "reset_estop")
    assert not refused.success and "still says stop" in refused.message
    says(False, lambda: not robot._estop._says_stop, "released")
    assert robot.loop.phase == "estopped", "latched"
    cleared = bench.peer.create_client(Trigger, "robot_node/reset_estop").call_async(Trigger.Request())
    says(False, cleared.done, "the input goes on to say go while it is reset")
    assert cleared.result().success and robot.loop.phase == "paused"
    bench.until(lambda: robot.loop.phase == "estopped", "silence stops")
    assert "is silent for" in robot.loop.note
    bench.until(lambda: estopped == [False, True, False, True], "told each time")
    refused = bench.call(Trigger, "reset_estop")
    assert not refused.success and "silent for" in refused.message


def test_the_estop_topic_latches_with_true_only(make_bench):
    bench = make_bench()
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    topic = bench.peer.create_publisher(Bool, "robot_node/estop", 1)
    bench.until(lambda: topic.get_subscription_count() == 2, "matched")
    topic.publish(Bool(data=True))
    bench.until(lambda: bench.node.robot.loop.phase == "estopped", "stops, inactive or not")
    topic.publish(Bool(data=False))
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    assert bench.node.robot.loop.phase == "estopped", "activating clears faults, not this"
    assert bench.call(Trigger, "reset_estop").message == "paused"
    assert bench.call(Trigger, "reset_estop").message == "not e-stopped"


@pytest.fixture
def real(monkeypatch, make_bench, fleet) -> Bench:
    """A node that really commands, of an arm without a driver, in a fleet without a server."""
    monkeypatch.setattr("robot_nodes.uplink._FLUSH_TIMEOUT_S", 0.1)
    entry = fleet.robots[0]
    watchdogs = entry.robot.watchdogs.model_copy(update={"other_commander": "wait"})
    robot = entry.robot.model_copy(update={"watchdogs": watchdogs})
    fleet = fleet.model_copy(update={"robots": [entry.model_copy(update={"robot": robot})]})
    return make_bench(fleet, dry_run=False)


def test_a_real_arm_that_did_not_end_in_order_waits_for_a_person(real):
    assert real.change(Transition.TRANSITION_CONFIGURE) and real.node.robot.loop.phase == "waiting"
    assert real.change(Transition.TRANSITION_ACTIVATE) and real.change(Transition.TRANSITION_DEACTIVATE)
    real.node.close(orderly=False)  # leaves what a kill leaves
    for transition in ("CLEANUP", "CONFIGURE", "ACTIVATE"):
        assert real.change(getattr(Transition, f"TRANSITION_{transition}"))
    loop = real.node.robot.loop
    assert (loop.phase, loop.note.split(":")[0]) == ("paused", "it did not end in order the last time")
    assert real.change(Transition.TRANSITION_DEACTIVATE) and real.change(Transition.TRANSITION_ACTIVATE)
    assert loop.phase == "paused", "lifecycle alone does not let it go"
    real.node.robot._hear_operator(FleetCommand(kind="resume"))
    real.until(lambda: loop.phase == "waiting", "a person's resume does")
    assert real.change(Transition.TRANSITION_DEACTIVATE) and real.change(Transition.TRANSITION_CLEANUP)
    assert real.change(Transition.TRANSITION_CONFIGURE) and real.node.robot.loop.phase == "waiting"


def test_a_real_arm_s_estop_holds_in_every_run_folder_and_one_node_drives_it(real, tmp_path, caplog):
    assert real.change(Transition.TRANSITION_CONFIGURE)
    second = RobotNode(real.node._fleet, "robot1", tmp_path / "another_run")
    try:
        second.trigger_configure()
        assert f"drives this arm already, process {os.getpid()} " in caplog.text and second.robot is None
        assert real.call(Trigger, "estop").success
        assert real.change(Transition.TRANSITION_CLEANUP)
        second.trigger_configure()
        assert second.robot.loop.phase == "estopped"
        second.close()
    finally:
        second.destroy_node()


def test_somebody_else_who_commands_the_arm_is_named(real):
    assert real.change(Transition.TRANSITION_CONFIGURE) and real.change(Transition.TRANSITION_ACTIVATE)
    robot = real.node.robot
    dog = robot.watchdogs.by_name["other_commander"]
    real.until(lambda: robot._commands.ready or robot._commands.subscribers == 0, "the zero sender is there")
    others = OtherCommanders(real.peer, robot._commands.topic, ours=0)
    real.until(lambda: "robot_node_zero_sender" in others._others(), "seen from elsewhere")
    assert dog.text == "" and dog.trips == 0, "we and our zero sender are no others"
    publisher = real.peer.create_publisher(Float64MultiArray, robot._commands.topic, 1)
    real.until(lambda: "robot1/forward_velocity_controller/commands: /robot1/operator;" in dog.text, "named")
    assert robot.loop.phase == "waiting"
    real.peer.destroy_publisher(publisher)
    real.until(lambda: dog.text == "", "gone")
    twin = rclpy.create_node("robot_node", namespace="robot1")
    twin.create_publisher(Float64MultiArray, robot._commands.topic, 1)
    try:
        real.until(lambda: "another /robot1/robot_node;" in dog.text, "a twin with our name")
    finally:
        twin.destroy_node()


def test_a_fault_then_an_estop_and_its_reset_then_a_resume(real):
    assert real.change(Transition.TRANSITION_CONFIGURE) and real.change(Transition.TRANSITION_ACTIVATE)
    robot = real.node.robot
    robot.loop.fault("a joint does not follow")
    real.until(lambda: real.node._state_machine.current_state[1] == "inactive", "inactive after a fault")
    assert real.call(Trigger, "estop").success and real.call(Trigger, "reset_estop").message == "paused"
    robot._hear_operator(FleetCommand(kind="resume"))
    real.until(lambda: robot.active and robot.loop.phase == "waiting", "a person let it go on")
    assert real.change(Transition.TRANSITION_DEACTIVATE)
    robot._hear_operator(FleetCommand(kind="resume"))
    for _ in range(5):
        real.executor.spin_once(timeout_sec=0.05)
    assert not robot.active and robot.loop.phase == "paused", "not what a person has deactivated by lifecycle"


def test_people_are_told_why_their_wish_does_not_apply(make_bench):
    bench = make_bench()
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    for name in ("label_success", "label_failure", "next_episode"):
        answer = bench.call(Trigger, name)
        assert not answer.success and answer.message.startswith("no episode is running: the robot is waiting")
    assert "nobody is waited for" in bench.call(Trigger, "ready").message


def test_commands_and_zeros_follow_a_remapping(fleet, ros_domain_id):
    rclpy.init()
    remap = ["--ros-args", "-r", "forward_velocity_controller/commands:=/elsewhere"]
    node = rclpy.create_node("robot_node", namespace="robot1", cli_args=remap)
    channel = CommandChannel(node, fleet.robots[0].robot)
    heard: list[list[float]] = []
    controller = rclpy.create_node("controller")
    controller.create_subscription(Float64MultiArray, "/elsewhere", lambda m: heard.append(list(m.data)), 10)
    executor = SingleThreadedExecutor()
    executor.add_node(controller)
    try:
        deadline = time.monotonic() + 20
        while not (channel.subscribers and channel.ready) or not heard:
            assert time.monotonic() < deadline
            channel.feed(on_duty=False)
            channel.zero()
            executor.spin_once(timeout_sec=0.05)
        assert channel.topic == "/elsewhere" and heard[-1] == [0.0] * 7
    finally:
        channel.close()
        executor.shutdown()
        controller.destroy_node()
        node.destroy_node()
        rclpy.shutdown()
