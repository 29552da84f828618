"""A picture of how well estimates from logs agree with the truth in simulation."""

from __future__ import annotations

import math
from pathlib import Path

from fleet.offline_eval_facts import Evaluation


def plot_agreement(evaluation: Evaluation, path: Path) -> None:
    """Estimates with intervals against truths with standard errors, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [(policy, policy.truth) for policy in evaluation.policies if policy.truth is not None]
    truths = [truth.mean for _, truth in shown]
    estimates = [policy.estimate for policy, _ in shown]
    errors = [
        [max(0.0, policy.estimate - policy.interval[0]) for policy, _ in shown],
        [max(0.0, policy.interval[1] - policy.estimate) for policy, _ in shown],
    ]
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    ends = [min(truths + estimates), max(truths + estimates)]
    axes.plot(ends, ends, color="0.7", linewidth=1, label="estimate = truth")
    standard = [0.0 if math.isnan(truth.standard_error) else truth.standard_error for _, truth in shown]
    axes.errorbar(truths, estimates, errors, standard, fmt="o", capsize=3, label="90 % interval")
    axes.axhline(evaluation.logs.mean_return, color="tab:orange", linestyle=":", label="the logs' own return")
    if evaluation.agreement is not None:
        a = evaluation.agreement
        axes.set_title(f"Pearson {a.pearson:.2f}, Spearman {a.spearman:.2f}")
    axes.set_xlabel(f"true discounted return, gamma {evaluation.logs.gamma:g}")
    axes.set_ylabel("estimate from logs")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
