"""`pnaf logs merge | split | trim | relabel | upgrade` on real logs, as an operator sees them."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.common.fleet_logs import record
from benchmarks.common.pick_script import script_message
from fleet.cli import app
from fleet.config import ReplayServerConfig
from fleet.config_file import load_fleet
from fleet.messages import COLUMNS, TailReply
from fleet.run_folder import RunFolder
from replay_server.client import ReplayClient
from replay_server.episode_store import EpisodeStore, list_episodes, read_episode
from replay_server.logs import open_logs
from replay_server.server import run_replay_server

REACH, DOOR = "fleets/sim2.yaml", "fleets/door2.yaml"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `first`, `second` (reach) and `door`: three episodes of half a second per robot."""
    runs = tmp_path_factory.mktemp("recorded")
    for name, fleet, seed in [("first", REACH, 0), ("second", REACH, 1), ("door", DOOR, 0)]:
        config = load_fleet(fleet, ["task.episode_s=0.5"])
        record(config, runs / name, script_message(config, noise_std=0.5), 3, seed, boot_id=name)
    return runs


@pytest.fixture
def runs(recorded: Path, tmp_path: Path) -> Path:
    """Copies of them to work on."""
    return Path(shutil.copytree(recorded, tmp_path / "runs"))


def call(*words: object) -> tuple[int, str, str]:
    """Exit status, stdout, and what stands on stderr as one line."""
    result = CliRunner().invoke(app, ["logs", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.stderr)
    return result.exit_code, result.stdout, " ".join(plain.split())


@contextmanager
def served(run: Path, endpoint: str) -> Iterator[None]:
    """A replay server in a thread that has the folder."""
    stop, ready = threading.Event(), threading.Event()
    config = ReplayServerConfig(endpoint=endpoint)
    thread = threading.Thread(
        target=run_replay_server, args=(config, run, "run", stop, ready.set), kwargs={"seed": 0}
    )
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        stop.set()
        thread.join(10)


def check_served(run: Path, endpoint: str) -> TailReply:
    """The folder is whole, and a replay server serves just its rows, in order."""
    assert call("verify", run)[0] == 0
    with served(run, endpoint), ReplayClient(endpoint, "learner", "learner") as client:
        client.hello()
        reply = client.tail(0, 100_000)
    rows = [read_episode(summary.path).transitions for summary in list_episodes(run)]
    for name in COLUMNS:
        stored = np.concatenate([getattr(each, name) for each in rows])
        assert getattr(reply, name).tobytes() == stored.tobytes(), name
    return reply


def test_merged_runs_are_one_that_a_replay_server_serves(runs: Path, free_endpoint: str) -> None:
    status, out, said = call("merge", runs / "first", runs / "second", runs / "first", "--out", runs / "all")
    assert (status, said) == (0, "")
    assert out == f"{runs}/all: 12 episodes, 120 rows\n"
    assert check_served(runs / "all", free_endpoint).rows == 120
    assert RunFolder(runs / "all").load().task.kind == "reach"
    assert json.loads((runs / "all" / "made.json").read_text())["made"].startswith(
        f"merged from {runs}/first, "
    )
    assert {summary.info.origin for summary in open_logs([runs / "all"]).episodes} == {""}
    status, out, _ = call("merge", runs / "all", runs / "second", "--out", runs / "again", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["written"] == [{"out": str(runs / "again"), "episodes": 12, "rows": 120}]
    assert (found["copies_counted_once"], found["left_out"], found["notes"]) == (6, {}, [])


def test_damaged_and_foreign_files_are_named_and_left_out(runs: Path) -> None:
    files = sorted(runs.glob("first/episodes/robot1/*.h5"))
    files[0].write_bytes(files[0].read_bytes()[:3000])
    content = bytearray(files[1].read_bytes())
    content[content.find(read_episode(files[1]).transitions.reward.tobytes()) + 1] ^= 255
    files[1].write_bytes(content)
    with h5py.File(runs / "first" / "episodes" / "robot2" / "foreign.h5", "w") as file:
        file["x"] = 1
    for command in (
        ["merge", runs / "first", runs / "second"],
        ["trim", runs / "first", "--keep-steps", "5"],
        ["relabel", runs / "first", "--task", "tasks/reach.yaml", "--goal", "final"],
    ):
        out = runs / f"out-{command[0]}"
        status, told, said = call(*command, "--out", out)
        assert (status, "3 files left out" in told) == (0, True), said
        assert said.count("left out:") == 3
        for text in (files[0].name, files[1].name, "foreign.h5: not a whole episode file", "crc32"):
            assert text in said.replace(" ", "") or text in said
        assert call("verify", out)[0] == 0


RELABEL = ["relabel", "--out", "new", "--task"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["merge", "first", "door", "--out", "new"], "have different spaces: observation has"),
        (["merge", "first", "--out", "second"], "second exists already: name another folder"),
        (["merge", "first", "--out", "new", "--where", "success=maybe"], "yes or no"),
        (["merge", "first", "--out", "new", "--where", "robot=robot9"], "none meets the conditions"),
        (["merge", "none", "--out", "new"], "none: no such file or folder"),
        (["merge", "first", "--out", "a name"], "run name 'a name': use letters"),
        (["split", "first", "--out", "new"], "say how to split: --into NAME=SHARE for each part"),
        (["split", "first", "--out", "new", "--by", "mood"], "one of robot, task, success, evaluation"),
        (["split", "first", "--out", "new", "--into", "a=0.5"], "they add up to 0.5"),
        (["split", "first", "--out", "new", "--into", "a/b=1"], "must be NAME=SHARE"),
        (["split", "first", "--out", "new", "--into", "a=0.5", "--into", "a=0.5"], "a part a already"),
        (["split", "first", "--out", "new", "--into", "a=0.99", "--into", "b=0.01"], "nothing would be in b"),
        (["trim", "first", "--out", "new"], "say what to keep: --where, --first"),
        (["trim", "first", "--out", "new", "--first", "1", "--last", "1"], "say one of them"),
        (["trim", "first", "--out", "new", "--skip-steps", "10"], "nothing is left of 6 episodes"),
        ([*RELABEL, "no.yaml", "first"], "--task no.yaml: no such file"),
        ([*RELABEL, "tasks/reach.yaml", "first", "--goal", "last"], "keep, final, sample"),
        ([*RELABEL, "tasks/reach.yaml", "door"], "where goals come from, --goal final"),
        ([*RELABEL, "tasks/door.yaml", "first"], "no sensors' number door/door_hinge"),
        ([*RELABEL, "tasks/reach.yaml", "first", "door"], "are of door and of reach: choose"),
        (["upgrade", "none"], "none: no such file or folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], text: str
) -> None:
    monkeypatch.chdir(recorded)
    before = sorted(recorded.iterdir())
    status, out, said = call(*words)
    assert (status, out) == (2, ""), said
    assert text in said
    assert said.startswith("pnaf: ")
    assert sorted(recorded.iterdir()) == before


def test_the_same_names_with_other_rows_need_a_word(runs: Path) -> None:
    first, told = runs / "first", runs / "told"
    relabel = ["relabel", first, "--task", "tasks/reach.yaml", "--goal", "final", "--out", told]
    assert call(*relabel)[0] == 0
    status, _, said = call("merge", first, told, "--out", runs / "her")
    assert status == 2 and re.search(r"first/\S+\.h5 and \S+told/\S+\.h5 are different episodes", said)
    assert not (runs / "her").exists()
    status, out, _ = call("merge", first, told, "--out", runs / "her", "--keep-both")
    assert (status, out) == (0, f"{runs}/her: 12 episodes, 120 rows (6 episodes of another boot)\n")
    assert call("verify", runs / "her")[0] == 0


def test_what_does_not_fit_the_config_that_comes_along_is_said(runs: Path) -> None:
    config = runs / "second" / "config.yaml"
    config.write_text(config.read_text().replace("success_radius_m: 0.05", "success_radius_m: 0.02"))
    status, out, _ = call("merge", runs / "first", runs / "second", "--out", runs / "a", "--json")
    (note,) = json.loads(out)["notes"]
    assert status == 0 and note.endswith("second differs: success_radius_m is 0.02, not 0.05")
    config.write_text("task: [")
    (runs / "first" / "config.yaml").unlink()
    status, _, said = call("merge", runs / "first", runs / "second", "--out", runs / "b")
    assert status == 0
    assert "note: the config of" in said and "note: no config.yaml comes along" in said


def test_split_runs_are_whole_and_merge_back(runs: Path, free_endpoint: str) -> None:
    source = [runs / "first", runs / "second"]
    shares = ["--into", "train=0.75", "--into", "test=0.25", "--seed", "3"]
    status, out, _ = call("split", *source, *shares, "--out", runs / "part")
    assert status == 0
    assert out == f"{runs}/part-train: 9 episodes, 90 rows\n{runs}/part-test: 3 episodes, 30 rows\n"
    assert check_served(runs / "part-test", free_endpoint).rows == 30
    assert call("merge", runs / "part-test", runs / "part-train", "--out", runs / "back")[0] == 0
    rows = [
        {s.path.name: t.packed().tobytes() for s, t in open_logs(p).read()} for p in (source, [runs / "back"])
    ]
    assert rows[0] == rows[1]
    status, out, _ = call("split", *source, "--by", "robot", "--out", runs / "of", "--json")
    assert [Path(part["out"]).name for part in json.loads(out)["written"]] == ["of-robot1", "of-robot2"]
    before = sorted(runs.iterdir())
    shutil.rmtree(runs / "of-robot1")
    assert call("split", *source, "--by", "robot", "--out", runs / "of")[0] == 2  # of-robot2 exists
    assert not (runs / "of-robot1").exists() and len(before) == len(list(runs.iterdir())) + 1


def test_trimmed_logs_are_whole(runs: Path, free_endpoint: str) -> None:
    options = ["--last", "2", "--skip-steps", "2", "--keep-steps", "6", "--out", runs / "cut"]
    status, out, _ = call("trim", runs / "first", *options)
    assert status == 0
    assert out == f"{runs}/cut: 2 episodes, 12 rows (4 episodes dropped, 48 rows dropped)\n"
    assert check_served(runs / "cut", free_endpoint).truncated.sum() == 2
    infos = [summary.info for summary in open_logs([runs / "cut"]).episodes]
    assert {(info.end, info.success, info.origin) for info in infos} == {
        ("stopped", False, "steps 2 to 7 of 10")
    }
    assert call("trim", runs / "first", "--where", "robot=robot1", "--out", runs / "one")[0] == 0


def test_relabelled_logs_are_a_run_of_the_new_task(runs: Path, free_endpoint: str) -> None:
    options = ["--task", "tasks/reach.yaml", "--goal", "final", "--out", runs / "told"]
    status, out, _ = call("relabel", runs / "door", *options)
    assert (status, out) == (0, f"{runs}/told: 6 episodes, 60 rows\n")
    config = RunFolder(runs / "told").load()
    assert (config.task.kind, config.task.episode_s) == ("reach", 4.0)
    logs = open_logs([runs / "told"])
    assert {(s.info.task, s.info.success) for s in logs.episodes} == {("reach", True)}
    assert "target/x" in logs.spec.observation.names
    assert check_served(runs / "told", free_endpoint).observation.shape == (60, 22)
    status, out, _ = call(
        "relabel",
        runs / "first",
        "--task",
        "tasks/reach.yaml",
        "--fleet",
        REACH,
        "--out",
        runs / "same",
        "--json",
    )
    assert (status, json.loads(out)["goal"]) == (0, "keep")


def test_upgrading_says_what_became_of_the_files(runs: Path) -> None:
    files = sorted(runs.glob("first/episodes/*/*.h5"))
    for path in files[:4]:
        with h5py.File(path, "r+") as file:
            file.attrs["schema_version"] = 1
            del file.attrs["task"], file.attrs["origin"]
    with h5py.File(files[4], "r+") as file:
        file.attrs["schema_version"] = 99
    store = EpisodeStore(runs / "first")
    status, _, said = call("upgrade", runs)
    store.close()
    assert status == 2 and "first is in use by a replay server: stop it first" in said
    status, out, said = call("upgrade", runs)
    assert status == 1
    assert out == ("4 files upgraded to schema version 2, 13 had it already, 1 could not be read\n")
    assert "schema_version is 99, of a newer parallel-naf" in said
    assert read_episode(files[0]).info.task == "reach"
    files[4].unlink()
    status, out, _ = call("upgrade", runs / "first", "--json")
    assert (status, json.loads(out)) == (0, {"schema_version": 2, "upgraded": [], "current": 5, "failed": {}})


def test_a_full_disk_is_one_line_and_leaves_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Callable[..., None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("replay_server.log_writer.seal_episode", full)
    status, _, said = call("merge", runs / "first", "--out", runs / "all")
    assert (status, said) == (1, "pnaf: [Errno 28] No space left on device")
    assert not (runs / "all").exists()
