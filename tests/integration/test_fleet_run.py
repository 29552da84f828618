"""Whole fleets: real processes, real rclpy nodes, real sockets and files."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from fleet.config import GoalConfig
from fleet.fleet_run import FleetRun
from fleet.node_specs import node_specs
from fleet.run_folder import create_run_folder
from fleet.run_report import write_report
from fleet.supervisor import Supervisor
from replay_server.client import ReplayClient, ReplayTimeout
from replay_server.episode_store import list_episodes, read_episode


def status_of(client: ReplayClient, process_id: str) -> dict[str, object]:
    """The newest heartbeat of a process; empty while there is none."""
    try:
        processes = client.status(timeout_s=2.0).processes
    except ReplayTimeout:
        return {}
    return next((p for p in processes if p["process_id"] == process_id), {})


@pytest.mark.timeout(240)
def test_four_robots_learn_from_one_config_and_every_row_is_stored(make_fleet, tmp_path):
    goal = GoalConfig(success_rate=1.0, over_episodes=500, time_budget_s=12.0)  # ends by the budget
    fleet = make_fleet("robot1", "robot2", "robot3", "robot4", goal=goal, evaluate_every=2)
    folder = create_run_folder(fleet, tmp_path, "four")
    with (tmp_path / "console.txt").open("w") as file:
        console = Console(file=file, width=100)
        outcome = FleetRun(folder.load(), folder, console, threading.Event()).run()
        reached = write_report(folder, outcome, console)
    assert outcome.ended_by == "time budget" and not reached

    report = json.loads(folder.report.read_text())
    rows: dict[str, int] = {}
    for episode in list_episodes(folder.path):
        rows[episode.info.robot_id] = rows.get(episode.info.robot_id, 0) + episode.info.rows
    assert sorted(rows) == ["robot1", "robot2", "robot3", "robot4"]
    assert sum(rows.values()) == report["transitions_stored"] == report["transitions_produced"] > 400
    assert report["transitions_lost"] == report["transitions_duplicated"] == 0
    assert report["robots"] == 4
    assert report["updates"] > 0
    assert report["policy_versions"] > 5
    assert report["final_evaluation"]["episodes"] == 50
    for made in (folder.config, folder.learning_curve, folder.film):
        assert made.stat().st_size > 0
    assert list(folder.tensorboard.glob("events*"))
    assert list(folder.checkpoints.glob("*/policy.pnaf"))
    versions = {
        int(v) for e in list_episodes(folder.path) for v in read_episode(e.path).transitions.policy_version
    }
    assert len(versions) > 5, "robots acted with the newest policy, not with one"
    assert "evaluations" in (tmp_path / "console.txt").read_text()


@pytest.mark.timeout(240)
def test_processes_die_and_the_run_goes_on(make_fleet, tmp_path, wait_until):
    """SIGKILL of a simulated arm and of the replay server in mid-episode; the robot stops and goes on."""
    fleet = make_fleet("robot1")
    folder = create_run_folder(fleet, tmp_path, "killed")
    specs = node_specs(folder.load(), folder.config, folder.path)
    with (
        Supervisor(specs, folder.logs) as supervisor,
        ReplayClient(fleet.replay_server.endpoint, "monitor", "test") as client,
    ):
        supervisor.start(timeout_s=60)

        def rows() -> int:
            supervisor.poll()
            try:
                return int(client.status(timeout_s=2.0).stats["replay/rows_inserted"])
            except ReplayTimeout:
                return 0

        wait_until(lambda: rows() > 100, 30, "first rows")
        before = rows()
        os.kill(supervisor.pids["robot1_arm"], signal.SIGKILL)
        wait_until(lambda: rows() > before + 100, 30, "the run goes on with the arm started again")

        os.kill(supervisor.pids["replay_server"], signal.SIGKILL)
        wait_until(lambda: rows() > before + 200, 40, "the run goes on with the server started again")
        assert supervisor.restarts == {"robot1_arm": 1, "replay_server": 1}
        assert all(os.path.exists(f"/proc/{pid}") for pid in supervisor.pids.values())
        pids = dict(supervisor.pids)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.values()), "no orphan"
    assert "fault" in {e.info.end for e in list_episodes(folder.path)}, "the episode ended with its arm"


@pytest.mark.timeout(240)
def test_an_operator_pauses_stops_and_estops(make_fleet, tmp_path, wait_until):
    fleet = make_fleet("robot1", "robot2")
    folder = create_run_folder(fleet, tmp_path, "operated")
    specs = node_specs(folder.load(), folder.config, folder.path)
    with (
        Supervisor(specs, folder.logs) as supervisor,
        ReplayClient(fleet.replay_server.endpoint, "monitor", "test") as client,
    ):
        supervisor.start(timeout_s=60)

        def is_in(robot: str, *states: str) -> bool:
            return status_of(client, robot).get("state") in states

        wait_until(
            lambda: is_in("robot1", "episode") and is_in("robot2", "episode", "resetting"), 30, "both act"
        )
        assert client.command("pause", "robot1", "look at the gripper").delivered_to == ["robot1"]
        wait_until(lambda: is_in("robot1", "paused"), 10, "robot1 pauses")
        assert "look at the gripper" in str(status_of(client, "robot1")["stats"])
        assert is_in("robot2", "episode", "resetting")
        client.command("resume", "robot1", "")
        wait_until(lambda: is_in("robot1", "episode", "resetting"), 10, "robot1 resumes")
        client.command("estop", "*", "smoke")
        wait_until(
            lambda: is_in("robot1", "estopped") and is_in("robot2", "estopped"), 10, "both are stopped"
        )
        client.command("resume", "*", "")
        receipt = client.command("pause", "*", "")
        assert sorted(receipt.delivered_to) == ["robot1", "robot2"]
        wait_until(
            lambda: is_in("robot1", "estopped") and is_in("robot2", "estopped"), 10, "an e-stop is latched"
        )


def test_robots_that_a_stop_command_ended_are_not_started_again(
    make_fleet, tmp_path, wait_until, caplog, monkeypatch
):
    monkeypatch.setattr("fleet.fleet_run._REFRESH_S", 2.0)  # the robot has long ended when that is over
    fleet = make_fleet("robot1")
    folder = create_run_folder(fleet, tmp_path, "stopped")
    outcomes = []
    run = FleetRun(folder.load(), folder, Console(quiet=True), threading.Event())
    thread = threading.Thread(target=lambda: outcomes.append(run.run()))
    thread.start()
    with ReplayClient(fleet.replay_server.endpoint, "monitor", "test") as client:
        wait_until(lambda: status_of(client, "robot1").get("state") == "episode", 60, "the robot acts")
        client.command("stop", "*", "")
    thread.join(60)
    assert [outcome.ended_by for outcome in outcomes] == ["stop command"]
    assert "starting it again" not in caplog.text


@pytest.mark.timeout(120)
def test_processes_find_each_other_in_any_order(make_fleet, tmp_path, wait_until):
    """Robot first, then its arm, then the learner, and the server last."""
    fleet = make_fleet("robot1")
    folder = create_run_folder(fleet, tmp_path, "order")
    specs = {spec.name: spec for spec in node_specs(folder.load(), folder.config, folder.path)}
    order = ["robot1", "robot1_arm", "learner", "replay_server"]
    previous: tuple[str, ...] = ()
    turned = []
    for name in order:
        spec = specs[name]
        turned.append(type(spec)(spec.name, spec.argv, spec.env, previous))
        previous = (name,)
    with (
        Supervisor(turned, folder.logs) as supervisor,
        ReplayClient(fleet.replay_server.endpoint, "monitor", "test") as client,
    ):
        supervisor.start(timeout_s=60)
        wait_until(lambda: client.status().stats["replay/rows_inserted"] > 50, 30, "rows arrive")
        assert supervisor.restarts == {}


def test_a_port_in_use_stops_the_fleet_with_a_clear_message(make_fleet, tmp_path):
    import zmq

    from fleet.sockets import bind_router
    from fleet.supervisor import SupervisorError

    fleet = make_fleet("robot1")
    folder = create_run_folder(fleet, tmp_path, "taken")
    context = zmq.Context()
    socket = bind_router(context, fleet.replay_server.endpoint)
    try:
        with pytest.raises(SupervisorError, match=r"replay_server ended with status 2") as error:
            FleetRun(folder.load(), folder, Console(quiet=True), threading.Event()).run()
        assert fleet.replay_server.endpoint in str(error.value)
    finally:
        socket.close()
        context.term()


def test_a_run_folder_is_never_overwritten(make_fleet, tmp_path: Path):
    from fleet.config import ConfigError

    fleet = make_fleet("robot1")
    create_run_folder(fleet, tmp_path, "once")
    with pytest.raises(ConfigError, match="exists already"):
        create_run_folder(fleet, tmp_path, "once")
