"""What the policy asks for, with the noise of training and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.robot_config import PolicyAgeWatchdog
from robot_nodes.exploration import GaussianExploration
from robot_nodes.policy import NumpyPolicy

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NewestPolicy:
    """What the policy receiver holds: swapped as a whole, so a tick sees one or the other.

    Attributes:
        policy: The network.
        received_s: Steady time at which the learner last said that it is its newest (s).
    """

    policy: NumpyPolicy
    received_s: float


class Actor:
    """The newest policy and its exploration.

    if actor.ready and not actor.too_old(steady_s):
        actor.begin(evaluating)                            # each episode
        action, version = actor.act(observation, 1.0)      # each tick
    """

    def __init__(
        self,
        newest: Callable[[], NewestPolicy | None],
        watchdog: PolicyAgeWatchdog,
        exploration: GaussianExploration,
    ) -> None:
        self._newest, self._watchdog, self._exploration = newest, watchdog, exploration
        self._evaluating = False
        self._policy: NumpyPolicy | None = None

    @property
    def ready(self) -> bool:
        """There is a policy to act with."""
        return self._newest() is not None

    def too_old(self, steady_s: float) -> str:
        """How old the newest policy is, if that is more than it may be; empty if the robot may act."""
        newest = self._newest()
        if newest is None or self._watchdog.action == "keep_acting":
            return ""
        age_s = steady_s - newest.received_s
        return f"policy is {age_s:.0f} s old" if age_s > self._watchdog.limit_s else ""

    def begin(self, evaluating: bool) -> None:
        """An episode begins: an evaluation keeps to the policy of now and adds no noise."""
        self._evaluating = evaluating
        self._exploration.reset()
        newest = self._newest()
        assert newest is not None
        self._policy = newest.policy

    def act(self, observation: npt.NDArray[np.float32], scale: float) -> tuple[Vector, int]:
        """An action in [-1, 1] [nu] for an observation [nx], and the version of the policy behind it.

        In training its noise is `scale` times as strong as the policy says.
        """
        newest = self._newest()
        if not self._evaluating and newest is not None:
            self._policy = newest.policy
        policy = self._policy
        assert policy is not None
        action = policy.mean_action(observation).astype(np.float64)
        if not self._evaluating:
            std = scale * policy.exploration_std
            factor = policy.precision_factor()
            noise = self._exploration.sample(std, policy.exploration_correlation, factor)
            action = np.clip(action + noise, -1.0, 1.0)
        return action, policy.version
