from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fleet.algorithm_config import PRESETS
from fleet.config import LearnerConfig
from fleet.messages import Transitions
from fleet.spaces import SpaceSpec
from learner.mirror import ReplayMirror
from learner.naf import NafShape, evaluate, naf_loss, td_target
from learner.publisher import policy_message
from learner.trainer import DivergedError, Trainer
from robot_nodes.policy import NumpyPolicy

MakeRows = Callable[..., Transitions]
CONFIG = LearnerConfig(
    hidden_sizes=[8, 8], batch_size=16, learning_rate=1e-2, gamma=0.5, polyak_tau=0.25, reward_scale=0.1
)


def test_one_update_is_adam_on_the_loss_and_a_polyak_step(spec: SpaceSpec, make_rows: MakeRows) -> None:
    trainer, mirror = Trainer(CONFIG, spec, seed=5), ReplayMirror(3, 2, 100)
    rows = make_rows(16)
    mirror.extend(rows)
    trainer.observe(rows)
    batch = mirror.sample(torch.Generator().manual_seed(0), 16)

    shape = trainer.network
    assert isinstance(shape, NafShape)
    reference, target = trainer.flat.clone().requires_grad_(), trainer.target.clone()
    adam = torch.optim.Adam([reference], lr=1e-2)
    mean = torch.from_numpy(rows.observation.mean(axis=0))
    std = torch.from_numpy(rows.observation.std(axis=0))
    x, next_x = ((batch[:, s] - mean) / std for s in (slice(0, 3), slice(3, 6)))
    with torch.no_grad():
        terminated = batch[:, trainer.layout.bootstrap] == 0
        next_value = evaluate(shape, target, next_x).V.amin(1)
        y = td_target(batch[:, trainer.layout.reward] * 0.1, terminated, next_value, 0.5)
    naf_loss(evaluate(shape, reference, x), batch[:, trainer.layout.action], y).backward()
    adam.step()

    trainer.update(batch)
    torch.testing.assert_close(trainer.flat, reference.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(trainer.target, target + 0.25 * (trainer.flat - target))
    assert trainer.updates == 1


def test_q_mean_is_the_value_and_the_advantage(spec: SpaceSpec, make_rows: MakeRows) -> None:
    """Weights 0: V = (2, 5), μ = 0, L = I; |u|² = 1, so Q = 2 − ½, whatever reward and target are."""
    trainer, mirror = Trainer(CONFIG, spec), ReplayMirror(3, 2, 100)
    rows = Transitions(**vars(make_rows(16)) | {"action": np.tile(np.array([0.6, -0.8], "f4"), (16, 1))})
    mirror.extend(rows)
    for flat, values in ((trainer.flat, (2.0, 5.0)), (trainer.target, (3.0, 4.0))):
        flat.zero_()
        trainer.network.layers(flat)[-1][1][:2] = torch.tensor(values)
    metrics = trainer.metrics(mirror)
    assert metrics["learner/q_mean"] == pytest.approx(1.5)
    assert metrics["learner/v_mean"] == pytest.approx(3.5)


@pytest.mark.parametrize("engine", ["auto", "eager", "graphs"])
@pytest.mark.parametrize("algorithm", sorted(PRESETS))
def test_every_preset_learns_a_one_step_task(algorithm: str, engine: str, spec: SpaceSpec) -> None:
    """Reward −(u − x)² and every step terminal: μ(x) must become x."""
    rng = np.random.default_rng(0)
    n = 4000
    x, u = rng.uniform(-0.6, 0.6, (n, 3)).astype("f4"), rng.uniform(-1, 1, (n, 2)).astype("f4")
    no, yes = np.zeros(n, bool), np.ones(n, bool)
    rows = Transitions(
        observation=x,
        action=u,
        policy_action=u,
        reward=-np.square(u - x[:, :2]).sum(axis=1),
        next_observation=x,
        terminated=yes,
        truncated=no,
        intervened=no,
        clipped=no,
        policy_version=np.zeros(n, "i8"),
        stamp_ns=np.zeros(n, "i8"),
    )
    config = LearnerConfig(
        algorithm=algorithm,
        engine="eager" if engine == "eager" else "auto",
        hidden_sizes=[32, 32],
        learning_rate=3e-3,
    )
    trainer, mirror = Trainer(config, spec), ReplayMirror(3, 2, n)
    trainer._graphs_updates = engine == "graphs"  # what CUDA captures, one operation after the other here
    mirror.extend(rows)
    trainer.observe(rows)
    trainer.update_many(mirror, 1500)
    policy = NumpyPolicy.from_message(policy_message(trainer, "run", 0, 0.0, 0), spec)
    error = np.mean([np.abs(policy.mean_action(row) - row[:2]).mean() for row in x[:200]])
    assert error < (0.12 if algorithm == "ddpg" else 0.08)
    metrics = trainer.metrics(mirror)
    assert metrics["learner/td_loss"] < 0.05
    assert metrics["learner/mu_saturation"] < 0.05


def test_the_same_seed_gives_the_same_parameters(spec: SpaceSpec, make_rows: MakeRows) -> None:
    results = []
    for _ in range(2):
        trainer, mirror = Trainer(CONFIG, spec, seed=3), ReplayMirror(3, 2, 100)
        mirror.extend(make_rows(50))
        trainer.observe(make_rows(50))
        trainer.update_many(mirror, 37)
        assert trainer.updates == 37
        results.append(trainer.flat.clone())
    assert torch.equal(*results)


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_calls_and_measurements_do_not_change_what_updates_do(
    fraction: float, spec: SpaceSpec, make_rows: MakeRows
) -> None:
    """100 updates in one call, or in pieces with metrics in between: the same bits."""
    config = CONFIG.model_copy(update={"demonstration_fraction": fraction})
    trainers = []
    for pieces in ([100], [1, 2, 13, 16, 17, 31, 20]):
        trainer, mirror = Trainer(config, spec, seed=3), ReplayMirror(3, 2, 100)
        mirror.extend(Transitions(**vars(make_rows(50)) | {"intervened": np.arange(50) % 7 == 0}))
        trainer.observe(make_rows(50))
        for updates in pieces:
            trainer.update_many(mirror, updates)
            if len(pieces) > 1:
                trainer.metrics(mirror)
        trainers.append(trainer)
    whole, divided = trainers
    assert whole.updates == divided.updates == 100
    assert torch.equal(whole.flat, divided.flat)
    assert torch.equal(whole.target, divided.target)
    assert torch.equal(whole.generator.get_state(), divided.generator.get_state())


@pytest.mark.parametrize(("fraction", "finite"), [(1.0, True), (0.75, False), (0.0, False)])
def test_a_share_of_each_minibatch_is_demonstrated(
    fraction: float, finite: bool, spec: SpaceSpec, make_rows: MakeRows
) -> None:
    """Every row but the demonstrations is poisoned: training stays finite on those alone."""
    shown = np.arange(50) % 10 == 0
    columns = {"intervened": shown, "reward": np.where(shown, 0.5, np.nan).astype("f4")}
    config = CONFIG.model_copy(update={"demonstration_fraction": fraction})
    trainer, mirror = Trainer(config, spec), ReplayMirror(3, 2, 100)
    mirror.extend(Transitions(**vars(make_rows(50)) | columns))
    trainer.update_many(mirror, 3)
    assert bool(torch.isfinite(trainer.flat).all()) == finite
    assert np.isfinite(trainer.metrics(mirror)["learner/td_loss"]) == finite


def test_before_the_first_demonstration_all_rows_are_drawn(spec: SpaceSpec, make_rows: MakeRows) -> None:
    flat = []
    for fraction in (0.0, 0.5):
        config = CONFIG.model_copy(update={"demonstration_fraction": fraction})
        trainer, mirror = Trainer(config, spec), ReplayMirror(3, 2, 100)
        mirror.extend(make_rows(50))
        trainer.update_many(mirror, 5)
        flat.append(trainer.flat)
    assert torch.equal(*flat)


def test_divergence_is_an_error_that_says_what_to_do(spec: SpaceSpec, make_rows: MakeRows) -> None:
    trainer, mirror = Trainer(CONFIG, spec), ReplayMirror(3, 2, 100)
    trainer.check_finite()
    columns = vars(make_rows(16)) | {"reward": np.full(16, np.nan, "f4")}
    mirror.extend(Transitions(**columns))
    trainer.update_many(mirror, 1)
    with pytest.raises(DivergedError, match=r"after 1 updates; lower learner\.learning_rate"):
        trainer.check_finite()
