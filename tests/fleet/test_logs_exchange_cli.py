"""`pnaf logs export` and `pnaf logs import`, as an operator sees them, on logs of our own simulated arm."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import minari
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.common.fleet_logs import record
from fleet.cli import app
from fleet.config_file import load_fleet
from fleet.messages import COLUMNS, PolicyMessage, policy_checksum
from replay_server.logs import open_logs
from robot_nodes.tasks.task import make_task

FLEET = "hardware_configs/fleets/sim2.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of each of two arms that reach at random."""
    fleet = load_fleet(FLEET, ["task.episode_s=0.5"])
    spec = make_task(fleet, "robot1").spec
    nx, nu = spec.observation.size, spec.action.size
    arrays = np.zeros(nu * nx + nu, "<f4"), np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    policy = PolicyMessage(
        run_id="run",
        version=3,
        learner_step=0,
        spec_hash=spec.hash,
        layer_sizes=[nx, nu],
        exploration_std=0.5,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(*arrays),
        parameters=arrays[0],
        observation_mean=arrays[1],
        observation_scale=arrays[2],
    )
    out = tmp_path_factory.mktemp("logs") / "run"
    record(fleet, out, policy, episodes=2, seed=1)
    return out


def pnaf(*words: object) -> SimpleNamespace:
    done = CliRunner().invoke(app, ["logs", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return SimpleNamespace(status=done.exit_code, out=done.stdout, err=" ".join(done.stderr.split()))


@pytest.mark.parametrize(("kind", "name"), [("robomimic", "reach.hdf5"), ("minari", "lab/reach-v0")])
def test_real_logs_go_out_and_come_back(run: Path, tmp_path: Path, kind: str, name: str) -> None:
    exported = pnaf("export", run, "--format", kind, "--out", tmp_path / name)
    assert (exported.status, exported.err) == (0, "")
    assert exported.out.startswith(f"{tmp_path / name}: 4 episodes, 40 rows\n{kind} reads it with ")
    back = tmp_path / "back"
    imported = pnaf(
        "import", tmp_path / name, "--format", kind, "--out", back, "--fleet", run / "config.yaml"
    )
    assert (imported.status, imported.err) == (0, "")
    assert imported.out == f"{back}: 4 episodes, 40 rows\n"
    assert pnaf("verify", back).status == 0
    before, after = open_logs([run]), open_logs([back])
    assert after.config().task == before.config().task
    for (old, old_rows), (new, new_rows) in zip(before.read(), after.read(), strict=True):
        assert (new.info.robot_id, new.info.metrics) == (old.info.robot_id, old.info.metrics)
        for column in COLUMNS:
            assert getattr(new_rows, column).tobytes() == getattr(old_rows, column).tobytes()


def test_the_hint_for_robomimic_names_what_a_policy_sees(run: Path, tmp_path: Path) -> None:
    exported = pnaf("export", run, "--format", "robomimic", "--out", tmp_path / "a.hdf5", "--json")
    found = json.loads(exported.out)
    keys = '["joint_position", "joint_velocity", "tool", "target"]'
    assert found == {
        "path": str(tmp_path / "a.hdf5"), "episodes": 4, "rows": 40, "left_out": {},
        "hint": f"config.observation.modalities.obs.low_dim = {keys}",
    }  # fmt: skip


def test_lerobot_is_told_the_task_in_words(run: Path, tmp_path: Path) -> None:
    words = ["export", run, "--format", "lerobot", "--out", tmp_path / "reach", "--where", "robot=robot1"]
    exported = pnaf(*words, "--instruction", "Reach.", "--fps", 20)
    assert exported.out.startswith(f"{tmp_path / 'reach'}: 2 episodes, 20 rows")
    assert "Reach." in (tmp_path / "reach" / "meta" / "tasks.parquet").read_bytes().decode(errors="ignore")


def test_a_damaged_episode_is_named_and_the_others_are_exported(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run" / "episodes" / "robot1"
    copy.mkdir(parents=True)
    whole, damaged = sorted((run / "episodes" / "robot1").glob("*.h5"))
    (copy / whole.name).write_bytes(whole.read_bytes())
    (copy / damaged.name).write_bytes(damaged.read_bytes()[:-100])
    exported = pnaf("export", tmp_path / "run", "--format", "minari", "--out", tmp_path / "a-v0")
    assert exported.status == 0
    told = exported.err.replace(" ", "")  # the terminal breaks long paths
    assert f"leftout:{copy / damaged.name}:notawholeepisodefile" in told
    assert "1 episodes, 10 rows" in exported.out


def test_a_foreign_dataset_says_how_its_numbers_are_called(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        for i in range(7):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"] = np.full((3, 2), 2.0)
            demo["obs/pos"] = demo["next_obs/pos"] = np.arange(6.0).reshape(3, 2)
            if i == 0:
                demo["rewards"], demo["dones"] = np.ones(3), np.zeros(3)
    words = ["import", tmp_path / "lift.hdf5", "--format", "robomimic", "--out", tmp_path / "run"]
    refused = pnaf(*words)
    assert refused.status == 2
    assert "demo_0: action 0 of row 0 is 2, outside [-1, 1]: say with --action-range" in refused.err
    assert not (tmp_path / "run").exists()
    imported = pnaf(*words, "--action-range", "-4..4", "--robot", "arm7")
    assert imported.status == 0
    assert imported.out == (
        f"{tmp_path / 'run'}: 1 episodes, 3 rows\nobservation: pos/0, pos/1\naction: action/0, action/1\n"
    )
    assert "demo_1: it has no rewards: robomimic itself would silently read zeros" in imported.err
    assert imported.err.endswith("left out: 1 more episodes")
    assert pnaf("verify", tmp_path / "run").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--robot", "../evil"], "--robot '../evil': must be 1 to 64 of A-Z"),
        (["--action-range", "3"], "--action-range '3': must be LOW..HIGH"),
        (["--action-range", "1..-1"], "must be LOW..HIGH"),
        (["--fleet", "none.yaml"], "none.yaml"),
        (
            ["--fleet", "hardware_configs/fleets/door2.yaml"],
            "a.hdf5 does not fit: observation has 22 dimensions here and 20 there",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    run: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    pnaf("export", run, "--format", "robomimic", "--out", tmp_path / "a.hdf5")
    words = [str(tmp_path / "a.hdf5"), "--format", "robomimic", "--out", str(tmp_path / "out"), *words]
    refused = pnaf("import", *words)
    assert refused.status == 2
    assert message in refused.err
    assert not (tmp_path / "out").exists()


def test_what_exists_is_not_touched_and_a_full_disk_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.hdf5").write_text("precious")
    refused = pnaf("export", run, "--format", "robomimic", "--out", tmp_path / "a.hdf5")
    assert (refused.status, (tmp_path / "a.hdf5").read_text()) == (2, "precious")
    assert "a.hdf5 exists already: name another --out, or remove that first" in refused.err
    refused = pnaf("export", run, "--format", "minari", "--out", tmp_path / "reach")
    assert (refused.status, "NAMESPACE/NAME-vN" in refused.err) == (2, True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("replay_server.exchange.minari.write_array", full)
    refused = pnaf("export", run, "--format", "minari", "--out", tmp_path / "a-v0")
    assert refused.status == 1
    assert "a-v0: cannot be written: [Errno 28] No space left on device" in refused.err
    assert {path.name for path in tmp_path.iterdir()} == {"a.hdf5"}


def test_minari_finds_it_where_the_hint_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = pnaf("export", run, "--format", "minari", "--out", tmp_path / "lab" / "reach-v3")
    assert f'MINARI_DATASETS_PATH={tmp_path}, then minari.load_dataset("lab/reach-v3")' in exported.out
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.load_dataset("lab/reach-v3").total_steps == 40
