"""`pnaf` as a person types it: helps, and says in one line what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zmq
from typer.testing import CliRunner

from fleet.cli import app
from fleet.codec import encode
from fleet.config_file import PACKAGED_CONFIGS, load_fleet, save_fleet
from fleet.messages import PolicyMessage, policy_checksum
from fleet.run_folder import RunFolder, create_run_folder
from fleet.sockets import bind_router
from robot_nodes.tasks.task import make_task

REPOSITORY = Path(__file__).parents[2]
SIM2 = str(PACKAGED_CONFIGS / "fleets/sim2.yaml")


class Answer:
    """What came of a command; runs of white space as one."""

    def __init__(self, status: int, out: str, errors: str) -> None:
        self.status, self.out = status, out
        self.errors = " ".join(errors.split())


def pnaf(*args: str) -> Answer:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, args, prog_name="pnaf")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def pnaf_process(*args: str) -> subprocess.Popen[str]:
    """A real process, for commands that install signal handlers."""
    return subprocess.Popen(
        [sys.executable, "-m", "fleet.cli", *args],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer_of(process: subprocess.Popen[str]) -> Answer:
    out, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return Answer(process.returncode, out, errors)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run_folder(load_fleet(SIM2), tmp_path, "run")


def save_policy(run: RunFolder, spec_hash: str | None = None) -> None:
    """A policy that stands still, as the learner saves it."""
    fleet = run.load()
    arrays = np.zeros(21 * 7, "<f4"), np.zeros(20, "<f4"), np.ones(20, "<f4")
    message = PolicyMessage(
        run_id="run", version=3, learner_step=30, layer_sizes=[20, 7], exploration_std=0.3,
        spec_hash=spec_hash or make_task(fleet, fleet.robots[0].id).spec.hash,
        exploration_correlation=0.0, published_ns=0, checksum=policy_checksum(*arrays),
        parameters=arrays[0], observation_mean=arrays[1], observation_scale=arrays[2],
    )  # fmt: skip
    folder = run.checkpoints / "000000030"
    folder.mkdir(parents=True)
    (folder / "policy.pnaf").write_bytes(encode(message))


# Help ----------------------------------------------------------------------------------------

HELPS = {
    "": ["robots", "replay-server", "learner", "robot", "demo", "fleet", "logs", "eval", "doctor"],
    "replay-server": ["experience", "FLEET.yaml", "--run-dir", "--set"],
    "learner": ["NAF", "policy", "FLEET.yaml", "--run-dir"],
    "robot": ["robot", "--id", "FLEET.yaml", "--ros-args", "--dry-run", "Send nothing", "--json"],
    "sim-arm": ["MuJoCo", "--id", "FLEET.yaml"],
    "demo": ["reach", "--seed", "--run", "90 %", "--secure"],
    "keys": ["keys", "new", "allow", "revoke", "show", "docs/security.md"],
    "keys new": ["NAME", "--role", "robot|operator", "--robot", "--keys"],
    "keys allow": ["FILE.pub", "--replace", "--keys", "second"],
    "keys revoke": ["NAME", "restart", "--keys"],
    "keys show": ["never shown", "--json", "--keys"],
    "fleet": ["up", "status", "pause", "resume", "stop", "estop"],
    "fleet up": ["fleet", "goal", "Ctrl-C", "FLEET.yaml", "--gui", "--from"],
    "fleet status": ["robot", "replay server", "learner", "--json"],
    "fleet pause": ["hold still", "--robot", "--reason"],
    "fleet resume": ["pause", "e-stop", "--robot"],
    "fleet stop": ["run", "--reason"],
    "fleet estop": ["latched", "reset_estop", "--robot"],
    "eval": ["policy", "--episodes", "--film", "--json"],
    "logs": ["episodes", "ls", "show", "verify"],
    "logs export": ["robomimic", "minari", "lerobot", "--where", "--json"],
    "logs import": ["run folder", "--fleet", "--json"],
    "logs merge": ["LOGS", "--out", "--where", "--keep-both", "--json"],
    "logs split": ["LOGS", "--out", "--into", "--by", "--seed", "--where", "--json"],
    "logs trim": [
        "LOGS",
        "--out",
        "--first",
        "--last",
        "--skip-steps",
        "--keep-steps",
        "--max-rows",
        "--json",
    ],
    "logs relabel": ["LOGS", "--task", "--out", "--goal", "hindsight", "--fleet", "--seed", "--json"],
    "logs upgrade": ["LOGS", "schema", "--json"],
    "logs import-bag": [
        "BAG",
        "--fleet",
        "--out",
        "--id",
        "--topic",
        "--action",
        "--goal",
        "--marker",
        "--json",
    ],
    "offline": ["replay", "train", "eval"],
    "offline eval": ["policy", "LOGS", "--where", "--against", "--simulate", "--members", "--json", "--plot"],
    "offline train": [
        "LOGS",
        "--steps",
        "--run",
        "--where",
        "--method",
        "--fleet",
        "--set",
        "--json",
        "Ctrl-C",
    ],
    "offline replay": ["LOGS", "--into", "--speed", "max", "--where", "--keys", "--longest-gap", "--json"],
    "logs ls": ["LOGS", "summary", "--where", "--limit", "--all", "--sort", "--json"],
    "logs plot": ["returns", "LOGS", "--out", "REPORT.html", "--where", "--episode"],
    "logs show": ["HDF5", "column", "--plot", "--json"],
    "logs verify": ["folders", "missing", "doubled", "damaged", "--json"],
    "bench": ["faults"],
    "bench faults": ["lost", "--seed", "--robots", "--duration", "--faults", "--json", "--keep"],
    "train-gym": ["Gymnasium", "--steps", "--seed", "--every", "--algorithm", "--set", "--out", "--json"],
    "gazebo": ["install", "status", "server", "gui", "world", "export-gz-sim"],
    "gazebo install": ["root", "--prefix", "--force"],
    "gazebo status": ["Gazebo", "plugin", "--json"],
    "gazebo server": ["gzserver", "FLEET.yaml", "--world", "--run-dir"],
    "gazebo gui": ["window", "FLEET.yaml", "--world", "--run-dir"],
    "gazebo world": ["SDF", "FLEET.yaml", "--world"],
    "gazebo export-gz-sim": ["gz_ros2_control", "docs/gz_sim.md", "FLEET.yaml", "FOLDER"],
    "doctor": ["missing", "--json", "--robot", "--namespace", "--seconds", "Nothing is ever sent"],
}


@pytest.mark.parametrize("command", HELPS)
def test_every_command_has_a_help_that_names_its_things(command: str) -> None:
    answer = pnaf(*command.split(), "--help")
    assert answer.status == 0
    text = " ".join(answer.out.replace("│", " ").split())
    assert [word for word in HELPS[command] if word not in text] == []


def test_every_command_is_in_the_table_above() -> None:
    import typer.main

    def names(command: Any, path: str = "") -> list[str]:
        children = getattr(command, "commands", {})
        return [path, *(n for k, c in children.items() for n in names(c, f"{path} {k}".strip()))]

    assert sorted(names(typer.main.get_command(app))) == sorted(HELPS)


def test_a_wrong_command_or_option_is_named() -> None:
    answer = pnaf("fleeet")
    assert answer.status == 2 and "No such command 'fleeet'" in answer.errors
    answer = pnaf("fleet", "status", SIM2, "--jsn")
    assert answer.status == 2 and "No such option: --jsn" in answer.errors
    answer = pnaf("robot", SIM2)
    assert answer.status == 2 and "Missing option '--id'" in answer.errors


# Configs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fleet status", "fleet pause", "fleet up"])
def test_a_wrong_config_is_one_line_and_status_2(tmp_path: Path, command: str) -> None:
    answer = pnaf(*command.split(), SIM2, "--set", "learner.sede=3")
    assert answer.status == 2
    assert (
        answer.errors
        == f"pnaf: {SIM2}: learner.sede: unknown key (value 3); remove it or correct its spelling"
    )
    missing = pnaf(*command.split(), str(tmp_path / "[no].yaml"))
    assert (missing.status, missing.errors) == (2, f"pnaf: {tmp_path}/[no].yaml: no such file")


def test_an_unknown_robot_is_answered_with_the_known_ones() -> None:
    for command in ("robot", "sim-arm"):
        answer = answer_of(pnaf_process(command, SIM2, "--id", "robot9"))
        assert answer.status == 2
        assert answer.errors == "pnaf: no robot 'robot9' in fleet 'sim2'; it has: robot1, robot2"


def test_a_taken_run_name_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    answer = pnaf("demo", "--run", "mine", "--config", SIM2)
    assert answer.status == 2 and "runs/mine exists already" in answer.errors


# A running fleet -----------------------------------------------------------------------------


def test_without_a_server_there_is_one_clear_line(free_endpoint: str) -> None:
    started = time.monotonic()
    answer = pnaf("fleet", "status", SIM2, "--set", f"replay_server.endpoint={free_endpoint}")
    assert time.monotonic() - started < 8
    assert answer.status == 1
    assert f"from {free_endpoint}: is the replay server running there? (pnaf replay-server)" in answer.errors


def test_something_else_at_the_servers_port_is_told(
    free_endpoint: str, start_echo: Callable[[], None]
) -> None:
    start_echo()
    answer = pnaf("fleet", "status", SIM2, "--set", f"replay_server.endpoint={free_endpoint}")
    assert answer.status == 1
    assert f"{free_endpoint} sent something else than this version's messages" in answer.errors


@pytest.fixture
def start_echo(free_endpoint: str) -> Any:
    """A ROUTER that answers everything with nonsense."""
    import threading

    stop = threading.Event()

    def serve() -> None:
        context: Any = zmq.Context()
        with bind_router(context, free_endpoint) as router:
            while not stop.is_set():
                if router.poll(50):
                    router.send_multipart([router.recv_multipart()[0], b"nonsense"])
        context.term()

    thread = threading.Thread(target=serve)
    yield thread.start
    stop.set()
    thread.join()


def test_a_replay_server_serves_status_and_commands_and_ends_in_order(
    tmp_path: Path, free_endpoint: str, make_endpoint: Callable[[], str]
) -> None:
    at = ("--set", f"replay_server.endpoint={free_endpoint}")
    server = pnaf_process("replay-server", SIM2, "--run-dir", str(tmp_path / "run"), *at)
    try:
        answer = pnaf("fleet", "status", SIM2, "--json", *at)
        assert answer.status == 0
        status = json.loads(answer.out)
        assert status["run_id"].startswith("run-") and status["stats"]["replay/rows_inserted"] == 0
        assert "replay server" in pnaf("fleet", "status", SIM2, *at).out
        answer = pnaf("fleet", "pause", SIM2, "--reason", "lunch", *at)
        assert answer.status == 1 and "pause reached nobody" in answer.errors
        answer = pnaf("fleet", "estop", SIM2, "--robot", "robot9", *at)
        assert answer.status == 1 and "no robot 'robot9'" in answer.errors

        second = answer_of(pnaf_process("replay-server", SIM2, "--run-dir", str(tmp_path / "b"), *at))
        assert second.status == 2 and f"{free_endpoint} is in use" in second.errors
        elsewhere = ("--set", f"replay_server.endpoint={make_endpoint()}")
        same = answer_of(pnaf_process("replay-server", SIM2, "--run-dir", str(tmp_path / "run"), *elsewhere))
        assert same.status == 2 and "is in use by another replay server" in same.errors
    finally:
        server.send_signal(signal.SIGTERM)
        ended = answer_of(server)
    assert ended.status == 0


# Looking at what there is --------------------------------------------------------------------


def test_eval_of_what_is_no_run(tmp_path: Path, run: RunFolder) -> None:
    answer = pnaf("eval", str(tmp_path))
    assert (answer.status, answer.errors) == (2, f"pnaf: {tmp_path}: not a run folder (no config.yaml in it)")
    answer = pnaf("eval", str(tmp_path / "nowhere"))
    assert answer.status == 2
    answer = pnaf("eval", str(run.path))
    assert answer.status == 2 and "no policy was saved there" in answer.errors


def test_eval_measures_a_policy(run: RunFolder) -> None:
    save_policy(run)
    answer = pnaf("eval", str(run.path), "--episodes", "2", "--json")
    assert answer.status == 0
    result = json.loads(answer.out)
    assert (result["robot"], result["simulator"]) == ("robot1", "mujoco")
    assert result["episodes"] == 2 and 0 <= result["success_rate"] <= 1
    assert 0.05 < result["mean_final_distance_m"] < 1.0, "it stands still"
    shown = pnaf("eval", str(run.path), "--episodes", "1").out
    assert "mujoco" in shown and "mean_final_distance_m" in shown


def test_eval_in_gazebo_where_there_is_none(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(run)
    monkeypatch.setenv("PNAF_GAZEBO_PREFIX", "/nowhere")
    answer = pnaf("eval", str(run.path), "--simulator", "gazebo")
    assert answer.status == 2 and "/nowhere" in answer.errors
    answer = pnaf("eval", str(run.path), "--simulator", "isaac")
    assert answer.status == 2 and "isaac" in answer.errors and "mujoco" in answer.errors


def test_eval_refuses_a_policy_for_another_robot(run: RunFolder) -> None:
    save_policy(run, spec_hash="0ther")
    answer = pnaf("eval", str(run.path), "--episodes", "1")
    assert answer.status == 2
    assert "policy 3 of run run is for other spaces" in answer.errors


def test_eval_says_that_simulation_has_no_extra_sensors(run: RunFolder) -> None:
    save_policy(run)
    sensor = (
        "{type: std_msgs/Float64MultiArray, name: force, topic: f, size: 1, low: -1, high: 1, max_age_s: 1}"
    )
    save_fleet(load_fleet(run.config, [f"robots.{i}.robot.sensors=[{sensor}]" for i in (0, 1)]), run.config)
    answer = pnaf("eval", str(run.path), "--episodes", "1")
    assert answer.status == 2
    assert "robot1: its policy needs extra sensors (force), which only ROS topics have" in answer.errors


def test_eval_of_robots_that_are_not_simulated_or_not_there(run: RunFolder) -> None:
    save_policy(run)
    answer = pnaf("eval", str(run.path), "--robot", "robot9")
    assert answer.status == 2 and "it has: robot1, robot2" in answer.errors
    config = yaml.safe_load(run.config.read_text())
    config["robots"][0]["robot"]["sim"] = None
    run.config.write_text(yaml.safe_dump(config))
    answer = pnaf("eval", str(run.path))
    assert answer.status == 2 and "robot1 is real hardware" in answer.errors


def test_logs_show_of_what_is_no_episode(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an episode\n")
    answer = pnaf("logs", "show", str(text))
    assert answer.status == 1
    assert answer.errors.startswith(f"pnaf: {text}: not a whole episode file: it is no HDF5 file")
    answer = pnaf("logs", "show", str(tmp_path / "none.h5"))
    assert (answer.status, answer.errors) == (1, f"pnaf: {tmp_path}/none.h5: no such file")


def test_logs_ls_of_an_empty_run_and_of_none(run: RunFolder) -> None:
    assert json.loads(pnaf("logs", "ls", str(run.path), "--json").out) == []
    answer = pnaf("logs", "ls", str(run.path / "nowhere"))
    assert answer.status == 2 and "no such file or folder" in answer.errors


def test_doctor_json_says_what_to_do(free_endpoint: str) -> None:
    answer = pnaf("doctor", "--config", SIM2, "--json")
    findings = json.loads(answer.out)
    assert answer.status == (0 if all(f["ok"] or not f["needed"] for f in findings) else 1)
    by_name = {finding["name"]: finding for finding in findings}
    assert by_name["Python"]["ok"]
    assert {"rclpy", "mujoco", "torch", "zmq", "free disk", "policy port"} <= by_name.keys()
    assert all(finding["advice"] for finding in findings if not finding["ok"])


def test_doctor_sees_a_taken_port(tmp_path: Path, free_endpoint: str) -> None:
    configs = shutil.copytree(PACKAGED_CONFIGS, tmp_path / "configs")
    config = Path(configs) / "fleets/sim2.yaml"
    config.write_text(config.read_text().replace("tcp://127.0.0.1:5711", free_endpoint))
    context: Any = zmq.Context()
    with bind_router(context, free_endpoint):
        answer = pnaf("doctor", "--config", str(config))
        findings = json.loads(pnaf("doctor", "--config", str(config), "--json").out)
    context.term()
    assert answer.status == 1 and "policy port" in answer.out
    port = next(finding for finding in findings if finding["name"] == "policy port")
    assert not port["ok"] and "in use" in port["found"] and "another fleet" in port["advice"]
