"""The newest μ to every robot: one frame, kept and re-sent to whoever subscribes later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import zmq

from fleet.codec import encode
from fleet.messages import PolicyMessage, policy_checksum
from learner.naf import policy_layer_sizes, policy_layers
from learner.trainer import DivergedError, Trainer

log = logging.getLogger(__name__)


def policy_message(
    trainer: Trainer, run_id: str, version: int, exploration_std: float, published_ns: int
) -> PolicyMessage:
    """What a robot needs of the trainer's network: the trunk and the rows of the head that give μ.

    Raises:
        DivergedError: The network is not finite; such a policy never leaves this process.
    """
    flat = trainer.network.flat.detach().to("cpu", torch.float32)
    tensors = [part.reshape(-1) for layer in policy_layers(trainer.shape, flat) for part in layer]
    parameters = torch.cat(tensors).numpy().astype("<f4")
    mean, scale = trainer.normaliser.mean, trainer.normaliser.scale
    if not all(np.isfinite(array).all() for array in (parameters, mean, scale)):
        raise DivergedError(f"policy {version} is not finite after {trainer.updates} updates: not published")
    return PolicyMessage(
        run_id=run_id,
        version=version,
        learner_step=trainer.updates,
        spec_hash=trainer.spec.hash,
        layer_sizes=list(policy_layer_sizes(trainer.shape)),
        exploration_std=exploration_std,
        exploration_correlation=trainer.config.exploration_correlation,
        published_ns=published_ns,
        checksum=policy_checksum(parameters, mean, scale),
        parameters=parameters,
        observation_mean=mean,
        observation_scale=scale,
    )


class PolicyPublisher:
    """Sends policies on an XPUB_VERBOSE socket and answers each new subscriber with the last one.

    publisher = PolicyPublisher(bind_policy_publisher(context, endpoint))
    publisher.publish(message)
    publisher.repeat()              # nothing new: the same again
    publisher.serve()               # often: greets new subscribers, never blocks
    """

    def __init__(self, socket: zmq.Socket[Any], clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Take over a bound XPUB_VERBOSE socket; `clock_ns` gives wall time (ns)."""
        self.clock_ns = clock_ns
        self.subscriptions = 0
        self._socket = socket
        self._frame: bytes | None = None

    def publish(self, message: PolicyMessage) -> None:
        """Send a policy to all subscribers and keep it for those to come."""
        self._frame = encode(message)
        self.repeat()

    def repeat(self) -> None:
        """Send the last policy to all subscribers again: a sign of life, and a cure for a lost frame."""
        if not self._greet() and self._frame is not None:
            self._socket.send(self._frame, zmq.DONTWAIT)

    def serve(self) -> None:
        """Re-send the last policy if anyone has subscribed since."""
        self._greet()

    def _greet(self) -> bool:
        """Whether the last policy was sent just now, because anyone had subscribed."""
        greeted = False
        while self._socket.poll(0, zmq.POLLIN):
            if self._socket.recv(zmq.DONTWAIT)[:1] == b"\x01":
                self.subscriptions += 1
                greeted = True
        if not greeted or self._frame is None:
            return False
        log.info("a robot subscribed: sending it the newest policy")
        self._socket.send(self._frame, zmq.DONTWAIT)
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)
