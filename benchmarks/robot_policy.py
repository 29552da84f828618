"""What one action costs a robot: μ(x) in numpy, and the noise of training on top of it.

Best of many short windows, all networks in turn, so that a busy machine harms none more than another:
    mean         μ(x) (µs)
    with noise   the same and exploration, as in a training episode (µs)

    python benchmarks/robot_policy.py --hidden 100 100 --json policy.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not this script's neighbour, however the script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.table import show
from fleet.config import LearnerConfig
from fleet.spaces import Space, SpaceSpec
from learner.publisher import policy_message
from learner.trainer import Trainer
from robot_nodes.exploration import GaussianExploration
from robot_nodes.policy import NumpyPolicy

NX, NU = 20, 7
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": {"residual": True},
    "layer_norm": {"layer_norm": True},
    "precision noise, P diagonal": {"exploration": "precision"},
    "precision noise, full P": {"exploration": "precision", "off_diagonal": True},
}


def space(size: int) -> Space:
    return Space(tuple(f"x{i}" for i in range(size)), ("1",) * size, (-1.0,) * size, (1.0,) * size)


def make_policy(hidden: list[int], settings: dict[str, Any]) -> NumpyPolicy:
    spec = SpaceSpec(space(NX), space(NU))
    trainer = Trainer(LearnerConfig(hidden_sizes=hidden, **settings), spec)
    return NumpyPolicy.from_message(policy_message(trainer, "benchmark", 0, 0.4, 0), spec)


def window_us(call: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - started) / calls / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 100])
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--calls", type=int, default=100, help="in each window")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    x = np.random.default_rng(0).normal(size=NX).astype("f4")
    exploration = GaussianExploration(NU, np.random.default_rng(0))
    policies = {name: make_policy(arguments.hidden, settings) for name, settings in NETWORKS.items()}
    best = {name: [np.inf, np.inf] for name in policies}
    for _ in range(arguments.windows):
        for name, policy in policies.items():

            def explore(policy: NumpyPolicy = policy) -> Any:
                mu = policy.mean_action(x)
                return mu + exploration.sample(0.4, 0.0, policy.precision_factor())

            mean = window_us(lambda policy=policy: policy.mean_action(x), arguments.calls)  # type: ignore[misc]
            best[name] = np.minimum(best[name], [mean, window_us(explore, arguments.calls)]).tolist()
    rows = [{"network": name, "mean": mean, "with noise": noise} for name, (mean, noise) in best.items()]
    show(f"One action, {NX} → {arguments.hidden} → {NU}, µs", rows, arguments.json)


if __name__ == "__main__":
    main()
