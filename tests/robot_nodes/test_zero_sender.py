"""The process that commands zeros when the robot node cannot: real processes, signals and topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

from robot_nodes.zero_guardian import ZeroGuardian  # noqa: E402

TOPIC = "/robot1/velocity/commands"
HANG_S = 0.5

# A node in small: its guardian, and a loop that feeds it. Its own words go to stdout.
NODE = f"""
import sys, time
from robot_nodes.zero_guardian import ZeroGuardian
guardian = ZeroGuardian("{TOPIC}", 3, 50.0, {HANG_S}, {{domain}}, "zeros", "/robot1")
print(guardian.pid, flush=True)
said = ""
while said != "goodbye":
    guardian.feed(on_duty=True)
    now = guardian.problem or ("ready" if guardian.ready else "")
    if now != said:
        said = now
        print(said, flush=True)
    if guardian.problem:
        guardian.acknowledge()
    time.sleep(guardian.period_s)
"""


class Controller:
    """A forward command controller: hears the command topic."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("controller", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.commands: list[list[float]] = []
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(
            Float64MultiArray, TOPIC, lambda m: self.commands.append(list(m.data)), qos
        )

    def spin(self, duration_s: float) -> int:
        """How many commands come in this time."""
        self.commands.clear()
        deadline = time.monotonic() + duration_s
        while (left_s := deadline - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left_s)
        return len(self.commands)

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            self.executor.spin_once(timeout_sec=0.01)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def controller(ros_domain_id: int) -> Iterator[Controller]:
    made = Controller()
    yield made
    made.close()


class SmallNode:
    """The process of NODE."""

    def __init__(self, domain: int, controller: Controller, log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, "-c", NODE.format(domain=domain)], stdout=out)
        controller.until(lambda: "ready" in self.said, "the zero sender hears the controller", 20)
        self.zero_sender = int(self.said[0])

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def make_node(
    ros_domain_id: int, controller: Controller, tmp_path: Path
) -> Iterator[Callable[..., SmallNode]]:
    made: list[SmallNode] = []

    def make() -> SmallNode:
        made.append(SmallNode(ros_domain_id, controller, tmp_path / "said"))
        return made[-1]

    yield make
    for node in made:
        node.close()
        controller.until(lambda node=node: not running(node.zero_sender), "the zero sender ends")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_node_leaves_zeros_behind_and_no_process(controller, make_node):
    node = make_node()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(node.zero_sender, number)  # meant for the node: not a reason to leave it alone
    assert controller.spin(2 * HANG_S) == 0, "silent while the node is well"
    node.process.kill()
    killed_s = time.monotonic()
    controller.until(lambda: controller.commands, "a zero command")
    assert time.monotonic() - killed_s < HANG_S, "death is noticed at once, not only by silence"
    controller.until(lambda: not running(node.zero_sender), "it ends by itself", 5)
    assert len(controller.commands) >= 20, "one lost message does not matter"
    assert controller.commands == [[0.0, 0.0, 0.0]] * len(controller.commands)


def test_a_loop_that_hangs_is_zeroed_until_it_knows(controller, make_node):
    node = make_node()
    node.process.send_signal(signal.SIGSTOP)
    controller.until(lambda: len(controller.commands) > 5, "zeros", 2 * HANG_S + 3)
    assert controller.commands == [[0.0, 0.0, 0.0]] * len(controller.commands)
    node.process.send_signal(signal.SIGCONT)
    controller.until(lambda: "the control loop stood still for" in node.said[-1], "the node is told why")
    assert f"(limit {HANG_S:g} s)" in node.said[-1]
    controller.spin(0.2)
    assert controller.spin(2 * HANG_S) == 0, "silent once the node has seen it"
    node.process.send_signal(signal.SIGSTOP)
    controller.until(lambda: controller.commands, "zeros again", 2 * HANG_S + 3)
    node.close()
    controller.until(lambda: not running(node.zero_sender), "it ends with the node", 5)
    assert controller.commands == [[0.0, 0.0, 0.0]] * len(controller.commands)


@pytest.fixture
def guardian(ros_domain_id: int, controller: Controller) -> Iterator[ZeroGuardian]:
    made = ZeroGuardian(TOPIC, 3, 50.0, HANG_S, ros_domain_id, "zeros", "/robot1")

    def heard() -> bool:
        made.feed(on_duty=False)
        return made.ready

    controller.until(heard, "the zero sender hears the controller", 20)
    yield made
    made.close()


def test_it_is_small_and_goodbye_ends_it_without_a_word(controller, guardian):
    files = Path(f"/proc/{guardian.pid}/maps").read_text()
    for heavy in ("pinocchio", "zmq", "h5py", "torch"):
        assert heavy not in files, heavy
    pages = int(Path(f"/proc/{guardian.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 100e6
    guardian.feed(on_duty=True)
    guardian.close()
    assert not running(guardian.pid)
    assert controller.spin(0.3) == 0


def test_off_duty_it_leaves_the_arm_to_others(controller, guardian):
    assert controller.spin(1.5 * HANG_S) == 0, "an inactive node may be silent"
    guardian._link.close()  # as if the inactive node had died
    controller.until(lambda: not running(guardian.pid), "it ends")
    assert controller.commands == []


def test_a_zero_sender_that_dies_or_freezes_is_told_and_replaced(controller, guardian, monkeypatch, caplog):
    first = guardian.pid
    os.kill(first, signal.SIGKILL)
    controller.until(lambda: guardian.look() or guardian.problem, "the node is told")
    assert guardian.problem == (
        "the process that commands zeros when this one cannot has died: resume to start a new one"
    )
    guardian.renew()
    assert "has ended with status -9" in caplog.text
    assert guardian.problem == "" and not guardian.ready

    def heard() -> bool:
        guardian.feed(on_duty=False)
        return guardian.ready

    controller.until(heard, "the new one hears the controller", 20)
    second = guardian.pid
    assert second != first

    monkeypatch.setattr("robot_nodes.zero_guardian._SILENCE_S", 0.5)
    os.kill(second, signal.SIGSTOP)
    for _ in range(1000):  # more than fit into the socket: feeding never blocks
        guardian.feed(on_duty=True)

    def lost() -> bool:
        guardian.feed(on_duty=True)
        return bool(guardian.problem)

    controller.until(lost, "the node is told")
    assert "has not answered for" in guardian.problem and "(limit 1 s)" in guardian.problem
    guardian.renew()
    assert not running(second) and guardian.pid not in (first, second)
