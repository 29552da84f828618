"""All that a learner does besides updates, in a thread of its own, so that no update waits for it.

Sockets belong to this thread while it runs, and to whoever made them before `start` and after `close`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from fleet.config import LearnerConfig
from fleet.messages import PolicyMessage
from fleet.run_folder import RunFolder
from learner.checkpoint import CheckpointError, Progress, highest_version, save_checkpoint
from learner.curves import Curves
from learner.log_tail import Arrival, LogTail
from learner.publisher import PolicyPublisher, policy_message
from learner.replay_link import ReplayLink
from learner.snapshot import Snapshot
from learner.version_counter import VersionCounter
from replay_server.log_throttle import LogThrottle

log = logging.getLogger(__name__)

_PULL_PERIOD_S = 0.05
_HEARTBEAT_S = 1.0
_WAKE_S = 0.01
_MAX_ARRIVALS = 128  # rows that wait for the updates are not asked for again


class Courier:
    """Brings new rows; publishes, logs, saves and reports what a snapshot says.

        courier.start()
        while training:
            while (arrival := courier.next_arrival()) is not None: …    # rows to append
            …                                                           # updates
            if courier.wanted:
                courier.snapshot.take(trainer, mirror, …); courier.hand_over()
            courier.check()                                             # raises what ended it
        courier.close()

    Attributes:
        wanted: What a snapshot is wanted for; while it is empty the snapshot is not to be touched.
        snapshot: To be filled when wanted.
        attention: Set when there is something for the thread of the updates.
    """

    def __init__(
        self,
        config: LearnerConfig,
        run: RunFolder,
        link: ReplayLink,
        publisher: PolicyPublisher,
        tail: LogTail,
        snapshot: Snapshot,
        policies_published: int,
        report: Callable[[], tuple[str, dict[str, Any]]],
    ) -> None:
        """Take over the sockets.

        Args:
            config: Periods, and how many checkpoints are kept.
            run: Where checkpoints and curves are written.
            link: To the replay server.
            publisher: Of policies.
            tail: Of the log, over `link`.
            snapshot: Of the trainer.
            policies_published: By the processes before this one.
            report: The learner's state and numbers for heartbeats; called in the courier's thread.
        """
        self.config, self.snapshot = config, snapshot
        self.wanted: frozenset[str] = frozenset()
        self.attention = threading.Event()
        self._run_folder, self._link, self._publisher, self._tail = run, link, publisher, tail
        self._report = report
        self._versions = VersionCounter(run.checkpoints / "policy_version", highest_version(run.checkpoints))
        self._curves = Curves(run.tensorboard)
        self._no_version_log = LogThrottle(log)
        self._policy: PolicyMessage | None = None
        self._policies_published = policies_published
        self._metrics: dict[str, Any] = {}
        self._rate_from = (time.monotonic(), snapshot.trainer.updates)
        self._arrivals: deque[Arrival] = deque()
        self._next_pull_s = 0.0
        self._periods_s = {
            "publish": config.publish_period_s,
            "log": config.log_period_s,
            "checkpoint": config.checkpoint_period_s,
        }
        self._due_s = dict.fromkeys((*self._periods_s, "heartbeat"), 0.0)
        self._due_s["checkpoint"] = time.monotonic() + config.checkpoint_period_s
        self._purposes: frozenset[str] = frozenset()  # of the snapshot at hand
        self._stopping = False
        self._wake = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="courier")

    # In the thread of the updates ----------------------------------------------------------

    def start(self) -> None:
        """Begin to work in the background."""
        self._thread.start()

    def close(self) -> None:
        """End that, after the work at hand; from now on `use` may be called by anyone."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._curves.close()

    def check(self) -> None:
        """Raise what ended the courier's thread, if anything did."""
        if self._error is not None:
            raise self._error

    def next_arrival(self) -> Arrival | None:
        """New rows in the order of the log, if there are any."""
        return self._arrivals.popleft() if self._arrivals else None

    def hurry(self) -> None:
        """Somebody waits for the next policy: publish it now."""
        self._due_s["publish"] = 0.0
        self._wake.set()

    def hand_over(self) -> None:
        """The snapshot is taken; not to be touched before it is wanted again."""
        self._purposes, self.wanted = self.wanted, frozenset()  # it looks soon: to wake it takes longer

    # In the courier's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.pull(time.monotonic())
                self.tend(time.monotonic())
                self._wake.wait(_WAKE_S)
                self._wake.clear()
        except BaseException as error:
            self._error = error
            self.attention.set()

    def pull(self, now: float) -> None:
        """Fetch what has arrived of the log's new rows, if it is time."""
        if now < self._next_pull_s or len(self._arrivals) >= _MAX_ARRIVALS:
            return
        arrivals = self._tail.poll()
        if not arrivals:
            return
        self._arrivals.extend(arrivals)
        self._next_pull_s = now + (_PULL_PERIOD_S if arrivals[-1].caught_up else 0.0)
        self.attention.set()

    def tend(self, now: float) -> None:
        """Greet new subscribers, use the snapshot if there is one, and do or ask for what is due."""
        self._publisher.serve()
        if now >= self._due_s["heartbeat"]:
            self._due_s["heartbeat"] = now + _HEARTBEAT_S
            state, numbers = self._report()
            self._link.heartbeat(state, self.stats(numbers))
        if self._purposes:
            self.use(self._purposes)
            self._purposes = frozenset()
        # In this order: `hand_over` sets the purposes before it empties what is wanted.
        if (
            not self.wanted
            and not self._purposes
            and (due := [what for what in self._periods_s if now >= self._due_s[what]])
        ):
            self._due_s |= {what: now + self._periods_s[what] for what in due}
            self.wanted = frozenset(due)
            self.attention.set()

    def use(self, purposes: Iterable[str]) -> None:
        """Publish, log and checkpoint the snapshot, as far as these are among the purposes.

        Raises:
            learner.trainer.DivergedError: It is not finite.
        """
        self.snapshot.settle()
        for what, do in (("publish", self._publish), ("log", self._log), ("checkpoint", self._save)):
            if what in purposes:
                do()

    def stats(self, numbers: dict[str, Any]) -> dict[str, Any]:
        """The learner's numbers and those of the courier, for heartbeats and curves."""
        return {
            **numbers,
            "learner/policy_version": self._versions.last,
            "learner/policies_published": self._policies_published,
            "learner/subscriptions": self._publisher.subscriptions,
            "learner/strange_subscriptions": self._publisher.strange_subscriptions,
            "learner/handshakes_failed": self._publisher.handshakes.failed,
            **self._metrics,
        }

    def _publish(self) -> None:
        """Give the robots the newest μ, or the last one again if nothing was learned since.

        Before anything is learned it explores more widely. Where robots wait for it, rows that allowed no
        update count as learned from, too.
        """
        trainer, learned_rows = self.snapshot.trainer, self.snapshot.learned_rows
        if (
            self._policy is not None
            and self._policy.learner_step == trainer.updates
            and (self._policy.learned_rows == learned_rows or not self.config.synchronous)
        ):
            self._publisher.repeat()
            return
        try:
            version = self._versions.take()
        except OSError as error:
            self._no_version_log.warning(f"no new policy: its version cannot be written down: {error}")
            self._publisher.repeat()
            return
        learned = trainer.optimiser.steps > 0  # by a run that this one begins with, too
        std = self.config.exploration_std if learned else self.config.warmup_exploration_std
        self._policy = policy_message(trainer, self._link.run_id, version, std, time.time_ns(), learned_rows)
        self._policies_published += 1
        self._publisher.publish(self._policy)

    def _log(self) -> None:
        """Measure, make sure that training is finite, and write a TensorBoard step."""
        snapshot, updates = self.snapshot, self.snapshot.trainer.updates
        snapshot.trainer.check_finite()
        before_s, updates_before = self._rate_from
        self._rate_from = (snapshot.taken_s, updates)
        metrics = snapshot.measure()
        if not metrics:
            return
        rate = (updates - updates_before) / max(snapshot.taken_s - before_s, 1e-6)
        self._metrics = {"learner/updates_per_s": rate, **metrics}
        self._curves.add(self.stats(self._report()[1]), updates)

    def _save(self) -> None:
        """Publish, and write a checkpoint with that policy; a full disk is reported, not fatal."""
        snapshot = self.snapshot
        snapshot.trainer.check_finite()
        self._publish()
        if self._policy is None:  # not even a version could be written, and that was reported
            return
        progress = Progress(
            run_id=self._link.run_id,
            policy_version=self._policy.version,
            policies_published=self._policies_published,
            cursor=snapshot.cursor,
        )
        folder = self._run_folder.checkpoints
        try:
            path = save_checkpoint(
                folder, snapshot.trainer, progress, self._policy, self.config.keep_checkpoints
            )
        except CheckpointError as error:
            log.error("%s; training goes on, the next try is in %g s", error, self.config.checkpoint_period_s)
            return
        log.info("checkpoint %s: %d updates, %d rows", path, snapshot.trainer.updates, progress.cursor)
