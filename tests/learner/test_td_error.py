"""TD errors of saved critics, against the maths in its plain form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.run_folder import create_run_folder
from fleet.spaces import SpaceSpec
from learner.checkpoint import Progress, save_checkpoint
from learner.critic import Critic, CriticError
from learner.ddpg import DdpgShape
from learner.naf import evaluate, q_value
from learner.packed_rows import RowLayout
from learner.publisher import policy_message
from learner.row_file import RowFile
from learner.td_error import measure_td_error
from learner.trainer import Trainer
from replay_server.episode_file import EpisodeInfo

NX, NU = 3, 2
INFO = EpisodeInfo(
    run_id="run", robot_id="robot1", boot_id="b", episode=0, rows=0, first_seq=0, last_seq=0, first_cursor=0,
    last_cursor=0, received_ns=0, spec_hash="", policy_version=0, evaluation=False, end="time_limit",
    success=False, metrics={}, complete=True,
)  # fmt: skip


def save(folder: Path, spec: SpaceSpec, settings: list[str]) -> tuple[Path, Trainer, FleetConfig]:
    """A run folder with one checkpoint of a network that is far from trained."""
    overrides = ["learner.hidden_sizes=[8]", "learner.engine=eager", *settings]
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml", overrides)
    run = create_run_folder(fleet, folder, "run")
    trainer = Trainer(fleet.learner, spec, seed=1)
    rng = np.random.default_rng(0)
    for tensor in (trainer.flat, trainer.target):
        tensor += 0.3 * torch.from_numpy(rng.standard_normal(len(tensor)).astype("f4"))
    trainer.normaliser.extend(rng.normal(1.0, 2.0, (50, NX)))
    trainer.rewards.extend(rng.normal(0.0, 3.0, 50))
    trainer.refresh_statistics()
    policy = policy_message(trainer, "run", 4, 0.1, 0)
    path = save_checkpoint(run.checkpoints, trainer, Progress("run", 4, 1, 25), policy, keep=1)
    return path, trainer, fleet


def make_rows(spec: SpaceSpec, episodes: int = 6, steps: int = 5, **info: Any) -> RowFile:
    generator = torch.Generator().manual_seed(0)
    layout, n = RowLayout(NX, NU), episodes * steps
    values = torch.randn(n, layout.width, generator=generator)
    values[:, layout.bootstrap] = (torch.arange(n) % steps < steps - 1).float()
    starts = torch.arange(0, n, steps)
    infos = [replace(INFO, first_cursor=int(start), **info) for start in starts]
    return RowFile(spec, layout, values, starts, infos, np.zeros(0, np.int64))


@pytest.mark.parametrize(
    "settings",
    [[], ["learner.off_diagonal=true", "learner.values=1"], ["learner.algorithm=ddpg", "learner.values=2"]],
    ids=str,
)
def test_errors_are_in_units_of_the_reward(tmp_path: Path, spec: SpaceSpec, settings: list[str]) -> None:
    path, trainer, fleet = save(tmp_path, spec, settings)
    rows = make_rows(spec)
    said = Critic(path, spec).judge(rows.values)

    x, next_x = (
        ((o - torch.from_numpy(trainer.normaliser.mean)) * torch.from_numpy(trainer.normaliser.scale))
        for o in (rows.values[:, :NX], rows.values[:, NX : 2 * NX])
    )
    u, scale = rows.values[:, rows.layout.action], trainer.rewards.scale(fleet.learner)
    network = trainer.network
    if isinstance(network, DdpgShape):
        q = network.action_values(trainer.flat, x, u)
        next_u = network.mean_action(trainer.target, next_x)
        next_v = network.action_values(trainer.target, next_x, next_u)
    else:
        naf = evaluate(network, trainer.flat, x)
        q, next_v = q_value(naf.V, u, naf.mu, naf.L), evaluate(network, trainer.target, next_x).V
    reward, bootstrap = rows.values[:, rows.layout.reward], rows.values[:, rows.layout.bootstrap]
    y = reward + fleet.learner.gamma * bootstrap * next_v.min(dim=1).values / scale
    assert scale != 1.0 and (bootstrap == 0).any()
    torch.testing.assert_close(said.target, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(said.error, q / scale - y[:, None], rtol=1e-4, atol=1e-4)

    td = measure_td_error(Critic(path, spec), rows, 200, torch.Generator().manual_seed(0))
    error = q / scale - y[:, None]
    assert td.mean_absolute == pytest.approx(float(error.abs().mean()), rel=1e-4)
    assert td.mean_squared == pytest.approx(float(error.square().mean()), rel=1e-4)
    assert td.relative == pytest.approx(float(error.square().mean() / y.var(correction=0)), rel=1e-4)
    low, high = td.mean_squared_interval
    assert low < td.mean_squared < high
    assert (td.learned_from, td.gamma) == (5 / 6, fleet.learner.gamma)  # 25 rows learned, 5 per episode
    other = measure_td_error(
        Critic(path, spec), make_rows(spec, run_id="other"), 5, torch.Generator().manual_seed(0)
    )
    assert other.learned_from is None


def test_targets_that_rewards_cannot_sum_up_to_are_counted(tmp_path: Path, spec: SpaceSpec) -> None:
    path, _, fleet = save(tmp_path, spec, [])
    rows = make_rows(spec)
    rows.values[:, rows.layout.reward] = 0.01
    critic = Critic(path, spec)
    most = 0.01 / (1 - fleet.learner.gamma)
    y = critic.judge(rows.values).target
    expected = float(((y > most * 1.05) | (y < -0.05 * most)).float().mean())
    td = measure_td_error(critic, rows, 5, torch.Generator().manual_seed(0))
    assert td.impossible_targets == pytest.approx(expected)
    assert expected > 0.2


def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path: Path, spec: SpaceSpec) -> None:
    path, _, _ = save(tmp_path, spec, [])
    other = SpaceSpec(spec.action, spec.observation)
    with pytest.raises(CriticError, match="trained in other spaces: observation has"):
        Critic(path, other)
    state = path / "state.npz"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CriticError, match=r"state\.npz: is damaged"):
        Critic(path, spec)
    lone = tmp_path / "a" / "b" / path.name
    lone.parent.mkdir(parents=True)
    path.rename(lone)
    with pytest.raises(CriticError, match="not a run folder"):
        Critic(lone, spec)
