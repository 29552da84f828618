"""Exports that LeRobot itself opens."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from replay_server.episode_file import EpisodeInfo
from replay_server.exchange.column_statistics import QUANTILES, ColumnStatistics
from replay_server.exchange.lerobot import control_rate_hz, export_lerobot
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs

COLUMNS = {
    "observation.state": "observation",
    "action": "action",
    "next.reward": "reward",
    "next.done": "terminated",
    "next.truncated": "truncated",
    "next.observation.state": "next_observation",
    **{name: name for name in ("policy_action", "intervened", "clipped", "policy_version", "stamp_ns")},
}
"""What LeRobot calls our columns."""


def test_lerobot_reads_every_number(run, tmp_path, read_with):
    logs = open_logs([run])
    instruction = "Move the tool to the target."
    exported = export_lerobot(logs, tmp_path / "reach", instruction=instruction, file_mb=0.0005)
    assert len(list((tmp_path / "reach" / "data").rglob("*.parquet"))) > 1
    assert (exported.episodes, exported.rows) == (3, 20)
    found = read_with("lerobot", tmp_path / "reach")
    episodes = list(logs.read())
    rows = [transitions for _, transitions in episodes]
    for theirs, ours in COLUMNS.items():
        expected = np.concatenate([getattr(part, ours) for part in rows])
        np.testing.assert_array_equal(found[theirs], expected)
        assert found[theirs].dtype == expected.dtype
    assert np.flatnonzero(found["next.success"]).tolist() == [6, 19]
    lengths = [7, 1, 12]
    assert found["episodes/length"].tolist() == lengths
    np.testing.assert_array_equal(found["episode_index"], np.repeat([0, 1, 2], lengths))
    np.testing.assert_array_equal(found["index"], np.arange(20))
    frame = np.concatenate([np.arange(n) for n in lengths])
    np.testing.assert_array_equal(found["frame_index"], frame)
    np.testing.assert_array_equal(found["timestamp"], (frame / 20).astype("<f4"))
    assert found["fps"] == 20
    assert set(found["task"]) == {instruction}
    assert found["policy_features"].tolist() == ["observation.state STATE", "action ACTION"]
    for key in ("observation.state", "action"):
        column = found[key].astype(float)
        for name, expected in [("mean", column.mean(0)), ("std", column.std(0)), ("max", column.max(0))]:
            np.testing.assert_allclose(found[f"stats/{key}/{name}"], expected, rtol=1e-9)
        assert found[f"stats/{key}/count"].tolist() == [20]
    assert found["windows"].shape == (1, 3, 2)  # of the episode of one row
    assert found["padded"].tolist() == [[False, True, True]]
    for text, (summary, _) in zip(found["episodes/facts"], episodes, strict=True):
        assert repr(EpisodeInfo(**json.loads(str(text))["info"])) == repr(summary.info)


def test_the_layout_is_the_documented_one(run, tmp_path):
    """What LeRobot's documents of v3.0 promise, where its reader is not installed."""
    export_lerobot(open_logs([run]), tmp_path / "reach")
    info = json.loads((tmp_path / "reach/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 20, 20)
    assert (info["total_episodes"], info["total_tasks"], info["splits"]) == (3, 1, {"train": "0:3"})
    assert info["features"]["observation.state"]["names"][3] == "tool/x"
    data = pq.read_table(tmp_path / "reach" / info["data_path"].format(chunk_index=0, file_index=0))
    assert data.schema.names == list(info["features"])
    assert str(data.schema.field("action").type).startswith("fixed_size_list<")
    episodes = pq.read_table(tmp_path / "reach/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(e["dataset_from_index"], e["dataset_to_index"]) for e in episodes] == [(0, 7), (7, 8), (8, 20)]
    assert [e["tasks"] for e in episodes] == [["reach"]] * 3
    assert {f"stats/action/{name}" for name in ("min", "max", "mean", "std", "count", *QUANTILES)} <= set(
        episodes[0]
    )
    tasks = pq.read_table(tmp_path / "reach/meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": ["reach"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_many_rows_make_several_files(tmp_path, sample):
    with LogWriter(tmp_path / "run", sample.spec, "") as writer:
        for episode in range(30):
            writer.add(sample.info(episode), sample.rows(40, episode))
    logs = open_logs([tmp_path / "run"])
    export_lerobot(logs, tmp_path / "reach", file_mb=0.05)
    files = sorted((tmp_path / "reach" / "data").rglob("*.parquet"))
    assert len(files) > 2
    assert [path.name for path in files] == [f"file-{i:03d}.parquet" for i in range(len(files))]
    assert len(list((tmp_path / "reach" / "meta" / "episodes").rglob("*.parquet"))) > 1
    for path in sorted((tmp_path / "reach" / "meta" / "episodes").rglob("*.parquet")):
        for episode in pq.read_table(path).to_pylist():
            place = f"chunk-{episode['data/chunk_index']:03d}/file-{episode['data/file_index']:03d}.parquet"
            found = pq.read_table(tmp_path / "reach" / "data" / place, columns=["episode_index"])
            assert found["episode_index"].to_pylist().count(episode["episode_index"]) == 40


def test_the_rate_follows_from_the_stamps_or_must_be_given(tmp_path, sample):
    with LogWriter(tmp_path / "run", sample.spec, "") as writer:
        writer.add(sample.info(0), sample.rows(1))
    logs = open_logs([tmp_path / "run"])
    with pytest.raises(LogsError, match="give --fps"):
        export_lerobot(logs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_lerobot(logs, tmp_path / "out", fps=12.5)
    assert json.loads((tmp_path / "out" / "meta" / "info.json").read_text())["fps"] == 12.5
    stamps = np.array([0, 99_900_000, 200_300_000, 300_000_000])
    with LogWriter(tmp_path / "ten", sample.spec, "") as writer:
        writer.add(sample.info(0), sample.rows(4, stamp_ns=stamps))
    assert control_rate_hz(open_logs([tmp_path / "ten"])) == 10.0


def test_without_pyarrow_the_message_says_what_to_install(run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LogsError, match=r"pip install 'parallel-naf\[exchange\]'"):
        export_lerobot(open_logs([run]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_statistics_of_known_numbers():
    found = ColumnStatistics.of({"a": np.arange(5.0)[:, None] * [1, 10], "b": np.array([True] * 4 + [False])})
    lists = found.as_lists()
    assert (lists["a"]["min"], lists["a"]["max"], lists["a"]["mean"]) == ([0, 0], [4, 40], [2, 20])
    assert lists["a"]["q10"] == pytest.approx([0.4, 4])
    assert lists["a"]["std"] == pytest.approx([2**0.5, 10 * 2**0.5])
    assert (lists["b"]["mean"], lists["b"]["q50"], lists["b"]["count"]) == ([0.8], [1.0], [5])


@given(
    arrays(np.float32, st.tuples(st.integers(2, 30), st.just(2)), elements=st.floats(-1e3, 1e3, width=32)),
    st.data(),
)
def test_merged_statistics_are_those_of_all_rows(values, data):
    cut = data.draw(st.integers(1, len(values) - 1))
    merged = ColumnStatistics.of({"a": values[:cut]}).merge(ColumnStatistics.of({"a": values[cut:]}))
    whole = ColumnStatistics.of({"a": values})
    assert merged.count == whole.count
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(merged.values[name], whole.values[name], rtol=1e-6, atol=1e-4)
    for name, share in QUANTILES.items():
        expected = np.quantile(values.astype(float), share, axis=0)
        np.testing.assert_allclose(whole.values[name], expected, rtol=1e-9, atol=1e-9)
