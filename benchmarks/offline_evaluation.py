"""Is what `pnaf offline eval` says of policies true? Estimates from logs beside simulated episodes.

One training in one process gives policies from useless to expert, and noise on the best one's parameters two
more; some of them explore and so make the logs. Every policy is estimated from these logs alone and measured
in noise-free episodes. A row per policy:

    estimate        discounted return by fitted-Q evaluation, and its 90 % interval
    truth           mean of the simulated episodes, and its standard error
    inside          the truth is inside the interval (widened by what the truth itself is unsure of)
    success %       of the simulated episodes
    spreads, far %  distance from the logged actions: in spreads of the logs, and rows beyond two of them

Below it, correlation and error over all policies, and how often the interval was right.

    python benchmarks/offline_evaluation.py --json offline.json
    python benchmarks/offline_evaluation.py --set learner.gamma=0.95 --steps 6000 --episodes 400
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.policy_ladder import Rung, climb, disturbed, record_mixed
from benchmarks.common.table import show
from fleet.agreement_plot import plot_agreement
from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.offline_eval_facts import Evaluation, PolicyFacts
from fleet.offline_evaluation import Options, evaluate_offline
from fleet.offline_policies import NamedPolicy
from learner.fqe import FqeSettings
from replay_server.logs import open_logs

FLEET = "hardware_configs/fleets/demo.yaml"
ROWS = [500, 1500, 2500, 4000, 6000, 9000, 14000, 20000]
LOGGED = 0, 2, 4, 6
NOISE = 0.2, 0.5


def ladder(fleet: FleetConfig, seed: int) -> list[Rung]:
    """All policies, from useless to expert and two disturbed ones."""
    rungs = climb(fleet, seed, ROWS)
    return rungs + [disturbed(rungs[-1], share, seed + i) for i, share in enumerate(NOISE)]


def row(policy: PolicyFacts) -> dict[str, Any]:
    """What the table says of one policy."""
    assert policy.truth is not None
    low, high = policy.interval
    slack = 1.645 * policy.truth.standard_error
    return {
        "policy": policy.name,
        "estimate": f"{policy.estimate:.2f} [{low:.2f}, {high:.2f}]",
        "truth": f"{policy.truth.mean:.2f} ± {policy.truth.standard_error:.2f}",
        "inside": "yes" if low - slack <= policy.truth.mean <= high + slack else "no",
        "success %": f"{100 * policy.truth.success_rate:.0f}",
        "spreads": f"{policy.distance.in_spreads:.2f}",
        "far %": f"{100 * policy.distance.far:.0f}",
    }


def narrate(name: str) -> Callable[[int, int], None]:
    """Say when a stage is over, and how long it took."""
    began = time.monotonic()

    def advance(done: int, total: int) -> None:
        if done == total:
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)

    return advance


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--fleet", default=FLEET, help="its YAML")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logged-episodes", type=int, default=100, help="of each policy that made logs")
    parser.add_argument("--episodes", type=int, default=400, help="simulated, of each policy")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--steps", type=int, default=FqeSettings.steps)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fleet = load_fleet(arguments.fleet, ["learner.algorithm=naf", *arguments.overrides])
    rungs = ladder(fleet, arguments.seed)
    options = Options(
        gamma=fleet.learner.gamma,
        settings=FqeSettings(members=arguments.members, steps=arguments.steps),
        seed=arguments.seed,
        guard_rows=500,
        simulate=arguments.episodes,
    )
    with TemporaryDirectory() as runs:
        logged = [rungs[i] for i in LOGGED]
        folders = record_mixed(fleet, Path(runs), logged, arguments.logged_episodes, arguments.seed + 1)
        policies = [NamedPolicy(rung.name, rung.message, None, None) for rung in rungs]
        evaluation = evaluate_offline(policies, open_logs(folders), fleet, options, narrate)
    report(evaluation, arguments.json)
    if arguments.plot is not None:
        plot_agreement(evaluation, arguments.plot)


def report(evaluation: Evaluation, json_path: Path | None) -> None:
    """Print the table, and what all rows together say."""
    rows = [row(policy) for policy in evaluation.policies]
    logs, agreement = evaluation.logs, evaluation.agreement
    title = f"estimates from {logs.episodes} episodes, {logs.rows} rows, gamma {logs.gamma:g}"
    show(title, rows, json_path)
    assert agreement is not None
    inside = sum(row["inside"] == "yes" for row in rows)
    print(
        f"Pearson {agreement.pearson:.3f}, Spearman {agreement.spearman:.3f}, mean absolute error "
        f"{agreement.mean_absolute_error:.3f}, mean error {agreement.mean_error:+.3f}; truth inside the "
        f"90 % interval for {inside} of {len(rows)} policies; the logs' own return {logs.mean_return:.2f}"
    )


if __name__ == "__main__":
    main()
