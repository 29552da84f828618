"""The learner: update as far as the rows allow; all else happens beside it.

It never waits for a robot and, unless updates are synchronous, no robot waits for it: rows come from the
replay server, policies leave on a publish socket, and either side may be away for any time. The updates
have a thread of their own; between two runs of updates it copies new rows in and, when asked to, the
trainer's state out. `learner/courier.py` does the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container
from typing import Any

from fleet.config import FleetConfig
from fleet.run_folder import RunFolder
from fleet.spaces import SpaceSpec
from learner.checkpoint import begin_with, resume
from learner.courier import Courier
from learner.device import DeviceQueue
from learner.log_tail import Arrival, LogTail
from learner.mirror import ReplayMirror
from learner.orders import Leader
from learner.publisher import PolicyPublisher
from learner.replay_link import ReplayLink
from learner.rounds import Rounds
from learner.snapshot import Snapshot
from learner.trainer import Trainer
from replay_server.rate_limiter import RateLimiter

log = logging.getLogger(__name__)

_SLICE_S = 0.01
_IDLE_S = 0.01


class Learner:
    """One run's training, once the spec is known.

    learner.courier.start()
    learner.take_rows()     # new rows into the mirror, their statistics into the trainer
    learner.train()         # a slice of the updates that the rows allow
    learner.show()          # a snapshot for the courier, if it wants one
    """

    def __init__(
        self,
        config: FleetConfig,
        spec: SpaceSpec,
        run: RunFolder,
        link: ReplayLink,
        publisher: PolicyPublisher,
        leader: Leader | None = None,
    ) -> None:
        """Draw a network, or take up the newest checkpoint of the run folder, or the one it begins with.

        Raises:
            learner.checkpoint.CheckpointError: The one it begins with is damaged.
            learner.checkpoint.WrongCheckpointError: That is of another run, spec or network.
        """
        self.config = config.learner
        self._leader = leader
        ranks = leader.ranks if leader is not None else None
        self.trainer = Trainer(self.config, spec, config.seed + 1000 * self.config.seed, ranks)
        self.mirror = ReplayMirror(
            spec.observation.size, spec.action.size, config.replay_server.capacity_rows, self.config.device
        )
        self._limiter = RateLimiter(self.config.updates_per_row, self.config.warmup_rows)
        self._rounds = (
            Rounds(len(config.robots), self.config.round_timeout_s) if self.config.synchronous else None
        )
        self._learned_rows = 0
        self._complete = False
        self._slice = 16
        self._queue = DeviceQueue(self.trainer.device)
        progress = resume(run.checkpoints, self.trainer, link.run_id)
        if progress is None:
            log.info("no checkpoint in %s: learning starts at update 0", run.checkpoints)
            if run.start.is_dir():
                begin_with(run.start, self.trainer)
        self._seen = progress.cursor if progress else 0
        if leader is not None:
            leader.begin(self.trainer, self.mirror)
        tail = LogTail(
            link,
            self.mirror.layout,
            self.trainer.normaliser,
            self.trainer.rewards,
            self._seen,
            normalise=self.config.normalise_observations,
        )
        self.courier = Courier(
            self.config,
            run,
            link,
            publisher,
            tail,
            Snapshot(self.config, spec),
            progress.policies_published if progress else 0,
            self.report,
        )

    def run(self, stop: threading.Event) -> None:
        """Train until `stop` is set; the last policy and state are saved on the way out.

        Raises:
            learner.trainer.DivergedError: The network left the finite numbers.
            Exception: Whatever ended the courier.
        """
        self.courier.start()
        try:
            while not stop.is_set():
                self.courier.check()
                if not self.show():  # one or the other: the less between two updates, the better
                    self.take_rows()
                if self._rounds is not None:
                    self._rounds.tend(time.monotonic())
                if not self.train():
                    if self._leader is not None:
                        self._leader.wait()
                    self.courier.attention.wait(_IDLE_S)
                    self.courier.attention.clear()
        finally:
            self.courier.close()
        self.courier.check()
        self.save()

    def take_rows(self) -> None:
        """Bring what has arrived of the log's new rows into the mirror and the statistics.

        Beside updates only a piece at a time, so that none of them waits for a burst.
        """
        while (arrival := self.courier.next_arrival()) is not None:
            self._append(arrival)
            if self._allowed(self.trainer.updates) > 0:
                return

    def _append(self, arrival: Arrival) -> None:
        if self._leader is not None:
            self._leader.rows(arrival)
        self.mirror.seek(arrival.first_cursor)
        if len(arrival.rows):
            self.mirror.append(arrival.rows)
            self.trainer.adopt(arrival.normaliser, arrival.rewards)
        self._seen = arrival.seen
        self._complete |= arrival.caught_up
        if self._rounds is not None:
            self._rounds.extend(arrival.first_cursor, len(arrival.rows), arrival.rows.ends, time.monotonic())

    def train(self) -> bool:
        """Do a short slice of the updates that the rows allow; False if there is none to do.

        There is none before the mirror has held the whole log once: updates on a part of it would
        be other ones than those of a learner that had never been stopped.
        """
        allowed = self._allowed(self.trainer.updates)
        if allowed <= 0:
            self._note_learned()
            return False
        start = time.monotonic()
        updates = min(allowed, self._slice)
        if self._leader is not None:
            self._leader.update(updates)
        self.trainer.update_many(self.mirror, updates)
        self._queue.bound()
        took = max(time.monotonic() - start, 1e-6)
        if updates == self._slice:  # aim at slices after which the courier has not waited long
            self._slice = max(1, min(2 * self._slice, int(updates * _SLICE_S / took)))
        return True

    def _allowed(self, updates_done: int) -> int:
        if not self._complete or not len(self.mirror):
            return 0
        return self._limiter.allowed(self._learnable_rows, updates_done)

    @property
    def _learnable_rows(self) -> int:
        return self.mirror.cursor if self._rounds is None else self._rounds.closed

    def _note_learned(self) -> None:
        """All updates are done that the rows allow."""
        if not self._complete or self._learned_rows == self._learnable_rows:
            return
        self._learned_rows = self._learnable_rows
        if self._rounds is not None:
            self.courier.hurry()

    def show(self) -> bool:
        """Give the courier the snapshot it wants; False if it wants none."""
        wanted = self.courier.wanted
        if wanted:
            self._take_snapshot(wanted)
            self.courier.hand_over()
        return bool(wanted)

    def _take_snapshot(self, purposes: Container[str]) -> None:
        self.courier.snapshot.take(self.trainer, self.mirror, self._seen, self._learned_rows, purposes)

    def save(self) -> None:
        """Publish and write a checkpoint of now; only while the courier's thread does not run."""
        purposes = "publish", "checkpoint"
        self._take_snapshot(purposes)
        self.courier.use(purposes)

    def report(self) -> tuple[str, dict[str, Any]]:
        """State and numbers for heartbeats; safe in any thread."""
        rows, updates = self.mirror.cursor, self.trainer.updates
        return "running" if self._allowed(0) else "waiting", {
            "learner/updates": updates,
            "learner/rows": rows,
            "learner/demonstration_rows": self.mirror.demonstration_rows,
            "learner/updates_per_row": updates / max(1, rows),
        }
