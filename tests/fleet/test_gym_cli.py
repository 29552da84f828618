"""`pnaf train-gym` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from fleet.cli import app
from robot_nodes.gym_robot import GymRobot
from robot_nodes.policy import NumpyPolicy
from robot_nodes.policy_file import read_policy

SHORT = ["--steps", "30", "--every", "20", "--episodes", "2", "--set", "warmup_rows=10"]


def test_json_and_files_say_all_that_a_comparison_needs(tmp_path: Path) -> None:
    out = tmp_path / "made" / "pendulum"
    result = CliRunner().invoke(
        app, ["train-gym", "Pendulum-v1", *SHORT, "--seed", "4", "--json", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts == json.loads((out / "result.json").read_text())
    assert (facts["env"], facts["seed"], facts["episodes"]) == ("Pendulum-v1", 4, 2)
    assert [step for step, _, _ in facts["curve"]] == [20, 30]
    assert facts["settings"]["warmup_rows"] == 10
    assert facts["updates"] == 120
    assert {"python", "torch", "gymnasium", "mujoco"} <= set(facts["versions"])
    assert facts["metrics"][-1]["learner/mu_saturation"] >= 0
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    policy = NumpyPolicy.from_message(read_policy(out / "policy.pnaf"), GymRobot("Pendulum-v1", 0).spec)
    assert policy.learner_step == 120


def test_a_table_grows_without_json() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["train-gym", "Pendulum-v1", *SHORT, "--algorithm", "naf_2016"]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Pendulum-v1, naf_2016, seed 0, 2 noise-free episodes:"
    assert [line.split()[0] for line in lines[1:]] == ["steps", "20", "30", "150"]


def test_errors_are_one_line_and_status_2() -> None:
    for arguments, words in (
        (["CartPole-v1"], "CartPole-v1: actions are Discrete(2)"),
        (["Pendulum-v1", "--set", "batch_size=0"], "--set: batch_size = 0"),
        (["Pendulum-v1", "--algorithm", "sac"], "sac"),
    ):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["train-gym", *arguments])
        assert result.exit_code == 2
        assert words in result.stderr
        assert "Traceback" not in result.output
