"""A whole fleet in Gazebo: an arm's process and a gzserver are killed in mid-episode, and the run goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_checks import Command, stop_problems
from rich.console import Console

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

from fleet.config import FleetConfig  # noqa: E402
from fleet.config_file import PACKAGED_CONFIGS, load_fleet  # noqa: E402
from fleet.fleet_run import FleetRun, Outcome  # noqa: E402
from fleet.run_folder import RunFolder, create_run_folder  # noqa: E402
from fleet.shared_memory import SHARED_MEMORY  # noqa: E402
from replay_server.client import ReplayClient, ReplayTimeout  # noqa: E402
from replay_server.episode_store import list_episodes  # noqa: E402
from robot_nodes.gazebo.installation import GazeboInstallation  # noqa: E402

SILENCE_S = 0.6
WaitUntil = Callable[..., None]


class Run:
    """`pnaf fleet up` in a thread, and what its robots are told."""

    def __init__(self, fleet: FleetConfig, folder: RunFolder) -> None:
        self.fleet, self.folder = fleet, folder
        self.client = ReplayClient(fleet.replay_server.endpoint, "monitor", "test")
        self.outcome: Outcome | None = None
        self.screen = folder.path / "console.txt"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.commands: dict[str, list[Command]] = {entry.id: [] for entry in fleet.robots}
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=fleet.ros.domain_id)
        self._node = rclpy.create_node("test", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        for robot_id, heard in self.commands.items():
            topic = f"/{robot_id}/{fleet.entry(robot_id).robot.topics.command}"

            def hear(message: Any, heard: list[Command] = heard) -> None:
                heard.append(Command(time.monotonic(), tuple(message.data)))

            self._node.create_subscription(Float64MultiArray, topic, hear, best_effort)

    def _run(self) -> None:
        with self.screen.open("w") as file:
            console = Console(file=file, width=100)
            self.outcome = FleetRun(self.folder.load(), self.folder, console, self._stop).run()

    def listen(self) -> None:
        """Hear the commands of the last moment."""
        until_s = time.monotonic() + 0.02
        while time.monotonic() < until_s:
            self._executor.spin_once(timeout_sec=0.005)

    def robot(self, robot_id: str) -> dict[str, Any]:
        """Its last heartbeat; empty while there is none."""
        self.listen()
        try:
            processes = self.client.status(timeout_s=2.0).processes
        except ReplayTimeout:
            return {}
        return next((dict(p) for p in processes if p["process_id"] == robot_id), {})

    def is_in(self, robot_id: str, state: str) -> bool:
        return self.robot(robot_id).get("state") == state

    def stats(self, robot_id: str) -> dict[str, Any]:
        return self.robot(robot_id).get("stats", {})

    def moves(self, robot_id: str) -> bool:
        return bool(self.commands[robot_id]) and not self.commands[robot_id][-1].zero

    def pids(self) -> dict[str, int]:
        """Process ids: gzserver-robot1, sim-arm-robot1, robot-robot1, …, learner, replay-server."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:  # it ended meanwhile
                continue
            if "fleet.cli" in command and str(self.folder.config) in command:
                which = command[command.index("--id") + 1] if "--id" in command else ""
                found["-".join([command[3], *([which] if which else [])])] = int(process.name)
            elif Path(command[0]).name == "gzserver" and str(self.folder.path) in command[-2]:
                found[f"gzserver-{Path(command[-2]).parent.name}"] = int(process.name)
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.client.close()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()


@pytest.fixture
def run(
    gazebo: GazeboInstallation, ros_domain_id: int, make_endpoint: Callable[[], str], tmp_path: Path
) -> Iterator[Run]:
    gazebo.plugin()
    overrides = [
        f"replay_server.endpoint={make_endpoint()}",
        f"learner.policy_endpoint={make_endpoint()}",
        "learner.warmup_rows=200",
        "learner.updates_per_row=1",
        f"ros.domain_id={ros_domain_id}",
        "goal=null",
        f"override.watchdogs.state_silence.limit_s={SILENCE_S}",
        "override.sim.speed=2",  # episodes of two seconds, so that a heartbeat tells of one that goes on
    ]
    fleet = load_fleet(PACKAGED_CONFIGS / "fleets/gazebo2.yaml", overrides)
    made = Run(fleet, create_run_folder(fleet, tmp_path, "gazebo"))
    yield made
    made.close()


def segments_of(pid: str) -> set[str]:
    """ROS's shared memory that a process has mapped."""
    try:
        return set(re.findall(r"/dev/shm/(fastdds_\w+)", Path(f"/proc/{pid}/maps").read_text()))
    except OSError:  # it ended meanwhile
        return set()


def orphans(segments: set[str]) -> set[str]:
    """Those that are still there, for nobody."""
    pids = [path.name for path in Path("/proc").glob("[0-9]*")]
    used = set[str]().union(*map(segments_of, pids))
    return {name for name in segments - used if (SHARED_MEMORY / name).exists()}


def kill_in_mid_episode(run: Run, wait_until: WaitUntil, victim: str, robot: str) -> tuple[set[str], int]:
    """SIGKILL a process on which a robot depends; the robot stops as it should.

    Returns the shared memory that it had, and how many episodes the robot had ended by then.
    """
    wait_until(lambda: not run.is_in(robot, "episode"), 30, f"{robot} between episodes")
    wait_until(lambda: run.is_in(robot, "episode") and run.moves(robot), 30, f"{robot} in mid-episode")
    pid, episodes = run.pids()[victim], run.stats(robot)["robot/episodes"]
    segments, killed_s = segments_of(str(pid)), time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def waits() -> bool:
        heartbeat = run.robot(robot)
        return heartbeat["state"] == "waiting" and "no joint states" in heartbeat["stats"]["robot/note"]

    wait_until(waits, 10, f"{robot} waits and says why")
    assert stop_problems(run.commands[robot], killed_s, SILENCE_S + 0.5, time.monotonic()) == []
    return segments, episodes


@pytest.mark.timeout(180)
def test_processes_in_gazebo_are_killed_and_the_run_goes_on(
    run: Run, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    def steps(robot: str) -> int:
        return int(run.stats(robot).get("robot/steps", 0))

    wait_until(lambda: steps("robot1") > 20 and steps("robot2") > 20, 60, "first rows of both")
    first = run.pids()
    assert sorted(first) == [
        "gzserver-robot1", "gzserver-robot2", "learner", "replay-server",
        "robot-robot1", "robot-robot2", "sim-arm-robot1", "sim-arm-robot2",
    ]  # fmt: skip
    segments, episodes1 = kill_in_mid_episode(run, wait_until, "sim-arm-robot1", "robot1")
    before = steps("robot2")
    wait_until(lambda: steps("robot2") > before, 10, "robot2, whose processes live, goes on")
    more_segments, episodes2 = kill_in_mid_episode(run, wait_until, "gzserver-robot2", "robot2")
    wait_until(lambda: run.stats("robot1")["robot/episodes"] > episodes1, 40, "robot1 ends a new episode")
    wait_until(lambda: run.stats("robot2")["robot/episodes"] > episodes2, 40, "robot2 ends a new episode")
    again = run.pids()
    changed = {name for name in again if again[name] != first.get(name)}
    assert sorted(again) == sorted(first) and changed == {"sim-arm-robot1", "gzserver-robot2"}

    stop = [sys.executable, "-m", "fleet.cli", "fleet", "stop", str(run.folder.config)]
    subprocess.run(stop, check=True, capture_output=True, timeout=30)
    run.join(60)
    assert run.outcome is not None and run.outcome.ended_by == "stop command"
    assert run.pids() == {}
    assert segments and not orphans(segments | more_segments)
    warnings = [r.getMessage() for r in caplog.records if r.name == "fleet.supervisor"]
    assert [text.partition(";")[0] for text in warnings] == [
        "robot1_arm ended (killed by SIGKILL)", "robot2_gazebo ended (killed by SIGKILL)",
    ]  # fmt: skip

    rows: Counter[str] = Counter()
    for episode in (stored := list_episodes(run.folder.path)):
        rows[episode.info.robot_id] += episode.info.rows
    produced = {key.partition(":")[0]: steps for key, steps in run.outcome.produced.items()}
    assert rows == produced
    interrupted = {e.info.robot_id for e in stored if e.info.end == "fault"}
    assert interrupted == {"robot1", "robot2"}, "the episodes ended with their processes"
