"""Logs of our own fleet, made in one process: its real control loop, guard and simulated arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fleet.config import FleetConfig
from fleet.messages import PolicyMessage, TransitionBatch
from replay_server.episode_builder import EpisodeBuilder
from replay_server.log_writer import LogWriter
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import make_task

START_NS = 1_767_225_600_000_000_000
"""Wall time at which such logs begin: 2026-01-01, so that the same seed gives the same files."""


def record(
    fleet: FleetConfig,
    out: Path,
    message: PolicyMessage,
    episodes: int,
    seed: int,
    *,
    explore: bool = True,
    robots: Sequence[str] = (),
    boot_id: str = "recorded",
) -> None:
    """Let a policy act and write what the robots lived as a run folder.

    Args:
        fleet: With robots and task.
        out: The folder; it must not exist.
        message: The policy; its exploration_std is how random the logs are.
        episodes: Of each robot.
        seed: Of targets, starts and noise.
        explore: With the policy's noise; otherwise noise-free, marked as evaluation.
        robots: Their ids; all of the fleet by default.
        boot_id: Of the episodes.
    """
    ids = robots or [entry.id for entry in fleet.robots]
    spec = make_task(fleet, ids[0]).spec
    with LogWriter(out, spec, "", fleet) as writer:
        for number, robot_id in enumerate(ids):
            batches: list[TransitionBatch] = []
            robot_seed = 1000 * seed + number
            with simulated_arm(fleet, robot_id, robot_seed + 1) as arm:
                rollout = Rollout(
                    fleet, robot_id, message, robot_seed, arm, on_batch=batches.append, explore=explore
                )
                for episode in range(episodes):
                    rollout.episode()
                    builder = EpisodeBuilder(
                        run_id="",
                        robot_id=robot_id,
                        boot_id=boot_id,
                        episode=episode,
                        spec=spec,
                        task=fleet.task.kind,
                    )
                    builder.evaluation = batches[0].evaluation
                    for batch in batches:
                        seq = batch.first_seq + np.arange(batch.rows)
                        builder.extend(batch, seq, seq)
                    last = batches[-1]
                    whole = builder.seal(
                        end=last.end,
                        success=last.success,
                        metrics=last.metrics,
                        received_ns=START_NS + int(last.stamp_ns[-1]),
                    )
                    writer.add(whole.info, whole.transitions)
                    batches.clear()
