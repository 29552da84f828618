"""One fleet on this machine, from start to report: what `pnaf fleet up` and `pnaf demo` do.

This and `fleet/cli.py` are where the packages meet, so they import the others when they need them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from fleet.config import FleetConfig, GoalConfig
from fleet.confirmation import FRESH_SEED, Confirmation, PolicyListener
from fleet.keys import load_credentials
from fleet.live_screen import Progress, evaluations_that_count, render, stats_of, success_rate, summary_line
from fleet.messages import Status
from fleet.node_specs import node_specs
from fleet.run_folder import RunFolder
from fleet.supervisor import Supervisor, SupervisorError

if TYPE_CHECKING:
    from replay_server.client import ReplayClient

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 120.0
_REFRESH_S = 0.5
_CONFIRM_PAUSE_S = 10.0
_STATUS_TIMEOUT_S = 1.0  # while a server restarts, its supervisor must not wait for its answer
_LINE_PERIOD_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        ended_by: "goal", "time budget", "stop command", "interrupt" or "failure".
        wall_time_s: From the moment the fleet was up until it was told to stop (s).
        success_rate: Of the newest noise-free episodes when it ended; None if there were too few.
        produced: Steps each robot process says it took, by "robot_id:boot_id".
        learner_stats: The learner's last numbers.
        confirmed: With "goal": the policy that was measured in fresh episodes; None without simulation.
        failure: With "failure": which process could not be kept running, and its last words.
    """

    ended_by: str
    wall_time_s: float
    success_rate: float | None
    produced: dict[str, int]
    learner_stats: Mapping[str, Any]
    confirmed: Confirmation | None = None
    failure: str = ""


class FleetRun:
    """Supervises a fleet until its goal, its time budget, a stop command or Ctrl-C."""

    def __init__(
        self, fleet: FleetConfig, folder: RunFolder, console: Console, stop: threading.Event
    ) -> None:
        self._fleet, self._folder, self._console, self._stop = fleet, folder, console, stop
        self._status: Status | None = None
        self._produced: dict[str, int] = {}
        self._confirmation: Confirmation | None = None
        self._confirm_after_s = 0.0

    def run(self) -> Outcome:
        """Start, watch, stop in order.

        Raises:
            SupervisorError: A process could not be started.
            ConfigError: The fleet has keys, and none for the operator.
        """
        from replay_server.client import ReplayClient

        credentials = load_credentials(self._fleet, "operator")
        endpoint = self._fleet.replay_server.endpoint
        specs = node_specs(self._fleet, self._folder.config, self._folder.path)
        show: Callable[[Progress], None]
        with (
            Supervisor(specs, self._folder.logs) as supervisor,
            ReplayClient(endpoint, "monitor", "fleet_up", credentials=credentials) as client,
            PolicyListener(self._fleet.learner.policy_endpoint, credentials) as policies,
            Live(console=self._console, auto_refresh=False, screen=False, transient=True) as live,
        ):
            if self._console.is_terminal:

                def show(progress: Progress) -> None:
                    live.update(render(self._status, progress), refresh=True)

            else:
                show = self._line_printer()
            run, goal = self._folder.path.name, self._fleet.goal
            show(Progress(run, 0.0, goal, note=f"starting {len(specs)} processes …"))
            supervisor.start(_START_TIMEOUT_S, cancelled=self._stop.is_set)
            started_s = time.monotonic()
            failure = ""
            try:
                ended_by = self._watch(supervisor, client, policies, started_s, show)
            except SupervisorError as error:  # what was learned and stored until now is still worth a report
                ended_by, failure = "failure", str(error)
            wall_time_s = time.monotonic() - started_s
            rate = self._success_rate()
            show(Progress(run, wall_time_s, goal, note=f"stopping ({ended_by}) …"))
            # Robots first: they ship their last steps while the server still listens.
            supervisor.stop([entry.id for entry in self._fleet.robots])
            self._ask(client)
        learner_stats = stats_of(self._status, "learner")
        confirmed = self._confirmation if ended_by == "goal" else None
        return Outcome(ended_by, wall_time_s, rate, self._produced, learner_stats, confirmed, failure)

    def _watch(
        self,
        supervisor: Supervisor,
        client: ReplayClient,
        policies: PolicyListener,
        started_s: float,
        show: Callable[[Progress], None],
    ) -> str:
        goal = self._fleet.goal
        while not self._stop.wait(_REFRESH_S):
            self._ask(client)
            if self._status is not None and self._status.last_command == "stop":
                return "stop command"
            supervisor.poll()  # after that: robots that a stop command ended are not to be started again
            elapsed_s = time.monotonic() - started_s
            late = ", ".join(supervisor.not_ready)
            note = f"started again, not ready yet: {late}" if late else ""
            if self._confirmation is not None:
                version = self._confirmation.message.version
                note = f"measuring policy v{version} alone, in fresh simulated episodes …"
            show(Progress(self._folder.path.name, elapsed_s, goal, supervisor.restarts, note))
            if goal is None:
                continue
            rate = self._success_rate()
            if self._is_confirmed(goal, policies, rate, elapsed_s):
                return "goal"
            if elapsed_s > goal.time_budget_s:
                return "time budget"
        return "interrupt"

    def _is_confirmed(
        self, goal: GoalConfig, policies: PolicyListener, rate: float | None, elapsed_s: float
    ) -> bool:
        """Whether the goal is reached by the robots' newest episodes and by the newest policy alone."""
        if self._confirmation is not None:
            if not self._confirmation.done:
                return False
            if self._confirmation.success_rate >= goal.success_rate:
                return True
            version, found = self._confirmation.message.version, self._confirmation.success_rate
            logger.info("policy v%d: %.0f %% of fresh episodes; learning goes on", version, 100 * found)
            self._confirmation, self._confirm_after_s = None, elapsed_s + _CONFIRM_PAUSE_S
        if rate is None or rate < goal.success_rate or elapsed_s < self._confirm_after_s:
            return False
        message = policies.newest()
        evaluable, seed = self._fleet.evaluable, self._fleet.seed + FRESH_SEED
        if not (goal.confirm_episodes and evaluable and message):
            return True
        self._confirmation = Confirmation(self._fleet, evaluable[0], message, goal.confirm_episodes, seed)
        self._confirmation.start()
        return False

    def _ask(self, client: ReplayClient) -> None:
        from replay_server.client import ReplayError

        try:
            self._status = client.status(timeout_s=_STATUS_TIMEOUT_S)
        except ReplayError as error:
            logger.warning("no status: %s", error)
            return
        for process in self._status.processes:
            if process["role"] == "robot":
                key = f"{process['process_id']}:{process['boot_id']}"
                self._produced[key] = int(process["stats"].get("robot/steps", 0))

    def _success_rate(self) -> float | None:
        if self._status is None:
            return None
        return success_rate(self._status.evaluations, evaluations_that_count(self._fleet.goal))

    def _line_printer(self) -> Callable[[Progress], None]:
        """Without a terminal: one line every ten seconds."""
        last_s = float("-inf")

        def show(progress: Progress) -> None:
            nonlocal last_s
            if self._status is None or time.monotonic() - last_s < _LINE_PERIOD_S:
                return
            last_s = time.monotonic()
            self._console.print(summary_line(self._status, progress), highlight=False, soft_wrap=True)

        return show
