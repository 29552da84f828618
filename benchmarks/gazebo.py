"""Gazebo: how fast arms are in it, and how a fleet in real time keeps its time.

    python benchmarks/gazebo.py [--robots 1 2 4 8] [--seconds 3] [--fleet-seconds 12] [--quick] [--json PATH]

Physics alone, as fast as it can, arms of hardware_configs/fleets/gazebo4.yaml in one world or in one each:
    alone               gzserver without anybody who commands the arms: the limit of the next two
    free                the world runs on; each arm's states are answered by commands, 20 a simulated second
    lock-step           the same, and the world waits for the commands
    MuJoCo              the same arms, one after the other in one process
    RTF                 simulated seconds per second, mean of the worlds
    steps/s             control steps of all arms per second: 20 × RTF × arms
In real time (benchmarks/common/gazebo_fleet.py): gzserver, for each arm its process and a robot node at
20 Hz, the replay server and, where it says so, the learner.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.gazebo_fleet import fleet_row, watch_world
from benchmarks.common.table import machine, show
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.node_specs import gazebo_name, node_specs
from fleet.run_folder import create_run_folder
from fleet.supervisor import Supervisor
from robot_nodes.gazebo.connection import GazeboConnection
from robot_nodes.gazebo.gazebo_arm import GazeboArm
from robot_nodes.gazebo.server_state import read_state, state_file
from robot_nodes.sim.mujoco_arm import MujocoArm
from robot_nodes.sim.simulated_arm import SimulatedArm

FLEET = "hardware_configs/fleets/gazebo4.yaml"
START_S = 120.0
CONTROL_S = 0.05
_SPEED_RAD_S = 0.3


def make_fleet(robots: int, worlds: str, speed: float, port: int, domain: int) -> FleetConfig:
    """Arms of gazebo4 in any number."""
    fleet = load_fleet(FLEET)
    entry = fleet.robots[0]
    assert entry.robot.sim is not None
    sim = entry.robot.sim.model_copy(update={"speed": speed})
    entry = entry.model_copy(update={"robot": entry.robot.model_copy(update={"sim": sim})})
    return fleet.model_copy(
        update={
            "robots": [entry.model_copy(update={"id": f"robot{i + 1}"}) for i in range(robots)],
            "gazebo": fleet.gazebo.model_copy(update={"worlds": worlds}),
            "replay_server": fleet.replay_server.model_copy(update={"endpoint": f"tcp://127.0.0.1:{port}"}),
            # Few rows before the first update: what a learner costs is to be seen from the start.
            "learner": fleet.learner.model_copy(
                update={"policy_endpoint": f"tcp://127.0.0.1:{port + 1}", "warmup_rows": 50}
            ),
            "ros": fleet.ros.model_copy(update={"domain_id": domain}),
            "goal": None,
        }
    )


# Physics alone ------------------------------------------------------------------------------


@contextmanager
def gzservers(fleet: FleetConfig) -> Iterator[dict[str, int]]:
    """The fleet's worlds without anything else: each one's port."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = create_run_folder(fleet, Path(temporary), "run")
        names = {gazebo_name(fleet, world) for world in fleet.gazebo_worlds}
        specs = [s for s in node_specs(fleet, folder.config, folder.path) if s.name in names]
        with Supervisor(specs, folder.logs) as supervisor:
            supervisor.start(START_S)
            yield {
                world: int(read_state(state_file(folder.path, world))["port"])
                for world in fleet.gazebo_worlds
            }


def row_of(what: dict[str, Any], arms: int, rtf: float) -> dict[str, Any]:
    """One line of the table."""
    return {**what, "RTF": rtf, "steps/s": arms * rtf / CONTROL_S, "steps/s per arm": rtf / CONTROL_S}


def physics_rows(fleet: FleetConfig, seconds: float) -> list[dict[str, Any]]:
    """Alone, free and in lock-step, in the same gzservers."""
    robots, rows = [entry.id for entry in fleet.robots], []
    with gzservers(fleet) as ports, ExitStack() as stack:
        clocks = [
            stack.enter_context(watch_world(port, fleet.gazebo_worlds[world][0], fleet))
            for world, port in ports.items()
        ]

        def measure(mode: str) -> None:
            time.sleep(seconds / 5)
            before = [clock.now() for clock in clocks]
            time.sleep(seconds)
            after = [newer(clock, b) for clock, b in zip(clocks, before, strict=True)]
            speeds = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(before, after, strict=True)]
            what = {"arms": len(robots), "worlds": fleet.gazebo.worlds, "mode": mode}
            rows.append(row_of(what, len(robots), float(np.mean(speeds))))

        measure("alone")
        for mode, drive in (("free", drive_free), ("lock-step", drive_in_lockstep)):
            with driven(fleet, ports, drive):
                measure(mode)
    return rows


def newer(clock: Any, before: tuple[float, float]) -> tuple[float, float]:
    """What a world's clock says, once it is more than `before`: eight worlds wait long for a core."""
    deadline_s = time.monotonic() + START_S
    while (now := clock.now())[0] <= before[0] and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return now  # type: ignore[no-any-return]


@contextmanager
def driven(fleet: FleetConfig, ports: dict[str, int], drive: Any) -> Iterator[None]:
    """Somebody drives each arm, in a thread of its own."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=drive, args=(fleet, robot_id, ports[world], stop))
        for world, robot_ids in fleet.gazebo_worlds.items()
        for robot_id in robot_ids
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def velocities(step: int, n: int) -> np.ndarray:
    """To and fro [n] (rad/s)."""
    return _SPEED_RAD_S * np.cos(0.1 * step + np.arange(n))


def drive_free(fleet: FleetConfig, robot_id: str, port: int, stop: threading.Event) -> None:
    """Answer each state that comes once in a control period."""
    robot = fleet.entry(robot_id).robot
    assert robot.sim is not None
    connection = GazeboConnection(port)
    try:
        connection.bind([f"{robot_id}::{joint} velocity" for joint in robot.joints])
        connection.free(round(CONTROL_S / robot.sim.timestep_s))
        step = 0
        while not stop.is_set():
            connection.receive()
            connection.command(velocities(step, len(robot.joints)))
            step += 1
    finally:
        connection.close()


def drive_in_lockstep(fleet: FleetConfig, robot_id: str, port: int, stop: threading.Event) -> None:
    """As `pnaf eval` does."""
    robot = fleet.entry(robot_id).robot
    arm = GazeboArm(robot, robot_id, fleet.task.scene, GazeboConnection(port))
    try:
        run(arm, len(robot.joints), stop.is_set)
    finally:
        arm.close()


def run(arm: SimulatedArm, n: int, stopped: Any) -> int:
    """Control periods until stopped."""
    step = 0
    while not stopped():
        arm.command(velocities(step, n))
        arm.step(CONTROL_S)
        step += 1
    return step


def mujoco_row(fleet: FleetConfig, seconds: float) -> dict[str, Any]:
    """All arms one after the other, in this process."""
    arms = [MujocoArm(entry.robot) for entry in fleet.robots]
    steps, began_s = 0, time.monotonic()
    while time.monotonic() < began_s + seconds:
        for arm in arms:
            arm.command(velocities(steps, len(arm.q)))
            arm.step(CONTROL_S)
        steps += 1
    rtf = steps * CONTROL_S / (time.monotonic() - began_s)
    return row_of({"arms": len(arms), "worlds": "one process", "mode": "MuJoCo"}, len(arms), rtf)


# All of it ----------------------------------------------------------------------------------


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of physics alone")
    parser.add_argument("--fleet-seconds", type=float, default=12.0, help="of each fleet in real time")
    parser.add_argument("--quick", action="store_true", help="1 and 4 arms, and shorter")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--port", type=int, default=5750, help="this one and the next are used")
    parser.add_argument("--domain", type=int, default=75, help="ROS domain")
    options = parser.parse_args()
    if options.quick:
        options.robots, options.seconds, options.fleet_seconds = [1, 4], 1.5, 6.0
    where = options.port, options.domain
    physics: list[dict[str, Any]] = []
    for n in options.robots:
        physics.append(mujoco_row(make_fleet(n, "shared", 0.0, *where), options.seconds / 3))
        for worlds in ("shared", "own") if n > 1 else ("shared",):
            physics += physics_rows(make_fleet(n, worlds, 0.0, *where), options.seconds)
    show("Physics alone, as fast as it can", physics, None)
    most = 4 if 4 in options.robots else max(options.robots)
    chosen = [(n, "shared", False) for n in options.robots] + [(most, "own", False), (most, "shared", True)]
    fleets = [
        fleet_row(make_fleet(n, worlds, 1.0, *where), options.fleet_seconds, with_learner=with_learner)
        for n, worlds, with_learner in chosen
    ]
    show("A fleet in real time; CPU in % of one core, times in ms", fleets, None)
    if options.json is not None:
        tables = {"physics": physics, "fleets": fleets}
        options.json.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
