"""The control loop of real robot nodes: ticks, jitter, policy swaps, CPU and memory.

    python benchmarks/control_loop.py [--seconds 20] [--settings 1x20 1x100 1x500 8x20] [--json PATH]

Each setting (robots x Hz) starts real processes on this machine: `pnaf robot` for each robot, one process
that plays all arms (joint states at five times the rate, 1000 Hz at most), the replay server, an rclpy node
with a timer of the same rate that does nothing (`bare`), and a policy of 2 x 100 units twice a second. There
is no learner. The robots have the FR3's limits: jerk, sphere, box, table, self-collision of 19 spheres.

    tick                duration of a control tick: observe, act, guard, command, record; `CPU`: without the
                        time that other processes had the core, as they do when a command wakes them
    late                how far a tick lies from its place in an even schedule (99th percentile: its jitter)
    skipped             ticks that did not come at all, as the one before took their time
    a swap              the receiver's thread on a new policy; `tick`, `late`: of the ticks meanwhile or next
    zero sender         the process that commands zeros should the node die
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not that benchmark, however the script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.table import machine, show
from fleet.codec import encode
from fleet.config import FleetConfig
from fleet.config_file import load_fleet, load_robot
from fleet.messages import PolicyMessage, policy_checksum
from fleet.node_specs import NodeSpec, node_specs, ros_environment
from fleet.run_folder import create_run_folder
from fleet.sockets import bind_policy_publisher
from fleet.supervisor import Supervisor
from replay_server.client import ReplayClient
from robot_nodes.tasks.task import make_task

FLEET = "hardware_configs/fleets/sim2.yaml"
ROBOT = "hardware_configs/robots/franka_fr3.yaml"
POLICY_PERIOD_S = 0.5
SETTLE_S = 3.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def make_fleet(robots: int, rate_hz: float, port: int, domain: int) -> FleetConfig:
    """FR3s that nobody simulates, whose watchdogs wait instead of latching: this machine may be busy."""
    fleet, robot = load_fleet(FLEET), load_robot(Path(ROBOT))
    dogs = robot.watchdogs
    waiting = {
        name: getattr(dogs, name).model_copy(update={"action": "wait"})
        for name in type(dogs).model_fields
        if hasattr(getattr(dogs, name), "action")
    }
    waiting["late_ticks"] = waiting["late_ticks"].model_copy(update={"limit": 10**6})
    robot = robot.model_copy(
        update={
            "control_rate_hz": rate_hz,
            "topics": robot.topics.model_copy(update={"joint_states": "joint_states", "command": "commands"}),
            "reset": robot.reset.model_copy(update={"steps": ["velocity"], "speed": 1.0}),
            "watchdogs": dogs.model_copy(update=waiting | {"loop_hang_s": 5.0}),
        }
    )
    entry = fleet.robots[0].model_copy(update={"robot": robot})
    return fleet.model_copy(
        update={
            "robots": [entry.model_copy(update={"id": f"robot{i + 1}"}) for i in range(robots)],
            "replay_server": fleet.replay_server.model_copy(update={"endpoint": f"tcp://127.0.0.1:{port}"}),
            "learner": fleet.learner.model_copy(update={"policy_endpoint": f"tcp://127.0.0.1:{port + 1}"}),
            "ros": fleet.ros.model_copy(update={"domain_id": domain}),
            "goal": None,
        }
    )


class Policies:
    """A policy of the default size that changes twice a second."""

    def __init__(self, fleet: FleetConfig) -> None:
        """Begin to publish."""
        spec = make_task(fleet, fleet.robots[0].id).spec
        sizes = [spec.observation.size, *fleet.learner.hidden_sizes, spec.action.size]
        weights = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
        self._random = np.random.default_rng(0)
        self._weights, self._sizes, self._spec_hash = weights, sizes, spec.hash
        self._mean, self._scale = np.zeros(sizes[0], "f4"), np.ones(sizes[0], "f4")
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = bind_policy_publisher(self._context, fleet.learner.policy_endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        version = 0
        while not self._stop.wait(POLICY_PERIOD_S):
            version += 1
            parameters = self._random.normal(0, 0.05, self._weights).astype("f4")
            message = PolicyMessage(
                run_id="benchmark",
                version=version,
                learner_step=version,
                spec_hash=self._spec_hash,
                layer_sizes=self._sizes,
                exploration_std=0.4,
                exploration_correlation=0.0,
                published_ns=time.time_ns(),
                checksum=policy_checksum(parameters, self._mean, self._scale),
                parameters=parameters,
                observation_mean=self._mean,
                observation_scale=self._scale,
            )
            self._socket.send(encode(message))

    def __enter__(self) -> Policies:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(linger=0)
        self._context.term()


@dataclass(frozen=True)
class Usage:
    """What a process has used so far, and holds.

    Attributes:
        cpu_s: CPU time (s).
        rss_mb: Resident memory (MB).
        pss_mb: The same with what it shares with others divided among them (MB).
    """

    cpu_s: float
    rss_mb: float
    pss_mb: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Read it from /proc."""
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        memory = dict(
            line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        )
        cpu_s = (int(stat[11]) + int(stat[12])) / _TICKS_PER_S
        return cls(cpu_s, int(memory["Rss:"]) / 1e3, int(memory["Pss:"]) / 1e3)


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@dataclass
class Run:
    """One setting, measured.

    Attributes:
        robots: What each robot's stopwatch has measured.
        bare: Of the timer that does nothing.
        window: Begin and end of what counts (s).
        usage: Of each process: at the begin and at the end.
    """

    robots: list[dict[str, Any]]
    bare: dict[str, Any]
    window: tuple[float, float]
    usage: dict[str, tuple[Usage, Usage]]

    def cpu_percent(self, name: str) -> float:
        """Share of one core."""
        before, after = self.usage[name]
        return 100 * (after.cpu_s - before.cpu_s) / (self.window[1] - self.window[0])


def measure(fleet: FleetConfig, joint_states_hz: float, seconds: float, mode: str) -> Run:
    """Run a fleet until all its robots work, then for so long."""
    rate_hz = fleet.robots[0].robot.control_rate_hz
    with tempfile.TemporaryDirectory() as temporary:
        folder = create_run_folder(fleet, Path(temporary), "run")
        out = Path(temporary)
        ros = ros_environment(fleet) | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "XDG_STATE_HOME": temporary,  # these arms are not real
        }

        def module(name: str, *arguments: object, after: tuple[str, ...] = ()) -> NodeSpec:
            command = (sys.executable, "-m", f"benchmarks.common.{name}", *map(str, arguments))
            return NodeSpec(name, command, ros, after, respawn=False)

        specs = [
            *(s for s in node_specs(fleet, folder.config, folder.path) if s.name == "replay_server"),
            module("fake_arms", folder.config, joint_states_hz),
            module("bare_timer", rate_hz, out / "bare.npz"),
        ]
        for s in node_specs(fleet, folder.config, folder.path):
            if s.name.startswith("robot"):
                command = (
                    *s.argv[:1],
                    "-m",
                    "benchmarks.common.timed_robot",
                    str(out / f"{s.name}.npz"),
                    mode,
                )
                argv = (*command, *s.argv[s.argv.index("robot") :])
                specs.append(
                    NodeSpec(s.name, argv, s.env | ros, ("replay_server", "fake_arms"), respawn=False)
                )
        with (
            Supervisor(specs, folder.logs) as supervisor,
            ReplayClient(fleet.replay_server.endpoint, "monitor", "benchmark") as client,
            Policies(fleet),
        ):
            supervisor.start(60.0 + 10.0 * len(fleet.robots))
            wait_for_work(supervisor, client, [entry.id for entry in fleet.robots])
            time.sleep(SETTLE_S)
            pids = supervisor.pids | {
                f"{name} zero sender {i}": child
                for name, pid in supervisor.pids.items()
                if name.startswith("robot")
                for i, child in enumerate(children(pid))
            }
            begin, before = time.monotonic(), {name: Usage.of(pid) for name, pid in pids.items()}
            while time.monotonic() < begin + seconds:
                supervisor.poll(0.5)
            end, after = time.monotonic(), {name: Usage.of(pid) for name, pid in pids.items()}
        loaded = {path.stem: dict(np.load(path)) for path in out.glob("*.npz")}
    usage = {name: (before[name], after[name]) for name in pids}
    return Run([loaded[entry.id] for entry in fleet.robots], loaded["bare"], (begin, end), usage)


def wait_for_work(supervisor: Supervisor, client: ReplayClient, robots: list[str]) -> None:
    """Until every robot's experience has arrived.

    Raises:
        RuntimeError: It has not after two minutes.
    """
    deadline_s = time.monotonic() + 120
    while True:
        status = client.status()
        if all(status.stats.get(f"replay/rows/{robot}") for robot in robots):
            return
        if time.monotonic() > deadline_s:
            states = {p["process_id"]: (p["state"], p["stats"].get("robot/note")) for p in status.processes}
            raise RuntimeError(f"robots did not begin to work: {states}\n{supervisor.log_tail(robots[0])}")
        supervisor.poll(0.2)


def in_window(times: dict[str, Any], window: tuple[float, float]) -> Any:
    """Which ticks count [N]."""
    return (times["start"] >= window[0]) & (times["start"] < window[1])


def lateness(start: Any, rate_hz: float) -> tuple[Any, int]:
    """Distance of each tick from its place in an even schedule (µs), and how many places are empty."""
    place = np.round((start - start[0]) * rate_hz)
    error = start - start[0] - place / rate_hz
    return 1e6 * np.abs(error - np.median(error)), int(place[-1]) + 1 - len(start)


def spread(name: str, values: Any) -> dict[str, float]:
    """Median, 99th percentile and largest, in µs."""
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, [50, 99])
    return {f"{name} p50": float(p50), f"{name} p99": float(p99), f"{name} max": float(np.max(values))}


def tick_row(setting: dict[str, Any], run: Run, rate_hz: float) -> dict[str, Any]:
    """Durations and lateness of all robots' ticks, beside the bare timer's."""
    took, cpu, late, skipped = [], [], [], 0
    for robot in run.robots:
        counted = in_window(robot, run.window)
        took.append(1e6 * (robot["end"] - robot["start"])[counted])
        cpu.append(1e6 * robot["cpu"][counted])
        error, missing = lateness(robot["start"][counted], rate_hz)
        late.append(error)
        skipped += missing
    bare, bare_skipped = lateness(run.bare["start"][in_window(run.bare, run.window)], rate_hz)
    p99, bare_p99 = np.percentile(np.concatenate(late), 99), np.percentile(bare, 99)
    return {
        **setting,
        "ticks": sum(map(len, took)),
        **spread("tick", np.concatenate(took)),
        **spread("tick CPU", np.concatenate(cpu)),
        **spread("late", np.concatenate(late)),
        **spread("bare late", bare),
        "late p99 / bare": float(p99 / bare_p99),
        "skipped": skipped,
        "bare skipped": bare_skipped,
    }


def swap_row(setting: dict[str, Any], run: Run, rate_hz: float) -> dict[str, Any]:
    """What a new policy costs in its thread, and the ticks that came meanwhile or first after it."""
    thread, cpu, took, late, other_took, other_late = [], [], [], [], [], []
    for robot in run.robots:
        counted = in_window(robot, run.window)
        start, end = robot["start"][counted], robot["end"][counted]
        heard = robot["policy"][counted]
        offers = (robot["offer_start"] >= run.window[0]) & (robot["offer_start"] < run.window[1])
        begun, ended = robot["offer_start"][offers], robot["offer_end"][offers]
        thread.append(1e6 * (ended - begun))
        cpu.append(1e6 * robot["offer_cpu"][offers])
        first = np.diff(heard, prepend=heard[0]) > 0
        meanwhile = ((end[:, None] > begun) & (start[:, None] < ended + 1 / rate_hz / 4)).any(axis=1)
        beside = first | meanwhile
        error, _ = lateness(start, rate_hz)
        took.append(1e6 * (end - start)[beside])
        late.append(error[beside])
        other_took.append(1e6 * (end - start)[~beside])
        other_late.append(error[~beside])
    return {
        **setting,
        "swaps": sum(map(len, thread)),
        **spread("thread", np.concatenate(thread)),
        "thread CPU p50": float(np.median(np.concatenate(cpu))),
        **spread("tick", np.concatenate(took)),
        **spread("late", np.concatenate(late)),
        "other tick p99": float(np.percentile(np.concatenate(other_took), 99)),
        "other late p99": float(np.percentile(np.concatenate(other_late), 99)),
    }


def usage_row(setting: dict[str, Any], run: Run) -> dict[str, Any]:
    """CPU and memory per robot node, beside the bare timer's."""
    nodes = [name for name in run.usage if name.startswith("robot") and "zero" not in name]
    zeros = [name for name in run.usage if "zero sender" in name]

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    cpu, bare_cpu = mean([run.cpu_percent(name) for name in nodes]), run.cpu_percent("bare_timer")
    rss, bare_rss = mean([run.usage[name][1].rss_mb for name in nodes]), run.usage["bare_timer"][1].rss_mb
    return {
        **setting,
        "CPU %": cpu,
        "bare CPU %": bare_cpu,
        "CPU / bare": cpu / bare_cpu if bare_cpu else float("nan"),
        "RSS MB": rss,
        "PSS MB": mean([run.usage[name][1].pss_mb for name in nodes]),
        "bare RSS MB": bare_rss,
        "RSS / bare": rss / bare_rss,
        "zero sender CPU %": mean([run.cpu_percent(name) for name in zeros]),
        "zero sender RSS MB": mean([run.usage[name][1].rss_mb for name in zeros]),
        "server CPU %": run.cpu_percent("replay_server"),
    }


def part_rows(run: Run) -> list[dict[str, Any]]:
    """Where the time goes."""
    (robot,) = run.robots
    ticks = len(robot["start"])
    parts = {name[5:]: values for name, values in robot.items() if name.startswith("part ")}
    rows = [
        {
            "part": name,
            "µs CPU a call": float(us),
            "calls a tick": float(calls / ticks),
            "µs CPU a tick": float(us * calls / ticks),
        }
        for name, (us, calls) in parts.items()
    ]
    return [*rows, {"part": "all", "µs CPU a tick": sum(row["µs CPU a tick"] for row in rows)}]


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each setting")
    parser.add_argument(
        "--settings", nargs="*", default=["1x20", "1x100", "1x500", "8x20"], help="robots x Hz"
    )
    parser.add_argument("--joint-states-hz", type=float, help="default: five times the rate, at most 1000")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--port", type=int, default=5740, help="this one and the next are used")
    parser.add_argument("--domain", type=int, default=74, help="ROS domain")
    options = parser.parse_args()
    ticks, swaps, usage, parts = [], [], [], []
    for setting in options.settings:
        robots, rate_hz = (int(number) for number in setting.split("x"))
        fleet = make_fleet(robots, rate_hz, options.port, options.domain)
        joint_states_hz = options.joint_states_hz or min(5.0 * rate_hz, 1000.0)
        run = measure(fleet, joint_states_hz, options.seconds, "ticks")
        key = {"robots": robots, "Hz": rate_hz, "joint states Hz": joint_states_hz}
        ticks.append(tick_row(key, run, rate_hz))
        swaps.append(swap_row(key, run, rate_hz))
        usage.append(usage_row(key, run))
        if robots == 1:
            parts += [
                {**key, **row} for row in part_rows(measure(fleet, joint_states_hz, options.seconds, "parts"))
            ]
    tables = {
        "Ticks and how late they are, in µs": ticks,
        "New policies, two a second, in µs": swaps,
        "CPU (share of one core) and memory, per robot": usage,
        "Parts of a tick": parts,
    }
    for title, rows in tables.items():
        show(title, rows, None)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
