"""What a policy truly earns: noise-free episodes on a simulated arm, rewards discounted step by step.

An estimate from logs bootstraps beyond the time limit, as if the episode went on. So that truth means the
same, episodes here go on until what is left out weighs at most 1 % (γ^T ≤ 0.01), if that is beyond the time
limit; the task's verdict on success is then that at the later time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fleet.config import FleetConfig
from fleet.messages import PolicyMessage, TransitionBatch
from fleet.sim_config import Simulator
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulators import simulated_arm

TAIL = 0.01
"""Weight γ^T of what comes after an episode of T steps that need not be simulated."""

_LONGEST = 20  # times the task's own time limit


@dataclass(frozen=True)
class TrueReturn:
    """Discounted returns of some episodes.

    Attributes:
        mean: Their mean.
        standard_error: Of that mean; NaN with one episode.
        success_rate: Share of them that the task calls a success.
        episodes: How many.
        episode_s: How long one lasted at most (s).
        tail: Weight γ^T of what would have come after the last step of an episode that was cut.
    """

    mean: float
    standard_error: float
    success_rate: float
    episodes: int
    episode_s: float
    tail: float


def long_enough(fleet: FleetConfig, robot_id: str, gamma: float) -> FleetConfig:
    """The same fleet with episodes so long that γ^T ≤ TAIL, at most `_LONGEST` times as long as they are."""
    rate = fleet.entry(robot_id).robot.control_rate_hz
    own_s = fleet.task.episode_s
    steps = math.ceil(math.log(TAIL) / math.log(gamma)) if 0.0 < gamma < 1.0 else 1
    episode_s = min(max(own_s, steps / rate), _LONGEST * own_s)
    return fleet.model_copy(update={"task": fleet.task.model_copy(update={"episode_s": episode_s})})


def true_return(
    fleet: FleetConfig,
    robot_id: str,
    message: PolicyMessage,
    gamma: float,
    episodes: int,
    seed: int,
    *,
    simulator: Simulator | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrueReturn:
    """Simulate noise-free episodes of a policy.

    Args:
        fleet: With robot and task.
        robot_id: Whose config to simulate.
        message: The policy.
        gamma: Discount per step.
        episodes: How many.
        seed: Of targets and starts: the same for all policies that are to be compared.
        simulator: Where; None: where the robot's config says.
        on_progress: Called after each episode with what is done and the total.

    Raises:
        ConfigError: The robot is real hardware, or has sensors that are not of its scene.
        PolicyError: The policy is not one for this robot and task.
        RolloutError: The simulated robot went into a fault.
        GazeboError: There is no Gazebo on this machine, or it does not start.
    """
    fleet = long_enough(fleet, robot_id, gamma)
    batches: list[TransitionBatch] = []
    returns, successes, tails = [], [], []
    with simulated_arm(fleet, robot_id, seed + 1, simulator) as arm:
        rollout = Rollout(fleet, robot_id, message, seed, arm, on_batch=batches.append)
        for episode in range(episodes):
            successes.append(rollout.episode().success)
            rewards = np.concatenate([batch.reward for batch in batches]).astype(np.float64)
            returns.append(float(rewards @ gamma ** np.arange(len(rewards))))
            tails.append(0.0 if batches[-1].terminated[-1] else gamma ** len(rewards))
            batches.clear()
            on_progress(episode + 1, episodes)
    error = float(np.std(returns, ddof=1) / math.sqrt(episodes)) if episodes > 1 else math.nan
    return TrueReturn(
        mean=float(np.mean(returns)),
        standard_error=error,
        success_rate=float(np.mean(successes)),
        episodes=episodes,
        episode_s=fleet.task.episode_s,
        tail=max(tails),
    )
