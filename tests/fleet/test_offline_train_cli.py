"""`pnaf offline train` and `--from`, as an operator sees them, on logs that our own robot made."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.common.fleet_logs import record
from fleet import offline_train_cli
from fleet.cli import app
from fleet.config import ConfigError
from fleet.config_file import load_fleet
from fleet.offline_run import OfflineReport
from fleet.run_folder import RunFolder
from fleet.start_from import find_start, keep_start
from learner.curves import Curves
from learner.offline_training import OfflineTraining
from learner.publisher import policy_message
from learner.trainer import Trainer
from robot_nodes.policy_file import read_policy
from robot_nodes.tasks.task import make_task

SIM2 = Path(__file__).parents[2] / "hardware_configs/fleets/sim2.yaml"
SMALL = ("learner.hidden_sizes=[16]", "learner.batch_size=32")


@dataclass
class Answer:
    status: int
    out: str
    errors: str


def pnaf(*args: object) -> Answer:
    words = [str(arg) for arg in args]
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, words, prog_name="pnaf")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, " ".join(result.stderr.split()))


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_train_cli, "stop_on_signals", threading.Event)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two robots that move at random, three episodes each."""
    fleet = load_fleet(SIM2, SMALL)
    trainer = Trainer(fleet.learner, make_task(fleet, "robot1").spec)
    folder = tmp_path_factory.mktemp("logs") / "first"
    record(fleet, folder, policy_message(trainer, "run", 0, 1.0, 0), 3, seed=0)
    return folder


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `runs/` is made."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_training_can_be_stopped_gone_on_with_and_is_told(at: Path, logs: Path) -> None:
    answer = pnaf("offline", "train", logs, "--steps", 40, "--run", "a", "--json")
    assert answer.status == 0, answer.errors
    facts = json.loads(answer.out)
    assert (facts["updates"], facts["episodes"], facts["rows"]) == (40, 6, 480)
    assert (facts["method"], facts["run"]) == ("careful", "runs/a")
    run = RunFolder(at / "runs" / "a")
    assert run.load().learner.behaviour_weight == 0.2
    assert read_policy(run.policy).learner_step == 40

    answer = pnaf("offline", "train", logs, "--steps", 70, "--run", "a")
    assert answer.status == 0 and "70 updates" in answer.out and answer.out.endswith("runs/a\n")
    assert read_policy(run.policy).learner_step == 70
    again = pnaf("offline", "train", logs, "--steps", 70, "--run", "a")
    assert again.status == 2 and "has 70 updates already: ask for more with --steps" in again.errors


def test_a_stop_saves_and_says_so_by_its_status(
    at: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    stop.set()  # Ctrl-C while the rows are read
    monkeypatch.setattr(offline_train_cli, "stop_on_signals", lambda: stop)
    answer = pnaf("offline", "train", logs, "--steps", 100, "--run", "a", "--json")
    assert (answer.status, json.loads(answer.out)["updates"]) == (130, 0)
    monkeypatch.setattr(offline_train_cli, "stop_on_signals", threading.Event)
    assert pnaf("offline", "train", logs, "--steps", 100, "--run", "a").status == 0


@pytest.mark.parametrize(
    ("method", "weight"), [("careful", 0.2), ("plain", 0.0), ("clone", 1.0)], ids=lambda value: str(value)
)
def test_methods_set_how_near_the_data_mu_is_kept(at: Path, logs: Path, method: str, weight: float) -> None:
    answer = pnaf("offline", "train", logs, "--steps", 10, "--run", "a", "--method", method)
    assert answer.status == 0, answer.errors
    assert RunFolder(at / "runs" / "a").load().learner.behaviour_weight == weight


def test_keys_that_are_given_win_over_the_method(at: Path, logs: Path) -> None:
    more = ("--set", "learner.behaviour_weight=0.7", "--fleet", SIM2, "--set", "learner.hidden_sizes=[8]")
    assert pnaf("offline", "train", logs, "--steps", 10, "--run", "a", *more).status == 0
    learner = RunFolder(at / "runs" / "a").load().learner
    assert (learner.behaviour_weight, learner.hidden_sizes) == (0.7, [8])


def test_what_cannot_be_trained_is_one_line_and_makes_no_folder(at: Path, logs: Path) -> None:
    for arguments, text in [
        ((logs, "--where", "success=maybe"), "yes or no"),
        ((logs, "--where", "robot=robot9"), "no episodes are there, or none meets the conditions"),
        ((at / "nothing",), "no such file or folder"),
        ((logs, "--set", "learner.sede=1"), "learner.sede"),
        ((logs, "--fleet", "none.yaml"), "none.yaml: no such file"),
    ]:
        answer = pnaf("offline", "train", *arguments, "--run", "a")
        assert answer.status == 2 and text in answer.errors, answer.errors
    assert not (at / "runs").exists()


def test_another_training_of_that_name_is_not_touched(at: Path, logs: Path) -> None:
    assert pnaf("offline", "train", logs, "--steps", 10, "--run", "a").status == 0
    before = read_policy(at / "runs/a/policy.pnaf").checksum
    for arguments, text in [
        ((logs, "--method", "plain"), "learner.behaviour_weight = 0.2 there, 0.0 now"),
        ((logs, "--where", "robot=robot1"), "it was trained from other episodes"),
        ((logs, "--set", "seed=5"), "seed = 0 there, 5 now"),
    ]:
        answer = pnaf("offline", "train", *arguments, "--run", "a", "--steps", 20)
        assert answer.status == 2 and text in answer.errors
    (at / "runs" / "b").mkdir()
    answer = pnaf("offline", "train", logs, "--run", "b")
    assert answer.status == 2 and "exists and is no training from logs" in answer.errors
    assert read_policy(at / "runs/a/policy.pnaf").checksum == before


def test_ddpg_learns_from_logs_by_the_plain_method_alone(at: Path, logs: Path) -> None:
    ddpg = ("--set", "learner.algorithm=ddpg", "--steps", 10, "--run", "a", "--fleet", SIM2)
    for method in ("careful", "clone"):
        answer = pnaf("offline", "train", logs, *ddpg, "--method", method)
        assert answer.status == 2 and f"--method {method} keeps" in answer.errors
        assert "give --method plain" in answer.errors
    answer = pnaf("offline", "train", logs, *ddpg, "--method", "plain")
    assert answer.status == 0 and "nan" not in answer.out


def test_a_full_disk_leaves_the_report_of_before(at: Path, logs: Path) -> None:
    assert pnaf("offline", "train", logs, "--steps", 10, "--run", "a").status == 0
    run = RunFolder(at / "runs" / "a")
    before = OfflineReport.read(run)
    assert before is not None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            replace(before, updates=20).write(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert OfflineReport.read(run) == before


def test_a_run_that_is_removed_in_mid_training_does_not_come_back(
    at: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    save = OfflineTraining.save

    def remove_and_save(training: OfflineTraining) -> None:
        shutil.rmtree(at / "runs")
        save(training)

    monkeypatch.setattr(Curves, "add", lambda *arguments: None)  # its thread would write there, too
    monkeypatch.setattr(OfflineTraining, "save", remove_and_save)
    answer = pnaf("offline", "train", logs, "--steps", 10, "--run", "a")
    assert answer.status == 1 and "runs/a/run_id" in answer.errors
    assert not (at / "runs").exists()


def test_a_damaged_episode_is_named_and_left_out(at: Path, logs: Path) -> None:
    shutil.copytree(logs, at / "logs")
    damaged = next((at / "logs/episodes/robot1").glob("*.h5"))
    damaged.write_bytes(damaged.read_bytes()[:2000])
    answer = pnaf("offline", "train", "logs", "--steps", 10, "--run", "a", "--json")
    assert answer.status == 0
    assert f"left out: logs/episodes/robot1/{damaged.name}" in answer.errors
    facts = json.loads(answer.out)
    assert (facts["episodes"], [Path(path).name for path in facts["damaged"]]) == (5, [damaged.name])


def test_copies_of_episodes_are_told(at: Path, logs: Path) -> None:
    shutil.copytree(logs, at / "copy")
    answer = pnaf("offline", "train", logs, "copy", "--steps", 10, "--run", "a")
    assert answer.status == 0
    assert "6 episodes are there more than once, and each copy counts" in answer.errors


def test_rows_may_be_removed_and_come_back(at: Path, logs: Path) -> None:
    assert pnaf("offline", "train", logs, "--steps", 10, "--run", "a").status == 0
    shutil.rmtree(at / "runs/a/rows")
    assert pnaf("offline", "train", logs, "--steps", 20, "--run", "a").status == 0


# Going on with robots ------------------------------------------------------------------------


def test_a_fleet_begins_with_the_newest_whole_checkpoint(at: Path, logs: Path) -> None:
    assert pnaf("offline", "train", logs, "--steps", 10, "--run", "a").status == 0
    assert pnaf("offline", "train", logs, "--steps", 20, "--run", "a").status == 0
    fleet = load_fleet(SIM2, SMALL)
    old, new = sorted((at / "runs/a/checkpoints").glob("0*"))
    assert find_start(fleet, at / "runs/a") == new
    state = new / "state.npz"
    state.write_bytes(state.read_bytes()[:-1])
    assert find_start(fleet, at / "runs/a") == old

    folder = RunFolder(at / "robots")
    keep_start(folder, old)
    assert sorted(path.name for path in folder.start.iterdir()) == sorted(p.name for p in old.iterdir())
    with pytest.raises(ConfigError, match="has begun already"):
        keep_start(folder, old)


def test_a_start_that_does_not_fit_is_refused_before_anything_is_made(at: Path, logs: Path) -> None:
    assert pnaf("offline", "train", logs, "--steps", 10, "--run", "a").status == 0
    for fleet, start, text in [
        (SIM2, "runs/a", "hidden_sizes is [16] there, [100, 100] in this config"),
        (SIM2.with_name("door2.yaml"), "runs/a", "was trained in other spaces"),
        (SIM2, "runs/none", "there is no checkpoint in runs/none/checkpoints"),
    ]:
        answer = pnaf("fleet", "up", fleet, "--from", start, "--run", "b")
        assert answer.status == 2 and text in answer.errors, answer.errors
    assert not (at / "runs/b").exists()
