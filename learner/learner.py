"""The learner process: follow the log, update as far as the rows allow, publish, report, save.

It never waits for a robot and no robot waits for it: rows come from the replay server, policies
leave on a publish socket, and either side may be away for any time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import zmq

from fleet.config import FleetConfig
from fleet.gatekeeper import Gatekeeper
from fleet.keys import load_credentials
from fleet.messages import PolicyMessage
from fleet.run_folder import RunFolder
from fleet.sockets import Context, bind_policy_publisher
from fleet.spaces import SpaceSpec
from learner.checkpoint import CheckpointError, Progress, highest_version, resume, save_checkpoint
from learner.curves import Curves
from learner.device import check_device
from learner.mirror import ReplayMirror
from learner.publisher import PolicyPublisher, policy_message
from learner.replay_link import ReplayLink
from learner.trainer import Trainer
from learner.version_counter import VersionCounter
from replay_server.client import ReplayClient
from replay_server.log_throttle import LogThrottle
from replay_server.rate_limiter import RateLimiter

log = logging.getLogger(__name__)

_TAIL_ROWS = 8192
_PULL_PERIOD_S = 0.05
_SLICE_S = 0.03
_IDLE_S = 0.01
_WAIT_S = 0.5
_HEARTBEAT_S = 1.0


def run_learner(
    config: FleetConfig, run_dir: Path, stop: threading.Event, on_ready: Callable[[], None]
) -> None:
    """Train until `stop` is set, then save a checkpoint.

    Args:
        config: The fleet as run.
        run_dir: The run's folder: checkpoints are resumed from and written there.
        stop: Set it from anywhere to end in order.
        on_ready: Called once the policy socket is bound; robots need not exist yet.

    Raises:
        fleet.config.ConfigError: PyTorch does not find `learner.device`, a key is missing, or the
            checkpoints in the run folder are of another run or network.
        learner.trainer.DivergedError: The network left the finite numbers.
        fleet.sockets.BindError: The policy endpoint is taken.
    """
    check_device(config.learner.device)
    credentials = load_credentials(config, "learner")
    torch.set_num_threads(config.learner.threads)
    context: Context = zmq.Context()
    gatekeeper = Gatekeeper(context, credentials) if credentials else None
    publisher = None
    try:
        socket = bind_policy_publisher(context, config.learner.policy_endpoint, credentials)
        publisher = PolicyPublisher(socket, gatekeeper)
        on_ready()
        with ReplayClient(
            config.replay_server.endpoint, "learner", "learner", context=context, credentials=credentials
        ) as client:
            link = ReplayLink(client, time.monotonic)
            while (spec := link.spec()) is None:
                link.heartbeat("waiting", {})
                if stop.wait(_WAIT_S):
                    return
            Learner(config, spec, RunFolder(run_dir), link, publisher).run(stop)
    finally:
        if publisher is not None:
            publisher.close()
        if gatekeeper is not None:
            gatekeeper.close()
        context.term()


class Learner:
    """One run's training, once the spec is known.

    learner.pull()        # new rows into mirror and normaliser
    learner.train()       # a slice of the updates that the rows allow
    learner.tend(now)     # whatever is due: publish, log, heartbeat, checkpoint
    """

    def __init__(
        self,
        config: FleetConfig,
        spec: SpaceSpec,
        run: RunFolder,
        link: ReplayLink,
        publisher: PolicyPublisher,
    ) -> None:
        """Draw a network, or take up the newest checkpoint of the run folder.

        Raises:
            learner.checkpoint.WrongCheckpointError: That is of another run, spec or network.
        """
        self.config = config.learner
        self.trainer = Trainer(self.config, spec, seed=config.seed + 1000 * self.config.seed)
        self.mirror = ReplayMirror(
            spec.observation.size, spec.action.size, config.replay_server.capacity_rows, self.config.device
        )
        self._limiter = RateLimiter(self.config.updates_per_row, self.config.warmup_rows)
        self._link, self._publisher, self._run = link, publisher, run
        published = highest_version(run.checkpoints)
        self._versions = VersionCounter(run.checkpoints / "policy_version", published)
        self._no_version_log = LogThrottle(log)
        self._policy: PolicyMessage | None = None
        self._curves = Curves(run.tensorboard)
        self._caught_up = self._complete = False
        self._slice = 16
        self._metrics: dict[str, Any] = {}
        self._due = dict.fromkeys(("publish", "log", "heartbeat"), 0.0)
        self._due["checkpoint"] = time.monotonic() + self.config.checkpoint_period_s
        progress = resume(run.checkpoints, self.trainer, link.run_id)
        self._seen = progress.cursor if progress else 0
        self._policies_published = progress.policies_published if progress else 0
        self._rate_from = (time.monotonic(), self.trainer.updates)

    def run(self, stop: threading.Event) -> None:
        """Train until `stop` is set; the last policy and state are saved on the way out."""
        next_pull = 0.0
        try:
            while not stop.is_set():
                now = time.monotonic()
                if now >= next_pull:
                    self.pull()
                    next_pull = now + (_PULL_PERIOD_S if self._caught_up else 0.0)
                trained = self.train()
                self.tend(time.monotonic())
                if not trained:
                    stop.wait(_IDLE_S)
            self.save()
        finally:
            self._curves.close()

    def pull(self) -> None:
        """Bring what has arrived of the log's new rows into the mirror and the normaliser."""
        reply = self._link.poll_tail(self.mirror.cursor, _TAIL_ROWS)
        if reply is None:
            return
        if reply.end_cursor < self._seen:
            log.warning(
                "the replay server came back with %d rows, %d were read before: following it from there",
                reply.end_cursor,
                self._seen,
            )
            self._seen = reply.end_cursor
        self.mirror.seek(reply.first_cursor)
        if reply.rows:
            self.mirror.extend(reply)
            known = max(0, self._seen - reply.first_cursor)  # by the process that wrote the checkpoint
            self.trainer.observe(reply.observation[known:])
            self._seen = max(self._seen, reply.next_cursor)
        self._caught_up = reply.next_cursor >= reply.end_cursor
        self._complete |= self._caught_up

    def train(self) -> bool:
        """Do a short slice of the updates that the rows allow; False if there is none to do.

        There is none before the mirror has held the whole log once: updates on a part of it would
        be other ones than those of a learner that had never been stopped.
        """
        allowed = self._allowed(self.trainer.updates)
        if allowed <= 0:
            return False
        start = time.monotonic()
        updates = min(allowed, self._slice)
        self.trainer.update_many(self.mirror, updates)
        took = max(time.monotonic() - start, 1e-6)
        if updates == self._slice:  # aim at slices that leave the sockets alone for _SLICE_S
            self._slice = max(1, min(2 * self._slice, int(updates * _SLICE_S / took)))
        return True

    def _allowed(self, updates_done: int) -> int:
        if not self._complete or not len(self.mirror):
            return 0
        return self._limiter.allowed(self.mirror.cursor, updates_done)

    def tend(self, now: float) -> None:
        """Greet new subscribers and do whatever is due at `now` (monotonic, s)."""
        self._publisher.serve()
        if self._is_due("publish", now, self.config.publish_period_s):
            self.publish()
        if self._is_due("log", now, self.config.log_period_s):
            self.log_metrics(now)
        if self._is_due("heartbeat", now, _HEARTBEAT_S):
            self._link.heartbeat("running" if self._allowed(0) else "waiting", self.stats())
        if self._is_due("checkpoint", now, self.config.checkpoint_period_s):
            self.save()

    def _is_due(self, what: str, now: float, period_s: float) -> bool:
        if now < self._due[what]:
            return False
        self._due[what] = now + period_s
        return True

    def publish(self) -> None:
        """Give the robots the newest μ, or the last one again if there was no update since.

        Before the first update it explores more widely.
        """
        updates, config = self.trainer.updates, self.config
        if self._policy is not None and self._policy.learner_step == updates:
            self._publisher.repeat()
            return
        try:
            version = self._versions.take()
        except OSError as error:
            self._no_version_log.warning(f"no new policy: its version cannot be written down: {error}")
            self._publisher.repeat()
            return
        std = config.exploration_std if updates else config.warmup_exploration_std
        self._policy = policy_message(self.trainer, self._link.run_id, version, std, time.time_ns())
        self._policies_published += 1
        self._publisher.publish(self._policy)

    def stats(self) -> dict[str, Any]:
        """Flat slash keys for heartbeats and TensorBoard."""
        rows = self.mirror.cursor
        return {
            "learner/updates": self.trainer.updates,
            "learner/rows": rows,
            "learner/demonstration_rows": self.mirror.demonstration_rows,
            "learner/updates_per_row": self.trainer.updates / max(1, rows),
            "learner/policy_version": self._versions.last,
            "learner/policies_published": self._policies_published,
            "learner/subscriptions": self._publisher.subscriptions,
            "learner/strange_subscriptions": self._publisher.strange_subscriptions,
            "learner/handshakes_failed": self._publisher.handshakes.failed,
            **self._metrics,
        }

    def log_metrics(self, now: float) -> None:
        """Measure, make sure that training is finite, and write a TensorBoard step."""
        self.trainer.check_finite()
        before, updates = self._rate_from
        self._rate_from = (now, self.trainer.updates)
        if not self.trainer.updates or not len(self.mirror):  # a resumed learner has updates but no rows yet
            return
        rate = (self.trainer.updates - updates) / max(now - before, 1e-6)
        self._metrics = {"learner/updates_per_s": rate, **self.trainer.metrics(self.mirror)}
        self._curves.add(self.stats(), self.trainer.updates)

    def save(self) -> None:
        """Publish, and write a checkpoint with that policy; a full disk is reported, not fatal."""
        self.trainer.check_finite()
        self.publish()
        if self._policy is None:  # not even a version could be written, and that was reported
            return
        progress = Progress(
            run_id=self._link.run_id,
            policy_version=self._policy.version,
            policies_published=self._policies_published,
            cursor=self._seen,
        )
        try:
            path = save_checkpoint(
                self._run.checkpoints, self.trainer, progress, self._policy, self.config.keep_checkpoints
            )
        except CheckpointError as error:
            log.error("%s; training goes on, the next try is in %g s", error, self.config.checkpoint_period_s)
            return
        log.info("checkpoint %s: %d updates, %d rows", path, self.trainer.updates, progress.cursor)
