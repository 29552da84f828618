"""Episode files written by a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_catalog import EpisodeCatalog
from replay_server.episode_store import Episode, read_episode
from replay_server.sealer import Sealer


@pytest.fixture
def episode(make_transitions, make_spec) -> Callable[[int], Episode]:
    def make(index: int) -> Episode:
        builder = EpisodeBuilder(
            run_id="run1", robot_id="arm1", boot_id="b0", episode=index, spec=make_spec()
        )
        builder.extend(make_transitions(5, 10), np.arange(10, 15), np.arange(20, 25))
        return builder.seal(end="success", success=True, metrics={"return": 1.5}, received_ns=7)

    return make


@pytest.fixture
def sealer() -> Iterator[Sealer]:
    made = Sealer()
    yield made
    made.close()


def test_what_is_written_is_read_back_and_in_the_catalog(sealer, episode, tmp_path) -> None:
    path = sealer.write(tmp_path, episode(3))
    read = read_episode(path)
    assert read.info == episode(3).info
    np.testing.assert_array_equal(read.transitions.packed(), episode(3).transitions.packed())
    assert read.cursor.tolist() == [20, 21, 22, 23, 24]
    assert EpisodeCatalog(tmp_path).info(path) == read.info


def test_a_folder_is_meant_from_where_the_server_runs(sealer, episode, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sealer.write(Path("runs/a"), episode(0))
    assert (tmp_path / "runs/a/episodes/arm1/b0-000000.h5").is_file()


def test_a_disk_that_refuses_is_an_error_and_the_next_try_works(sealer, episode, tmp_path) -> None:
    (tmp_path / "episodes").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        sealer.write(tmp_path, episode(0))
    (tmp_path / "episodes").unlink()
    assert sealer.write(tmp_path, episode(0)).is_file()


def test_a_child_that_died_is_started_again(sealer, episode, tmp_path) -> None:
    sealer.write(tmp_path, episode(0))
    os.kill(sealer._child.pid, signal.SIGKILL)
    with pytest.raises(OSError, match="died"):
        while True:  # until the kill has arrived
            sealer.write(tmp_path, episode(1))
    assert sealer.write(tmp_path, episode(2)).is_file()


def test_the_child_ends_with_its_server_and_not_with_ctrl_c(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    code = (
        "import sys\n"
        "from replay_server.sealer import Sealer\n"
        "print(Sealer()._start().pid, flush=True)\n"
        "sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(server.stdout.readline())
    status = Path(f"/proc/{child}/status")
    ignored = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1)

    def ignores() -> bool:
        (mask,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigIgn"))
        return int(mask, 16) & ignored == ignored

    wait_until(ignores)
    server.kill()
    server.communicate()
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text())
