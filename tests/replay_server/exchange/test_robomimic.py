"""Exports that robomimic's own classes open, and imports of its files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fleet.spaces import Space, SpaceSpec
from replay_server.exchange.importing import import_datasets
from replay_server.exchange.robomimic import export_robomimic, observation_keys
from replay_server.exchange.robomimic_source import open_robomimic
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.selection import Selection

KEYS = {"joint_position": [0, 1], "joint_velocity": [2, 4], "tool": [3], "observation": [5]}


def write_foreign(path, demos=3, obs=None, actions=None, leave_out=(), **attributes):
    """As robomimic's own scripts write it: float64, dones at the end of each demonstration."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 4 * demos
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 10} | attributes}
        )
        for i in range(demos):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = 4
            columns = {
                "actions": np.full((4, 2), 0.25 * i) if actions is None else actions,
                "rewards": np.array([0.0, 0.0, 0.0, 1.0]),
                "dones": np.array([0, 0, 0, i % 2]),
                "states": np.zeros((4, 9)),
            }
            for name, column in columns.items():
                if name not in leave_out:
                    demo[name] = column
            for side, shift in (("obs", 0), ("next_obs", 1)):
                if side in leave_out:
                    continue
                group = demo.create_group(side)
                group["robot0_eef_pos"] = np.arange(12.0).reshape(4, 3) + 3 * shift + 100 * i
                group["camera"] = np.zeros((4, 8, 8, 3), np.uint8)
                group["object"] = np.full((4, 1), -2.0)
    return path


def test_keys_are_what_robomimic_selects(sample):
    assert observation_keys(sample.spec) == KEYS
    odd = Space(("../x", "joint_1", "a b/c"), ("1",) * 3, (0.0,) * 3, (1.0,) * 3)
    assert observation_keys(SpaceSpec(odd, sample.spec.action)) == {"observation": [0, 1, 2]}


def test_robomimic_reads_every_number_and_its_bc_learns_from_them(run, tmp_path, read_with):
    logs = open_logs([run])
    exported = export_robomimic(logs, tmp_path / "a.hdf5")
    assert (exported.episodes, exported.rows) == (3, 20)
    found = read_with("robomimic", tmp_path / "a.hdf5", *KEYS)
    rows = [transitions for _, transitions in logs.read()]
    for theirs, ours in [
        ("actions", "action"), ("rewards", "reward"), ("dones", "terminated"), ("truncated", "truncated"),
        ("policy_action", "policy_action"),
    ]:  # fmt: skip
        expected = np.concatenate([getattr(part, ours) for part in rows])
        np.testing.assert_array_equal(found[theirs], expected)
    for side, ours in (("obs", "observation"), ("next_obs", "next_observation")):
        expected = np.concatenate([getattr(part, ours) for part in rows])
        for key, dimensions in KEYS.items():
            np.testing.assert_array_equal(found[f"{side}/{key}"], expected[:, dimensions])
    assert found["mask/success"].tolist() == ["demo_0", "demo_2"]
    assert sorted([*found["mask/train"], *found["mask/valid"]]) == ["demo_0", "demo_1", "demo_2"]
    assert len(found["mask/valid"]) == 1
    assert found["env_name"] == "reach"
    assert found["bc_losses"][-1] < 0.7 * found["bc_losses"][0]
    assert exported.hint.endswith('["joint_position", "joint_velocity", "tool", "observation"]')


def test_what_we_exported_comes_back_bit_for_bit(run, tmp_path, sample):
    export_robomimic(open_logs([run]), tmp_path / "a.hdf5")
    imported = import_datasets([open_robomimic(tmp_path / "a.hdf5")], tmp_path / "back")
    assert (imported.episodes, imported.rows, imported.left_out) == (3, 20, {})
    sample.assert_same(run, tmp_path / "back", f"imported from {tmp_path / 'a.hdf5'}")


def test_parts_of_a_run_come_back_together_and_each_episode_once(tmp_path, sample):
    with LogWriter(tmp_path / "run", sample.spec, "") as writer:
        for episode in range(5):
            robot = f"robot{2 - episode % 2}"  # the first by name is not the first to arrive
            writer.add(sample.info(episode, robot_id=robot), sample.rows(3, episode))
    parts = {"odd": ["success=no"], "even": ["success=yes"], "first": ["return=0..1.5"]}
    for name, where in parts.items():
        export_robomimic(open_logs([tmp_path / "run"], Selection.parse(where)), tmp_path / f"{name}.hdf5")
    sources = [open_robomimic(tmp_path / f"{name}.hdf5") for name in parts]
    imported = import_datasets(sources, tmp_path / "back")
    before, after = open_logs([tmp_path / "run"]), open_logs([tmp_path / "back"])
    places = [(summary.info.episode, summary.info.first_cursor) for summary in after.episodes]
    assert places == [(i, 3 * i) for i in range(5)]
    for (_, old), (_, new) in zip(before.read(), after.read(), strict=True):
        np.testing.assert_array_equal(new.observation, old.observation)
    assert imported.left_out == {
        f"{tmp_path / 'first.hdf5'}: demo_{i}": f"episode {i} of robot{2 - i} boot b0 is there already"
        for i in (0, 1)
    }


def test_a_clock_that_was_set_back_does_not_turn_the_episodes_of_a_boot_round(tmp_path, sample):
    with LogWriter(tmp_path / "run", sample.spec, "") as writer:
        for episode, received_ns in enumerate([500, 400]):
            writer.add(sample.info(episode, received_ns=received_ns), sample.rows(3, episode))
    export_robomimic(open_logs([tmp_path / "run"]), tmp_path / "a.hdf5")
    imported = import_datasets([open_robomimic(tmp_path / "a.hdf5")], tmp_path / "back")
    assert (imported.episodes, imported.left_out) == (2, {})


def test_the_same_seed_chooses_the_same_validation_episodes(run, tmp_path):
    def valid(name, seed):
        export_robomimic(open_logs([run]), tmp_path / name, seed=seed)
        with h5py.File(tmp_path / name) as file:
            return file["mask/valid"][()].tolist()

    assert valid("a.hdf5", 1) == valid("b.hdf5", 1)
    assert {tuple(valid(f"{seed}.hdf5", seed)) for seed in range(2, 9)} > {tuple(valid("c.hdf5", 2))}


def test_a_damaged_episode_is_left_out_of_the_export_and_named(run, tmp_path):
    (file,) = (run / "episodes" / "robot2").glob("*.h5")
    content = bytearray(file.read_bytes())
    content[content.find(open_logs([file]).transitions(open_logs([file]).episodes[0]).reward.tobytes())] ^= (
        255
    )
    file.write_bytes(content)
    logs = open_logs([run])
    known = len(logs.damaged)
    assert export_robomimic(logs, tmp_path / "a.hdf5").rows == 8
    assert list(logs.damaged) == [file]
    assert known == 1 or "checksum" in logs.damaged[file]


def test_nothing_is_half_written(run, tmp_path, monkeypatch):
    out = tmp_path / "a.hdf5"
    out.write_text("precious")
    with pytest.raises(LogsError, match=r"a\.hdf5 exists already"):
        export_robomimic(open_logs([run]), out)
    assert out.read_text() == "precious"
    out.unlink()

    def full(group, name, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("replay_server.exchange.robomimic.write_array", full)
    with pytest.raises(OSError, match="No space left"):
        export_robomimic(open_logs([run]), out)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_an_episode_that_changed_is_left_out_of_the_import_and_keeps_nobody_from_the_others(run, tmp_path):
    export_robomimic(open_logs([run]), tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["data/demo_1/rewards"][0] += 1
        file["data/demo_2"].attrs["parallel_naf"] = "{}"
    imported = import_datasets([open_robomimic(tmp_path / "a.hdf5")], tmp_path / "back")
    assert imported.episodes == 1
    changed, malformed = (imported.left_out[f"{tmp_path / 'a.hdf5'}: demo_{i}"] for i in (1, 2))
    assert "do not have the checksum that was exported" in changed
    assert malformed == "its attribute parallel_naf.info: Field required"


def test_ids_from_a_file_cannot_leave_the_run_folder(run, tmp_path):
    export_robomimic(open_logs([run]), tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        for demo in file["data"].values():
            facts = json.loads(demo.attrs["parallel_naf"])
            facts["info"]["robot_id"] = "../../evil"
            demo.attrs["parallel_naf"] = json.dumps(facts)
    with pytest.raises(LogsError, match=r"no episode can be imported: .*'\.\./\.\./evil'.*and 2 more"):
        import_datasets([open_robomimic(tmp_path / "a.hdf5")], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_numbers_that_no_file_of_ours_can_hold_are_refused(run, tmp_path):
    export_robomimic(open_logs([run]), tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        facts = json.loads(file["data/demo_0"].attrs["parallel_naf"])
        facts["info"]["received_ns"] = 10**30
        file["data/demo_0"].attrs["parallel_naf"] = json.dumps(facts)
    imported = import_datasets([open_robomimic(tmp_path / "a.hdf5")], tmp_path / "back")
    assert (imported.episodes, len(imported.left_out)) == (2, 1)


def test_a_foreign_file_comes_in_with_names_rate_and_ids_of_its_own(tmp_path):
    source = open_robomimic(write_foreign(tmp_path / "lift.hdf5"))
    assert source.skipped == ["camera (8, 8, 3)"]
    imported = import_datasets([source], tmp_path / "run")
    assert imported.left_out == {}
    assert imported.spec.observation == Space(
        ("object", "robot0_eef_pos/0", "robot0_eef_pos/1", "robot0_eef_pos/2"),
        ("unknown",) * 4,
        (-3.0, 0.0, 1.0, 2.0),  # a constant gets room on both sides
        (-1.0, 212.0, 213.0, 214.0),
    )
    assert imported.spec.action.names == ("action/0", "action/1")
    logs = open_logs([tmp_path / "run"])
    infos = [summary.info for summary in logs.episodes]
    assert [info.end for info in infos] == ["time_limit", "success", "time_limit"]
    assert [info.metrics for info in infos] == [{"return": 1.0}] * 3
    assert {(info.robot_id, info.task) for info in infos} == {("imported", "Lift")}
    rows = logs.transitions(logs.episodes[1])
    np.testing.assert_array_equal(rows.observation[2], [-2, 106, 107, 108])
    np.testing.assert_array_equal(rows.next_observation[2], [-2, 109, 110, 111])
    np.testing.assert_array_equal(rows.action, np.full((4, 2), 0.25))
    assert rows.terminated.tolist() == [False, False, False, True]
    assert not rows.truncated.any()
    assert rows.stamp_ns.tolist() == [0, 10**8, 2 * 10**8, 3 * 10**8]
    assert logs.transitions(logs.episodes[0]).truncated.tolist() == [False, False, False, True]

    again = import_datasets([open_robomimic(tmp_path / "lift.hdf5")], tmp_path / "again")
    assert again.episodes == 3
    boots = {summary.info.boot_id for summary in open_logs([tmp_path / "again"]).episodes}
    assert boots == {info.boot_id for info in infos}
    other = import_datasets([open_robomimic(write_foreign(tmp_path / "x.hdf5", demos=2))], tmp_path / "other")
    assert {summary.info.boot_id for summary in open_logs([other.path]).episodes}.isdisjoint(boots)


def test_observations_of_a_foreign_file_are_chosen_in_order(tmp_path):
    path = write_foreign(tmp_path / "lift.hdf5")
    source = open_robomimic(path, ["robot0_eef_pos", "object"])
    assert source.observation.names[-1] == "object"
    with pytest.raises(LogsError, match="no observation 'eef'; there are camera, object, robot0_eef_pos"):
        open_robomimic(path, ["eef"])
    with pytest.raises(LogsError, match=r"'camera' has shape .8, 8, 3., not a vector"):
        open_robomimic(path, ["camera"])


def test_a_given_spec_names_the_numbers_of_a_foreign_file(tmp_path, sample):
    four = Space(("a", "b", "c", "d"), ("m",) * 4, (-9.0,) * 4, (9.0,) * 4)
    spec = SpaceSpec(four, sample.spec.action)
    path = write_foreign(tmp_path / "lift.hdf5")
    with pytest.raises(
        LogsError, match=r"say with --obs.* in which order object, robot0_eef_pos make .* a, b, c, d"
    ):
        import_datasets([open_robomimic(path)], tmp_path / "run", spec=spec)
    chosen = open_robomimic(path, ["object", "robot0_eef_pos"])
    assert import_datasets([chosen], tmp_path / "run", spec=spec).spec == spec
    with pytest.raises(LogsError, match=r"observations have 4 numbers .* 6 are needed"):
        import_datasets([chosen], tmp_path / "other", spec=sample.spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leave_out": ("rewards",)}, "it has no rewards: robomimic itself would silently read zeros"),
        ({"leave_out": ("dones",)}, "it has no dones: robomimic itself would silently read zeros"),
        ({"leave_out": ("next_obs",)}, "it has no next_obs"),
        ({"actions": np.full((4, 2), 1.5)}, r"action 0 of row 0 is 1.5, outside \[-1, 1\]: say with"),
        ({"actions": np.full((4, 2), np.nan)}, "action of row 0 is not finite"),
        ({"actions": np.zeros((3, 2))}, r"action has shape \(3, 2\) where \(4, 2\) is needed"),
    ],
)  # fmt: skip
def test_a_foreign_file_that_is_no_experience_is_refused(tmp_path, changes, message):
    path = write_foreign(tmp_path / "lift.hdf5", **changes)
    with pytest.raises(
        LogsError, match=rf"no episode can be imported: .*lift.hdf5: demo_0: {message}.*and 2 more"
    ):
        import_datasets([open_robomimic(path)], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_bad_episode_of_a_foreign_file_is_left_out_and_named(tmp_path):
    path = write_foreign(tmp_path / "lift.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_1/obs/object"][2] = np.inf
    imported = import_datasets([open_robomimic(path)], tmp_path / "run")
    assert (imported.episodes, imported.left_out) == (
        2,
        {f"{path}: demo_1": "observation of row 2 is not finite"},
    )
    assert imported.spec.observation.high[0] == -1.0  # infinity is no bound


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("next_obs/object", np.zeros((4, 3)), "next_observation has shape"),
        ("obs/object", np.zeros((4, 3)), "observation has shape"),
        ("rewards", 1.0, "it has no rows"),
        ("actions", np.full((4, 2), -128, "i1"), "action 0 of row 0 is -128, outside"),
    ],
)
def test_an_episode_of_another_shape_keeps_nobody_from_the_others(tmp_path, name, value, message):
    path = write_foreign(tmp_path / "lift.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1"][name]
        file["data/demo_1"][name] = value
    imported = import_datasets([open_robomimic(path)], tmp_path / "run")
    assert imported.episodes == 2 and message in imported.left_out[f"{path}: demo_1"]


def test_a_size_that_no_space_has_is_refused_before_it_is_named(tmp_path):
    path = write_foreign(tmp_path / "lift.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0"].create_dataset("actions", shape=(4, 5000), dtype="f4", chunks=True)
    with pytest.raises(LogsError, match="action has 5000 numbers a step, at most 4096"):
        open_robomimic(path)


def test_other_files_are_told_apart(run, tmp_path):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(LogsError, match=message):
            open_robomimic(path)

    refused(tmp_path / "none.hdf5", "no such file")
    (tmp_path / "text.hdf5").write_text("hello")
    refused(tmp_path / "text.hdf5", "truncated, or not an HDF5 file")
    refused(tmp_path, "is a folder, where one HDF5 file is needed")
    whole = write_foreign(tmp_path / "lift.hdf5")
    (tmp_path / "cut.hdf5").write_bytes(whole.read_bytes()[:5000])
    refused(tmp_path / "cut.hdf5", "truncated, or not an HDF5 file")
    refused(run / "episodes" / "robot1" / "b0-000000.h5", "an episode of our own logs, which need no import")
    with h5py.File(tmp_path / "minari.hdf5", "w") as file:
        file.create_group("episode_0")
    refused(tmp_path / "minari.hdf5", "it looks like Minari's: try --format minari")
    refused(write_foreign(tmp_path / "bare.hdf5", leave_out=("obs",)), "demo_0 has no observations")
    refused(write_foreign(tmp_path / "still.hdf5", leave_out=("actions",)), "demo_0 has no actions")
    export_robomimic(open_logs([run]), tmp_path / "newer.hdf5")
    with h5py.File(tmp_path / "newer.hdf5", "r+") as file:
        facts = json.loads(file["parallel_naf"][()])
        del file["parallel_naf"]
        file["parallel_naf"] = json.dumps(facts | {"format": 2})
    refused(tmp_path / "newer.hdf5", "format 2, of a newer parallel-naf")
