"""Is the newest policy as good as the robots' last episodes say? Fresh simulated episodes tell.

The robots' newest noise-free episodes were run by many policies, and a run that looks at them twice a
second will some time see a lucky streak. So one policy, the newest, has to prove it on its own.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import zmq

from fleet.codec import decode
from fleet.config import FleetConfig
from fleet.keys import Credentials
from fleet.messages import MessageError, PolicyMessage
from fleet.sockets import connect_policy_subscriber

if TYPE_CHECKING:
    from robot_nodes.sim.evaluation import Evaluation

logger = logging.getLogger(__name__)

FRESH_SEED = 1000
"""Added to the fleet's seed: episodes that judge a policy are none that it was trained in."""

_NICENESS = 10


class PolicyListener:
    """Hears the learner's policies and gives the newest when asked."""

    def __init__(self, endpoint: str, credentials: Credentials | None = None) -> None:
        """Connect in the background."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect_policy_subscriber(self._context, endpoint, credentials)
        self._newest: PolicyMessage | None = None

    def __enter__(self) -> PolicyListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def newest(self) -> PolicyMessage | None:
        """The newest policy that was heard; None before the first."""
        while self._socket.poll(0):
            try:
                message = decode(self._socket.recv())
            except MessageError as error:
                logger.warning("dropped a malformed policy: %s", error)
                continue
            if isinstance(message, PolicyMessage):
                self._newest = message
        return self._newest

    def close(self) -> None:
        """Disconnect."""
        self._socket.close(linger=0)
        self._context.term()


class Confirmation:
    """Evaluates one policy in a thread, while the fleet goes on learning.

    confirmation = Confirmation(fleet, robot_id, message, episodes=50, seed=1000)
    confirmation.start()
    …
    if confirmation.done and confirmation.success_rate >= goal: …

    Attributes:
        message: The policy.
        evaluation: Its episodes, once done; None also when it could not be evaluated.
    """

    def __init__(
        self, fleet: FleetConfig, robot_id: str, message: PolicyMessage, episodes: int, seed: int
    ) -> None:
        self.message = message
        self.evaluation: Evaluation | None = None
        self._arguments = (fleet, message, episodes, seed, robot_id)
        self._in_gazebo = robot_id in fleet.in_gazebo
        self._thread = threading.Thread(target=self._run, name="confirmation", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether all episodes are over."""
        return not self._thread.is_alive()

    @property
    def success_rate(self) -> float:
        """Of the evaluation; 0 when there is none."""
        return self.evaluation.summary["success_rate"] if self.evaluation else 0.0

    def _run(self) -> None:
        from robot_nodes.sim.evaluation import evaluate_policy

        if self._in_gazebo:
            os.nice(_NICENESS)  # of this thread and its gzserver: the fleet's, in real time, goes first
        try:
            self.evaluation = evaluate_policy(*self._arguments)
        except Exception:  # the fleet goes on, whatever is wrong with the simulated robot
            logger.exception("policy v%d cannot be evaluated", self.message.version)
