import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from fleet.messages import COLUMNS, Transitions
from fleet.records import pack_record, read_records
from fleet.spaces import Space, SpaceSpec
from replay_server.episode_catalog import EpisodeCatalog
from replay_server.episode_file import EpisodeFileError, EpisodeInfo, read_episode, read_facts, write_episode
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.selection import Selection
from replay_server.verify import verify_run

SPEC = SpaceSpec(
    Space(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0)), Space(("u",), ("1",), (-1.0,), (1.0,))
)
OTHER = SpaceSpec(Space(("a",), ("rad",), (-1.0,), (1.0,)), Space(("u",), ("1",), (-1.0,), (1.0,)))


def rows(count, first=0.0, nx=2):
    values = first + np.arange(count, dtype=np.float32)
    state = np.repeat(values[:, None], nx, axis=1)
    flags = np.zeros(count, bool)
    return Transitions(
        observation=state,
        action=values[:, None] / 1000,
        policy_action=values[:, None] / 500,
        reward=-values,
        next_observation=state + 1,
        terminated=flags,
        truncated=np.arange(count) == count - 1,
        intervened=flags,
        clipped=flags,
        policy_version=np.full(count, 7),
        stamp_ns=np.arange(count) * 50_000_000,
    )


def facts(episode, robot="robot1", boot="b0", **changes):
    values = dict(
        run_id="", robot_id=robot, boot_id=boot, episode=episode, rows=0, first_seq=0, last_seq=0,
        first_cursor=0, last_cursor=0, received_ns=1000 + episode, spec_hash="", policy_version=0,
        evaluation=False, end="time_limit", success=episode % 2 == 0, metrics={"return": 1.0}, complete=True,
    )  # fmt: skip
    return EpisodeInfo(**(values | changes))


def write(folder, episodes, spec=SPEC, **changes):
    with LogWriter(folder, spec, "made by a test") as writer:
        for episode in episodes:
            nx = spec.observation.size
            writer.add(facts(episode, **changes), rows(5, 10.0 * episode, nx))
    return folder


def test_the_config_is_of_a_folder_with_chosen_episodes(tmp_path):
    folders = [write(tmp_path / robot, [0], robot=robot) for robot in ("robot1", "robot2")]
    for folder in folders:
        (folder / "config.yaml").write_text("")
    for robot, folder in zip(("robot1", "robot2"), folders, strict=True):
        logs = open_logs(folders, Selection.parse([f"robot={robot}"]))
        assert logs.config_file() == folder / "config.yaml"


def test_a_written_folder_is_whole_and_is_read_back_bit_for_bit(tmp_path):
    folder = write(tmp_path / "a", [0, 2, 5])
    check = verify_run(folder)
    assert (check.ok, check.rows, check.episodes, check.missing) == (True, 15, 3, 0)
    logs = open_logs([folder])
    assert [summary.info.episode for summary in logs.episodes] == [0, 2, 5]
    assert (logs.rows, logs.spec, logs.damaged) == (15, SPEC, {})
    for summary, transitions in logs.read():
        expected = rows(5, 10.0 * summary.info.episode)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(transitions, name), getattr(expected, name))
        assert summary.info.origin == "made by a test"
    assert json.loads((folder / "made.json").read_text())["episodes"] == 3


def test_what_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(LogsError, match="episode 0 of robot1 boot b0 comes after episode 1"):
        write(tmp_path / "a", [1, 0])
    assert not (tmp_path / "a").exists()
    write(tmp_path / "a", [0])
    with pytest.raises(LogsError, match="exists already"):
        write(tmp_path / "a", [0])
    assert open_logs([tmp_path / "a"]).rows == 5


def test_folders_of_runs_and_single_files_are_logs_too(tmp_path):
    a, b = write(tmp_path / "a", [0]), write(tmp_path / "b", [1], robot="robot2")
    file = a / "episodes" / "robot1" / "b0-000000.h5"
    loose = tmp_path / "copied.h5"
    loose.write_bytes(file.read_bytes())
    assert [s.info.robot_id for s in open_logs([tmp_path]).episodes] == ["robot1", "robot2"]
    assert len(open_logs([file, a]).episodes) == 1  # the same file twice is one
    assert [s.path for s in open_logs([loose, b]).episodes] == [loose, b / "episodes/robot2/b0-000001.h5"]
    assert [t.rows for _, t in open_logs([loose]).read()] == [5]
    for path, text in [
        (tmp_path / "none", "no such file"),
        (a / "episodes" / "robot1", "neither a run folder"),
    ]:
        with pytest.raises(LogsError, match=text):
            open_logs([path])


def test_selections_choose_by_facts(tmp_path):
    folder = write(tmp_path / "a", [0, 1, 2])
    assert [s.info.episode for s in open_logs([folder], Selection.parse(["success=yes"])).episodes] == [0, 2]


def test_damaged_and_foreign_files_are_named_and_keep_nobody_from_the_others(tmp_path):
    folder = write(tmp_path / "a", [0, 1, 2])
    files = sorted((folder / "episodes" / "robot1").glob("*.h5"))
    files[0].write_bytes(files[0].read_bytes()[:3000])
    with h5py.File(folder / "episodes" / "robot1" / "foreign.h5", "w") as file:
        file["x"] = 1
    logs = open_logs([folder])
    assert [s.info.episode for s in logs.episodes] == [1, 2]
    assert {path.name for path in logs.damaged} == {"b0-000000.h5", "foreign.h5"}
    assert "some other program wrote it" in logs.damaged[folder / "episodes" / "robot1" / "foreign.h5"]

    content = bytearray(files[1].read_bytes())  # its facts stay readable, a row does not
    place = content.find(rows(5, 10.0).reward.tobytes())
    content[place] ^= 255
    files[1].write_bytes(content)
    logs = open_logs([folder])
    assert [s.info.episode for s, _ in logs.read()] == [2]
    assert "damaged" in logs.damaged[files[1]]


def test_a_catalog_that_is_gone_is_made_again_and_one_that_cannot_be_is_no_obstacle(tmp_path):
    folder = write(tmp_path / "a", [0, 1])
    catalog = folder / "episodes" / "catalog"
    catalog.unlink()
    seen = []
    assert open_logs([folder], on_progress=lambda done, total: seen.append((done, total))).rows == 10
    assert seen == [(1, 2), (2, 2)]
    assert catalog.is_file()
    seen.clear()
    assert open_logs([folder], on_progress=lambda done, total: seen.append((done, total))).rows == 10
    assert seen == []
    catalog.unlink()
    catalog.mkdir()
    assert open_logs([folder]).rows == 10


def test_episodes_of_two_specs_are_not_mixed(tmp_path):
    write(tmp_path / "a", [0])
    write(tmp_path / "b", [1], spec=OTHER)
    with pytest.raises(LogsError, match=r"observation has 2 dimensions here and 1 there.*--where"):
        open_logs([tmp_path]).spec  # noqa: B018


def test_files_of_schema_1_are_read_and_their_task_is_that_of_the_config(tmp_path):
    folder = write(tmp_path / "a", [0])
    (file,) = (folder / "episodes" / "robot1").glob("*.h5")
    with h5py.File(file, "r+") as old:
        old.attrs["schema_version"] = 1
        del old.attrs["task"], old.attrs["origin"]
    (folder / "episodes" / "catalog").unlink()
    assert read_episode(file).info.task == ""
    (summary,) = open_logs([folder]).episodes
    assert (summary.info.task, summary.info.origin) == ("", "")


def test_entries_of_another_version_of_the_catalog_are_read_from_their_files(tmp_path):
    folder = write(tmp_path / "a", [0, 1])
    catalog = folder / "episodes" / "catalog"
    first, second = (json.loads(bytes(r.payload)) for r in read_records(catalog.read_bytes())[0])
    first["info"]["colour"] = "red"
    entries = [first, {"file": second["file"], "facts": second["info"]}]
    catalog.write_bytes(b"".join(b"".join(pack_record(json.dumps(e).encode())) for e in entries))
    logs = open_logs([folder])
    assert [s.info.episode for s, _ in logs.read()] == [0, 1]
    assert logs.damaged == {}


def test_episodes_are_read_by_run_and_cursor(tmp_path):
    write(tmp_path / "b", [0, 1], received_ns=5)
    write(tmp_path / "a", [0, 1], received_ns=9)
    found = [(s.path.parts[-4], rows.cursor.tolist()) for s, rows in open_logs([tmp_path]).read_by_cursor()]
    assert found == [
        ("a", [0, 1, 2, 3, 4]),
        ("a", [5, 6, 7, 8, 9]),
        ("b", [0, 1, 2, 3, 4]),
        ("b", [5, 6, 7, 8, 9]),
    ]


def test_a_spec_is_taken_from_a_file_that_can_be_read(tmp_path):
    folder = write(tmp_path / "a", [0, 1])
    logs = open_logs([folder])
    first = logs.episodes[0].path
    first.write_bytes(b"gone")
    assert logs.spec == SPEC and list(logs.damaged) == [first]
    logs = open_logs([folder])
    logs.episodes[0].path.unlink()
    with pytest.raises(LogsError, match="no episode of these logs can be read"):
        logs.spec  # noqa: B018


def test_a_folder_of_several_names_counts_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "a", [0, 1])
    (tmp_path / "latest").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    file = folder.relative_to(tmp_path) / "episodes/robot1/b0-000000.h5"
    (tmp_path / "link.h5").symlink_to(file)
    for paths in (
        [tmp_path],
        [folder, folder.relative_to(tmp_path)],
        [folder / ".." / "latest", folder],
        [file, folder, tmp_path / "link.h5"],
    ):
        logs = open_logs(paths)
        assert (logs.rows, len(logs.folders)) == (10, 1)
    monkeypatch.chdir(folder / "episodes")
    assert open_logs([file.relative_to("a/episodes"), folder]).rows == 10


def test_a_file_that_is_replaced_after_its_folder_was_opened_is_left_out(tmp_path):
    folder = write(tmp_path / "a", [0, 1])
    logs = open_logs([folder])
    old = read_episode(logs.episodes[1].path)
    with LogWriter(tmp_path / "b", SPEC, "made by a test") as writer:
        writer.add(facts(0), rows(5))
        writer.add(facts(1), rows(8))
    (tmp_path / "b/episodes/robot1/b0-000001.h5").replace(logs.episodes[1].path)
    assert [summary.info.episode for summary, _ in logs.read()] == [0]
    assert "had 5 rows" in logs.damaged[logs.episodes[1].path]
    with pytest.raises(EpisodeFileError, match="has 8 now"):
        logs.episode(logs.episodes[1])
    assert old.info.rows == 5


def test_a_file_that_is_replaced_while_it_is_learned_is_not_taken_for_what_it_was(tmp_path, monkeypatch):
    folder = write(tmp_path / "a", [0])
    (folder / "episodes/catalog").unlink()
    [path] = folder.glob("episodes/robot1/*.h5")
    longer = read_episode(write(tmp_path / "b", [1]) / "episodes/robot1/b0-000001.h5")

    def replaced(file):
        found = read_facts(file)
        write_episode(folder, replace(longer, info=replace(longer.info, episode=0, metrics={"new": 1.0})))
        return found

    monkeypatch.setattr("replay_server.episode_catalog.read_facts", replaced)
    EpisodeCatalog(folder).learn([path], lambda error: None)
    assert EpisodeCatalog(folder).info(path) is None


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "out"
    with LogWriter(out, SPEC, "made by a test") as writer:
        writer.add(facts(0), rows(5))
        assert not out.exists()  # nor would anything be, were this process killed now
        with pytest.raises(LogsError, match="neither a run folder"):
            open_logs([tmp_path])
    assert sorted(tmp_path.iterdir()) == [out] and verify_run(out).ok
    with pytest.raises(KeyboardInterrupt), LogWriter(tmp_path / "other", SPEC, "") as writer:
        raise KeyboardInterrupt
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_folder_that_somebody_else_makes_meanwhile_stays(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(LogsError, match="exists already"), LogWriter(out, SPEC, "") as writer:
        writer.add(facts(0), rows(5))
        write(out, [0, 1, 2])
    assert open_logs([out]).rows == 15 and sorted(tmp_path.iterdir()) == [out]
