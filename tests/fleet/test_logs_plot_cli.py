"""`pnaf logs ls`, `show`, `plot` and `verify` on logs of simulated robots, with damaged files among them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.common.fleet_logs import record
from fleet.cli import app
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, policy_checksum
from replay_server.log_writer import LogWriter
from replay_server.logs import open_logs
from robot_nodes.tasks.task import make_task

SIM2 = "hardware_configs/fleets/sim2.yaml"


def pnaf(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["logs", *map(str, words)], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    out, errors = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (result.stdout, result.stderr))
    return result.exit_code, out, errors


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs: `noisy`, 2 robots with 2 episodes each, and `helped`, the same with a person."""
    runs = tmp_path_factory.mktemp("runs")
    fleet = load_fleet(SIM2, ["task.episode_s=1.0"])
    spec = make_task(fleet, "robot1").spec
    sizes = spec.observation.size, spec.action.size
    parameters = np.zeros(sizes[1] * (sizes[0] + 1), "<f4")
    mean, scale = np.zeros(sizes[0], "<f4"), np.ones(sizes[0], "<f4")
    message = PolicyMessage(
        run_id="run", version=3, learner_step=30, layer_sizes=[*sizes],
        exploration_std=0.5, spec_hash=spec.hash, exploration_correlation=0.5, published_ns=0,
        checksum=policy_checksum(parameters, mean, scale),
        parameters=parameters, observation_mean=mean, observation_scale=scale,
    )  # fmt: skip
    record(fleet, runs / "noisy", message, episodes=2, seed=1)
    noisy = open_logs([runs / "noisy"])
    with LogWriter(runs / "helped", spec, "", fleet) as writer:
        for number, (summary, rows) in enumerate(noisy.read()):
            helped = np.arange(rows.rows) < 5
            info = replace(summary.info, success=number % 2 == 0, evaluation=number == 2)
            writer.add(info, replace(rows, intervened=helped, policy_version=rows.policy_version + number))
    return runs


@pytest.fixture
def runs(recorded: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(recorded, tmp_path / "runs")


def damage(runs: Path) -> tuple[Path, Path]:
    """Cut an episode short and put a foreign file beside it; returns both."""
    cut, foreign = runs / "noisy/episodes/robot1/recorded-000000.h5", runs / "noisy/episodes/robot1/x.h5"
    cut.write_bytes(cut.read_bytes()[:4000])
    with h5py.File(foreign, "w") as file:
        file["pixels"] = np.zeros(3)
    return cut, foreign


def size(picture: Path) -> tuple[int, int]:
    """Width and height of a whole PNG file (pixels)."""
    with Image.open(picture, formats=["PNG"]) as image:
        image.load()
        return image.size


class Page(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_ls_says_what_there_is_and_shows_the_newest(runs: Path) -> None:
    status, out, errors = pnaf("ls", runs, "--limit", "3")
    assert (status, errors) == (0, "")
    assert re.search(r"episodes +8 of 2 runs, 160 rows", out)
    assert re.search(r"robots +robot1, robot2\n", out) and re.search(r"tasks +reach\n", out)
    assert re.search(r"success +training .* of 7, evaluation 100 % of 1\n", out)
    assert re.search(r"policies +v3 to v6\n", out)
    assert len(re.findall(r"recorded-00000\d +20 ", out)) == 3
    assert "5 more with --all" in out


def test_ls_as_json_has_every_episode_and_its_path(runs: Path) -> None:
    episodes = json.loads(pnaf("ls", runs, "--json")[1])
    assert len(episodes) == 8
    assert {"path", "run_id", "robot_id", "episode", "rows", "metrics", "task"} <= episodes[0].keys()
    assert all(Path(episode["path"]).is_file() for episode in episodes)
    assert [e["received_ns"] for e in episodes] == sorted(e["received_ns"] for e in episodes)
    by_return = json.loads(pnaf("ls", runs, "--json", "--sort", "return", "--limit", "2")[1])
    best = sorted(e["metrics"]["return"] for e in episodes)[-2:]
    assert [e["metrics"]["return"] for e in by_return] == best


def test_ls_of_some_episodes_and_of_none(runs: Path) -> None:
    assert len(json.loads(pnaf("ls", runs, "--where", "evaluation=yes", "--json")[1])) == 1
    status, out, _ = pnaf("ls", runs, "--where", "robot=robot9")
    assert (status, out) == (0, "no episodes\n")
    assert json.loads(pnaf("ls", runs, "--where", "robot=robot9", "--json")[1]) == []
    status, _, errors = pnaf("ls", runs, "--where", "colour=red")
    assert status == 2 and "must be KEY=VALUE with a KEY of robot, task" in errors


def test_ls_names_damaged_files_and_goes_on(runs: Path) -> None:
    cut, foreign = damage(runs)
    status, out, errors = pnaf("ls", runs)
    assert status == 0
    assert re.search(r"episodes +7 of 2 runs", out) and "2 damaged or foreign files" in out
    assert f"left out: {cut}: not a whole episode file: it is cut short: 4000 of " in errors
    assert f"left out: {foreign}: not a whole episode file: it has no schema_version" in errors
    assert len(json.loads(pnaf("ls", runs, "--json")[1])) == 7


def test_show_draws_an_episode_too(runs: Path) -> None:
    file, picture = runs / "helped/episodes/robot2/recorded-000001.h5", runs / "e.png"
    status, out, _ = pnaf("show", file, "--plot", picture)
    assert status == 0
    for text in (r"task +│ reach", r"received +│ 2026-", r"intervened steps +│ 25\.0%", r"rows +│ 20"):
        assert re.search(text, out), text
    assert size(picture)[0] > 900
    cut, foreign = damage(runs)
    assert pnaf("show", cut)[0] == 1 and "not a whole episode file" in pnaf("show", cut)[2]
    assert "some other program wrote it" in pnaf("show", foreign)[2]


def test_the_page_needs_nothing_else_and_its_pictures_are_whole(runs: Path) -> None:
    cut, foreign = damage(runs)
    logs = open_logs([runs / "helped"])  # the facts of this one stay readable, a row does not
    flipped, content = logs.episodes[0].path, bytearray(logs.episodes[0].path.read_bytes())
    content[content.find(logs.transitions(logs.episodes[0]).reward.tobytes())] ^= 255
    flipped.write_bytes(content)
    status, _, errors = pnaf("plot", runs, "--episode", flipped, "--out", runs / "r.html")
    assert (status, (runs / "r.html").exists()) == (1, False) and "the checksum" in errors
    out = runs / "report.html"
    status, _, errors = pnaf("plot", runs, "--out", out, "--where", "task=reach")
    assert status == 0 and "report.html: 1 file" in errors
    assert all(f"left out: {file}: " in errors for file in (cut, foreign, flipped))
    text = out.read_text()
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert page.references and all(ref.startswith("data:image/png;base64,") for ref in page.references)
    assert not re.search(r"https?://|@import|url\(", text)
    for reference in page.references:
        with Image.open(io.BytesIO(base64.b64decode(reference.partition(",")[2]))) as image:
            image.load()
            assert image.format == "PNG" and image.width > 900
    for what in (
        "Returns", "Success", "Lengths and ends", "Interventions", "Guard", "Old policies", "Actions",
        "Where the tool was", "episode: robot", "--where task=reach", str(cut), str(foreign), str(flipped),
        "robot1: a person moved it in", "listed below: 3.", "parallel-naf",
    ):  # fmt: skip
        assert what in page.text, what


def test_pictures_go_into_a_folder(runs: Path) -> None:
    file = runs / "helped/episodes/robot2/recorded-000000.h5"
    assert pnaf("plot", runs / "noisy", "--out", runs / "pictures", "--episode", file)[0] == 0
    names = {path.name for path in (runs / "pictures").iterdir()}
    assert {"returns.png", "success.png", "ends.png", "guard.png", "actions.png", "coverage.png"} <= names
    assert "persons.png" not in names  # there was none
    assert "episode-recorded-000000.png" in names and not any("best" in name for name in names)
    assert all(size(path)[0] > 900 for path in (runs / "pictures").iterdir())


def test_one_episode_is_drawn_alone(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    file = runs / "noisy/episodes/robot1/recorded-000001.h5"
    assert pnaf("plot", file)[0] == 0
    assert size(Path("recorded-000001.png"))[1] > 900
    assert pnaf("plot", file, "--out", "one.html")[0] == 0
    assert len(Page(Path("one.html").read_text()).references) == 3  # actions, coverage, the episode


def test_plots_of_what_cannot_be_drawn_say_why_and_leave_nothing(runs: Path) -> None:
    cut, _ = damage(runs)
    out = runs / "r.html"
    for words, text in [
        ((cut, "--out", runs / "e.png"), "e.png is not drawn"),
        ((cut, "--out", out), "no episodes are there"),
        ((runs, "--where", "success=perhaps", "--out", out), "yes or no"),
        ((runs, "--where", "robot=robot9", "--out", out), "none meets the conditions"),
        ((runs, "--out", runs / "r.png"), "one picture can show one episode only"),
        ((runs, "--out", runs / "r.pdf"), "must be REPORT.html, or a folder"),
        ((runs / "none", "--out", out), "no such file or folder"),
        ((runs, "--episode", cut, "--out", out), "must be one HDF5 episode"),
    ]:
        status, _, errors = pnaf("plot", *words)
        assert status == 2, words
        assert text in " ".join(errors.split()), (words, errors)
    assert not [path for path in runs.iterdir() if path.suffix]


def test_verify_of_several_runs_and_of_folders_of_them(runs: Path) -> None:
    status, out, _ = pnaf("verify", runs)
    assert status == 0 and out.count("OK: nothing is missing") == 2 and "OK: all 2 runs" in out
    damage(runs)
    status, out, _ = pnaf("verify", runs / "helped", runs / "noisy")
    assert status == 1 and f"NOT OK: 1 of 2 runs: {runs / 'noisy'}" in out
    status, out, _ = pnaf("verify", runs, "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (1, False)
    assert {Path(name).name: run["ok"] for name, run in found["runs"].items()} == {
        "helped": True,
        "noisy": False,
    }
    assert pnaf("verify", runs / "noisy" / "urdf")[0] == 2
