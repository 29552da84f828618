"""Hears the learner's policies and holds the newest good one.

A thread owns the SUB socket (CONFLATE: only the last frame is kept). A policy is checked whole
before it is offered; the control loop reads one attribute, so a swap is atomic between ticks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

import zmq

from fleet.codec import decode
from fleet.keys import Credentials
from fleet.messages import MessageError, PolicyMessage
from fleet.sockets import connect_policy_subscriber
from fleet.spaces import SpaceSpec
from robot_nodes.actor import NewestPolicy
from robot_nodes.policy import NumpyPolicy, PolicyError

logger = logging.getLogger(__name__)

_POLL_MS = 50


class PolicyReceiver:
    """The newest policy of one learner.

    receiver = PolicyReceiver(endpoint, spec)
    receiver.start()
    newest = receiver.newest          # None until the first one
    """

    def __init__(self, endpoint: str, spec: SpaceSpec, credentials: Credentials | None = None) -> None:
        self._endpoint, self._spec, self._credentials = endpoint, spec, credentials
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-receiver", daemon=True)
        self._run_id = ""
        self._last_refusal = ""
        self.newest: NewestPolicy | None = None
        self.swaps = 0
        self.refused = 0
        self.latencies_ms: deque[float] = deque(maxlen=512)

    def start(self) -> None:
        """Connect and begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        context = zmq.Context()
        socket = connect_policy_subscriber(context, self._endpoint, self._credentials)
        try:
            while not self._stop.is_set():
                if socket.poll(_POLL_MS):
                    self.offer(socket.recv())
        finally:
            socket.close(linger=0)
            context.term()

    def offer(self, frame: bytes) -> bool:
        """Check a frame and swap it in; a refused one is counted, logged once and forgotten."""
        try:
            message = decode(frame)
            if not isinstance(message, PolicyMessage):
                raise PolicyError(f"expected a policy, got a {type(message).__name__}")
            held = self.newest.policy.version if self.newest and self._run_id == message.run_id else -1
            if message.version == held:
                # The last value again: the learner lives and has nothing newer, so this one is not old.
                self.newest = NewestPolicy(self.newest.policy, time.monotonic()) if self.newest else None
                return False
            if message.version < held:
                raise PolicyError(
                    f"version {message.version} is older than {held} of the same run {message.run_id}"
                )
            policy = NumpyPolicy.from_message(message, self._spec)
        except (MessageError, PolicyError) as error:
            self.refused += 1
            if str(error) != self._last_refusal:
                logger.error("refused a policy from %s: %s", self._endpoint, error)
                self._last_refusal = str(error)
            return False
        if self._run_id != message.run_id:
            logger.info("first policy of run %s: version %d", message.run_id, message.version)
        if self._run_id == message.run_id:  # the first of a run may be a last value sent again
            self.latencies_ms.append((time.time_ns() - message.published_ns) * 1e-6)
        self._run_id = message.run_id
        self.newest = NewestPolicy(policy, time.monotonic())
        self.swaps += 1
        return True
