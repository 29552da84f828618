"""A whole fleet end to end, for several numbers of simulated robots on this machine.

Real time: the arms run at the speed of real ones, and the control loop's timing is looked at:
    rows/s              transitions that reach the replay server
    latency             from the learner's publication of a policy to its swap on a robot
    age                 of the policy in use, mean over robots and time
    tick                duration of a control tick (observe, act, guard, command, record)
    jitter              99th percentile of |interval between ticks − median|, worst robot
    empty jitter        the same of an rclpy node on robot1's clock whose timer does nothing
As fast as it can: the arms wait for nobody but their robot, and throughput is looked at.

    python benchmarks/fleet.py --robots 1 2 4 8 --seconds 20 --json fleet.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not this script, however the script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.table import show
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.live_screen import stats_of
from fleet.messages import Status
from fleet.node_specs import node_specs, ros_environment
from fleet.run_folder import create_run_folder
from fleet.supervisor import Supervisor
from replay_server.client import ReplayClient

FLEET = "hardware_configs/fleets/sim2.yaml"
REAL_TIME = {"speed": 1.0, "lockstep_timeout_s": 0.0, "joint_state_rate_hz": 100.0}
FREE = {"speed": 0.0, "lockstep_timeout_s": 0.5, "joint_state_rate_hz": 20.0}
SETTLE_S = 8.0

EMPTY_TIMER = """
import sys, time
import numpy as np, rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
rclpy.init(args=["--ros-args", "-r", "/clock:=/robot1/clock"])
node = Node("empty", parameter_overrides=[Parameter("use_sim_time", value=True)])
ticks = []
node.create_timer(0.05, lambda: ticks.append(time.monotonic()))
executor = SingleThreadedExecutor()
executor.add_node(node)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    executor.spin_once(timeout_sec=0.1)
intervals = np.diff(ticks[20:]) * 1e3
print(np.percentile(np.abs(intervals - np.median(intervals)), 99))
"""


def make_fleet(robots: int, sim: dict[str, float], port: int, domain: int) -> FleetConfig:
    """The demo's fleet with another number of robots and another pace."""
    fleet = load_fleet(FLEET)
    robot = fleet.robots[0].robot
    assert robot.sim is not None
    robot = robot.model_copy(update={"sim": robot.sim.model_copy(update=sim)})
    entry = fleet.robots[0].model_copy(update={"robot": robot})
    return fleet.model_copy(
        update={
            "robots": [entry.model_copy(update={"id": f"robot{i + 1}"}) for i in range(robots)],
            "replay_server": fleet.replay_server.model_copy(update={"endpoint": f"tcp://127.0.0.1:{port}"}),
            # Few rows before the first update: policies are published only after updates.
            "learner": fleet.learner.model_copy(
                update={"policy_endpoint": f"tcp://127.0.0.1:{port + 1}", "warmup_rows": 50}
            ),
            "ros": fleet.ros.model_copy(update={"domain_id": domain}),
            "goal": None,
        }
    )


def measure(fleet: FleetConfig, seconds: float, with_empty_timer: bool) -> tuple[list[Status], float]:
    """Statuses, one a second, of a running fleet, and the empty timer's jitter (ms)."""
    statuses: list[Status] = []
    jitter = float("nan")
    with tempfile.TemporaryDirectory() as temporary:
        folder = create_run_folder(fleet, Path(temporary), "run")
        specs = node_specs(folder.load(), folder.config, folder.path)
        with (
            Supervisor(specs, folder.logs) as supervisor,
            ReplayClient(fleet.replay_server.endpoint, "monitor", "benchmark") as client,
        ):
            supervisor.start(120.0)
            while not client.status().stats["replay/rows_inserted"]:
                supervisor.poll(0.1)
            time.sleep(SETTLE_S)
            empty = None
            if with_empty_timer:
                environment = os.environ | ros_environment(fleet)
                environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
                command = [sys.executable, "-c", EMPTY_TIMER, str(seconds)]
                empty = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            stop = threading.Event()
            end = time.monotonic() + seconds
            while time.monotonic() < end and not stop.wait(1.0):
                supervisor.poll()
                statuses.append(client.status())
            if empty is not None:
                jitter = float(empty.communicate(timeout=60)[0])
    return statuses, jitter


def rate(statuses: list[Status], key: str, seconds: float) -> float:
    """Growth per second of one of the server's counters."""
    return float(statuses[-1].stats[key] - statuses[0].stats[key]) / seconds


def robot_values(statuses: list[Status], key: str) -> list[float]:
    """A number of all robots, in all statuses."""
    return [float(p["stats"][key]) for s in statuses for p in s.processes if p["role"] == "robot"]


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--port", type=int, default=5720, help="this one and the next are used")
    parser.add_argument("--domain", type=int, default=72, help="ROS domain")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for robots in arguments.robots:
        fleet = make_fleet(robots, REAL_TIME, arguments.port, arguments.domain)
        live, empty_jitter = measure(fleet, arguments.seconds, with_empty_timer=True)
        fleet = make_fleet(robots, FREE, arguments.port, arguments.domain)
        free, _ = measure(fleet, arguments.seconds, with_empty_timer=False)
        took = len(live) - 1, len(free) - 1
        updates = [stats_of(s, "learner").get("learner/updates", 0) for s in (free[0], free[-1])]
        last = live[-1:]
        rows.append(
            {
                "robots": robots,
                "rows/s": rate(live, "replay/rows_inserted", took[0]),
                "latency p50 ms": float(np.median(robot_values(last, "robot/policy_latency_p50_ms"))),
                "latency p99 ms": max(robot_values(last, "robot/policy_latency_p99_ms")),
                "age s": float(np.mean(robot_values(live, "robot/policy_age_s"))),
                "tick p50 ms": float(np.median(robot_values(last, "robot/tick_p50_ms"))),
                "tick p99 ms": max(robot_values(last, "robot/tick_p99_ms")),
                "jitter p99 ms": max(robot_values(last, "robot/tick_jitter_p99_ms")),
                "empty jitter p99 ms": empty_jitter,
                "free rows/s": rate(free, "replay/rows_inserted", took[1]),
                "free updates/s": (updates[1] - updates[0]) / took[1],
            }
        )
    show("A fleet of simulated robots on one machine, learner included", rows, arguments.json)


if __name__ == "__main__":
    main()
