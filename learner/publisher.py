"""The newest μ to every robot: one frame, kept and re-sent to whoever subscribes later."""

from __future__ import annotations

import logging

import numpy as np
import zmq

from fleet.codec import encode
from fleet.gatekeeper import Gatekeeper
from fleet.handshakes import HandshakeCounter
from fleet.messages import PolicyMessage, policy_checksum
from fleet.sockets import Socket, drop_connections
from learner.naf import NafShape
from learner.trainer import DivergedError, Trainer
from replay_server.log_throttle import LogThrottle

log = logging.getLogger(__name__)

_MAX_READ = 256
_MAX_STRANGE = 16


def policy_message(
    trainer: Trainer,
    run_id: str,
    version: int,
    exploration_std: float,
    published_ns: int,
    learned_rows: int = 0,
) -> PolicyMessage:
    """What a robot needs of the trainer's network: the layers of μ, and of L if that shapes its noise.

    Raises:
        DivergedError: The network is not finite; such a policy never leaves this process.
    """
    parameters = trainer.policy_parameters()
    mean, scale = trainer.normaliser.mean, trainer.normaliser.scale
    if not all(np.isfinite(array).all() for array in (parameters, mean, scale)):
        raise DivergedError(
            f"policy {version} is not finite after {trainer.updates} updates: not published; learning has "
            "diverged: lower the learning rate or the scale of rewards"
        )
    config, network = trainer.config, trainer.network
    naf = network if isinstance(network, NafShape) else None
    return PolicyMessage(
        run_id=run_id,
        version=version,
        learner_step=trainer.updates,
        spec_hash=trainer.spec.hash,
        layer_sizes=network.policy_layer_sizes,
        exploration_std=exploration_std,
        exploration_correlation=config.exploration_correlation,
        published_ns=published_ns,
        checksum=policy_checksum(parameters, mean, scale),
        layer_norm=naf is not None and naf.layer_norm,
        residual=naf is not None and naf.residual,
        noise=config.exploration,
        diagonal=config.diagonal,
        off_diagonal=config.off_diagonal,
        learned_rows=learned_rows,
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

    def __init__(self, socket: Socket, gatekeeper: Gatekeeper | None = None) -> None:
        """Take over a bound XPUB_VERBOSE socket, and cut off those whose key the gatekeeper revokes."""
        self.subscriptions = self.strange_subscriptions = self._strange_at_cut = 0
        self.handshakes = HandshakeCounter(socket)
        self._socket, self._gatekeeper = socket, gatekeeper
        self._cut_log = LogThrottle(log)
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
        """Re-send the last policy if anyone has subscribed since; cut off whose key was revoked."""
        if self._gatekeeper is not None and self._gatekeeper.revoked():
            drop_connections(self._socket)
        self._greet()

    def _greet(self) -> bool:
        """Whether the last policy was sent just now, because anyone had subscribed."""
        greeted = False
        for _ in range(_MAX_READ):  # whoever subscribes for ever must not keep the trainer here
            if not self._socket.poll(0, zmq.POLLIN):
                break
            frame = self._socket.recv(zmq.DONTWAIT)
            if frame == b"\x01":
                self.subscriptions += 1
                greeted = True
            elif frame != b"\x00":
                self.strange_subscriptions += 1
        if self.strange_subscriptions - self._strange_at_cut >= _MAX_STRANGE:
            # ZeroMQ keeps every topic of a connection, some 40 bytes for each of its bytes, until it ends.
            self._strange_at_cut = self.strange_subscriptions
            self._cut_log.warning("somebody subscribes to topics that no policy has: all were cut off")
            drop_connections(self._socket)
        if not greeted or self._frame is None:
            return False
        log.info("a robot subscribed: sending it the newest policy")
        self._socket.send(self._frame, zmq.DONTWAIT)
        return True

    def close(self) -> None:
        """Close the socket."""
        self.handshakes.close()
        self._socket.close(linger=0)
