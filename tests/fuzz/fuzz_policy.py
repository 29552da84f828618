"""Any policy frame is refused or drives the robot; nothing else comes of it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from fuzz_frames import NU, NX, SPEC, Mutate, mutate_frame, policy

from fleet.codec import decode, encode
from fleet.messages import MessageError, PolicyMessage, policy_checksum
from robot_nodes.exploration import GaussianExploration
from robot_nodes.policy import NumpyPolicy, PolicyError

MAX_BYTES = 2**15


def seeds() -> list[bytes]:
    linear = np.zeros((NX + 1) * NU, "<f4")
    square = np.linspace(-1, 1, (NX + 1) * (NX + NU), dtype="<f4")
    below = NU * (NU - 1) // 2
    precise = np.full((NX + 1) * 3 + 4 * (2 * NU + below), 3.0, "<f4")
    scaled = np.full((NX + 1) * 3 + 4 * 2 * NU + NU, -1e38, "<f4")
    deep = np.full((NX + 1) * 4 + 5 * 4 + 5 * NU, 1e38, "<f4")
    policies = [
        policy(),
        policy(layer_sizes=[NX, NU], parameters=linear),
        policy(layer_sizes=[NX, 4, 4, NU], parameters=deep),
        policy(layer_sizes=[NX, NX, NU], parameters=square, layer_norm=True, residual=True),
        policy(parameters=precise, noise="precision", diagonal="exp", off_diagonal=True),
        policy(parameters=scaled, noise="precision", diagonal="scaled"),
        policy(noise="precision", diagonal="?"),
        policy(observation_scale=np.full(NX, np.nan, "<f4")),
        policy(spec_hash="other", version=2**63),
        policy(exploration_std=float("inf"), exploration_correlation=-1.0),
        policy(run_id="r" * 5000, layer_sizes=[NX, *[2**63] * 500, NU]),
    ]
    return [encode(message) for message in policies]


def mutate(data: bytes, max_bytes: int, rng: random.Random, base: Mutate) -> bytes:
    return mutate_frame(data, max_bytes, rng, base)


def check(data: bytes) -> None:
    try:
        message = decode(data)
    except MessageError:
        return
    if not isinstance(message, PolicyMessage):
        return
    _use(message)
    checksum = policy_checksum(message.parameters, message.observation_mean, message.observation_scale)
    _use(replace(message, checksum=checksum, spec_hash=SPEC.hash))


def _use(message: PolicyMessage) -> None:
    try:
        made = NumpyPolicy.from_message(message, SPEC)
    except PolicyError as error:
        assert len(str(error)) < 1000, f"an error of {len(str(error))} characters"
        return
    for observation in (np.zeros(NX), np.full(NX, 1e30), np.full(NX, -1.0)):
        with np.errstate(all="ignore"):
            action, factor = made.mean_action(observation), made.precision_factor()
            noise = GaussianExploration(NU, np.random.default_rng(0)).sample(1.0, 0.5, factor)
        assert action.shape == noise.shape == (NU,)
        assert factor is None or np.all(np.isnan(noise) | (np.abs(noise) <= 3.0))
        # Weights near the largest float overflow: the guard stops the robot on an action that is not finite.
        assert np.all(np.isnan(action) | (np.abs(action) <= 1.0))
