"""Row files, logged returns, distances and agreement, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fleet.messages import Transitions
from fleet.spaces import Space, SpaceSpec
from learner.action_distance import measure_distance
from learner.agreement import Agreement, ranks
from learner.logged_returns import LoggedReturns
from learner.logged_spread import LoggedSpread, measure_spread
from learner.row_file import RowFile
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, open_logs

SPEC = SpaceSpec(
    Space(("a", "b"), ("rad", "rad"), (-9.0, -9.0), (9.0, 9.0)), Space(("u",), ("1",), (-1.0,), (1.0,))
)


def transitions(observation: Any, action: Any, reward: Any, *, terminated: bool = False) -> Transitions:
    """One episode of observations [N + 1, 2], actions [N] and rewards [N]."""
    x = np.asarray(observation, "<f4")
    n = len(x) - 1
    last = np.arange(n) == n - 1
    u = np.asarray(action, "<f4").reshape(n, 1)
    return Transitions(
        observation=x[:-1].copy(), action=u, policy_action=u, reward=np.asarray(reward, "<f4"),
        next_observation=x[1:].copy(), terminated=last & terminated, truncated=last & (not terminated),
        intervened=np.zeros(n, bool), clipped=np.zeros(n, bool), policy_version=np.zeros(n, "<i8"),
        stamp_ns=np.arange(n) * 50_000_000,
    )  # fmt: skip


def write_folder(folder: Path, episodes: list[Transitions], **changes: Any) -> Path:
    """A run folder of these episodes."""
    values = dict(
        run_id="", robot_id="robot1", boot_id="b0", rows=0, first_seq=0, last_seq=0, first_cursor=0,
        last_cursor=0, spec_hash="", policy_version=0, evaluation=False, end="time_limit", success=False,
        metrics={}, complete=True,
    )  # fmt: skip
    with LogWriter(folder, SPEC, "made by a test") as writer:
        for number, rows in enumerate(episodes):
            info = EpisodeInfo(**(values | {"episode": number, "received_ns": number} | changes))
            writer.add(info, rows)
    return folder


def episode(n: int, first: float, terminated: bool = False):
    x = first + np.arange(n + 1.0)
    return transitions(np.stack([x, -x], 1), x[:-1] / 100, np.arange(1.0, n + 1), terminated=terminated)


@pytest.fixture
def rows(tmp_path: Path) -> RowFile:
    folder = write_folder(tmp_path / "a", [episode(2, 0.0), episode(3, 10.0, terminated=True)])
    return RowFile.build(tmp_path / "rows", open_logs([folder]))


def test_a_row_file_holds_all_rows_in_order(rows: RowFile, tmp_path: Path) -> None:
    assert (rows.spec, rows.rows, rows.episodes) == (SPEC, 5, 2)
    assert rows.starts.tolist() == [0, 2]
    assert rows.values[:, 0].tolist() == [0.0, 1.0, 10.0, 11.0, 12.0]
    assert rows.values[:, 2].tolist() == [1.0, 2.0, 11.0, 12.0, 13.0]  # a of the next observation
    assert rows.values[:, rows.layout.reward].tolist() == [1.0, 2.0, 1.0, 2.0, 3.0]
    assert rows.values[:, rows.layout.bootstrap].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    index = torch.arange(5)
    assert rows.episode_of(index).tolist() == [0, 0, 1, 1, 1]
    assert rows.slices == [slice(0, 2), slice(2, 5)]
    assert (tmp_path / "rows").stat().st_size == 5 * rows.layout.width * 4


def test_damaged_episodes_are_left_out_of_it_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", [episode(2, 0.0), episode(3, 10.0)])
    files = sorted((folder / "episodes" / "robot1").glob("*.h5"))
    logs = open_logs([folder])
    assert logs.spec == SPEC
    for count, file in enumerate(files, start=1):
        file.write_bytes(b"")
        if count == 1:
            assert RowFile.build(tmp_path / "rows", logs).values[:, 0].tolist() == [10.0, 11.0, 12.0]
    with pytest.raises(LogsError, match="no row that can be read"):
        RowFile.build(tmp_path / "rows", logs)
    assert set(logs.damaged) == set(files)


def test_logged_returns_by_hand(rows: RowFile) -> None:
    returns = LoggedReturns.of(rows, 0.5)
    assert returns.returns.tolist() == [1 + 0.5 * 2, 1 + 0.5 * 2 + 0.25 * 3]
    assert returns.tail == 0.25 / 2  # 0.5² of the one that was cut, nothing of the one that ended
    assert float(returns.mean()) == pytest.approx((2.0 + 2.75) / 2)
    weights = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    assert returns.mean(weights).tolist() == [2.375, 2.0]
    assert returns.best_fifth() == 2.75
    cut = LoggedReturns(torch.tensor([2.0, 4.0, torch.nan]), 0.0)  # the last did not run to its end
    assert cut.mean(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 2.0]])).tolist() == [3.0, 2.0]


def test_episodes_that_did_not_run_to_their_end_have_no_return(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", [episode(2, 0.0)], end="fault")
    returns = LoggedReturns.of(RowFile.build(tmp_path / "rows", open_logs([folder])), 0.5)
    assert not returns.finished.any()
    assert math.isnan(float(returns.mean())) and math.isnan(returns.best_fifth())


def test_distances_by_hand(rows: RowFile) -> None:
    spread = LoggedSpread(torch.tensor([0.1]))
    # Logged actions are 0, .01, .10, .11, .12
    d = measure_distance(rows, spread, torch.zeros(5, 1))
    assert d.rms == pytest.approx(math.sqrt((0.0001 + 0.01 + 0.0121 + 0.0144) / 5), rel=1e-5)
    assert d.rms_per_action == [pytest.approx(d.rms)]
    assert d.quantiles == pytest.approx([0.0, 0.01, 0.10, 0.11, 0.12], abs=1e-6)
    assert d.in_spreads == pytest.approx(d.rms / 0.1, rel=1e-5)
    assert d.far == 0.0
    assert d.spread == pytest.approx(0.1)
    far = measure_distance(rows, spread, torch.full((5, 1), 0.305))
    assert far.far == pytest.approx(3 / 5)  # 0.305, 0.295, 0.205; not 0.195, 0.185


def test_the_spread_of_logs_is_what_the_observation_does_not_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(30):
        x = rng.uniform(-1, 1, (41, 2))
        u = 0.5 * np.tanh(2 * x[:-1, 0]) - 0.3 * np.abs(x[:-1, 1]) + 0.1 * rng.standard_normal(40)
        episodes.append(transitions(x, u, np.zeros(40)))
    folder = write_folder(tmp_path / "a", episodes)
    rows = RowFile.build(tmp_path / "rows", open_logs([folder]))
    spread = measure_spread(rows, torch.Generator().manual_seed(0)).values
    assert spread.tolist() == [pytest.approx(0.1, rel=0.2)]
    one = RowFile.build(tmp_path / "one", open_logs([folder / "episodes/robot1/b0-000000.h5"]))
    assert 0.05 < float(measure_spread(one, torch.Generator().manual_seed(0)).values) < 0.6


def test_agreement_by_hand() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    agreement = Agreement.of([1.0, 2.0, 4.0], [2.0, 3.0, 4.0])
    # centred: (−4/3, −1/3, 5/3) and (−1, 0, 1): 3 / √(42/9 · 2)
    assert agreement.pearson == pytest.approx(3 / math.sqrt(42 / 9 * 2))
    assert agreement.spearman == pytest.approx(1.0)
    assert agreement.mean_absolute_error == pytest.approx(2 / 3)
    assert agreement.mean_error == pytest.approx(-2 / 3)
    assert Agreement.of([1.0, 2.0, 4.0], [3.0, 2.0, 1.0]).spearman == pytest.approx(-1.0)
    assert math.isnan(Agreement.of([1.0, 1.0], [1.0, 2.0]).pearson)
