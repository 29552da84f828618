"""A fleet in Gazebo in real time, with a stopwatch in each robot node and a look at the world's clock.

RTF                 simulated seconds per second: 1 is real time
gzserver            CPU of all of them, in % of one core; arm, node: of an arm's process and of a robot node
jitter              of control ticks, 99th percentile of |interval between two − median| (ms), worst robot
skipped             ticks that did not come at all
age                 of the joint state in a tick: the simulated time that has gone by since its stamp (ms)
"""

from __future__ import annotations

import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.control_loop import Policies, Usage, wait_for_work
from fleet.config import FleetConfig
from fleet.node_specs import arm_name, gazebo_name, node_specs
from fleet.run_folder import create_run_folder
from fleet.supervisor import Supervisor
from replay_server.client import ReplayClient
from robot_nodes.gazebo.connection import GazeboConnection, State
from robot_nodes.gazebo.server_state import read_state, state_file

ROOT = Path(__file__).resolve().parent.parent.parent
SETTLE_S = 3.0
_LOOK_PERIOD_S = 0.01


class WorldClock:
    """Simulated time of a world against steady time, at many instants."""

    def __init__(self, port: int, robot_id: str, fleet: FleetConfig) -> None:
        """Listen to a joint: that hinders nobody."""
        robot = fleet.entry(robot_id).robot
        assert robot.sim is not None
        self._connection = GazeboConnection(port)
        self._connection.bind([f"{robot_id}::{robot.joints[0]} passive"])
        self._steady, self._simulated = array("d"), array("d")
        self._note(self._connection.free(round(_LOOK_PERIOD_S / robot.sim.timestep_s)))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._note(self._connection.receive())

    def _note(self, state: State) -> None:
        self._steady.append(time.monotonic())
        self._simulated.append(1e-9 * state.time_ns)

    def now(self) -> tuple[float, float]:
        """The newest instant: steady and simulated time (s)."""
        n = min(len(self._steady), len(self._simulated))
        return self._steady[n - 1], self._simulated[n - 1]

    def simulated(self, steady_s: Any) -> Any:
        """Simulated time at instants of steady time (s)."""
        return np.interp(steady_s, np.array(self._steady), np.array(self._simulated))

    def close(self) -> None:
        """Listen no more."""
        self._stop.set()
        self._thread.join()
        self._connection.close()


@contextmanager
def watch_world(port: int, robot_id: str, fleet: FleetConfig) -> Iterator[WorldClock]:
    """A world's clock, read through one of its robots."""
    clock = WorldClock(port, robot_id, fleet)
    try:
        yield clock
    finally:
        clock.close()


def fleet_row(fleet: FleetConfig, seconds: float, *, with_learner: bool) -> dict[str, Any]:
    """Run a fleet until all its robots work, then for so long."""
    world_of = {robot: world for world, robots in fleet.gazebo_worlds.items() for robot in robots}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        out = Path(temporary)
        folder = create_run_folder(fleet, out, "run")
        specs = []
        for spec in node_specs(fleet, folder.config, folder.path):
            if spec.name in world_of:
                argv = list(spec.argv)
                at = argv.index("fleet.cli")
                argv[at : at + 1] = ["benchmarks.common.timed_robot", str(out / f"{spec.name}.npz"), "ticks"]
                spec = replace(spec, argv=tuple(argv), env=spec.env | {"PYTHONPATH": str(ROOT)})
            if spec.name != "learner" or with_learner:
                specs.append(replace(spec, respawn=False))
        supervisor = stack.enter_context(Supervisor(specs, folder.logs))
        client = stack.enter_context(ReplayClient(fleet.replay_server.endpoint, "monitor", "benchmark"))
        stack.enter_context(nullcontext() if with_learner else Policies(fleet))
        supervisor.start(60.0 + 10.0 * len(fleet.robots))
        wait_for_work(supervisor, client, list(world_of))
        clocks = {
            world: stack.enter_context(
                watch_world(int(read_state(state_file(folder.path, world))["port"]), robots[0], fleet)
            )
            for world, robots in fleet.gazebo_worlds.items()
        }
        time.sleep(SETTLE_S)
        pids = supervisor.pids
        began_s, before = time.monotonic(), {name: Usage.of(pid) for name, pid in pids.items()}
        began = {world: clock.now() for world, clock in clocks.items()}
        while time.monotonic() < began_s + seconds:
            supervisor.poll(0.5)
        ended_s, after = time.monotonic(), {name: Usage.of(pid) for name, pid in pids.items()}
        ended = {world: clock.now() for world, clock in clocks.items()}
        stack.close()
        ticks = {robot: dict(np.load(out / f"{robot}.npz")) for robot in world_of}
    cpu = {name: 100 * (after[name].cpu_s - before[name].cpu_s) / (ended_s - began_s) for name in pids}
    rtf = [(ended[w][1] - began[w][1]) / (ended[w][0] - began[w][0]) for w in clocks]
    return {
        "arms": len(fleet.robots),
        "worlds": fleet.gazebo.worlds,
        "learner": "yes" if with_learner else "no",
        "RTF": float(np.mean(rtf)),
        "gzserver": sum(cpu[gazebo_name(fleet, world)] for world in clocks),
        "arm": float(np.mean([cpu[arm_name(robot)] for robot in world_of])),
        "node": float(np.mean([cpu[robot] for robot in world_of])),
        "server": cpu["replay_server"],
        **({"learner CPU": cpu["learner"]} if with_learner else {}),
        **_timing(
            fleet, ticks, {robot: clocks[world] for robot, world in world_of.items()}, began_s, ended_s
        ),
    }


def _timing(
    fleet: FleetConfig, ticks: dict[str, Any], clocks: dict[str, WorldClock], began_s: float, ended_s: float
) -> dict[str, float]:
    """Of all robots' ticks within the window."""
    jitters, ages, skipped = [], [], 0
    for entry in fleet.robots:
        times = ticks[entry.id]
        start = times["start"]
        counted = (start >= began_s) & (start < ended_s)
        start, clock = start[counted], clocks[entry.id]
        intervals = np.diff(start)
        jitters.append(1e3 * float(np.percentile(np.abs(intervals - np.median(intervals)), 99)))
        simulated_s = float(np.diff(clock.simulated(start[[0, -1]]))[0])
        skipped += round(simulated_s * entry.robot.control_rate_hz) - len(intervals)
        ages.append(1e3 * (clock.simulated(start) - times["stamp"][counted]))
    p50, p99 = np.percentile(np.concatenate(ages), [50, 99])
    return {
        "jitter": max(jitters),
        "skipped": skipped,
        "age p50": float(p50),
        "age p99": float(p99),
        "age max": float(np.max(np.concatenate(ages))),
    }
