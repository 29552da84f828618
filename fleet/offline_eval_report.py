"""An offline evaluation for people: tables, a verdict on each policy, and warnings where it says little."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.guard_sample import GuardFacts
from fleet.offline_evaluation import Evaluation, Interval, PolicyFacts

FEW_EPISODES = 20
"""Fewer give an interval that is too narrow."""

_FAR_SPREADS, _FAR_SHARE = 1.5, 0.1
_BIG_TAIL = 0.02
_MANY_IMPOSSIBLE = 0.01


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print all of it."""
    _print_values(evaluation, console)
    _print_distances(evaluation, console)
    _print_guard(evaluation, console)
    for policy in evaluation.policies:
        console.print(verdict(policy, evaluation), highlight=False, soft_wrap=True)
    for warning in warnings_of(evaluation):
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)


def verdict(policy: PolicyFacts, evaluation: Evaluation) -> str:
    """One line: is it better than what made the logs, and than the first policy?"""
    logs = evaluation.logs
    low, high = policy.above_logs_interval
    if not math.isfinite(policy.above_logs):
        compared = "no logged episode ran to its end, so there is nothing to compare it with"
    elif low > 0.0:
        compared = f"[green]better than the logs[/] by {_with(policy.above_logs, (low, high))}"
    elif high < 0.0:
        compared = f"[red]worse than the logs[/] by {_with(-policy.above_logs, (-high, -low))}"
    elif math.isnan(low):
        compared = f"{policy.above_logs:+.3g} beside the logs, without an interval"
    else:
        compared = f"not clearly better or worse than the logs: {_with(policy.above_logs, (low, high), '+')}"
    line = f"[bold]{escape(policy.name)}[/]: {compared}"
    line += f"; estimate {_with(policy.estimate, policy.interval)}, the logs' own {logs.mean_return:.3g}"
    if policy.above_first is not None and policy.above_first_interval is not None:
        low, high = policy.above_first_interval
        word = "above" if low > 0.0 else "below" if high < 0.0 else "not clearly apart from"
        first = escape(evaluation.policies[0].name)
        line += f"; {word} {first}: {_with(policy.above_first, (low, high), '+')}"
    return line


def warnings_of(evaluation: Evaluation) -> list[str]:
    """Where the numbers say less than they seem to."""
    logs, warnings = evaluation.logs, list[str]()
    if logs.episodes < FEW_EPISODES:
        warnings.append(
            f"only {logs.episodes} episodes: intervals are too narrow; {FEW_EPISODES} or more are better"
        )
    if logs.tail > _BIG_TAIL:
        warnings.append(
            f"at gamma {logs.gamma:g} what comes after the logs' time limits still weighs {logs.tail:.0%}: "
            "estimates include it, the logs' own returns do not"
        )
    for policy in evaluation.policies:
        far = policy.distance
        if far.in_spreads > _FAR_SPREADS or far.far > _FAR_SHARE:
            warnings.append(
                f"{policy.name} acts far from the data ({far.in_spreads:.1f} x the logs' spread, "
                f"{far.far:.0%} of rows beyond 2 x): the logs say "
                "little about this policy, and its estimate extrapolates"
            )
        td = policy.td_error
        if td is not None and td.impossible_targets > _MANY_IMPOSSIBLE:
            warnings.append(
                f"{policy.name}: {td.impossible_targets:.0%} of its critic's targets are far beyond what "
                "rewards can sum up to: do not believe its values, whatever its policy is worth"
            )
        if td is not None and td.learned_from:
            warnings.append(
                f"{policy.name}: its critic has learned from {td.learned_from:.0%} of these episodes, "
                "so its TD error is not that on new data"
            )
    return warnings


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


def _print_values(evaluation: Evaluation, console: Console) -> None:
    logs = evaluation.logs
    table = Table(
        title=f"discounted return, gamma {logs.gamma:g}, from {logs.episodes} episodes, {logs.rows:,} rows",
        caption="estimates: fitted-Q evaluation; in brackets: 90 % by bootstrap over episodes",
        box=None,
    )
    simulated = any(policy.truth for policy in evaluation.policies)
    columns = ["policy", "estimate", "above the logs", "TD error", "beside its targets' variance"]
    for name in columns + (["in simulation", "success"] if simulated else []):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name != "policy")
    for policy in evaluation.policies:
        td, truth = policy.td_error, policy.truth
        cells = [
            f"{escape(policy.name)} v{policy.version}",
            _with(policy.estimate, policy.interval),
            _with(policy.above_logs, policy.above_logs_interval, "+"),
            "-" if td is None else _with(td.mean_absolute, td.mean_absolute_interval),
            "-" if td is None else f"{td.relative:.1%}",
        ]
        if truth is not None:
            cells += [f"{truth.mean:.3g} ± {truth.standard_error:.2g}", f"{truth.success_rate:.0%}"]
        table.add_row(*cells)
    table.add_section()
    table.add_row("the logs themselves", _with(logs.mean_return, logs.interval))
    table.add_row("  their best fifth", f"{logs.best_fifth:.3g}")
    if math.isfinite(logs.evaluations):
        table.add_row("  noise-free episodes", f"{logs.evaluations:.3g}")
    console.print(table)
    for policy in evaluation.policies:
        if policy.td_missing:
            console.print(
                f"TD error of {escape(policy.name)} is {escape(policy.td_missing)}",
                soft_wrap=True,
                highlight=False,
            )
    truths = [policy.truth for policy in evaluation.policies if policy.truth is not None]
    if truths:
        console.print(
            f"in simulation: {truths[0].episodes} noise-free episodes of {truths[0].episode_s:g} s; what "
            f"comes after them weighs {truths[0].tail:.1%}; mean ± standard error",
            highlight=False,
            soft_wrap=True,
        )
    if evaluation.agreement is not None:
        a = evaluation.agreement
        console.print(
            f"estimate and truth over {len(truths)} policies: Pearson {a.pearson:.2f}, Spearman "
            f"{a.spearman:.2f}, mean absolute error {a.mean_absolute_error:.2g}, mean error "
            f"{a.mean_error:+.2g}",
            highlight=False,
            soft_wrap=True,
        )


def _print_distances(evaluation: Evaluation, console: Console) -> None:
    table = Table(
        title="distance from the logged actions (actions lie in [-1, 1])",
        caption="1.0 spreads: as far as the logs are from what was usual there",
        box=None,
    )
    for name in ("policy", "rms", "5 %", "median", "95 %", "logs' spread", "in spreads", "rows beyond 2"):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name != "policy")
    for policy in evaluation.policies:
        d = policy.distance
        table.add_row(
            escape(policy.name),
            *(f"{value:.2f}" for value in (d.rms, d.quantiles[0], d.quantiles[2], d.quantiles[4], d.spread)),
            f"{d.in_spreads:.2f}",
            f"{d.far:.1%}",
        )
    console.print(table)


def _print_guard(evaluation: Evaluation, console: Console) -> None:
    logs = evaluation.logs
    if logs.guard is None:
        console.print(f"guard: nothing to say: {escape(logs.guard_missing)}", highlight=False, soft_wrap=True)
        return
    table = Table(
        title=f"what the guard would do at {logs.guard.rows:,} logged moments",
        caption=f"share of actions (largest change of a joint); as logged it changed {_share(logs.clipped)}",
        box=None,
    )
    guards = [policy.guard for policy in evaluation.policies if policy.guard is not None]
    limits = list(dict.fromkeys(limit for guard in (*guards, logs.guard) for limit in guard.limits))
    for name in ("actions of", "changed", "stopped", "smoothed", *limits):
        table.add_column(name, justify="left" if name == "actions of" else "right")
    for policy, guard in zip(evaluation.policies, guards, strict=True):
        table.add_row(escape(policy.name), *_guard_cells(guard, limits))
    table.add_section()
    table.add_row("the logged policies", *_guard_cells(logs.guard, limits))
    console.print(table)


def _guard_cells(guard: GuardFacts, limits: list[str]) -> list[str]:
    cells = [_share(share) for share in (guard.changed, guard.stopped, guard.smoothed)]
    for limit in limits:
        facts = guard.limits.get(limit)
        cells.append(
            "-" if facts is None else f"{_share(facts['share'])} ({facts['largest_rad_s']:.2f} rad/s)"
        )
    return cells


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _with(value: float, interval: Interval, sign: str = "") -> str:
    """A number and its interval, for rich: it would read a plain bracket as a tag."""
    if math.isnan(value):
        return "-"
    if math.isnan(interval[0]):
        return f"{value:{sign}.3g}"
    return f"{value:{sign}.3g} \\[{interval[0]:{sign}.3g}, {interval[1]:{sign}.3g}]"
