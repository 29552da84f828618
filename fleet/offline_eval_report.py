"""An offline evaluation for people: tables, a verdict on each policy, and warnings where it says little."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.cli_output import tell
from fleet.guard_sample import GuardFacts
from fleet.offline_eval_facts import Evaluation, Interval, PolicyFacts

FEW_EPISODES = 20
"""Fewer give an interval that is too narrow."""

_FAR_SPREADS, _FAR_SHARE = 1.5, 0.1
_BIG_TAIL = 0.02
_FEW_SETTLINGS = 3.0
_MANY_IMPOSSIBLE = 0.05


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print all of it."""
    _print_values(evaluation, console)
    _print_td_errors(evaluation, console)
    _print_distances(evaluation, console)
    _print_guard(evaluation, console)
    for policy in evaluation.policies:
        console.print(verdict(policy, evaluation), highlight=False, soft_wrap=True)
    for warning in warnings_of(evaluation):
        tell(console, "warning", warning)


def _say(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)


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
    if evaluation.settlings < _FEW_SETTLINGS:
        warnings.append(
            f"at gamma {logs.gamma:g} estimates had no time to settle and are too near the logs' own: give "
            f"about {_FEW_SETTLINGS / evaluation.settlings:.0f} times as many --steps"
        )
    if logs.tail > _BIG_TAIL:
        warnings.append(
            f"at gamma {logs.gamma:g} what comes after the logs' time limits still weighs {logs.tail:.0%}: "
            "estimates include it, the logs' own returns do not"
        )
    far = [
        f"{policy.name} ({policy.distance.in_spreads:.1f} x the logs' spread, "
        f"{policy.distance.far:.0%} of rows beyond 2 x)"
        for policy in evaluation.policies
        if policy.distance.in_spreads > _FAR_SPREADS or policy.distance.far > _FAR_SHARE
    ]
    if far:
        warnings.append(
            f"acting far from the data: {', '.join(far)}: the logs say little about this, and the estimate "
            "extrapolates"
        )
    critics = [
        (policy.name, policy.td_error) for policy in evaluation.policies if policy.td_error is not None
    ]
    impossible = [
        f"{name} ({td.impossible_targets:.0%})"
        for name, td in critics
        if td.impossible_targets > _MANY_IMPOSSIBLE
    ]
    if impossible:
        warnings.append(
            f"TD targets far beyond what rewards can sum up to: {', '.join(impossible)}: do not believe "
            "these critics' values, whatever their policies are worth"
        )
    seen = [f"{name} ({td.learned_from:.0%})" for name, td in critics if td.learned_from]
    if seen:
        warnings.append(
            f"critics that have learned from these very episodes: {', '.join(seen)}: their TD error on "
            "new data is larger"
        )
    return warnings


def _print_values(evaluation: Evaluation, console: Console) -> None:
    logs = evaluation.logs
    table = Table(
        title=f"discounted return, gamma {logs.gamma:g}, from {logs.episodes} episodes, {logs.rows:,} rows",
        caption="estimate: by fitted-Q evaluation; in brackets: 90 %, by bootstrap over episodes",
        box=None,
    )
    simulated = any(policy.truth for policy in evaluation.policies)
    for name in [
        "policy",
        "estimate",
        "above the logs",
        *(["in simulation", "success"] if simulated else []),
    ]:
        _add_column(table, name)
    for policy in evaluation.policies:
        cells = [
            f"{escape(policy.name)} v{policy.version}",
            _with(policy.estimate, policy.interval),
            _with(policy.above_logs, policy.above_logs_interval, "+"),
        ]
        if (truth := policy.truth) is not None:
            cells += [f"{truth.mean:.3g} ± {truth.standard_error:.2g}", f"{truth.success_rate:.0%}"]
        table.add_row(*cells)
    table.add_section()
    table.add_row("the logs themselves", _with(logs.mean_return, logs.interval))
    table.add_row("  their best fifth", f"{logs.best_fifth:.3g}")
    if math.isfinite(logs.evaluations):
        table.add_row("  noise-free ones", f"{logs.evaluations:.3g}")
    console.print(table)
    truths = [policy.truth for policy in evaluation.policies if policy.truth is not None]
    if truths:
        _say(
            console,
            f"in simulation: {truths[0].episodes} noise-free episodes of {truths[0].episode_s:g} s; what "
            f"comes after them weighs {truths[0].tail:.1%}; mean ± standard error",
        )
    if (a := evaluation.agreement) is not None:
        _say(
            console,
            f"estimate and truth over {len(truths)} policies: Pearson {a.pearson:.2f}, Spearman "
            f"{a.spearman:.2f}, mean absolute error {a.mean_absolute_error:.2g}, mean error "
            f"{a.mean_error:+.2g}",
        )


def _print_td_errors(evaluation: Evaluation, console: Console) -> None:
    table = Table(
        title="TD error of each policy's own critic on these rows, in units of the reward",
        caption="relative: squared by the targets' variance; impossible: beyond what rewards sum up to",
        box=None,
    )
    for name in ("policy", "absolute", "squared", "relative", "mean V", "impossible", "gamma"):
        _add_column(table, name)
    for policy in evaluation.policies:
        if (td := policy.td_error) is not None:
            table.add_row(
                escape(policy.name),
                _with(td.mean_absolute, td.mean_absolute_interval),
                _with(td.mean_squared, td.mean_squared_interval),
                f"{td.relative:.2%}",
                f"{td.value_mean:.3g}",
                f"{td.impossible_targets:.1%}",
                f"{td.gamma:g}",
            )
    if table.row_count:
        console.print(table)
    for policy in evaluation.policies:
        if policy.td_note:
            _say(console, f"TD error of {policy.name}: {policy.td_note}")


def _print_distances(evaluation: Evaluation, console: Console) -> None:
    table = Table(
        title="distance from the logged actions, which lie in [-1, 1], after the guard",
        caption="1 spread: how far logged actions themselves are from what was usual there",
        box=None,
    )
    for name in ("policy", "rms", "5 %", "median", "95 %", "logs' spread", "in spreads", "rows beyond 2"):
        _add_column(table, name)
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
        _say(console, f"guard: nothing to say: {logs.guard_missing}")
        return
    table = Table(
        title=f"what the guard would do at {logs.guard.rows:,} logged moments",
        caption="share of actions (largest change of a joint, rad/s); "
        f"as logged it changed {_share(logs.clipped)}",
        box=None,
    )
    guards = [policy.guard for policy in evaluation.policies if policy.guard is not None]
    limits = list(dict.fromkeys(limit for guard in (*guards, logs.guard) for limit in guard.limits))
    for name in ("policy", "changed", "stopped", "smoothed", *limits):
        _add_column(table, name)
    for policy, guard in zip(evaluation.policies, guards, strict=True):
        table.add_row(escape(policy.name), *_guard_cells(guard, limits))
    table.add_section()
    table.add_row("the logged policies", *_guard_cells(logs.guard, limits))
    console.print(table)
    if logs.guard_missing:
        _say(console, f"guard: {logs.guard_missing}")


def _add_column(table: Table, name: str) -> None:
    if name == "policy":
        table.add_column(name, overflow="fold", min_width=12)
    else:
        table.add_column(name, justify="right")


def _guard_cells(guard: GuardFacts, limits: list[str]) -> list[str]:
    cells = [_share(share) for share in (guard.changed, guard.stopped, guard.smoothed)]
    for limit in limits:
        facts = guard.limits.get(limit)
        cells.append("-" if facts is None else f"{_share(facts['share'])} ({facts['largest_rad_s']:.2f})")
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
