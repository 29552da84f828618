"""Everything that logs, the guard and a simulator say about some policies; what `pnaf offline eval` prints.

As `fleet/cli.py`, a place where the packages meet: it imports the others when it needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from fleet.config import FleetConfig
from fleet.executed_actions import Array, ExecutedActions
from fleet.guard_sample import GuardSample
from fleet.offline_eval_facts import Evaluation, LogFacts, PolicyFacts
from fleet.offline_policies import NamedPolicy, check_fits
from fleet.offline_run import OfflineReport

if TYPE_CHECKING:
    from learner.fqe import FqeEstimate, FqeSettings
    from learner.logged_returns import LoggedReturns
    from learner.row_file import RowFile
    from learner.td_error import TdError
    from replay_server.logs import Logs
    from robot_nodes.sim.true_return import TrueReturn

_TD_MEMBERS = 200

Stage = Callable[[str], Callable[[int, int], None]]
"""Begins a stage of the work under a name; what it returns is called with what is done and the total."""


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        gamma: Discount per step.
        settings: Of fitted-Q evaluation.
        seed: Of everything random.
        guard_rows: Rows that are put through the guard; 0: none.
        simulate: Noise-free episodes of each policy in simulation; 0: none.
        robot_id: Whose config is simulated.
        no_fleet: Why it is not known which robots the logs are of, if it is not.
    """

    gamma: float
    settings: FqeSettings
    seed: int = 0
    guard_rows: int = 5000
    simulate: int = 0
    robot_id: str = ""
    no_fleet: str = ""


def evaluate_offline(
    policies: Sequence[NamedPolicy],
    logs: Logs,
    fleet: FleetConfig | None,
    options: Options,
    stage: Stage,
) -> Evaluation:
    """Do all that was asked for.

    Args:
        policies: Which; others are compared with the first.
        logs: The logs.
        fleet: Robots and task that they are of; None: not known, so there is no guard and no simulation.
        options: How.
        stage: For progress.

    Raises:
        ConfigError: A policy does not fit the logs, or a robot cannot be simulated.
        PolicyError: A policy is damaged.
        LogsError: The logs hold no rows.
        RolloutError: The simulated robot went into a fault.
    """
    from learner.row_file import RowFile

    for policy in policies:
        check_fits(policy, logs)
    with TemporaryDirectory(prefix="pnaf-offline-eval-") as folder:
        rows = RowFile.build(Path(folder) / "rows", logs, stage("reading the logs"))
        return _Evaluator(rows, logs, fleet, options, stage).run(policies)


class _Evaluator:
    """What all policies share: rows, returns and yardsticks."""

    def __init__(
        self, rows: RowFile, logs: Logs, fleet: FleetConfig | None, options: Options, stage: Stage
    ) -> None:
        import torch

        from learner.logged_returns import LoggedReturns
        from learner.logged_spread import measure_spread
        from learner.row_store import fingerprint

        self.rows, self.fleet, self.options, self.stage = rows, fleet, options, stage
        self._fingerprint = fingerprint(logs)
        self.returns: LoggedReturns = LoggedReturns.of(rows, options.gamma)
        self.spread = measure_spread(rows, torch.Generator().manual_seed(options.seed))
        self.sample, self.guard_missing = self._draw_moments(logs)

    def _draw_moments(self, logs: Logs) -> tuple[GuardSample | None, str]:
        from robot_nodes.guard_preview import GuardPreviewError

        if not self.options.guard_rows:
            return None, "not asked for"
        if self.fleet is None:
            return None, self.options.no_fleet or "it is not known which robots these were"
        rng = np.random.default_rng(self.options.seed)
        try:
            sample = GuardSample.draw(logs, self.fleet, self.options.guard_rows, rng)
        except GuardPreviewError as error:
            return None, str(error)
        strangers = ", ".join(sample.strangers)
        if not sample.parts:
            who = (
                f"{strangers}: not in the fleet's config"
                if strangers
                else "a person moved the robots all along"
            )
            return None, who
        return sample, f"{strangers}: not in the fleet's config, left out" if strangers else ""

    def run(self, policies: Sequence[NamedPolicy]) -> Evaluation:
        """Evaluate them one after the other."""
        from learner.agreement import Agreement

        facts, first = list[PolicyFacts](), None
        for policy in policies:
            act = _acting(policy)
            guarded = self.fleet if self.sample is not None else None
            stage = self.stage(f"{policy.name}: what the guard would let through")
            executed = ExecutedActions.of(self.rows, act, guarded, stage)
            estimate = self._estimate(policy, executed)
            facts.append(self._facts(policy, act, executed, estimate, first))
            first = first or estimate
        assert first is not None, "at least one policy"
        truths = [fact.truth.mean for fact in facts if fact.truth is not None]
        agreement = None
        if len(truths) >= 3:
            agreement = Agreement.of([fact.estimate for fact in facts], truths)
        settlings = self.options.settings.settlings(self.options.gamma)
        return Evaluation(self._log_facts(first), facts, agreement, settlings)

    def _estimate(self, policy: NamedPolicy, executed: ExecutedActions) -> FqeEstimate:
        import torch

        from learner.fqe import evaluate_by_fitted_q

        return evaluate_by_fitted_q(
            self.rows.values,
            self.rows.starts,
            self.rows.layout,
            torch.from_numpy(executed.following),
            torch.from_numpy(executed.first),
            self.options.gamma,
            self.options.settings,
            torch.Generator().manual_seed(self.options.seed),
            self.stage(f"{policy.name}: fitted-Q evaluation"),
        )

    def _facts(
        self,
        policy: NamedPolicy,
        act: Callable[[Array], Array],
        executed: ExecutedActions,
        estimate: FqeEstimate,
        first: FqeEstimate | None,
    ) -> PolicyFacts:
        import torch

        from learner.action_distance import measure_distance
        from learner.episode_bootstrap import interval

        above_logs = estimate.values - self.returns.mean(estimate.weights)
        above_first = None if first is None else estimate.values - first.values
        td_error, td_note = self._td_error(policy)
        return PolicyFacts(
            name=policy.name,
            version=policy.message.version,
            estimate=estimate.value,
            interval=estimate.interval,
            above_logs=float(above_logs[0]),
            above_logs_interval=interval(above_logs),
            above_first=None if above_first is None else float(above_first[0]),
            above_first_interval=None if above_first is None else interval(above_first),
            distance=measure_distance(self.rows, self.spread, torch.from_numpy(executed.here)),
            td_error=td_error,
            td_note=td_note,
            guard=None if self.sample is None else self.sample.preview(act),
            truth=self._truth(policy),
        )

    def _td_error(self, policy: NamedPolicy) -> tuple[TdError | None, str]:
        import torch

        from learner.critic import Critic, CriticError
        from learner.td_error import measure_td_error

        if policy.checkpoint is None:
            return None, "not available, a .pnaf file has no critic; name its run folder or a checkpoint"
        try:
            critic = Critic(policy.checkpoint, self.rows.spec)
        except CriticError as error:
            return None, f"not available, {error}"
        generator = torch.Generator().manual_seed(self.options.seed)
        progress = self.stage(f"{policy.name}: TD error")
        note, version = "", policy.message.version
        if not policy.checkpoint.name.endswith(f"-{version:010d}"):
            note = f"of the checkpoint {policy.checkpoint.name}: there is none of policy {version} itself"
        td_error = measure_td_error(critic, self.rows, _TD_MEMBERS, generator, progress)
        report = None if policy.run is None else OfflineReport.read(policy.run)
        if report is not None and report.fingerprint == self._fingerprint:
            td_error = replace(td_error, learned_from=1.0)
        return td_error, note

    def _truth(self, policy: NamedPolicy) -> TrueReturn | None:
        from robot_nodes.sim.true_return import true_return

        options = self.options
        if not options.simulate or self.fleet is None:
            return None
        return true_return(
            self.fleet,
            options.robot_id or self.fleet.robots[0].id,
            policy.message,
            options.gamma,
            options.simulate,
            1000 + options.seed,
            on_progress=self.stage(f"{policy.name}: simulating"),
        )

    def _log_facts(self, estimate: FqeEstimate) -> LogFacts:
        from learner.episode_bootstrap import interval

        returns, sample = self.returns, self.sample
        means = returns.mean(estimate.weights)
        noise_free = [
            value
            for value, info in zip(returns.returns.tolist(), self.rows.infos, strict=True)
            if info.evaluation and math.isfinite(value)
        ]
        return LogFacts(
            episodes=len(self.rows.infos),
            rows=self.rows.rows,
            finished=int(returns.finished.sum()),
            gamma=self.options.gamma,
            mean_return=float(means[0]),
            interval=interval(means),
            best_fifth=returns.best_fifth(),
            evaluations=float(np.mean(noise_free)) if noise_free else math.nan,
            tail=returns.tail,
            clipped=None if sample is None else sample.clipped,
            guard=None if sample is None else sample.preview(),
            guard_missing=self.guard_missing,
        )


def _acting(policy: NamedPolicy) -> Callable[[Array], Array]:
    """A policy as a function of observations [B, nx] to actions [B, nu]."""
    import torch

    from learner.batch_policy import BatchPolicy

    batch = BatchPolicy(policy.message)
    return lambda observation: batch(torch.from_numpy(np.ascontiguousarray(observation))).numpy()
