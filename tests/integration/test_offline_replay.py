"""Logs play a fleet into real processes: they learn from it, and kills lose nothing and double nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.messages import COLUMNS, Array, Transitions
from replay_server.client import ReplayClient, ReplayError
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import open_logs
from replay_server.verify import verify_run
from robot_nodes.synthetic_rows import SPEC, row_of

ROOT = Path(__file__).parents[2]
SIM2 = ROOT / "hardware_configs/fleets/sim2.yaml"
SMALL = (
    "learner.hidden_sizes=[16]", "learner.batch_size=32", "learner.warmup_rows=200",
    "learner.updates_per_row=0.5", "learner.publish_period_s=0.2",
)  # fmt: skip
ROWS = 50

WaitUntil = Callable[..., None]


def write_logs(folder: Path, episodes: int, boots: int = 1) -> Path:
    """Two robots side by side, 50 rows per episode, 1 s between episodes; the last one is open."""
    with LogWriter(folder, SPEC, "by a test") as writer:
        for number in range(2):
            for index in range(boots * episodes):
                boot, episode = divmod(index, episodes)
                rows = [row_of(index * ROWS + i, number, policy_version=index) for i in range(ROWS)]
                columns = {
                    name: np.array([row[name] for row in rows]).astype(COLUMNS[name]["dtype"])
                    for name in COLUMNS
                }
                columns["stamp_ns"] = index * 3_500_000_000 + np.arange(ROWS) * 50_000_000
                columns["truncated"][-1] = True
                last = index == boots * episodes - 1
                info = EpisodeInfo(
                    run_id="", robot_id=f"robot{number + 1}", boot_id=f"b{boot}", episode=episode, rows=0,
                    first_seq=0, last_seq=0, first_cursor=0, last_cursor=0,
                    received_ns=10**18 + int(columns["stamp_ns"][-1]), spec_hash="", policy_version=0,
                    evaluation=index % 5 == 4, end="" if last else "time_limit",
                    success=not last and index % 2 == 0,
                    metrics={} if last else {"return": float(index)}, complete=not last,
                )  # fmt: skip
                writer.add(info, Transitions(**columns))
    return folder


def lived(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Of each robot all episodes in order: their facts, and their rows bit for bit."""
    logs = open_logs([folder])
    found: dict[str, list[tuple[Any, ...]]] = {}
    boots: dict[str, list[str]] = {}
    for summary, transitions in logs.read():
        info = summary.info
        mine = boots.setdefault(info.robot_id, [])
        mine += [] if info.boot_id in mine else [info.boot_id]
        facts = (info.episode, info.evaluation, info.end, info.success, info.metrics, info.policy_version)
        packed: Array = transitions.packed()
        found.setdefault(info.robot_id, []).append((mine.index(info.boot_id), *facts, packed.tobytes()))
    assert not logs.damaged
    return {robot: sorted(episodes, key=lambda each: each[:2]) for robot, episodes in found.items()}


class Processes:
    """`pnaf` commands of one fleet."""

    def __init__(self, folder: Path, endpoint: str, policy_endpoint: str) -> None:
        self.endpoint, self.run_dir = endpoint, folder / "run"
        self._folder = folder
        self._settings = [
            f"--set={line}"
            for line in (
                f"replay_server.endpoint={endpoint}", f"learner.policy_endpoint={policy_endpoint}", *SMALL
            )
        ]  # fmt: skip
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fleet.cli", *words]
        out = subprocess.PIPE if words[0] == "offline" else subprocess.DEVNULL
        self._running.append(subprocess.Popen(command, cwd=ROOT, text=True, stdout=out, stderr=out))
        return self._running[-1]

    def part(self, name: str) -> subprocess.Popen[str]:
        return self.start(name, str(SIM2), "--run-dir", str(self.run_dir), *self._settings)

    def replay(self, logs: Path, *options: str) -> subprocess.Popen[str]:
        return self.start("offline", "replay", str(logs), "--into", self.endpoint, "--json", *options)

    def status(self) -> Any:
        try:
            with ReplayClient(self.endpoint, "monitor", "test", timeout_s=1.0) as client:
                return client.status()
        except ReplayError:
            return None

    def rows(self) -> int:
        status = self.status()
        return int(status.stats["replay/rows_inserted"]) if status else 0

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.terminate()
        assert process.wait(20) == 0

    def kill_all(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    made: dict[str, Any] = json.loads(out)
    return made


@pytest.fixture
def processes(tmp_path: Path, make_endpoint: Callable[[], str]) -> Iterator[Processes]:
    made = Processes(tmp_path, make_endpoint(), make_endpoint())
    yield made
    made.kill_all()


def test_a_fleet_is_rehearsed_without_a_robot(
    processes: Processes, tmp_path: Path, wait_until: WaitUntil
) -> None:
    logs = write_logs(tmp_path / "logs", episodes=4, boots=2)
    server, learner = processes.part("replay-server"), processes.part("learner")
    done = report(processes.replay(logs, "--speed", "max"))
    assert (done["rows"], done["rows_now"], done["rows_before"], done["complete"]) == (800, 800, 0, True)
    assert {robot: each["episodes"] for robot, each in done["robots"].items()} == {"robot1": 8, "robot2": 8}

    def updates() -> int:
        processes_there = processes.status().processes
        return max((p["stats"].get("learner/updates", 0) for p in processes_there), default=0)

    wait_until(lambda: updates() >= 300, 60, "300 updates, half an update for each row after 200")
    shown = {p["process_id"]: p for p in processes.status().processes}
    assert shown["robot1"]["state"] == "finished"
    assert shown["robot1"]["stats"]["robot/steps"] == 400
    assert shown["learner"]["stats"]["learner/policy_version"] >= 1
    processes.stop(learner)
    processes.stop(server)
    assert lived(processes.run_dir) == lived(logs)
    assert verify_run(processes.run_dir).ok


def test_kills_of_player_and_server_and_ctrl_c_lose_nothing_and_double_nothing(
    processes: Processes, tmp_path: Path, wait_until: WaitUntil
) -> None:
    logs = write_logs(tmp_path / "logs", episodes=20)
    speed = ("--speed", "25")  # 70 s of log in 3 s
    server = processes.part("replay-server")
    player = processes.replay(logs, *speed)
    wait_until(lambda: processes.rows() >= 200, 30, "rows of the first player")
    player.kill()
    player.wait()
    killed_at = processes.rows()
    assert killed_at < 2000

    player = processes.replay(logs, *speed)
    wait_until(lambda: processes.rows() >= killed_at + 200, 30, "rows of the second player")
    server.kill()
    server.wait()
    assert player.poll() is None
    server = processes.part("replay-server")
    restarted_at = 0

    def goes_on() -> bool:
        nonlocal restarted_at
        rows = processes.rows()
        restarted_at = restarted_at or rows
        return rows >= restarted_at + 200

    wait_until(goes_on, 30, "rows for the second server")
    player.send_signal(signal.SIGINT)
    out, err = player.communicate(timeout=20)
    assert player.returncode == 130, err
    done = json.loads(out)
    assert (done["complete"], done["stop_reason"]) == (False, "interrupted")
    assert done["rows_before"] >= killed_at
    assert done["rows_before"] + done["rows_now"] == processes.rows()  # what was under way has arrived
    assert "the same command goes on" in err

    done = report(processes.replay(logs, "--speed", "max"))
    assert done["rows_before"] + done["rows_now"] == done["rows"] == 2000
    assert done["rows_now"] > 0
    processes.stop(server)
    check = verify_run(processes.run_dir)
    assert (check.ok, check.rows, len(check.streams)) == (True, 2000, 2)
    assert lived(processes.run_dir) == lived(logs)
