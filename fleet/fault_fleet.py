"""The fleet of a chaos run: real server, learner and synthetic robots, with what is needed to hurt them.

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from fleet.config_file import load_fleet
from fleet.fault_plan import LEARNER, SERVER
from fleet.fault_proxy import FaultProxy
from fleet.fault_victim import Victim
from fleet.run_folder import create_run_folder
from fleet.small_disk import SmallDisk

logger = logging.getLogger(__name__)

_CONFIG = "hardware_configs/fleets/sim2.yaml"
_SETTINGS = (
    "learner.hidden_sizes=[16]",
    "learner.batch_size=32",
    "learner.warmup_rows=200",
    "learner.updates_per_row=0.5",
    "learner.publish_period_s=0.2",
    "learner.checkpoint_period_s=2",
    "replay_server.sample_min_rows=200",
)
# Below the ports that the kernel gives outgoing connections: while the server is down, one of those to its
# port could be given that port itself and connect to itself.
_PORTS = range(20_000, 30_000)
_RESTART_S = 0.5
_DISK_BYTES = 64 * 2**20
_DISK_BYTES_PER_ROW = 1500  # HDF5 adds some 30 kB to each episode
_STOP_S = 30.0


class FaultRunError(RuntimeError):
    """The trial itself cannot go on; the text says why."""


def _free_ports() -> Iterator[int]:
    """Ports of loopback that nobody has."""
    start = (os.getpid() * 37) % len(_PORTS)
    for port in (*_PORTS[start:], *_PORTS[:start]):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


class FaultFleet:
    """Processes, their connections and their disks.

    with FaultFleet(work, robots=4, …) as fleet:
        fleet.start(fleet.victims)
        … fleet.tend(now_s) …
        fleet.end(name); fleet.wait_for_end(stop)

    Attributes:
        victims: "server", "learner" and each robot.
        proxies: Between the server and each of the others.
        disks: Of the server and each robot, where they could be mounted.
        unplanned: Processes that ended by themselves, each with the reason.
    """

    def __init__(
        self,
        work: Path,
        *,
        robots: int,
        rows: int,
        rate_hz: float,
        duration_s: float,
        seed: int,
        small_disks: bool,
    ) -> None:
        """Lay out folders and config below `work`; nothing is started yet.

        Args:
            work: An empty folder.
            robots: How many.
            rows: Each makes so many.
            rate_hz: So many a second.
            duration_s: For about as long (s).
            seed: Of the learner.
            small_disks: Whether this process may mount (`fleet.small_disk.own_mounts`).
        """
        self.robots = [f"robot{i + 1}" for i in range(robots)]
        self.server_endpoint, self.policy_endpoint = (
            f"tcp://127.0.0.1:{port}" for port in islice(_free_ports(), 2)
        )
        self.rows = rows
        self.unplanned: dict[str, list[str]] = {}
        self.disks: dict[str, SmallDisk] = {}
        self._work, self._tallies = work, work / "tallies"
        runs, self.logs = work / "runs", work / "logs"
        self.logs.mkdir()
        disk_bytes = _DISK_BYTES + _DISK_BYTES_PER_ROW * robots * min(rows, int(rate_hz * 2 * duration_s))
        if small_disks:
            self.disks[SERVER] = SmallDisk(runs, disk_bytes)
        overrides = (
            *_SETTINGS,
            f"learner.seed={seed}",
            f"learner.policy_endpoint={self.policy_endpoint}",
            f"replay_server.endpoint={self.server_endpoint}",
            f"robots=[{', '.join(self.robots)}]",
        )
        self.config = load_fleet(_CONFIG, overrides)
        folder = create_run_folder(self.config, runs, "trial")
        self.run = folder.path
        if small_disks:
            for robot in self.robots:
                self.disks[robot] = SmallDisk(self.run / "spool" / robot, disk_bytes)
        self.proxies = {name: FaultProxy(self.server_endpoint) for name in (LEARNER, *self.robots)}
        self.victims = self._make_victims(folder.config, rate_hz)
        self._restart_at_s: dict[str, float] = {}
        self.down: set[str] = set()

    def _make_victims(self, config: Path, rate_hz: float) -> dict[str, Victim]:
        pnaf, run = (sys.executable, "-m", "fleet.cli"), ("--run-dir", str(self.run))
        robot_program = (sys.executable, "-m", "robot_nodes.synthetic_robot")
        through = {
            name: ("--set", f"replay_server.endpoint={proxy.endpoint}")
            for name, proxy in self.proxies.items()
        }
        argv: dict[str, tuple[str, ...]] = {
            SERVER: (*pnaf, "replay-server", str(config), *run),
            LEARNER: (*pnaf, "learner", str(config), *run, *through[LEARNER]),
        }
        for robot in self.robots:
            counts = ("--tallies", str(self._tallies), "--rows", str(self.rows), "--rate", str(rate_hz))
            argv[robot] = (*robot_program, str(config), "--id", robot, *run, *counts, *through[robot])
        env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return {name: Victim(name, line, self.logs / f"{name}.log", env) for name, line in argv.items()}

    def __enter__(self) -> FaultFleet:
        return self

    def __exit__(self, *_: object) -> None:
        for victim in self.victims.values():
            victim.kill()
        for proxy in self.proxies.values():
            proxy.close()

    def unmount(self) -> None:
        """Take the small disks away, with all that is on them."""
        for disk in reversed(self.disks.values()):
            disk.unmount()

    def start(self, names: Iterable[str]) -> None:
        """Start some processes at once: they find each other in any order."""
        for name in names:
            self.victims[name].start()

    # What the robots have done --------------------------------------------------------------

    def acked(self, robot: str) -> int:
        """Rows of a robot that were acknowledged to it, over all its starts."""
        from robot_nodes.tally import read_tallies

        found = read_tallies(self._tallies / robot)
        return sum(tally.acked for tally in found)

    def produced(self) -> dict[str, int]:
        """Rows of each robot that are or were in its spool; exact once no robot runs."""
        from robot_nodes.spool_file import read_spool
        from robot_nodes.tally import read_tallies, settle

        if any(self.victims[robot].running for robot in self.robots):
            tallies = {robot: read_tallies(self._tallies / robot) for robot in self.robots}
            return {robot: sum(tally.produced for tally in found) for robot, found in tallies.items()}
        spooled = read_spool(self.run / "spool")
        return {
            robot: settle(self._tallies / robot, (boot for boot in spooled if boot.robot_id == robot))
            for robot in self.robots
        }

    # Keeping it alive -----------------------------------------------------------------------

    def tend(self, now_s: float) -> None:
        """Start again whatever ended by itself, but not a robot that has made and delivered its rows."""
        for name, victim in self.victims.items():
            if victim.running or name in self.down or (name in self.robots and victim.status == 0):
                continue
            if name not in self._restart_at_s:
                reason = f"exit status {victim.status}:\n{victim.log_tail()}"
                logger.error("%s ended by itself, %s", name, reason)
                self.unplanned.setdefault(name, []).append(reason)
                self._restart_at_s[name] = now_s + _RESTART_S
            elif now_s >= self._restart_at_s[name]:
                del self._restart_at_s[name]
                victim.start()

    def start_again(self, name: str) -> None:
        """Start a process that a fault had killed."""
        self.down.discard(name)
        self.victims[name].start()

    def end(self, name: str) -> None:
        """Tell a process to end in order; it is not started again."""
        self.down.add(name)
        self.victims[name].send(signal.SIGTERM)

    def robots_ended(self) -> bool:
        """Whether no robot runs."""
        return not any(self.victims[robot].running for robot in self.robots)

    def wait_for_end(self, stop: Callable[[], bool]) -> None:
        """Wait until no process runs.

        Raises:
            FaultRunError: One does not end.
        """
        deadline_s = time.monotonic() + _STOP_S
        while late := [victim for victim in self.victims.values() if victim.running]:
            if stop():
                return
            if time.monotonic() > deadline_s:
                raise FaultRunError(f"{late[0].name} does not end; its last words:\n{late[0].log_tail()}")
            time.sleep(0.02)

    def log_tails(self) -> str:
        """The last lines of every process's log."""
        return "\n".join(f"{name}:\n{victim.log_tail()}" for name, victim in self.victims.items())

    # What there is --------------------------------------------------------------------------

    def newest_file_size(self, name: str) -> int:
        """Size of the newest file that the server's journal, or a robot's spool, appends to."""
        folder = self.run / "journal" if name == SERVER else self.run / "spool" / name
        files = [path for path in folder.rglob("*") if path.suffix in (".journal", ".spool")]
        with contextlib.suppress(FileNotFoundError, ValueError):  # removed meanwhile, or none is there
            return max((path.stat().st_mtime_ns, path.stat().st_size) for path in files)[1]
        return 0
