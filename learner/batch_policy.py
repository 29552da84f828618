"""μ(x) of a published policy for many observations at once: what `robot_nodes.policy.NumpyPolicy` acts by."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from fleet.messages import OBSERVATION_CLIP, PolicyMessage
from learner.naf import hidden_output, linear_layers

_CHUNK = 8192


class BatchPolicy:
    """The greedy actions of one policy.

    policy = BatchPolicy(message)        # after robot_nodes.policy.check(message, spec)
    u = policy(observations)             # [B, nx] to [B, nu]
    """

    def __init__(self, message: PolicyMessage) -> None:
        """Unpack a message; its layers of noise are not needed."""
        self.size = message.layer_sizes[-1]
        self._mean = torch.tensor(message.observation_mean, dtype=torch.float32)
        self._scale = torch.tensor(message.observation_scale, dtype=torch.float32)
        self._layer_norm, self._residual = message.layer_norm, message.residual
        flat = torch.tensor(message.parameters, dtype=torch.float32)
        self._layers = linear_layers(flat, list(itertools.pairwise(message.layer_sizes)))

    def __call__(self, observation: Tensor) -> Tensor:
        """μ of observations [B, nx], SI units: actions in [-1, 1] [B, nu]."""
        return torch.cat([self._act(chunk) for chunk in torch.split(observation, _CHUNK)])

    def _act(self, observation: Tensor) -> Tensor:
        x = ((observation - self._mean) * self._scale).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        *hidden, (W, b) = self._layers
        h = hidden_output(hidden, x, layer_norm=self._layer_norm, residual=self._residual)
        return torch.tanh(functional.linear(h, W, b))
