"""Training from logs alone: it goes on bit by bit where it was stopped, and stays near the data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import Transitions
from fleet.run_folder import create_run_folder
from fleet.spaces import SpaceSpec
from learner.checkpoint import begin_with, list_checkpoints
from learner.offline_training import OfflineTraining, precision_of
from learner.row_store import RowStore
from learner.trainer import Trainer
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import open_logs

ROWS = 300


@pytest.fixture
def store(tmp_path: Path, spec: SpaceSpec, make_rows: Callable[..., Transitions]) -> RowStore:
    with LogWriter(tmp_path / "logs", spec, "made by a test") as writer:
        info = EpisodeInfo(
            run_id="", robot_id="robot1", boot_id="b", episode=0, rows=0, first_seq=0, last_seq=0,
            first_cursor=0, last_cursor=0, received_ns=0, spec_hash="", policy_version=0, evaluation=False,
            end="time_limit", success=True, metrics={}, complete=True,
        )  # fmt: skip
        writer.add(info, make_rows(ROWS))
    return RowStore.build(tmp_path / "rows", open_logs([tmp_path / "logs"]))


def make_config(*overrides: str) -> FleetConfig:
    settings = ["learner.hidden_sizes=[16]", "learner.behaviour_weight=0.3", *overrides]
    return load_fleet("hardware_configs/fleets/sim2.yaml", settings)


def make_training(tmp_path: Path, store: RowStore, name: str, *overrides: str) -> OfflineTraining:
    config = make_config(*overrides)
    folder = create_run_folder(config, tmp_path, name)
    (folder.path / "run_id").write_text("the same for both\n")
    return OfflineTraining(config, folder, store)


def test_a_training_that_was_stopped_ends_where_one_without_a_stop_does(
    tmp_path: Path, store: RowStore
) -> None:
    whole = make_training(tmp_path, store, "whole")
    assert whole.train(500, threading.Event())
    first = make_training(tmp_path, store, "parts")
    assert first.train(130, threading.Event())
    first.save()
    again = OfflineTraining(make_config(), first.run, store)
    assert again.updates == 130
    assert again.train(500, threading.Event())
    assert torch.equal(again.trainer.flat, whole.trainer.flat)
    assert torch.equal(again.trainer.target, whole.trainer.target)


@pytest.mark.parametrize("normalise", [True, False])
def test_observations_are_normalised_only_if_the_config_says_so(
    tmp_path: Path, store: RowStore, normalise: bool
) -> None:
    training = make_training(tmp_path, store, "run", f"learner.normalise_observations={normalise}")
    policy = training.policy()
    raw = not policy.observation_mean.any() and (policy.observation_scale == 1.0).all()
    assert raw == (not normalise)
    assert training.trainer.rewards.count == ROWS


def test_stop_ends_it_before_its_time(tmp_path: Path, store: RowStore) -> None:
    training = make_training(tmp_path, store, "run", "learner.log_period_s=0.01")
    stop = threading.Event()
    seen: list[int] = []

    def on_progress(progress: object) -> None:
        seen.append(training.updates)
        stop.set()

    assert not training.train(10**9, stop, on_progress)
    training.save()
    assert seen == [training.updates]
    assert training.policy().learner_step == training.updates
    assert training.run.policy.is_file()
    assert len(list_checkpoints(training.run.checkpoints)) == 1


def test_mu_is_held_where_actions_follow_observations_and_hardly_where_they_are_noise(
    tmp_path: Path, spec: SpaceSpec, make_rows: Callable[..., Transitions]
) -> None:
    """u0 follows the observation with noise of 0.1, u1 is noise of 0.3."""
    rows = make_rows(3000)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3000, 2, generator=generator).numpy() * [0.1, 0.3]
    rows.action[:, 0] = 0.5 * rows.observation[:, 0].clip(-1, 1) + noise[:, 0]
    rows.action[:, 1] = noise[:, 1]
    with LogWriter(tmp_path / "logs", spec, "made by a test") as writer:
        info = EpisodeInfo(
            run_id="", robot_id="robot1", boot_id="b", episode=0, rows=0, first_seq=0, last_seq=0,
            first_cursor=0, last_cursor=0, received_ns=0, spec_hash="", policy_version=0, evaluation=False,
            end="time_limit", success=True, metrics={}, complete=True,
        )  # fmt: skip
        writer.add(info, rows)
    store = RowStore.build(tmp_path / "rows", open_logs([tmp_path / "logs"]))
    training = make_training(tmp_path, store, "run")
    precision = training.trainer.behaviour.precision
    assert (precision[0] / precision[1]).item() == pytest.approx(68.0, rel=0.6)  # ((0.09 + ε) / (0.01 + ε))²


def test_another_run_begins_with_what_was_learned(tmp_path: Path, store: RowStore) -> None:
    training = make_training(tmp_path, store, "run")
    training.train(100, threading.Event())
    training.save()
    (checkpoint,) = list_checkpoints(training.run.checkpoints)
    trainer = Trainer(make_config().learner, store.file.spec, seed=5)
    fresh = trainer.generator.get_state()
    progress = begin_with(checkpoint, trainer)
    assert torch.equal(trainer.flat, training.trainer.flat)
    assert (trainer.updates, trainer.optimiser.steps) == (0, 100)
    assert trainer.normaliser.count == ROWS
    assert torch.equal(trainer.generator.get_state(), fresh)
    assert progress.run_id == "the same for both"


def test_precision_by_hand() -> None:
    assert precision_of(torch.tensor([0.089, 0.009, 0.0])).tolist() == pytest.approx([1.0, 81.0, 8100.0])
