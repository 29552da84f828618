"""`pnaf logs verify`, as an operator sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.config import SpoolConfig
from fleet.messages import Transitions, row_dtype
from fleet.spaces import SpaceSpec
from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_file import write_episode
from robot_nodes.spool import Spool
from robot_nodes.synthetic_rows import SPEC


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """`store(first_seq, robot)` writes ten rows as an episode of its own."""

    def write(first_seq: int, robot: str = "arm1") -> Path:
        builder = EpisodeBuilder(
            run_id="run1", robot_id=robot, boot_id="b0", episode=first_seq // 10, spec=SPEC
        )
        seqs = np.arange(first_seq, first_seq + 10)
        builder.extend(Transitions.from_packed(np.zeros(10, row_dtype(3, 2))), seqs, seqs)
        return write_episode(tmp_path, builder.seal(end="success", success=True, metrics={}, received_ns=0))

    return write


def verify(run: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["logs", "verify", str(run), *options])
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)


def spool_rows(run: Path, robot: str, rows: range, spec: SpaceSpec = SPEC) -> None:
    spool = Spool(run / "spool", robot, "b0", spec, SpoolConfig())
    for seq in rows:
        spool.add_row(seq, seq // 10, False, bytes(row_dtype(3, 2).itemsize))
    spool.close()


def test_an_episode_shows_why_it_ended_who_moved_it_and_what_the_guard_did(tmp_path: Path) -> None:
    rows = np.zeros(8, row_dtype(3, 2))
    rows["intervened"][2:4], rows["clipped"][:6] = True, True
    builder = EpisodeBuilder(run_id="run1", robot_id="arm1", boot_id="b0", episode=0, spec=SPEC)
    builder.extend(Transitions.from_packed(rows), np.arange(8), np.arange(8))
    metrics = {"return": -1.25, "guard/workspace": 6.0, "guard/workspace_max_rad_s": 0.75}
    path = write_episode(
        tmp_path, builder.seal(end="intervention", success=False, metrics=metrics, received_ns=0)
    )
    shown = CliRunner().invoke(app, ["logs", "show", str(path)]).stdout
    for text in (
        r"end +│ intervention",
        r"return +│ -1\.25",
        r"guard/workspace +│ 6 ",
        r"guard/workspace_max_rad_s +│ 0\.75",
        r"intervened steps +│ 25\.0%",
        r"clipped steps +│ 75\.0%",
    ):
        assert re.search(text, shown), text


def test_all_is_well(store: Callable, tmp_path: Path) -> None:
    store(0), store(10), store(0, "arm2")
    spool_rows(tmp_path, "arm2", range(13))
    status, output = verify(tmp_path)
    assert status == 0
    assert "33 rows of 2 robots in 2 boots" in output
    assert "30 in 3 episode files, 0 in the server's journal only, 3 waiting in robots' spools" in output
    assert "OK: nothing is missing, doubled, out of order or damaged" in output
    assert re.search(r"arm2 +b0 +13 +0…12 +3", output)


def test_what_is_wrong_is_said_with_what_to_do(store: Callable, tmp_path: Path) -> None:
    store(0), store(20), store(0, "arm2")
    damaged = store(10, "arm2")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    status, output = verify(tmp_path)
    assert status == 1
    assert "NOT OK: 10 rows missing, 1 files damaged" in output
    assert "arm1 boot b0: seq 10…19 missing" in output
    assert "start the replay server and the robot" in output
    assert str(damaged) in output


def test_json(store: Callable, tmp_path: Path) -> None:
    store(10)
    status, output = verify(tmp_path, "--json")
    found = json.loads(output)
    assert status == 1
    assert (found["ok"], found["rows"], found["missing"], found["doubled"]) == (False, 10, 10, 0)
    assert found["streams"][0]["missing"] == [[0, 9]]


def test_verifying_changes_nothing(store: Callable, tmp_path: Path) -> None:
    store(0)
    spool_rows(tmp_path, "arm1", range(10, 15))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert verify(tmp_path)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_no_such_run(tmp_path: Path) -> None:
    assert verify(tmp_path / "none")[0] == 2


def test_an_unknown_fault_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "faults", "--faults", "kill,flood"])
    assert result.exit_code == 2
    assert "no fault 'flood'; there are: kill, stop, cut, disk, flip" in " ".join(result.stderr.split())
