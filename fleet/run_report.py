"""What is left of a run in its folder: the report, the curve, the policy and its film.

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from rich.console import Console

from fleet.codec import encode
from fleet.config import FleetConfig
from fleet.confirmation import FRESH_SEED
from fleet.fleet_run import Outcome
from fleet.run_folder import RunFolder
from fleet.run_verdict import check_run

logger = logging.getLogger(__name__)


def write_report(folder: RunFolder, outcome: Outcome, console: Console) -> bool:
    """Count what is stored, draw the curve, film the last policy; True if it ended as it was meant to.

    That is by its goal, or without a goal by a stop command.
    """
    from replay_server.episode_store import list_episodes
    from replay_server.report import Report, count_rows, plot_learning_curve

    fleet = folder.load()
    episodes = list_episodes(folder.path)
    counts = count_rows(check_run(folder.path, console), outcome.produced)
    done = outcome.ended_by == "goal" or (fleet.goal is None and outcome.ended_by == "stop command")
    report = Report(
        success_rate=outcome.success_rate,
        robots=len(fleet.robots),
        transitions_produced=sum(outcome.produced.values()),
        transitions_stored=counts.stored,
        transitions_spooled=counts.spooled,
        transitions_lost=counts.lost,
        transitions_duplicated=counts.duplicated,
        updates=int(outcome.learner_stats.get("learner/updates", 0)),
        wall_time_s=round(outcome.wall_time_s, 1),
        policy_versions=int(outcome.learner_stats.get("learner/policies_published", 0)),
        seed=fleet.seed,
        ended_by=outcome.ended_by,
        final_evaluation={},
    )
    report.write(folder.report)  # before anything that may still go wrong
    goal = fleet.goal.success_rate if fleet.goal else None
    plot_learning_curve([episode.info for episode in episodes], folder.learning_curve, goal)
    if outcome.ended_by != "interrupt":
        replace(report, final_evaluation=_evaluate(fleet, folder, outcome, console)).write(folder.report)
    console.print(
        f"{'goal reached' if outcome.ended_by == 'goal' else f'ended by {outcome.ended_by}'} after"
        f" {outcome.wall_time_s:.0f} s:"
        f" {counts.stored:,} transitions stored, {counts.lost} lost, {counts.duplicated} duplicated"
        + (f", {counts.spooled} still in a robot's spool" if counts.spooled else ""),
        highlight=False,
        soft_wrap=True,
    )
    return done


def _evaluate(
    fleet: FleetConfig, folder: RunFolder, outcome: Outcome, console: Console
) -> dict[str, float | str]:
    """50 fresh noise-free episodes with the last policy, and the film; nothing without an evaluable robot."""
    from robot_nodes.gazebo.gazebo_error import GazeboError
    from robot_nodes.policy import PolicyError
    from robot_nodes.policy_file import read_policy, run_policy_file
    from robot_nodes.sim.evaluation import evaluate_policy, write_film
    from robot_nodes.sim.rollout import RolloutError

    if not fleet.evaluable:
        return {}
    try:
        if outcome.confirmed is not None and outcome.confirmed.evaluation is not None:
            message, evaluation = outcome.confirmed.message, outcome.confirmed.evaluation
        else:
            message = read_policy(run_policy_file(folder))
            console.print(f"measuring policy v{message.version} in 50 fresh episodes …", highlight=False)
            evaluation = evaluate_policy(
                fleet, message, 50, fleet.seed + FRESH_SEED, fleet.evaluable[0], console
            )
    except (PolicyError, RolloutError, GazeboError) as error:
        logger.error("no final evaluation: %s", error)
        return {}
    folder.policy.write_bytes(encode(message))
    write_film(fleet, evaluation, folder.film)
    summary = evaluation.summary
    if "mean_door_angle_rad" in summary:
        told = f"mean door angle {summary['mean_door_angle_rad']:.2f} rad"
    else:
        told = f"mean final distance {100 * summary.get('mean_final_distance_m', float('nan')):.1f} cm"
    console.print(
        f"policy v{message.version}: {100 * summary['success_rate']:.0f} % of {summary['episodes']:.0f} fresh"
        f" noise-free episodes in {evaluation.simulator}, {told}",
        highlight=False,
        soft_wrap=True,
    )
    return evaluation.facts
