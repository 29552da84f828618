"""Exports that Minari itself opens, and imports of its datasets."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from replay_server.exchange.foreign_episodes import Foreign
from replay_server.exchange.importing import import_datasets
from replay_server.exchange.minari import contiguous, dataset_id, export_minari
from replay_server.exchange.minari_source import open_minari
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs

Box = gymnasium.spaces.Box

# Minari misses an author and the like when it writes a dataset.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def make_foreign(name, observation_space, action_space, observations, actions, infos=None):
    """A dataset of one episode, written by Minari."""
    count = len(actions)
    buffer = EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=np.arange(count, dtype=float).tolist(),
        terminations=[False] * count,
        truncations=[False] * (count - 1) + [True],
        infos=infos or {},
    )
    minari.create_dataset_from_buffers(
        name, [buffer], observation_space=observation_space, action_space=action_space
    )


def test_minari_reads_every_number(run, datasets):
    logs = open_logs([run])
    exported = export_minari(logs, datasets / "lab" / "reach-v0")
    assert (exported.episodes, exported.rows) == (3, 20)
    assert list(minari.list_local_datasets()) == ["lab/reach-v0"]
    dataset = minari.load_dataset("lab/reach-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 20)
    assert dataset.action_space == Box(-1.0, 1.0, (2,), np.float32)
    np.testing.assert_array_equal(dataset.observation_space.high, np.float32(logs.spec.observation.high))
    assert dataset.spec.namespace == "lab"
    for episode, (summary, rows) in zip(dataset.iterate_episodes(), logs.read(), strict=True):
        np.testing.assert_array_equal(episode.observations[:-1], rows.observation)
        np.testing.assert_array_equal(episode.observations[1:], rows.next_observation)
        np.testing.assert_array_equal(episode.actions, rows.action)
        np.testing.assert_array_equal(episode.rewards, rows.reward)
        np.testing.assert_array_equal(episode.terminations, rows.terminated)
        np.testing.assert_array_equal(episode.truncations, rows.truncated)
        for name in ("policy_action", "intervened", "clipped", "policy_version", "stamp_ns"):
            np.testing.assert_array_equal(episode.infos[name], getattr(rows, name))
        (facts,) = dataset.storage.get_episode_metadata([episode.id])
        assert (facts["total_steps"], facts["success"]) == (rows.rows, summary.info.success)
    assert len(dataset.sample_episodes(2)) == 2
    assert dataset.filter_episodes(lambda episode: bool(episode.terminations[-1])).total_episodes == 1


def test_what_we_exported_comes_back_bit_for_bit(run, tmp_path, sample):
    export_minari(open_logs([run]), tmp_path / "reach-v1")
    for number, path in enumerate([tmp_path / "reach-v1", tmp_path / "reach-v1" / "data"]):
        imported = import_datasets([open_minari(path)], tmp_path / f"back{number}")
        assert (imported.episodes, imported.rows, imported.left_out) == (3, 20, {})
        main = tmp_path / "reach-v1" / "data" / "main_data.hdf5"
        sample.assert_same(run, tmp_path / f"back{number}", f"imported from {main}")


def test_an_episode_with_holes_becomes_several_and_comes_back_as_one(tmp_path, datasets, sample):
    rows = sample.rows(9)
    rows.next_observation[3, 1] += 1  # as if rows after it had been cut out
    rows.next_observation[8, 0] = np.nan
    rows.truncated[8] = False  # sealed before its end
    with LogWriter(tmp_path / "run", sample.spec, "") as writer:
        writer.add(sample.info(0, complete=False, end=""), rows)
        writer.add(sample.info(1), sample.rows(2, 5))
    assert [part.rows for part in contiguous(rows)] == [4, 5]
    assert export_minari(open_logs([tmp_path / "run"]), datasets / "cut-v0").episodes == 2
    parts = list(minari.load_dataset("cut-v0").iterate_episodes())
    assert [len(part) for part in parts] == [4, 5, 2]
    np.testing.assert_array_equal(parts[0].observations[-1], rows.next_observation[3])
    np.testing.assert_array_equal(parts[1].observations[0], rows.observation[4])
    assert [part.truncations.tolist() for part in parts] == [
        [False] * 3 + [True],
        [False] * 4 + [True],
        [False, True],
    ]
    import_datasets([open_minari(datasets / "cut-v0")], tmp_path / "back")
    main = datasets / "cut-v0" / "data" / "main_data.hdf5"
    sample.assert_same(tmp_path / "run", tmp_path / "back", f"imported from {main}")


def test_an_episode_of_which_a_piece_is_missing_is_left_out(tmp_path, sample):
    rows = sample.rows(9)
    rows.next_observation[3] += 1
    with LogWriter(tmp_path / "run", sample.spec, "") as writer:
        writer.add(sample.info(0), rows)
        writer.add(sample.info(1), sample.rows(2, 5))
    export_minari(open_logs([tmp_path / "run"]), tmp_path / "cut-v0")
    main = tmp_path / "cut-v0" / "data" / "main_data.hdf5"
    with h5py.File(main, "r+") as file:
        del file["episode_1"]
    imported = import_datasets([open_minari(tmp_path / "cut-v0")], tmp_path / "back")
    assert imported.left_out == {f"{main}: episode_0": "it has 4 rows of 9: a piece is missing"}
    assert imported.rows == 2


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_survive(data, tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("any")
    count = data.draw(st.integers(1, 6))
    rows = sample.rows(count)
    floats = st.floats(width=32)  # with NaN, infinities and -0
    columns = {}
    for name in ("reward", "observation", "next_observation", "policy_action"):
        column = np.array(getattr(rows, name))
        values = data.draw(st.lists(floats, min_size=column.size, max_size=column.size))
        columns[name] = np.array(values, "<f4").reshape(column.shape)
    for name in ("terminated", "truncated"):
        columns[name] = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    with LogWriter(folder / "run", sample.spec, "") as writer:
        writer.add(sample.info(0), sample.rows(count, **columns))
    export_minari(open_logs([folder / "run"]), folder / "any-v0")
    import_datasets([open_minari(folder / "any-v0")], folder / "back")
    main = folder / "any-v0" / "data" / "main_data.hdf5"
    sample.assert_same(folder / "run", folder / "back", f"imported from {main}")


def test_the_id_follows_from_the_folder(tmp_path):
    root = tmp_path / "datasets"
    environment = {"MINARI_DATASETS_PATH": str(root)}
    assert dataset_id(root / "a" / "b" / "reach-v0", environment) == ("a/b/reach-v0", root)
    assert dataset_id(tmp_path / "lab" / "reach-v0", environment) == ("lab/reach-v0", tmp_path)
    assert dataset_id(tmp_path / "my.lab" / "reach-v0", {}) == ("reach-v0", tmp_path / "my.lab")
    for name in ("reach", "reach-v", "re ach-v0"):
        with pytest.raises(LogsError, match=r"NAMESPACE/NAME-vN"):
            dataset_id(tmp_path / name)


def test_a_foreign_dataset_is_flattened_named_and_scaled(tmp_path, datasets):
    space = gymnasium.spaces.Dict(
        {
            "goal": Box(-np.inf, np.inf, (2,), np.float64),
            "arm": gymnasium.spaces.Dict({"q": Box(-3.0, 3.0, (2, 1), np.float32)}),
            "words": gymnasium.spaces.Text(9),
        }
    )
    observations = {
        "goal": np.array([[5.0, 1], [5, 2], [5, 3]]),
        "arm": {"q": np.array([[[0.1], [0.2]], [[0.3], [0.4]], [[0.5], [0.6]]], np.float32)},
        "words": ["a", "b", "c"],
    }
    actions = np.array([[0.0, 2.0], [10.0, -2.0]], np.float32)
    bounds = Box(np.float32([0, -2]), np.float32([10, 2]))
    make_foreign("lab/fetch-v0", space, bounds, observations, actions, {"success": np.array([False, True])})
    source = open_minari(datasets / "lab" / "fetch-v0")
    assert source.skipped == ["words (a Text)"]
    imported = import_datasets([source], tmp_path / "run", foreign=Foreign(robot_id="arm1", rate_hz=50))
    spec = imported.spec
    assert spec.observation.names == ("arm/q/0", "arm/q/1", "goal/0", "goal/1")
    assert (spec.observation.low, spec.observation.high) == ((-3, -3, 4, 1), (3, 3, 6, 3))
    assert (spec.action.low, spec.action.high) == ((-1, -1), (1, 1))
    logs = open_logs([tmp_path / "run"])
    (summary,) = logs.episodes
    assert (summary.info.success, summary.info.end, summary.info.task) == (True, "success", "lab/fetch-v0")
    rows = logs.transitions(summary)
    np.testing.assert_array_equal(rows.action, [[-1, 1], [1, -1]])
    np.testing.assert_array_equal(rows.observation, np.float32([[0.1, 0.2, 5, 1], [0.3, 0.4, 5, 2]]))
    np.testing.assert_array_equal(rows.next_observation[-1], np.float32([0.5, 0.6, 5, 3]))
    assert rows.truncated.tolist() == [False, True]
    assert rows.stamp_ns.tolist() == [0, 20_000_000]
    only_goal = open_minari(datasets / "lab" / "fetch-v0", ["goal"])
    assert only_goal.observation.names == ("goal/0", "goal/1")


def test_spaces_that_are_no_vectors_are_refused(tmp_path, datasets):
    discrete, vector = gymnasium.spaces.Discrete(3), Box(-1, 1, (1,), np.float32)
    make_foreign("walk-v0", vector, discrete, np.zeros((3, 1), np.float32), np.array([0, 1]))
    with pytest.raises(LogsError, match=r"walk-v0: its action_space is a Discrete; only vectors"):
        open_minari(datasets / "walk-v0")
    make_foreign("grid-v0", discrete, vector, np.array([0, 1, 2]), np.zeros((2, 1), np.float32))
    with pytest.raises(LogsError, match=r"grid-v0: its observation_space is a Discrete"):
        open_minari(datasets / "grid-v0")


def test_an_action_outside_the_declared_bounds_leaves_its_episode_out(tmp_path, datasets):
    vector = Box(-1, 1, (1,), np.float32)
    make_foreign("far-v0", vector, vector, np.zeros((3, 1), np.float32), np.float32([[0.5], [-3]]))
    source = open_minari(datasets / "far-v0")
    with pytest.raises(
        LogsError, match=r"action 0 of row 1 is -3, outside \[-1, 1\]: say with --action-range"
    ):
        import_datasets([source], tmp_path / "run")
    import_datasets([source], tmp_path / "run", foreign=Foreign(action_range=(-5.0, 5.0)))
    logs = open_logs([tmp_path / "run"])
    np.testing.assert_allclose(logs.transitions(logs.episodes[0]).action, [[0.1], [-0.6]], rtol=1e-6)


def test_ends_that_are_time_limits_can_be_told(tmp_path, datasets):
    vector = Box(-1, 1, (1,), np.float32)
    make_foreign("a-v0", vector, vector, np.zeros((3, 1), np.float32), np.zeros((2, 1), np.float32))
    main = datasets / "a-v0" / "data" / "main_data.hdf5"
    with h5py.File(main, "r+") as file:
        file["episode_0/terminations"][1] = True
    import_datasets([open_minari(datasets / "a-v0")], tmp_path / "a")
    import_datasets(
        [open_minari(datasets / "a-v0")], tmp_path / "b", foreign=Foreign(done_is_time_limit=True)
    )
    flags = []
    for name in "ab":
        logs = open_logs([tmp_path / name])
        rows = logs.transitions(logs.episodes[0])
        flags.append((rows.terminated.tolist(), rows.truncated.tolist(), logs.episodes[0].info.end))
    assert flags == [
        ([False, True], [False, True], "failure"),
        ([False, False], [False, True], "time_limit"),
    ]


def test_other_folders_are_told_apart(run, tmp_path):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(LogsError, match=message):
            open_minari(path)

    refused(tmp_path / "none", "not a Minari dataset: it has no data/metadata.json")
    refused(run, "not a Minari dataset")
    export_minari(open_logs([run]), tmp_path / "a-v0")
    main, metadata = (tmp_path / "a-v0" / "data" / name for name in ("main_data.hdf5", "metadata.json"))
    whole = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(whole | {"data_format": "arrow"}))
    refused(tmp_path / "a-v0", "data_format is 'arrow'; only hdf5")
    metadata.write_text("{")
    refused(tmp_path / "a-v0", r"metadata\.json: cannot be read")
    foreign = {name: value for name, value in whole.items() if name != "parallel_naf"}
    metadata.write_text(json.dumps({k: v for k, v in foreign.items() if k != "action_space"}))
    refused(tmp_path / "a-v0", "its metadata has no action_space")
    metadata.write_text(json.dumps(foreign | {"action_space": "{}"}))
    refused(tmp_path / "a-v0", "its action_space is malformed")
    main.write_bytes(main.read_bytes()[:4000])
    metadata.write_text(json.dumps(whole))
    refused(tmp_path / "a-v0", "main_data.hdf5: truncated, or not an HDF5 file")
    with pytest.raises(LogsError, match="a-v0 exists already"):
        export_minari(open_logs([run]), tmp_path / "a-v0")
