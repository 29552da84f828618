"""Old episode files in place: whole, the same rows, or as they were."""

from __future__ import annotations

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

import replay_server.upgrade
from fleet.config_file import load_fleet
from fleet.messages import COLUMNS
from replay_server.episode_catalog import EpisodeCatalog
from replay_server.episode_file import EpisodeInfo, read_episode
from replay_server.episode_store import EpisodeStore
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.upgrade import upgrade
from replay_server.verify import verify_run


@pytest.fixture
def write(tmp_path, make_spec, make_transitions):
    """`write("a")`: a folder with four files of schema 1 and one of today."""

    def write(name, config=None):
        with LogWriter(tmp_path / name, make_spec(), "", config, as_lived=True) as writer:
            for number in range(5):
                facts = EpisodeInfo(
                    run_id="", robot_id="robot1", boot_id="b0", episode=number, rows=0, first_seq=0,
                    last_seq=0, first_cursor=0, last_cursor=0, received_ns=number, spec_hash="",
                    policy_version=0, evaluation=True, end="success", success=True, complete=True,
                    metrics={"return": 0.1, "odd": float("nan")},
                )  # fmt: skip
                writer.add(facts, make_transitions(6 + number, 100 * number))
        for path in files_of(tmp_path / name)[:4]:
            with h5py.File(path, "r+") as file:
                file.attrs["schema_version"] = 1
                del file.attrs["task"], file.attrs["origin"]
        (tmp_path / name / "episodes" / "catalog").unlink()
        return tmp_path / name

    return write


def files_of(folder):
    return sorted(folder.glob("episodes/robot1/*.h5"))


def version(path):
    with h5py.File(path, "r") as file:
        return int(file.attrs["schema_version"])


def test_old_files_are_new_ones_with_the_same_rows_and_the_task_of_their_run(write):
    folder = write("a", load_fleet("fleets/sim2.yaml"))
    files_of(folder)[0].chmod(0o640)
    before = [read_episode(path) for path in files_of(folder)]
    seen = []
    result = upgrade(open_logs([folder]), lambda done, total: seen.append((done, total)))
    assert (result.upgraded, result.current, result.failed) == (files_of(folder)[:4], 1, {})
    assert seen[-1] == (4, 4)
    assert [version(path) for path in files_of(folder)] == [2] * 5
    for number, (path, old) in enumerate(zip(files_of(folder), before, strict=True)):
        new = read_episode(path)
        for name in COLUMNS:
            assert getattr(new.transitions, name).tobytes() == getattr(old.transitions, name).tobytes()
        np.testing.assert_array_equal(new.seq, old.seq)
        np.testing.assert_array_equal(new.cursor, old.cursor)
        assert new.spec == old.spec
        assert new.info.task == ("reach" if number < 4 else "")
        assert (new.info.episode, new.info.metrics["return"], new.info.end) == (number, 0.1, "success")
        assert EpisodeCatalog(folder).info(path).task == new.info.task
    assert files_of(folder)[0].stat().st_mode & 0o777 == 0o640
    assert verify_run(folder).ok
    assert not list(folder.rglob(".upgrade"))
    again = upgrade(open_logs([folder]))
    assert (again.upgraded, again.current) == ([], 5)


def test_without_a_config_the_task_stays_unknown_and_single_files_are_upgraded_where_they_lie(
    write, tmp_path
):
    file = files_of(write("a"))[0]
    loose = tmp_path / "any name.h5"
    loose.write_bytes(file.read_bytes())
    assert upgrade(open_logs([loose, file])).upgraded == [loose, file]
    assert (version(loose), read_episode(loose).info.task) == (2, "")
    assert version(files_of(tmp_path / "a")[1]) == 1


def test_nothing_is_changed_while_a_server_holds_the_folder(write):
    folder, other = write("a"), write("b")
    before = [path.read_bytes() for path in files_of(folder) + files_of(other)]
    store = EpisodeStore(folder)
    try:
        with pytest.raises(LogsError, match=r"a is in use by a replay server: stop it first"):
            upgrade(open_logs([other, folder]))
    finally:
        store.close()
    assert [path.read_bytes() for path in files_of(folder) + files_of(other)] == before
    assert len(upgrade(open_logs([other, folder])).upgraded) == 8
    EpisodeStore(folder).close()  # and a server may have it again


def test_files_that_cannot_be_read_keep_nobody_from_the_others(write):
    folder = write("a")
    files = files_of(folder)
    files[0].write_bytes(files[0].read_bytes()[:2000])
    content = bytearray(files[1].read_bytes())  # its facts stay readable, a row does not
    content[content.find(read_episode(files[1]).transitions.reward.tobytes()) + 1] ^= 255
    files[1].write_bytes(content)
    result = upgrade(open_logs([folder]))
    assert result.upgraded == files[2:4]
    assert set(result.failed) == set(files[:2])
    assert "crc32" in result.failed[files[1]]
    assert files[1].read_bytes() == bytes(content)


@pytest.mark.parametrize("fault", ["rows", "disk"])
def test_the_old_file_stays_if_the_new_one_is_not_what_it_should_be(write, monkeypatch, fault):
    folder = write("a")
    before = [path.read_bytes() for path in files_of(folder)]
    honest = replay_server.upgrade.write_episode

    def failing(run_dir, episode):
        if episode.info.episode == 1 and fault == "disk":
            raise OSError("No space left on device")
        if episode.info.episode == 1:
            episode = replace(episode, seq=episode.seq + 1)
        return honest(run_dir, episode)

    monkeypatch.setattr(replay_server.upgrade, "write_episode", failing)
    if fault == "disk":
        with pytest.raises(OSError, match="No space left"):
            upgrade(open_logs([folder]))
        assert [version(path) for path in files_of(folder)] == [2, 1, 1, 1, 2]
    else:
        result = upgrade(open_logs([folder]))
        assert "not what was read" in result.failed[files_of(folder)[1]]
        assert [version(path) for path in files_of(folder)] == [2, 1, 2, 2, 2]
    assert files_of(folder)[1].read_bytes() == before[1]
    assert not list(folder.rglob(".upgrade"))
    assert verify_run(folder).ok


def test_what_a_killed_upgrade_left_is_no_obstacle(write):
    folder = write("a")
    left = folder / "episodes" / "robot1" / ".upgrade" / "episodes" / "robot1"
    left.mkdir(parents=True)
    (left / ".b0-000000.h5.1.tmp").write_bytes(os.urandom(100))
    assert open_logs([folder]).damaged == {}
    assert len(upgrade(open_logs([folder])).upgraded) == 4
    assert not left.exists()
