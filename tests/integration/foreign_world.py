"""Robots that live at once, each with a script of its own: fake arms, node processes, servers, an operator.

Scripts are generators: they yield what they wait for, and the world runs all of them side by side.
What the controllers heard is recorded, to be judged afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
import zmq
from command_checks import MAX_VELOCITY, Command
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from fleet.codec import encode
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, policy_checksum
from fleet.node_specs import node_specs
from fleet.run_folder import create_run_folder
from fleet.sockets import bind_policy_publisher
from replay_server.client import ReplayClient, ReplayRefused, ReplayTimeout
from replay_server.episode_store import Episode, list_episodes, read_episode
from replay_server.server import run_replay_server
from robot_nodes.tasks.task import make_task

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "hardware_configs"
SLACK_S = 1.0  # of every limit in wall time, for a loaded machine
# The policy's mean action: every joint moves, each away from its limit, until the episode is over.
ACTION = np.array([0.4, -0.4, 0.4, -0.3, -0.4, 0.3, 0.4])

_MOST_STARTING = 3
_RESUME = "resume by the operator"
_BEATS_TO_RECOVER = 15  # that still say "fault" after a resume: the status is polled 5 times a second


@dataclass(frozen=True)
class Until:
    """What a script waits for."""

    condition: Callable[[], object]
    what: str
    within_s: float = 20.0
    outlives: bool = False  # the robot's process may have ended


Script = Generator[Until, None, None]


@dataclass
class Stop:
    """A stop that a script provoked: from when to when, and how soon the zeros must be there."""

    since_s: float
    limit_s: float
    until_s: float = float("inf")
    since_ns: int = field(default_factory=time.time_ns)
    until_ns: int = 2**62


class Robot:
    """One robot of the fleet: its process, its fake arm, and what was heard of both."""

    def __init__(self, name: str, world: World, fleet: Fleet, argv: list[str] | None = None) -> None:
        self.name, self.world, self.fleet = name, world, fleet
        self.streams: list[list[Command]] = []  # one per controller
        self.states: dict[int, dict[str, Any]] = {}  # what the arm published, by stamp (ns)
        self.beats: list[tuple[str, dict[str, Any]]] = []  # phase and stats, newest last
        self.diagnoses: list[str] = []
        self.stops: dict[str, Stop] = {}
        self.driven: list[tuple[int, int]] = []  # from when to when a person drove it, wall time (ns)
        self.stream: Callable[[], None] | None = None  # published again and again
        self.failure = ""
        self.answer: Any = None
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self._episodes: list[Episode] | None = None
        # Newest commands that are the policy's, each with noise of its own; none: not known since when.
        self.steps: int | None = None
        spec = next(s for s in node_specs(fleet.config, fleet.run.config, fleet.run.path) if s.name == name)
        self._argv, self._env = [*spec.argv], os.environ | spec.env
        if argv:
            self._argv = [*argv, str(fleet.run.config), name, str(fleet.run.path)]
        self.log = fleet.run.path / f"{name}.log"
        self.process: Any = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, env=self._env, stdout=log, stderr=log)

    def hears(self, command: Command) -> None:
        """The controller got a command."""
        stream = self.streams[-1]
        values = np.array(command.values)
        if len(values) != len(ACTION) or np.abs(values - ACTION * MAX_VELOCITY).max() >= 0.2:
            self.steps = 0
        elif self.steps is not None and stream and command.values != stream[-1].values:
            self.steps += 1
        stream.append(command)

    @property
    def commands(self) -> list[Command]:
        return [command for stream in self.streams for command in stream]

    @property
    def phase(self) -> str:
        return self.beats[-1][0] if self.beats else ""

    @property
    def stats(self) -> dict[str, Any]:
        return self.beats[-1][1] if self.beats else {}

    @property
    def stands(self) -> bool:
        return bool(self.streams and self.streams[-1]) and self.streams[-1][-1].zero

    # Parts of scripts -----------------------------------------------------------------------

    def acts(self) -> Script:
        """Until an episode has just begun and the policy moves the arm."""
        self.beats.clear()
        self.steps = None

        def acting() -> bool:
            if len(self.beats) > _BEATS_TO_RECOVER and self.phase in ("fault", "estopped"):
                raise AssertionError(f"it does not go on: {self.phase}, {self.stats['robot/note']}")
            return self.steps is not None and 4 <= self.steps <= 8

        yield Until(acting, "the policy moves the arm", 40.0)

    def finishes(self, finished: int, within_s: float) -> Script:
        """Until one more episode than these has come to its end; `answer` says whether one has, in time."""
        deadline_s = time.monotonic() + within_s
        yield Until(
            lambda: self.finished > finished or time.monotonic() > deadline_s, "the end of the episode"
        )
        self.answer = self.finished > finished

    @property
    def finished(self) -> int:
        """Episodes that came to their end."""
        return int(self.stats.get("robot/episodes", 0))

    def change(self, **behaviour: Any) -> None:
        """Make the fake arm behave otherwise."""
        self.world.tell_fake(self.name, behaviour)

    def begin_stop(self, name: str, limit_s: float) -> Stop:
        stop = self.stops[name] = Stop(time.monotonic(), limit_s + SLACK_S)
        return stop

    def end_stop(self, name: str) -> None:
        self.stops[name].until_s, self.stops[name].until_ns = time.monotonic(), time.time_ns()

    def told(self, name: str, phase: str, note: str, diagnosis: str = "") -> Script:
        """Until operators see the phase and its reason, in the status and in /diagnostics."""
        seen = len(self.diagnoses)
        yield Until(
            lambda: self.phase == phase and re.search(note, self.stats["robot/note"]),
            f"{name}: status {phase!r}, {note!r}",
        )
        wanted = diagnosis or note
        yield Until(
            lambda: any(re.search(wanted, text) for text in self.diagnoses[seen:]),
            f"{name}: /diagnostics with {wanted!r}",
        )

    def stays(self, for_s: float) -> Script:
        """Some time in which nothing should change."""
        end_s = time.monotonic() + for_s
        yield Until(lambda: time.monotonic() > end_s, "time")

    def resume(self) -> Script:
        """`pnaf fleet resume`, until the robot has heard it."""
        if self.beats:  # none: its process has just been started
            yield Until(lambda: self.phase != "estopped", "the server hears of the reset")
        heard = self.log.read_text().count(_RESUME)
        self.fleet.client.command("resume", self.name, "looked at it")
        yield Until(lambda: self.log.read_text().count(_RESUME) > heard, "the robot hears resume")

    def does_not_resume(self) -> Script:
        """`pnaf fleet resume` of a robot that is e-stopped, which the server refuses."""
        try:
            self.fleet.client.command("resume", self.name, "too early")
        except ReplayRefused as error:
            assert "e-stopped; reset it at the robot" in str(error), error
        else:
            raise AssertionError("resumed while e-stopped")
        yield from self.stays(0.5)

    def says(self, topic: str, message: Any, for_s: float = 0.3) -> Script:
        """Publish a message again and again, once somebody listens; returns when that is over."""
        if topic not in self._publishers:
            name = f"/{self.name}/{topic}"
            self._publishers[topic] = self.world.node.create_publisher(type(message), name, 1)
        publisher = self._publishers[topic]
        yield Until(lambda: publisher.get_subscription_count() > 0, f"somebody hears {topic}")
        self.stream = lambda: publisher.publish(message)
        yield from self.stays(for_s)
        self.stream = None

    def finds(self, service: str, kind: Any = Trigger) -> Script:
        """Until a service of the node is there to be called."""
        client = self._clients.get(service)
        if client is None:
            client = self.world.node.create_client(kind, f"/{self.name}/robot_node/{service}")
            self._clients[service] = client
        yield Until(client.service_is_ready, f"service {service}")

    def call(self, service: str, kind: Any = Trigger, request: Any = None) -> Script:
        """Call a service of the node; what it says is in `answer`."""
        yield from self.finds(service, kind)
        future = self._clients[service].call_async(request or kind.Request())
        yield Until(future.done, f"answer of {service}")
        self.answer = future.result()

    def transition(self, number: int) -> Script:
        """What `ros2 lifecycle set` does."""
        yield from self.call(
            "change_state", ChangeState, ChangeState.Request(transition=Transition(id=number))
        )
        assert self.answer.success

    def ends(self, within_s: float = 20.0) -> Script:
        yield Until(lambda: self.process.poll() is not None, "the process ends", within_s, outlives=True)

    # What is left of it ---------------------------------------------------------------------

    def episodes(self) -> list[Episode]:
        """All its episodes in the run folder, in order; read once, when the world has ended."""
        if self._episodes is None:
            found = [e for e in list_episodes(self.fleet.run.path) if e.info.robot_id == self.name]
            self._episodes = [read_episode(e.path) for e in found]
        return self._episodes


class Fleet:
    """A fleet's server and its policies, both in this process."""

    def __init__(self, folder: Path, name: str, robots: list[Any], domain: int, endpoints: list[str]):
        task = yaml.safe_load((CONFIGS / "tasks/reach.yaml").read_text()) | {"episode_s": 1.6, "scene": None}
        path = folder / f"{name}.yaml"
        data = {
            "name": name,
            "task": task,
            "robots": robots,
            "replay_server": {"endpoint": endpoints[0]},
            "learner": {"policy_endpoint": endpoints[1]},
            "ros": {"domain_id": domain, "discovery_range": "LOCALHOST"},
        }
        path.write_text(yaml.safe_dump(data))
        self.config = load_fleet(path)
        self.run = create_run_folder(self.config, folder, f"{name}_run")
        self.context = zmq.Context()
        self.policies = bind_policy_publisher(self.context, endpoints[1])
        self.frame = encode(constant_policy(self.config))
        self.stop, ready = threading.Event(), threading.Event()
        server = (self.config.replay_server, self.run.path, "test", self.stop, ready.set)
        self.server = threading.Thread(target=run_replay_server, args=server)
        self.server.start()
        assert ready.wait(10)
        self.client = ReplayClient(endpoints[0], "monitor", "test")

    def serve_policy(self) -> None:
        """The policy to every new subscriber."""
        while self.policies.poll(0):
            self.policies.recv()
            self.policies.send(self.frame)

    def close(self) -> None:
        self.client.close()
        self.stop.set()
        self.server.join()
        self.policies.close(linger=0)
        self.context.term()


def constant_policy(fleet: FleetConfig) -> PolicyMessage:
    """μ(x) = ACTION, with a little noise."""
    spec = make_task(fleet, fleet.robots[0].id).spec
    nx, nu = spec.observation.size, spec.action.size
    parameters = np.concatenate((np.zeros(nx * nu), np.arctanh(ACTION))).astype(np.float32)
    mean, scale = np.zeros(nx, np.float32), np.ones(nx, np.float32)
    return PolicyMessage(
        run_id="test",
        version=1,
        learner_step=0,
        spec_hash=spec.hash,
        layer_sizes=[nx, nu],
        exploration_std=0.03,
        exploration_correlation=0.0,
        published_ns=time.time_ns(),
        checksum=policy_checksum(parameters, mean, scale),
        parameters=parameters,
        observation_mean=mean,
        observation_scale=scale,
    )


class World:
    """The fake arms' process, the robots' processes, an operator's ROS node, and the clockwork of scripts."""

    def __init__(
        self,
        folder: Path,
        domain: int,
        make_endpoint: Callable[[], str],
        fleets: dict[str, list[dict[str, Any]]],
        arms: dict[str, dict[str, Any]],
        argv: dict[str, list[str]],
    ) -> None:
        """Start everything.

        Args:
            folder: For all files.
            domain: ROS domain.
            make_endpoint: Gives free ports.
            fleets: Robots of each, as in a fleet's YAML.
            arms: The fake arms' `Behaviour`, by robot.
            argv: Commands other than `pnaf robot`; config, robot and run folder are appended.
        """
        self.fleets = [
            Fleet(folder, name, robots, domain, [make_endpoint(), make_endpoint()])
            for name, robots in fleets.items()
        ]
        self.recording = folder / "recording.jsonl"
        scenario = folder / "scenario.json"
        scenario.write_text(json.dumps(arms))
        self.fake = subprocess.Popen(
            [sys.executable, str(HERE / "fake_ros2_control.py"), str(scenario), str(self.recording)],
            stdin=subprocess.PIPE,
            text=True,
        )
        self.robots: dict[str, Robot] = {}
        for fleet in self.fleets:
            for entry in fleet.config.robots:
                self.robots[entry.id] = Robot(entry.id, self, fleet, argv.get(entry.id))
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("operator", context=self._context)
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.node)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)
        self._unread = ""
        self._file: Any = None
        self._polled_s = self._streamed_s = 0.0
        self._policies_flow = False

    def tell_fake(self, arm: str, behaviour: dict[str, Any]) -> None:
        print(json.dumps({"arm": arm, "set": behaviour}), file=self.fake.stdin, flush=True)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for robot in self.robots.values():
                if robot.name == status.hardware_id:
                    values = " ".join(f"{pair.key}={pair.value}" for pair in status.values)
                    robot.diagnoses.append(f"{status.level!r} {status.name}: {status.message} {values}")

    def _read_recording(self) -> None:
        if self._file is None:
            if not self.recording.exists():
                return
            self._file = self.recording.open()
        *lines, self._unread = (self._unread + self._file.read()).split("\n")
        for line in lines:
            name, time_s, what, data = json.loads(line)
            robot = self.robots[name]
            if what == "command":
                robot.hears(Command(time_s, tuple(data[0]), data[1]))
            elif what == "controller":
                robot.streams.append([])
            elif what == "state":
                robot.states[data["stamp_ns"]] = data | {"time_s": time_s}

    def _poll_status(self) -> None:
        if time.monotonic() < self._polled_s + 0.2:
            return
        self._polled_s = time.monotonic()
        for fleet in self.fleets:
            with contextlib.suppress(ReplayTimeout):
                for process in fleet.client.status(timeout_s=1.0).processes:
                    if process["process_id"] in self.robots:
                        beat = (str(process["state"]), dict(process["stats"]))
                        self.robots[process["process_id"]].beats.append(beat)

    def _stream(self) -> None:
        if time.monotonic() < self._streamed_s + 0.05:
            return
        self._streamed_s = time.monotonic()
        for robot in self.robots.values():
            if robot.stream is not None:
                robot.stream()

    def live(self, seconds: float = 0.01) -> None:
        """Let time go on and take in what happens."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left_s)
        self._read_recording()
        self._poll_status()
        self._stream()
        if self._policies_flow:
            for fleet in self.fleets:
                fleet.serve_policy()

    def run(self, scripts: dict[str, Callable[[Robot], Script]]) -> None:
        """All scripts at once, each until its end or its first failure."""
        self._start_robots()
        self._policies_flow = True  # not earlier: until now the machine was busy starting them
        running: dict[str, tuple[Script, Until, float]] = {}
        for name, script in scripts.items():
            self._advance(running, name, script(self.robots[name]))
        while running:
            self.live()
            assert self.fake.poll() is None, "the fake arms' process has died"
            for name, (script, until, deadline_s) in list(running.items()):
                robot = self.robots[name]
                ended = robot.process.poll() is not None and not until.outlives
                try:
                    if until.condition():
                        self._advance(running, name, script)
                        continue
                    assert not ended, "its process has ended"
                    assert time.monotonic() < deadline_s, f"not within {until.within_s:g} s"
                except AssertionError as error:
                    del running[name]
                    robot.failure = (
                        f"{error}: {until.what}; it is {robot.phase!r}, {robot.stats.get('robot/note')!r}"
                    )

    def _start_robots(self) -> None:
        """A few at a time; none gets a policy before all are there and this machine has time for them."""
        deadline_s = time.monotonic() + 90.0
        robots = list(self.robots.values())
        while not all(robot.phase == "waiting" for robot in robots):
            starting = [robot for robot in robots if robot.process is not None and not robot.beats]
            waiting = [robot for robot in robots if robot.process is None]
            for robot in waiting[: _MOST_STARTING - len(starting)]:
                robot.start()
            for robot in robots:
                if robot.phase == "fault":  # a stall while others started, which is not what this is about
                    robot.fleet.client.command("resume", robot.name, "as at the start")
                    robot.beats.clear()
            self.live()
            ended = [r.name for r in robots if r.process is not None and r.process.poll() is not None]
            assert not ended and time.monotonic() < deadline_s, f"did not start: {ended or starting}"

    def _advance(self, running: dict[str, tuple[Script, Until, float]], name: str, script: Script) -> None:
        try:
            until = next(script)
        except StopIteration:
            running.pop(name, None)
        except AssertionError as error:
            running.pop(name, None)
            self.robots[name].failure = str(error)
        else:
            running[name] = (script, until, time.monotonic() + until.within_s)

    def close(self) -> None:
        for robot in self.robots.values():
            if robot.process is not None and robot.process.poll() is None:
                robot.process.terminate()
        for robot in self.robots.values():
            if robot.process is None:
                continue
            try:
                robot.process.wait(20)
            except subprocess.TimeoutExpired:
                robot.process.kill()
                robot.process.wait()
        self.live()
        self.fake.stdin.close()
        self.fake.wait()
        self._file.close()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
        for fleet in self.fleets:
            fleet.close()


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            children += [child, *descendants(child)]
    return children


def lives(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
