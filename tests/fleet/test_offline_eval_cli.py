"""`pnaf offline eval`, as an operator sees it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.common.fleet_logs import record
from fleet import offline_train_cli
from fleet.cli import app
from fleet.codec import encode
from fleet.config_file import load_fleet
from fleet.run_folder import create_run_folder
from learner.checkpoint import Progress, save_checkpoint
from learner.publisher import policy_message
from learner.trainer import Trainer
from robot_nodes.tasks.task import make_task

QUICK = ["--steps", "20", "--members", "3", "--guard-rows", "60"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` with two checkpoints, `logs` of its policy, a lone `policy.pnaf`."""
    root = tmp_path_factory.mktemp("runs")
    fleet = load_fleet(
        "hardware_configs/fleets/sim2.yaml",
        ["task.episode_s=1.0", "learner.hidden_sizes=[8]", "learner.engine=eager", "learner.gamma=0.8"],
    )
    spec = make_task(fleet, "robot1").spec
    run = create_run_folder(fleet, root, "run")
    (run.path / "spec.json").write_text(json.dumps(spec.to_json()))
    for version in (3, 5):
        trainer = Trainer(fleet.learner, spec, seed=version)
        message = policy_message(trainer, "r", version, 0.3, 0)
        save_checkpoint(run.checkpoints, trainer, Progress("r", version, 1, 0), message, keep=2)
    record(fleet, root / "logs", message, episodes=12, seed=0)
    (root / "policy.pnaf").write_bytes(encode(message))
    return root


def offline_eval(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        app, ["offline", "eval", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (result.stdout, result.stderr))
    return result.exit_code, out, err


def test_one_policy_in_json(folders: Path) -> None:
    code, out, _ = offline_eval(folders / "run", folders / "logs", *QUICK, "--json")
    assert code == 0
    facts = json.loads(out)
    logs, (policy,) = facts["logs"], facts["policies"]
    assert (logs["episodes"], logs["rows"], logs["finished"], logs["gamma"]) == (24, 480, 24, 0.8)
    assert logs["tail"] == pytest.approx(0.8**20)
    assert policy["version"] == 5
    assert policy["interval"][0] < policy["estimate"] < policy["interval"][1]
    assert policy["above_logs"] == pytest.approx(policy["estimate"] - logs["mean_return"], abs=1e-5)
    assert policy["td_error"]["mean_squared"] > 0 and policy["td_note"] == ""
    assert policy["distance"]["rms"] > 0 and len(policy["distance"]["rms_per_action"]) == 7
    assert policy["guard"]["rows"] == logs["guard"]["rows"] == 60
    assert abs(logs["guard"]["changed"] - logs["clipped"]) < 0.1  # first steps of episodes may differ
    assert logs["evaluations"] is None  # not NaN, which no other JSON parser takes
    assert policy["truth"] is None and facts["agreement"] is None


def test_a_person_reads_a_verdict_and_warnings(folders: Path) -> None:
    code, out, _ = offline_eval(folders / "policy.pnaf", folders / "logs", "--where", "robot=robot1", *QUICK)
    assert code == 0
    text = " ".join(out.split())
    assert "gamma 0.8, from 12 episodes, 240 rows" in text
    assert "has no critic; name its run folder or a checkpoint" in text
    assert re.search(
        r"policy\.pnaf: (better|worse|not clearly).* than the logs.*; estimate -?[\d.]+ \[", text
    )
    assert "warning: only 12 episodes: intervals are too narrow" in text
    assert "what the guard would do at 60 logged moments" in text


def test_several_policies_are_compared_and_agreement_with_the_truth_is_drawn(folders: Path) -> None:
    plot = folders / "scatter.png"
    code, out, _ = offline_eval(
        folders / "run", folders / "logs", "--checkpoints", "--simulate", 2, "--plot", plot, *QUICK, "--json"
    )
    assert code == 0
    facts = json.loads(out)
    policies = facts["policies"]
    assert [policy["version"] for policy in policies] == [5, 3, 5]
    assert policies[2]["above_first"] == 0.0  # the same policy once more: the same networks and minibatches
    assert policies[1]["above_first"] == pytest.approx(
        policies[1]["estimate"] - policies[0]["estimate"], abs=1e-5
    )
    assert all(policy["truth"]["episodes"] == 2 for policy in policies)
    assert -1.0 <= facts["agreement"]["spearman"] <= 1.0
    with Image.open(plot) as picture:
        assert picture.size[0] > 300
    code, out, _ = offline_eval(
        folders / "run", folders / "logs", "--against", folders / "policy.pnaf", "--guard-rows", 0, *QUICK[:4]
    )
    assert code == 0
    assert "not clearly apart from" in out and "guard: nothing to say: not asked for" in out


def test_what_is_wrong_is_one_clear_line(folders: Path, tmp_path: Path) -> None:
    run, logs = folders / "run", folders / "logs"
    damaged = tmp_path / "damaged.pnaf"
    damaged.write_bytes((folders / "policy.pnaf").read_bytes()[:-9])
    (tmp_path / "empty").mkdir()
    door = load_fleet("hardware_configs/fleets/door2.yaml")
    other = tmp_path / "door.pnaf"
    other.write_bytes(
        encode(policy_message(Trainer(door.learner, make_task(door, "robot1").spec), "d", 0, 0.1, 0))
    )
    for arguments, text in [
        ([tmp_path / "none", logs], "no such run folder, checkpoint or .pnaf file"),
        ([tmp_path / "empty", logs], "neither a policy.pnaf nor checkpoints/"),
        ([damaged, logs], "damaged.pnaf: cannot be read as a policy"),
        ([other, logs], "acts in other spaces than these logs"),
        ([run, tmp_path / "empty"], "neither a run folder"),
        ([run, logs, "--where", "rows=1000.."], "no episodes are there, or none meets the conditions"),
        ([run, logs, "--where", "size=3"], "must be KEY=VALUE with a KEY of"),
        ([run, logs, "--gamma", "1"], "needs it below 1"),
        ([run, logs, "--plot", "x.png"], "needs --simulate N"),
        ([run, logs, "--simulate", "1", "--robot", "robot9"], "robot9"),
        ([run, logs, "--simulate", "1", "--plot", tmp_path / "a.txt"], "must be a .png"),
        ([folders / "policy.pnaf", logs, "--checkpoints"], "no checkpoints are there"),
    ]:
        code, out, err = offline_eval(*arguments, *QUICK)
        assert code == 2, (arguments, out, err)
        assert text in err and len(err.strip().splitlines()) == 1, err
        assert out == ""


def test_without_a_config_there_is_no_guard_but_an_estimate(folders: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    shutil.copytree(folders / "logs", logs)
    (logs / "config.yaml").unlink()
    policy = tmp_path / "policy.pnaf"
    shutil.copy(folders / "policy.pnaf", policy)
    code, out, err = offline_eval(policy, logs, *QUICK)
    assert code == 2 and "give --gamma" in err
    code, out, _ = offline_eval(policy, logs, "--gamma", 0.7, *QUICK)
    assert code == 0 and "give --fleet" in out and "estimate" in out
    (logs / "config.yaml").write_text("no_such_key: 3\n")
    code, out, _ = offline_eval(policy, logs, "--gamma", 0.7, *QUICK)
    assert code == 0 and "nothing to say: " in out and "no_such_key: unknown key" in out
    (logs / "config.yaml").unlink()
    code, out, _ = offline_eval(
        policy, logs, "--gamma", 0.7, "--fleet", folders / "logs" / "config.yaml", *QUICK, "--json"
    )
    assert code == 0 and json.loads(out)["logs"]["guard"]["rows"] == 60
    code, _, err = offline_eval(policy, logs, "--gamma", 0.7, "--simulate", 1, *QUICK)
    assert code == 2 and "give --fleet" in err


def test_damaged_files_and_critics_are_named_and_the_rest_goes_on(folders: Path, tmp_path: Path) -> None:
    for name in ("run", "logs"):
        shutil.copytree(folders / name, tmp_path / name)
    files = sorted((tmp_path / "logs" / "episodes" / "robot1").glob("*.h5"))
    files[3].write_bytes(files[3].read_bytes()[:2000])
    state = sorted((tmp_path / "run" / "checkpoints").glob("*/state.npz"))[-1]
    state.write_bytes(b"no longer")
    code, out, err = offline_eval(tmp_path / "run", tmp_path / "logs", *QUICK)
    assert code == 0
    assert f"left out: {files[3]}" in " ".join(err.split())
    assert "state.npz: is damaged" in " ".join(out.split())
    assert "from 23 episodes" in out


def test_a_critic_that_was_trained_from_these_logs_is_told(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(offline_train_cli, "stop_on_signals", threading.Event)
    logs = folders / "logs"
    answer = CliRunner().invoke(app, ["offline", "train", str(logs), "--steps", "10", "--run", "a"])
    assert answer.exit_code == 0, answer.stderr
    code, out, _ = offline_eval("runs/a", logs, *QUICK)
    assert code == 0 and "have learned from these very episodes: runs/a (100%)" in out
    code, out, _ = offline_eval("runs/a", logs, "--where", "robot=robot1", *QUICK)
    assert code == 0 and "these very episodes" not in out
