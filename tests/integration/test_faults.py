"""A fleet whose processes are killed, stopped, cut off, kept from writing and damaged loses no row.

`count_rows`, which says so, can say the contrary: the last tests damage what is stored.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fleet.fault_count import RowCounts, count_rows
from fleet.fault_injection import flip_bytes
from fleet.fault_plan import LEARNER, SERVER, Fault
from fleet.faults import TrialSettings, run_faults
from fleet.messages import Transitions
from replay_server.episode_file import Episode, EpisodeInfo, read_episode, write_episode
from replay_server.spans import Seqs
from robot_nodes.synthetic_rows import SPEC, row_index, row_of

WaitUntil = Callable[..., None]


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_four_robots_2000_rows_each_and_every_process_killed() -> None:
    kills = [(1.0 + i, f"robot{i + 1}") for i in range(4)] + [(2.5, SERVER), (3.2, LEARNER)]
    plan = [Fault(at_s, "kill", target, 0.2, seed=0) for at_s, target in kills]
    settings = TrialSettings(robots=4, rows=2000, rate_hz=400.0, duration_s=4.5, plan=plan)
    report = run_faults(settings, quiet())
    assert report is not None
    assert report.problems == []
    assert report.rows == RowCounts(
        8000, stored=8000, spooled=0, lost=0, duplicated=0, disordered=0, foreign=0
    )
    assert report.faults == {"kill robot": 4, "kill server": 1, "kill learner": 1}
    assert report.ring_lost == report.ring_duplicated == 0
    assert report.policy_versions > 1


def test_chaos(tmp_path: Path) -> None:
    """Through the command line, where small disks can be mounted."""
    json_path, keep = tmp_path / "report.json", tmp_path / "kept"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = f"bench faults --seed 11 --robots 2 --duration 12 --json {json_path} --keep {keep}"
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli", *command.split()],
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(json_path.read_text())
    assert report["produced"] == report["stored"] + report["spooled"] > 0
    assert (report["lost"], report["duplicated"], report["disordered"], report["problems"]) == (0, 0, 0, [])
    assert set(report["faults"]) == {"kill", "stop", "cut", "disk", "flip"}
    assert "rows produced" in done.stdout
    assert list(temporary.iterdir()) == []
    verify = [sys.executable, "-m", "fleet.cli", "logs", "verify", str(keep / "runs" / "trial"), "--json"]
    verified = subprocess.run(verify, capture_output=True, text=True, check=True)
    assert json.loads(verified.stdout)["rows"] == report["produced"]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, wait_until: WaitUntil) -> None:
    def ours() -> set[str]:
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(tmp_path).encode() in (process / "cmdline").read_bytes():
                    found.add(process.name)
            except OSError:  # it ended meanwhile
                continue
        return found

    trial = subprocess.Popen(
        [sys.executable, "-m", "fleet.cli", "bench", "faults", "--robots", "2", "--duration", "60"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(ours()) == 4, 30.0, "server, learner and two robots")
        trial.send_signal(signal.SIGINT)
        assert trial.wait(20) == 130
    finally:
        trial.kill()
        trial.wait()
    assert ours() == set()
    assert list(tmp_path.iterdir()) == []


def test_flipped_bytes_are_in_the_journal_only(tmp_path: Path) -> None:
    assert flip_bytes(tmp_path, np.random.default_rng(0)) == 0
    journal, other = tmp_path / "000000001.journal", tmp_path / "000000001.journal.damaged"
    for path in (journal, other):
        path.write_bytes(bytes(10_000))
    flipped = flip_bytes(tmp_path, np.random.default_rng(0))
    assert sum(map(bool, journal.read_bytes())) == flipped > 0
    assert not any(other.read_bytes())


# The counting can fail ----------------------------------------------------------------------

EPISODE_ROWS = 10
PRODUCED = {"robot1": 60, "robot2": 60}
ALL_THERE = RowCounts(120, stored=120, spooled=0, lost=0, duplicated=0, disordered=0, foreign=0)


def write(run: Path, robot: str, boot: str, episode: int, indices: range, cursor: int) -> Path:
    """An episode with rows of these indices; in its boot they follow on those of the episode before."""
    rows = [row_of(index, int(robot[-1]) - 1, 0) for index in indices]
    columns = {
        name: np.stack([np.asarray(row[name], spec.metadata["dtype"]) for row in rows])
        for name, spec in Transitions.__dataclass_fields__.items()
    }
    seq: Seqs = np.arange(episode * EPISODE_ROWS, (episode + 1) * EPISODE_ROWS)
    cursors = cursor + np.arange(EPISODE_ROWS)
    info = EpisodeInfo(
        run_id="run1",
        robot_id=robot,
        boot_id=boot,
        episode=episode,
        rows=EPISODE_ROWS,
        first_seq=int(seq[0]),
        last_seq=int(seq[-1]),
        first_cursor=int(cursors[0]),
        last_cursor=int(cursors[-1]),
        received_ns=0,
        spec_hash=SPEC.hash,
        policy_version=0,
        evaluation=False,
        end="time_limit",
        success=False,
        metrics={},
        complete=True,
    )
    transitions = Transitions(**columns)
    return write_episode(run, Episode(info=info, spec=SPEC, transitions=transitions, seq=seq, cursor=cursors))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two robots; the first started twice, 30 rows each, the second once."""
    for number, (robot, boots) in enumerate({"robot1": ["b", "a"], "robot2": ["c"]}.items()):
        for index in range(0, 60, EPISODE_ROWS):
            boot, episode = divmod(index // EPISODE_ROWS, 6 // len(boots))
            rows = range(index, index + EPISODE_ROWS)
            write(tmp_path, robot, boots[boot], episode, rows, cursor=2 * index + number * EPISODE_ROWS)
    assert count_rows(tmp_path, PRODUCED) == ALL_THERE
    return tmp_path


def rewrite(path: Path, change: Callable[[Transitions], Transitions]) -> None:
    episode = read_episode(path)
    run = path.parents[2]
    write_episode(run, replace(episode, transitions=change(episode.transitions)))


def test_a_removed_file_is_lost(run: Path) -> None:
    (run / "episodes/robot1/b-000001.h5").unlink()
    assert count_rows(run, PRODUCED) == replace(ALL_THERE, stored=110, lost=10)


def test_a_damaged_file_is_lost(run: Path) -> None:
    path = run / "episodes/robot1/b-000001.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last dataset
    path.write_bytes(content)
    assert count_rows(run, PRODUCED) == replace(ALL_THERE, stored=110, lost=10)


def test_the_last_rows_of_a_robot_are_missed(run: Path) -> None:
    (run / "episodes/robot2/c-000005.h5").unlink()
    assert count_rows(run, PRODUCED) == replace(ALL_THERE, stored=110, lost=10)


def test_rows_under_other_numbers_are_doubled(run: Path) -> None:
    write(run, "robot1", "a", 3, range(50, 60), cursor=200)
    assert count_rows(run, PRODUCED).duplicated == 10


def test_swapped_rows_are_out_of_order(run: Path) -> None:
    def swap(rows: Transitions) -> Transitions:
        order = [0, 1, 2, 4, 3, *range(5, EPISODE_ROWS)]
        return Transitions.from_packed(rows.packed()[order])

    rewrite(run / "episodes/robot2/c-000002.h5", swap)
    assert count_rows(run, PRODUCED) == replace(ALL_THERE, disordered=1)


def test_rows_of_another_robot_are_foreign(run: Path) -> None:
    def other_robot(rows: Transitions) -> Transitions:
        packed = rows.packed().copy()
        packed["observation"][:4, 2] = 1
        return Transitions.from_packed(packed)

    rewrite(run / "episodes/robot1/b-000000.h5", other_robot)
    assert count_rows(run, PRODUCED) == replace(ALL_THERE, foreign=4)


def test_rows_that_nobody_produced_are_foreign(run: Path) -> None:
    write(run, "robot1", "a", 3, range(60, 70), cursor=200)
    counts = count_rows(run, PRODUCED)
    assert (counts.foreign, counts.lost, counts.ok) == (10, 0, False)


def test_rows_say_which_they_are() -> None:
    indices = [0, 1, 2**20 - 1, 2**20, 2**24 + 1, 10**9 + 7]
    observation = np.stack([row_of(index, 3, 0)["observation"] for index in indices])
    assert row_index(observation).tolist() == indices
