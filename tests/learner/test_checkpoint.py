from __future__ import annotations

import io
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fleet.algorithm_config import PRESETS
from fleet.codec import encode
from fleet.config import LearnerConfig
from fleet.messages import Transitions
from fleet.run_folder import POLICY_FILE
from fleet.spaces import SpaceSpec
from learner.checkpoint import (
    STATE_FILE,
    CheckpointError,
    Progress,
    WrongCheckpointError,
    highest_version,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from learner.mirror import ReplayMirror
from learner.publisher import policy_message
from learner.sealed_folder import MANIFEST_FILE, write_sealed
from learner.trainer import Trainer

CONFIG = LearnerConfig(hidden_sizes=[8, 8], batch_size=16)
PROGRESS = Progress(run_id="run", policy_version=1012, policies_published=9, cursor=340)


@pytest.fixture
def mirror(make_rows: Callable[..., Transitions]) -> ReplayMirror:
    mirror = ReplayMirror(3, 2, 100)
    mirror.extend(make_rows(60))
    return mirror


@pytest.fixture
def trainer(spec: SpaceSpec, mirror: ReplayMirror, make_rows: Callable[..., Transitions]) -> Trainer:
    trainer = Trainer(CONFIG, spec, seed=1)
    trainer.observe(make_rows(60))
    trainer.update_many(mirror, 20)
    return trainer


def save(folder: Path, trainer: Trainer, keep: int = 3, progress: Progress = PROGRESS) -> Path:
    return save_checkpoint(folder, trainer, progress, policy_message(trainer, "run", 12, 0.3, 5), keep)


@pytest.mark.parametrize("algorithm", sorted(PRESETS))
def test_training_goes_on_bit_for_bit(
    algorithm: str,
    tmp_path: Path,
    mirror: ReplayMirror,
    spec: SpaceSpec,
    make_rows: Callable[..., Transitions],
) -> None:
    config = LearnerConfig(algorithm=algorithm, hidden_sizes=[8, 8], batch_size=16, clip_targets=True)
    trainer, other = Trainer(config, spec, seed=1), Trainer(config, spec, seed=99)
    trainer.observe(make_rows(60))
    trainer.update_many(mirror, 20)
    path = save(tmp_path, trainer)
    assert load_checkpoint(path, other, "run") == PROGRESS
    for each in (trainer, other):
        each.update_many(mirror, 15)
    assert other.updates == trainer.updates == 35
    assert torch.equal(other.flat, trainer.flat)
    assert torch.equal(other.target, trainer.target)
    assert other.normaliser.state() == trainer.normaliser.state()
    assert other.rewards == trainer.rewards


def test_the_target_of_another_algorithm_is_refused(
    tmp_path: Path, trainer: Trainer, spec: SpaceSpec
) -> None:
    path = save(tmp_path, trainer)
    other = Trainer(LearnerConfig(algorithm="ddpg", hidden_sizes=[8, 8], batch_size=16), spec)
    with pytest.raises(
        WrongCheckpointError, match=r"another network: .*kind is naf there, ddpg in this config"
    ):
        load_checkpoint(path, other, "run")


def test_the_policy_beside_it_is_the_published_one(tmp_path: Path, trainer: Trainer) -> None:
    path = save(tmp_path, trainer)
    message = policy_message(trainer, "run", 12, 0.3, 5)
    assert (path / "policy.pnaf").read_bytes() == encode(message)


def test_only_the_newest_are_kept(tmp_path: Path, trainer: Trainer, mirror: ReplayMirror) -> None:
    for _ in range(4):
        trainer.update_many(mirror, 1)
        save(tmp_path, trainer, keep=2)
    names = ["0000000023-0000001012", "0000000024-0000001012"]
    assert [path.name for path in list_checkpoints(tmp_path)] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_the_same_update_and_version_is_written_once_unless_it_is_damaged(
    tmp_path: Path, trainer: Trainer
) -> None:
    path = save(tmp_path, trainer)
    manifest = (path / MANIFEST_FILE).read_bytes()
    assert save(tmp_path, trainer) == path
    assert (path / MANIFEST_FILE).read_bytes() == manifest
    (path / STATE_FILE).write_bytes(b"")
    assert save(tmp_path, trainer) == path
    assert load_checkpoint(path, trainer, "run") == PROGRESS
    assert list_checkpoints(tmp_path) == [path]
    later = save(tmp_path, trainer, progress=replace(PROGRESS, policy_version=1013))
    assert list_checkpoints(tmp_path) == [path, later]
    assert highest_version(tmp_path) == 1013


def test_the_state_depends_on_the_training_alone(tmp_path: Path, trainer: Trainer) -> None:
    other = Progress(run_id="other", policy_version=3, policies_published=4, cursor=5)
    states = [(save(tmp_path, trainer, progress=p) / STATE_FILE).read_bytes() for p in (PROGRESS, other)]
    assert states[0] == states[1]


def test_what_is_no_checkpoint_is_not_listed(tmp_path: Path) -> None:
    for name in (".0000000007-0000000001.tmp", "0000000008", "policy_version"):
        (tmp_path / name).mkdir()
    assert list_checkpoints(tmp_path) == []
    assert list_checkpoints(tmp_path / "missing") == []
    assert highest_version(tmp_path / "missing") == -1


def test_a_damaged_checkpoint_is_an_error_and_changes_nothing(
    tmp_path: Path, trainer: Trainer, mirror: ReplayMirror
) -> None:
    path = save(tmp_path, trainer)
    trainer.update_many(mirror, 3)
    before = trainer.flat.clone()
    for name in (POLICY_FILE, STATE_FILE):
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=f"{name}: is damaged: {len(whole) // 2} bytes"):
            load_checkpoint(path, trainer, "run")
        (path / name).write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"5/manifest\.json: cannot be read: No such file"):
        load_checkpoint(tmp_path / "5", trainer, "run")
    assert trainer.updates == 23
    assert torch.equal(trainer.flat, before)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, trainer: Trainer, spec: SpaceSpec) -> None:
    path = save(tmp_path, trainer)
    with pytest.raises(WrongCheckpointError, match="is of run 'run', the replay server serves run 'run2'"):
        load_checkpoint(path, trainer, "run2")
    wider = Trainer(CONFIG.model_copy(update={"hidden_sizes": [9, 8]}), spec)
    with pytest.raises(WrongCheckpointError, match=r"hidden_sizes is \[8, 8\] there, \[9, 8\] in this"):
        load_checkpoint(path, wider, "run")
    raw = Trainer(CONFIG.model_copy(update={"normalise_observations": False}), spec)
    with pytest.raises(WrongCheckpointError, match=r"normalise_observations = true, this config says false"):
        load_checkpoint(path, raw, "run")
    other_spec = SpaceSpec(spec.action, spec.observation)
    with pytest.raises(WrongCheckpointError, match="other spaces: observation has 2 dimensions here and 3"):
        load_checkpoint(path, Trainer(CONFIG, other_spec), "run")
    write_sealed(tmp_path / "1", {}, {"format": 99})
    with pytest.raises(WrongCheckpointError, match="format 99, this program reads 3"):
        load_checkpoint(tmp_path / "1", trainer, "run")


def test_another_kind_of_device_draws_other_minibatches(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path, trainer)
    monkeypatch.setattr(trainer, "device", torch.device("cuda"))
    load_checkpoint(path, trainer, "run")
    assert "was made on cpu, this learner uses cuda: minibatches are drawn anew" in caplog.text


def test_pickled_code_is_not_run(tmp_path: Path, trainer: Trainer) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "boom",))

    file = io.BytesIO()
    np.savez(file, facts=np.array([Bomb()], dtype=object))
    write_sealed(tmp_path / "1", {STATE_FILE: file.getvalue()}, {"format": 3, "run_id": "run"})
    with pytest.raises(WrongCheckpointError, match="is not of this program"):
        load_checkpoint(tmp_path / "1", trainer, "run")
    assert not (tmp_path / "boom").exists()


def test_a_disk_that_refuses_is_an_error_and_leaves_the_old_checkpoint(
    tmp_path: Path, trainer: Trainer, mirror: ReplayMirror
) -> None:
    path = save(tmp_path, trainer)
    trainer.update_many(mirror, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match="0000000021-0000001012: cannot write the checkpoint"):
            save(tmp_path, trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path, trainer, "run") == PROGRESS
