"""Updates as CUDA graphs do what the trainer's do; without CUDA, their operations one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fleet.config import LearnerConfig
from fleet.messages import Transitions
from fleet.spaces import SpaceSpec
from learner.cuda_graph import UPDATES_PER_GRAPH, GraphedUpdates
from learner.mirror import ReplayMirror
from learner.trainer import Trainer

BATCH = 10
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))


class Graphed:
    """A trainer and graphed updates of its tensors."""

    def __init__(
        self,
        spec: SpaceSpec,
        rows: Transitions,
        device: str = "cpu",
        capacity: int = 200,
        **config: Any,
    ) -> None:
        learner = LearnerConfig(
            hidden_sizes=[16, 16], batch_size=BATCH, device=device, engine="eager", reward_scale=0.1, **config
        )
        self.trainer = trainer = Trainer(learner, spec, seed=3)
        self.mirror = ReplayMirror(3, 2, capacity, device)
        self.mirror.extend(rows)
        trainer.observe(rows)
        self.updates = GraphedUpdates(
            learner,
            self.mirror,
            trainer._gradient,
            trainer.flat,
            trainer.target,
            trainer.optimiser,
            trainer.generator,
        )
        self.updates.normalise(trainer._mean, trainer._scale, trainer._reward_scale)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(
    "network", [{"diagonal": "scaled", "off_diagonal": True}, {"layer_norm": True}], ids=str
)
def test_the_same_rows_give_the_parameters_of_the_trainer(
    network: dict[str, Any], device: str, spec: SpaceSpec, make_rows: Callable[..., Transitions]
) -> None:
    graphed = Graphed(spec, make_rows(100), device, clip_targets=True, **network)
    plain = Trainer(graphed.trainer.config, spec, seed=3)
    plain.observe(make_rows(100))
    for updates in (3, UPDATES_PER_GRAPH):
        graphed.updates.draw(updates)
        graphed.updates.learn(updates)
        for index in graphed.updates._index[:updates, :BATCH]:
            plain.update(graphed.mirror.rows[index])
    begin = Trainer(graphed.trainer.config, spec, seed=3)
    for name in ("network", "target"):
        ours, theirs = graphed.trainer.tensors()[name], plain.tensors()[name]
        assert (ours - theirs).norm() < 1e-4 * (theirs - begin.tensors()[name]).norm(), name


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_same_however_updates_are_divided_into_calls(
    device: str, spec: SpaceSpec, make_rows: Callable[..., Transitions]
) -> None:
    whole, divided = (Graphed(spec, make_rows(100), device) for _ in range(2))
    whole.updates.update_many(2 * UPDATES_PER_GRAPH + 3)
    for updates in (1, UPDATES_PER_GRAPH + 1, UPDATES_PER_GRAPH - 1, 2):
        divided.updates.update_many(updates)
    assert whole.trainer.optimiser.steps == divided.trainer.optimiser.steps == 2 * UPDATES_PER_GRAPH + 3
    for name, tensor in whole.trainer.tensors().items():
        assert torch.equal(tensor, divided.trainer.tensors()[name]), name
    assert torch.equal(whole.trainer.generator.get_state(), divided.trainer.generator.get_state())


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("inserted, held", [(20, range(20)), (57, {*range(57 - 40, 57)})])
def test_draws_all_rows_that_are_held_and_no_others(
    inserted: int, held: set[int], device: str, spec: SpaceSpec, make_rows: Callable[..., Transitions]
) -> None:
    graphed = Graphed(spec, make_rows(inserted), device, capacity=40)
    counts = torch.zeros(inserted)
    for _ in range(20):
        graphed.updates.update_many(UPDATES_PER_GRAPH)
        index = graphed.updates._index[:, :BATCH].reshape(-1)
        rewards = graphed.mirror.rows[index, graphed.mirror.layout.reward].long().cpu()
        counts += torch.bincount(rewards, minlength=inserted)
    assert {*counts.nonzero().flatten().tolist()} == {*held}
    expected = counts.sum() / len(held)
    assert (counts[[*held]] - expected).square().sum() / expected < 3 * len(held)  # χ²: about len(held)


def test_rows_that_come_later_are_drawn_and_statistics_that_change_are_used(
    spec: SpaceSpec, make_rows: Callable[..., Transitions]
) -> None:
    graphed = Graphed(spec, make_rows(5))
    graphed.updates.update_many(1)
    graphed.mirror.extend(make_rows(60, 5))
    graphed.updates.normalise(torch.full((6,), 100.0), torch.ones(6), 0.0)
    graphed.updates.update_many(UPDATES_PER_GRAPH)
    assert graphed.updates._index[:, :BATCH].max() > 40
    assert (graphed.updates._rows[..., :6] == -10).all()
    assert not graphed.updates._reward.any()


def test_a_trainer_keeps_its_graphs_at_its_newest_statistics(
    spec: SpaceSpec, make_rows: Callable[..., Transitions], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LearnerConfig(hidden_sizes=[16, 16], batch_size=BATCH, engine="eager")
    trainer, mirror = Trainer(config, spec), ReplayMirror(3, 2, 200)
    monkeypatch.setattr(trainer, "_graphs_updates", True)  # as on a GPU
    for rows in (make_rows(20), make_rows(60, 20)):
        trainer.observe(rows)
        mirror.extend(rows)
        trainer.update_many(mirror, 1)
        assert torch.equal(trainer._graphed._mean, trainer._mean)
        assert torch.equal(trainer._graphed._scale, trainer._scale)
        assert trainer._graphed._reward_scale == pytest.approx(trainer._reward_scale)


def test_an_empty_mirror_is_refused(spec: SpaceSpec, make_rows: Callable[..., Transitions]) -> None:
    graphed = Graphed(spec, make_rows(5))
    graphed.mirror.seek(1000)
    with pytest.raises(ValueError, match="empty mirror"):
        graphed.updates.update_many(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_where_capture_fails_updates_go_on_and_a_line_says_so(
    spec: SpaceSpec,
    make_rows: Callable[..., Transitions],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, graphed = (Graphed(spec, make_rows(100), "cuda") for _ in range(2))
    expected.updates.update_many(2)

    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("no graphs today")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    graphed.updates.update_many(2)
    assert "without CUDA graphs" in caplog.text and "no graphs today" in caplog.text
    torch.testing.assert_close(graphed.trainer.flat, expected.trainer.flat)
