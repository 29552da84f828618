"""What an offline evaluation finds, as `pnaf offline eval --json` gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.guard_sample import GuardFacts

if TYPE_CHECKING:
    from learner.action_distance import ActionDistance
    from learner.agreement import Agreement
    from learner.td_error import TdError
    from robot_nodes.sim.true_return import TrueReturn

Interval = tuple[float, float]


@dataclass(frozen=True)
class LogFacts:
    """The logs themselves.

    Attributes:
        episodes: How many.
        rows: Their transitions.
        finished: Episodes that ran to their end: the returns are of these.
        gamma: Discount per step.
        mean_return: Mean discounted return.
        interval: 90 %, by bootstrap over episodes.
        best_fifth: Mean of the best fifth of them.
        evaluations: Mean of the noise-free ones; NaN without any.
        tail: Weight γ^T of what came after their time limits, which the returns leave out.
        clipped: Share of the sampled actions that the guard changed, as logged; None: nothing was sampled.
        guard: What it makes of the actions asked for then, computed anew.
        guard_missing: Why there is nothing about the guard, or about some robots' guards.
    """

    episodes: int
    rows: int
    finished: int
    gamma: float
    mean_return: float
    interval: Interval
    best_fifth: float
    evaluations: float
    tail: float
    clipped: float | None
    guard: GuardFacts | None
    guard_missing: str


@dataclass(frozen=True)
class PolicyFacts:
    """One policy.

    Attributes:
        name: As it was named.
        version: Within its run.
        estimate: Discounted return by fitted-Q evaluation.
        interval: 90 % of it.
        above_logs: By how much it is above the logs' own mean return.
        above_logs_interval: 90 %, member by member.
        above_first: By how much it is above the first policy's estimate; None for that one.
        above_first_interval: 90 %, member by member.
        distance: From the logged actions.
        td_error: Of its critic.
        td_note: Why there is none, or that it is a neighbouring checkpoint's.
        guard: What the guard would make of its actions.
        truth: In simulation.
    """

    name: str
    version: int
    estimate: float
    interval: Interval
    above_logs: float
    above_logs_interval: Interval
    above_first: float | None
    above_first_interval: Interval | None
    distance: ActionDistance
    td_error: TdError | None
    td_note: str
    guard: GuardFacts | None
    truth: TrueReturn | None


@dataclass(frozen=True)
class Evaluation:
    """All of it.

    Attributes:
        logs: What they are compared with.
        policies: Each of them; later ones are compared with the first.
        agreement: Of estimates and truths, of three simulated policies or more.
        settlings: How many times over fitted-Q evaluation had time to settle; below about 3 it had not.
    """

    logs: LogFacts
    policies: list[PolicyFacts]
    agreement: Agreement | None
    settlings: float
