from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fleet.codec import encode
from fleet.config import LearnerConfig
from fleet.messages import Transitions
from fleet.spaces import SpaceSpec
from learner.checkpoint import (
    STATE_FILE,
    CheckpointError,
    Progress,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from learner.mirror import ReplayMirror
from learner.publisher import policy_message
from learner.trainer import Trainer

CONFIG = LearnerConfig(hidden_sizes=[8, 8], batch_size=16)
PROGRESS = Progress(run_id="run", policy_version=1012, policies_published=9, cursor=340, rows=300)


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


def save(folder: Path, trainer: Trainer, **changes: Any) -> Path:
    return save_checkpoint(folder, trainer, PROGRESS, policy_message(trainer, "run", 12, 0.3, 5), **changes)


def test_training_goes_on_bit_for_bit(
    tmp_path: Path, trainer: Trainer, mirror: ReplayMirror, spec: SpaceSpec
) -> None:
    path = save(tmp_path, trainer)
    other = Trainer(CONFIG, spec, seed=99)
    assert load_checkpoint(path, other) == PROGRESS
    for each in (trainer, other):
        each.update_many(mirror, 15)
    assert other.updates == trainer.updates == 35
    assert torch.equal(other.network.flat, trainer.network.flat)
    assert torch.equal(other.target, trainer.target)
    assert other.normaliser.state() == trainer.normaliser.state()


def test_the_policy_beside_it_is_the_published_one(tmp_path: Path, trainer: Trainer) -> None:
    path = save(tmp_path, trainer)
    message = policy_message(trainer, "run", 12, 0.3, 5)
    assert (path / "policy.pnaf").read_bytes() == encode(message)


def test_only_the_newest_are_kept(tmp_path: Path, trainer: Trainer, mirror: ReplayMirror) -> None:
    for _ in range(4):
        trainer.update_many(mirror, 1)
        save(tmp_path, trainer, keep=2)
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [23, 24]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000000023", "0000000024"]


def test_a_checkpoint_of_the_same_update_replaces_the_old_one(tmp_path: Path, trainer: Trainer) -> None:
    assert save(tmp_path, trainer) == save(tmp_path, trainer)
    assert len(list_checkpoints(tmp_path)) == 1


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".0000000007.tmp").mkdir()
    (tmp_path / "0000000008").mkdir()
    assert list_checkpoints(tmp_path) == []
    assert list_checkpoints(tmp_path / "missing") == []


def test_unusable_checkpoints_are_clear_errors(tmp_path: Path, trainer: Trainer, spec: SpaceSpec) -> None:
    path = save(tmp_path, trainer)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "5", trainer)
    wider = Trainer(CONFIG.model_copy(update={"hidden_sizes": [9, 8]}), spec)
    with pytest.raises(CheckpointError, match=r"is \(\[8, 8\], .* there and \(\[9, 8\]"):
        load_checkpoint(path, wider)
    other_spec = SpaceSpec(spec.action, spec.observation)
    with pytest.raises(CheckpointError, match="other spaces: observation has 2 dimensions here and 3"):
        load_checkpoint(path, Trainer(CONFIG, other_spec))
    whole = (path / STATE_FILE).read_bytes()
    (path / STATE_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load_checkpoint(path, trainer)
    np.savez(path / STATE_FILE, facts=np.array('{"format": 99}'))
    with pytest.raises(CheckpointError, match="format 99, this program reads 1"):
        load_checkpoint(path, trainer)


def test_pickled_code_is_not_run(tmp_path: Path, trainer: Trainer) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "boom",))

    (tmp_path / "1").mkdir()
    np.savez(tmp_path / "1" / STATE_FILE, facts=np.array([Bomb()], dtype=object))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "1", trainer)
    assert not (tmp_path / "boom").exists()
