"""Logged rows as one mapped file: the rows of the logs, in order, whatever their size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fleet.messages import Transitions
from fleet.spaces import SpaceSpec
from learner.mirror import ReplayMirror
from learner.normaliser import Normaliser
from learner.row_store import RowStore, fingerprint
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs
from replay_server.selection import Selection

MakeRows = Callable[..., Transitions]


def write(folder: Path, spec: SpaceSpec, make_rows: MakeRows, episodes: int = 4, rows: int = 25) -> Path:
    with LogWriter(folder, spec, "made by a test") as writer:
        for episode in range(episodes):
            info = EpisodeInfo(
                run_id="", robot_id="robot1", boot_id="b", episode=episode, rows=0, first_seq=0, last_seq=0,
                first_cursor=0, last_cursor=0, received_ns=episode, spec_hash="", policy_version=0,
                evaluation=False, end="time_limit", success=episode > 1, metrics={}, complete=True,
            )  # fmt: skip
            transitions = make_rows(rows, rows * episode)
            transitions.intervened[3] = True
            writer.add(info, transitions)
    return folder


def test_rows_are_those_that_a_mirror_of_the_running_fleet_would_hold(
    tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows
) -> None:
    logs = open_logs([write(tmp_path / "run", spec, make_rows)])
    store = RowStore.build(tmp_path / "rows", logs)
    mirror = ReplayMirror(spec.observation.size, spec.action.size, 100)
    normaliser = Normaliser(spec.observation.size)
    for _, transitions in logs.read():
        mirror.extend(transitions)
        normaliser.extend(transitions.observation)
    mine = ReplayMirror.of(store.file.values, store.file.layout, store.file.demonstrations)
    assert torch.equal(mine.rows, mirror.rows)
    assert (len(mine), mine.cursor, mine.demonstration_rows) == (100, 100, 4)
    for demonstrations in (0, 10):
        seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
        samples = [m.sample(g, 32, demonstrations) for m, g in zip((mine, mirror), seeds, strict=True)]
        assert torch.equal(*samples)
    assert store.file.starts.tolist() == [0, 25, 50, 75]
    np.testing.assert_array_equal(store.normaliser.mean, normaliser.mean)
    assert store.rewards.count == 100


def test_it_is_opened_again_as_it_was(tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows) -> None:
    folder = write(tmp_path / "run", spec, make_rows)
    built = RowStore.build(tmp_path / "rows", open_logs([folder]))
    store = RowStore.open(tmp_path / "rows")
    assert torch.equal(store.file.values, built.file.values)
    assert (store.file.spec, store.fingerprint) == (spec, fingerprint(open_logs([folder])))
    assert store.normaliser.state() == built.normaliser.state()
    part = open_logs([folder], Selection.parse(["success=yes"]))
    assert fingerprint(part) != store.fingerprint
    folder.rename(tmp_path / "moved")
    assert fingerprint(open_logs([tmp_path / "moved"])) == store.fingerprint


def test_damaged_episodes_are_left_out_and_named(
    tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows
) -> None:
    folder = write(tmp_path / "run", spec, make_rows)
    (_, second, *_) = sorted((folder / "episodes" / "robot1").glob("*.h5"))
    logs = open_logs([folder])
    second.write_bytes(second.read_bytes()[:1000])  # while it is being read
    store = RowStore.build(tmp_path / "rows", logs)
    assert len(store.file.values) == 75
    assert list(logs.damaged) == [second]


@pytest.mark.parametrize("column", ["observation", "next_observation", "action", "reward"])
def test_episodes_with_numbers_that_are_not_finite_are_left_out_and_named(
    tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows, column: str
) -> None:
    def with_nan(rows: int, first: int) -> Transitions:
        transitions = make_rows(rows, first)
        if first == 25:
            getattr(transitions, column)[7] = np.nan
        return transitions

    logs = open_logs([write(tmp_path / "run", spec, with_nan)])
    store = RowStore.build(tmp_path / "rows", logs)
    assert store.file.starts.tolist() == [0, 25, 50]
    assert list(logs.damaged.values()) == ["holds numbers that are not finite"]
    assert bool(torch.isfinite(store.file.values).all())


def test_what_cannot_be_built_leaves_nothing(tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows) -> None:
    folder = write(tmp_path / "run", spec, make_rows, episodes=1)
    (file,) = (folder / "episodes" / "robot1").glob("*.h5")
    logs = open_logs([folder])
    assert logs.spec == spec
    file.write_bytes(b"")
    with pytest.raises(LogsError, match="hold no row that can be read"):
        RowStore.build(tmp_path / "rows", logs)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_damage_is_named(tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows) -> None:
    RowStore.build(tmp_path / "rows", open_logs([write(tmp_path / "run", spec, make_rows)]))
    rows = tmp_path / "rows" / "rows.f32"
    rows.write_bytes(rows.read_bytes()[:-4])
    with pytest.raises(LogsError, match=r"rows\.f32: is damaged: 3996 bytes|is damaged: \d+ bytes, \d+ were"):
        RowStore.open(tmp_path / "rows")
    (tmp_path / "rows" / "manifest.json").write_text("{")
    with pytest.raises(LogsError, match=r"cannot be read: .*; remove it to have it made anew"):
        RowStore.open(tmp_path / "rows")
    RowStore.build(tmp_path / "more", open_logs([tmp_path / "run"]))
    index = tmp_path / "more" / "index.npz"
    for damaged in (index.read_bytes()[:-30], b""):
        index.write_bytes(damaged)
        with pytest.raises(LogsError, match=r"cannot be read: .*; remove it to have it made anew"):
            RowStore.open(tmp_path / "more")


def test_rows_may_be_more_than_there_is_memory(tmp_path: Path, spec: SpaceSpec, make_rows: MakeRows) -> None:
    store = RowStore.build(tmp_path / "rows", open_logs([write(tmp_path / "run", spec, make_rows)]))
    width = store.file.layout.width
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    manifest = tmp_path / "rows" / "manifest.json"
    facts = json.loads(manifest.read_text()) | {"rows": 4 * memory // (4 * width)}
    manifest.write_text(json.dumps(facts))
    os.truncate(tmp_path / "rows" / "rows.f32", 4 * width * facts["rows"])  # holes, which take no room
    opened = RowStore.open(tmp_path / "rows")
    assert opened.file.rows == facts["rows"]
    assert torch.equal(opened.file.values[:100], store.file.values)
