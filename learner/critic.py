"""The critic of a checkpoint, as it was saved: Q and V of logged rows, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fleet.config import ConfigError
from fleet.messages import OBSERVATION_CLIP
from fleet.run_folder import RunFolder
from fleet.spaces import SpaceSpec
from learner.checkpoint import CheckpointError, load_checkpoint
from learner.ddpg import DdpgShape
from learner.naf import evaluate, q_value, td_target
from learner.sealed_folder import DamagedFolderError, read_sealed
from learner.trainer import Trainer


class CriticError(ValueError):
    """There is no critic to be had; the text says why."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a critic says of B rows, in the rewards' own units.

    Attributes:
        error: TD errors Q(x, u) − y of each value [B, values].
        target: y = r + γ V′(x′), r alone where the task ended [B].
        value: V(x), the smallest [B].
    """

    error: Tensor
    target: Tensor
    value: Tensor


class Critic:
    """One checkpoint's critic.

    critic = Critic(Path("runs/NAME/checkpoints/0000053716-0000000160"), logs.spec)
    judgement = critic.judge(rows)          # [B, width]

    Attributes:
        run_id: The run that trained it.
        learned_rows: How many rows of that run's log it has seen, from the first on.
        gamma: Its discount.
    """

    def __init__(self, checkpoint: Path, spec: SpaceSpec) -> None:
        """Load it, whatever device it was trained on.

        Raises:
            CriticError: It is damaged, of other spaces, or its run's config.yaml is not two folders above.
        """
        try:
            config = RunFolder(checkpoint.parent.parent).load().learner
            config = config.model_copy(update={"device": "cpu", "engine": "eager"})
            run_id = str(read_sealed(checkpoint)[0]["run_id"])
            self._trainer = Trainer(config, spec)
            progress = load_checkpoint(checkpoint, self._trainer, run_id)
        except (ConfigError, CheckpointError, DamagedFolderError) as error:
            raise CriticError(str(error)) from error
        self.run_id, self.learned_rows, self.gamma = run_id, progress.cursor, config.gamma
        self._mean = torch.from_numpy(self._trainer.normaliser.mean)
        self._scale = torch.from_numpy(self._trainer.normaliser.scale)
        self._reward_scale = self._trainer.rewards.scale(config)

    @torch.no_grad()
    def judge(self, rows: Tensor) -> Judgement:
        """Look at rows [B, width] of `learner/packed_rows.py`; one-step targets, whatever it learned with."""
        layout, trainer = self._trainer.layout, self._trainer
        x = self._normalised(rows[:, : layout.nx])
        next_x = self._normalised(rows[:, layout.nx : 2 * layout.nx])
        u, network = rows[:, layout.action], trainer.network
        if isinstance(network, DdpgShape):
            q = network.action_values(trainer.flat, x, u)
            value = network.action_values(trainer.flat, x, network.mean_action(trainer.flat, x))
            next_u = network.mean_action(trainer.target, next_x)
            next_value = network.action_values(trainer.target, next_x, next_u)
        else:
            naf = evaluate(network, trainer.flat, x)
            q, value = q_value(naf.V, u, naf.mu, naf.L), naf.V
            next_value = evaluate(network, trainer.target, next_x).V
        reward, terminated = rows[:, layout.reward] * self._reward_scale, 1.0 - rows[:, layout.bootstrap]
        y = td_target(reward, terminated, next_value.amin(dim=1), self.gamma)
        unit = 1.0 / self._reward_scale
        return Judgement((q - y[:, None]) * unit, y * unit, value.amin(dim=1) * unit)

    def _normalised(self, observation: Tensor) -> Tensor:
        return ((observation - self._mean) * self._scale).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
