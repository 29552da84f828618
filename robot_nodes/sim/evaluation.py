"""How good a policy is: noise-free episodes on a simulated arm, and a film of some of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from fleet.config import FleetConfig
from fleet.messages import PolicyMessage
from fleet.sim_config import Simulator
from robot_nodes.sim.film import film_episodes
from robot_nodes.sim.rollout import EpisodeResult, Rollout
from robot_nodes.sim.simulators import own_simulator, simulated_arm

_FILMED_EPISODES = 4


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        robot_id: Whose config was simulated.
        simulator: In which simulator.
        episodes: Every episode, in order.
    """

    robot_id: str
    simulator: Simulator
    episodes: list[EpisodeResult]

    @property
    def summary(self) -> dict[str, float]:
        """Success rate and the means of the return and of what tells how near to success they ended."""
        summary = {
            "episodes": float(len(self.episodes)),
            "success_rate": float(np.mean([e.success for e in self.episodes])),
        }
        for key in ("final_distance_m", "door_angle_rad", "return"):
            if all(key in e.metrics for e in self.episodes):
                summary[f"mean_{key}"] = float(np.mean([e.metrics[key] for e in self.episodes]))
        return summary

    @property
    def facts(self) -> dict[str, float | str]:
        """The summary, and of which robot in which simulator."""
        return {"robot": self.robot_id, "simulator": self.simulator, **self.summary}


def evaluate_policy(
    fleet: FleetConfig,
    message: PolicyMessage,
    episodes: int,
    seed: int,
    robot_id: str,
    console: Console | None = None,
    simulator: Simulator | None = None,
) -> Evaluation:
    """Run noise-free episodes with one policy, showing progress on a console if there is one.

    Args:
        fleet: With the robot and the task.
        message: The policy.
        episodes: How many.
        seed: Of targets and starts.
        robot_id: Whose config to simulate.
        console: Where to show progress.
        simulator: Where; None: where the robot's config says.

    Raises:
        PolicyError: The policy is not one for this robot and task.
        RolloutError: The simulated robot went into a fault.
        ConfigError: The robot is real hardware.
        GazeboError: There is no Gazebo on this machine, or it does not start.
    """
    simulator = simulator or own_simulator(fleet, robot_id)
    numbers: Iterable[int] = range(episodes)
    if console is not None:
        numbers = track(numbers, "evaluating", console=console, transient=True)
    with simulated_arm(fleet, robot_id, seed + 1, simulator) as arm:
        rollout = Rollout(fleet, robot_id, message, seed, arm)
        results = [rollout.episode() for _ in numbers]
    return Evaluation(robot_id, simulator, results)


def write_film(fleet: FleetConfig, evaluation: Evaluation, path: Path) -> None:
    """The first episodes as a GIF."""
    robot, episodes = fleet.entry(evaluation.robot_id).robot, evaluation.episodes[:_FILMED_EPISODES]
    film_episodes(robot, fleet.task, episodes, path)
