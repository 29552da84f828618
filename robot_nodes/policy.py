"""μ(x) and L(x) in numpy: a robot computer needs no torch, and a bad policy never reaches an arm."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.messages import (
    DIAGONALS,
    LAYER_NORM_EPSILON,
    NOISES,
    OBSERVATION_CLIP,
    PolicyMessage,
    policy_checksum,
)
from fleet.spaces import SpaceSpec
from robot_nodes.precision import Layer, Matrix, PrecisionFactor

Vector = npt.NDArray[np.float32]


class PolicyError(ValueError):
    """A policy must not be used; the text says what is wrong with it."""


class NumpyPolicy:
    """The greedy action of one published policy, and what shapes its noise.

        policy = NumpyPolicy.from_message(message, spec)
        action = policy.mean_action(observation)
        L = policy.precision_factor()

    One instance serves one thread: it computes in buffers of its own.

    Attributes:
        run_id: The run that trained it.
        version: Its number within the run.
        learner_step: Updates behind it.
        learned_rows: The log's cursor up to which all updates that the rows allow are behind it.
        exploration_std: Standard deviation of the noise to add, in units of the action.
        exploration_correlation: Correlation of the noise from one tick to the next.
        published_ns: Wall time of publication (ns).
    """

    def __init__(self, message: PolicyMessage) -> None:
        """Unpack a message that `check` accepted."""
        self.run_id = message.run_id
        self.version = message.version
        self.learner_step = message.learner_step
        self.learned_rows = message.learned_rows
        self.exploration_std = message.exploration_std
        self.exploration_correlation = message.exploration_correlation
        self.published_ns = message.published_ns
        self._mean = np.array(message.observation_mean, dtype=np.float32)
        self._scale = np.array(message.observation_scale, dtype=np.float32)
        self._x = np.empty(message.layer_sizes[0], dtype=np.float32)
        self._layer_norm, self._residual = message.layer_norm, message.residual
        parameters = np.array(message.parameters, dtype=np.float32)  # a copy: the frame may go
        self._layers = _unpack(parameters, _layer_shapes(message))
        self._factor: PrecisionFactor | None = None
        if message.noise == "precision":
            nu = message.layer_sizes[-1]
            self._factor = PrecisionFactor(self._layers.pop(), nu, message.diagonal, parameters[-nu:])
        self._last_hidden = self._layers[-2][2] if len(self._layers) > 1 else self._x

    @classmethod
    def from_message(cls, message: PolicyMessage, spec: SpaceSpec) -> NumpyPolicy:
        """A policy that was checked against the spec this robot acts in.

        Raises:
            PolicyError: It is for another spec, damaged, not finite, or its sizes do not add up.
        """
        check(message, spec)
        return cls(message)

    @property
    def observation_size(self) -> int:
        """Numbers in an observation, nx."""
        return len(self._x)

    @property
    def action_size(self) -> int:
        """Numbers in an action, nu."""
        return len(self._layers[-1][1])

    def mean_action(self, observation: npt.ArrayLike) -> Vector:
        """μ(x) of one observation [nx], SI units: an action in [-1, 1] [nu]."""
        x = self._x
        np.subtract(observation, self._mean, out=x, casting="same_kind")
        np.multiply(x, self._scale, out=x)
        np.maximum(x, -OBSERVATION_CLIP, out=x)
        np.minimum(x, OBSERVATION_CLIP, out=x)
        for weight, bias, h in self._layers[:-1]:
            np.dot(weight, x, out=h)
            np.add(h, bias, out=h)
            if self._layer_norm:
                _normalise(h)
            np.maximum(h, 0.0, out=h)
            if self._residual and len(h) == len(x):
                np.add(h, x, out=h)
            x = h
        weight, bias, h = self._layers[-1]
        np.dot(weight, x, out=h)
        np.add(h, bias, out=h)
        return np.tanh(h)

    def precision_factor(self) -> Matrix | None:
        """L(x) [nu, nu] of the newest observation, P = L Lᵀ; none: its noise is the same for all actions.

        Valid until the next call.
        """
        return None if self._factor is None else self._factor(self._last_hidden)


def check(message: PolicyMessage, spec: SpaceSpec) -> None:
    """Make sure that a policy may drive a robot of this spec.

    Raises:
        PolicyError: It may not; the text names the policy and the reason.
    """
    name = f"policy {message.version} of run {message.run_id[:64]}"
    if message.spec_hash != spec.hash:
        raise PolicyError(
            f"{name} is for other spaces (spec {message.spec_hash[:8]}…, this robot has {spec.hash[:8]}…): "
            "another task or another kind of robot"
        )
    arrays: dict[str, npt.NDArray[Any]] = {
        "parameters": message.parameters,
        "observation_mean": message.observation_mean,
        "observation_scale": message.observation_scale,
    }
    if message.checksum != policy_checksum(*arrays.values()):
        raise PolicyError(f"{name} is damaged: its checksum does not match its arrays")
    sizes = message.layer_sizes
    shown = str(sizes[:20])
    if len(sizes) < 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise PolicyError(f"{name}: layer_sizes must be two or more positive integers, got {shown}")
    ends = (spec.observation.size, spec.action.size)
    if (sizes[0], sizes[-1]) != ends:
        raise PolicyError(f"{name}: layers {shown} must begin and end with the spec's sizes {ends}")
    for field, known in (("noise", NOISES), ("diagonal", DIAGONALS)):
        if (value := getattr(message, field)) not in known:
            raise PolicyError(f"{name}: {field} must be one of {', '.join(known)}, got {value[:40]!r}")
    expected = sum((inputs + 1) * outputs for inputs, outputs in _layer_shapes(message))
    if message.noise == "precision" and message.diagonal == "scaled":
        expected += sizes[-1]
    if len(message.parameters) != expected:
        raise PolicyError(
            f"{name}: layers {shown} with {message.noise} noise take {expected} parameters, "
            f"got {len(message.parameters)}"
        )
    if len(message.observation_mean) != sizes[0] or len(message.observation_scale) != sizes[0]:
        raise PolicyError(
            f"{name}: the normaliser has {len(message.observation_mean)} dimensions, layers take {sizes[0]}"
        )
    for array_name, array in arrays.items():
        if not np.isfinite(array).all():
            raise PolicyError(
                f"{name}: {array_name} has {int((~np.isfinite(array)).sum())} values not finite"
            )
    for field in ("exploration_std", "exploration_correlation"):
        value = getattr(message, field)
        if not 0.0 <= value < np.inf:
            raise PolicyError(f"{name}: {field} must be finite and not negative, got {value}")
    if message.exploration_correlation >= 1.0:
        raise PolicyError(
            f"{name}: exploration_correlation must be below 1, got {message.exploration_correlation}"
        )


def _layer_shapes(message: PolicyMessage) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer, and with precision noise of the one that gives L."""
    *hidden, nu = message.layer_sizes
    shapes = list(itertools.pairwise(message.layer_sizes))
    if message.noise == "precision":
        shapes.append((hidden[-1], nu + (nu * (nu - 1) // 2 if message.off_diagonal else 0)))
    return shapes


def _normalise(z: Vector) -> None:
    """(z − mean) / √(var + LAYER_NORM_EPSILON), in place."""
    z -= z.sum() / len(z)
    z *= 1.0 / math.sqrt(np.dot(z, z) / len(z) + LAYER_NORM_EPSILON)


def _unpack(parameters: Vector, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Weights [out, in], bias [out] and an output buffer [out] for each layer, views of `parameters`."""
    layers: list[Layer] = []
    start = 0
    for inputs, outputs in shapes:
        middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
        weight = parameters[start:middle].reshape(outputs, inputs)
        layers.append((weight, parameters[middle:end], np.empty(outputs, dtype=np.float32)))
        start = end
    return layers
