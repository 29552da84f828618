"""What the replay server answers: messages in, messages out, without sockets.

for identity, reply in [*service.handle(identity, decode(frame), frame), *service.settle()]:
    router.send_multipart([identity, encode(reply)])

Rows are acknowledged by `settle`, once the journal has them on disk.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from fleet.config import ReplayServerConfig
from fleet.messages import (
    MAX_BACKLOG,
    MAX_ROWS,
    PROTOCOL_VERSION,
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    SampleReply,
    SampleRequest,
    Status,
    StatusRequest,
    TailReply,
    TailRequest,
    TransitionBatch,
    Welcome,
    row_dtype,
)
from fleet.spaces import SpaceError, SpaceSpec
from replay_server.batch_check import batch_error
from replay_server.columns import row_bytes
from replay_server.episode_file import is_safe_id
from replay_server.episode_store import EpisodeStore
from replay_server.experience_log import ExperienceLog, Stream, StreamKey
from replay_server.fleet_commands import FleetCommands
from replay_server.processes import Peer, PeerTable, ProcessTable, heartbeat_error
from replay_server.rate_limiter import RateLimiter
from replay_server.rate_meter import RateMeter
from replay_server.refused import RefusedError
from replay_server.sampler import MixedSampler, Sampler, UniformSampler

logger = logging.getLogger(__name__)

ROLES = ("robot", "learner", "monitor")
# A client that never reads can make the server hold its queue of replies: few and not large.
_MAX_REPLY_BYTES = 4 * 2**20
_MAX_SEQ = 2**60
_MAX_ROBOTS = 1024

Reply = tuple[bytes, Message]


class ReplayService:
    """The state of one run and the answer to every message about it."""

    def __init__(
        self,
        config: ReplayServerConfig,
        run_id: str,
        store: EpisodeStore,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        rng: np.random.Generator | None = None,
        sampler: Sampler | None = None,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Restore what the run folder holds.

        Args:
            config: The server's part of the fleet's config.
            run_id: Name of the run, for policies and files.
            store: The run folder.
            clock: Monotonic time (s), for rates and ages.
            wall_ns: Wall time (ns), for files.
            rng: Source of the default, uniform sampler, and of the demonstrations.
            sampler: Another way to choose rows.
            on_commit: Called in another thread when `settle` has rows to acknowledge.

        Raises:
            StoreError: The run folder is damaged.
            OSError: The journal cannot be read or begun.
        """
        self.run_id = run_id
        self.server_boot_id = uuid.uuid4().hex[:16]
        self.log: ExperienceLog | None = None
        self.door_stats: dict[str, float] = {}  # what the server's loop knows about connections
        self._config = config
        self._store = store
        self._clock = clock
        self._wall_ns = wall_ns
        rng = rng or np.random.default_rng()
        self._sampler = MixedSampler(sampler or UniformSampler(rng), rng)
        self._limiter = RateLimiter(config.samples_per_insert, config.sample_min_rows)
        self._peers = PeerTable()
        self._processes = ProcessTable()
        self._commands = FleetCommands(self._peers, self._processes)
        self._started_s = clock()
        self._rate = RateMeter()
        self._refused = self._malformed = self._rows_sampled = 0
        self._spec_hash = ""
        self._on_commit = on_commit
        self._senders: dict[StreamKey, bytes] = {}
        self._handlers: dict[type, Callable[[bytes, Any], list[Reply]]] = {
            Hello: self._hello,
            SampleRequest: self._sample,
            TailRequest: self._tail,
            Heartbeat: self._heartbeat,
            FleetCommand: self._command,
            StatusRequest: self._status,
        }
        if (spec := store.load_spec()) is not None:
            self._open_log(spec)

    def handle(self, identity: bytes, message: Message, frame: bytes | memoryview) -> list[Reply]:
        """Process one message, decoded from `frame`, and return what to send, in order."""
        self._peers.heard(identity, self._clock())
        kind = type(message).__name__
        handler = self._handlers.get(type(message))
        try:
            if isinstance(message, TransitionBatch):
                return self._transitions(identity, message, frame)
            if handler is None:
                raise RefusedError(f"a replay server does not take a {kind}")
            return handler(identity, message)
        except RefusedError as error:
            return [self.refuse(identity, kind, str(error))]

    def refuse(self, identity: bytes, request: str, reason: str) -> Reply:
        """Count a refusal and return it."""
        self._refused += 1
        return identity, Refusal(request=request, reason=reason)

    def malformed(self, identity: bytes, reason: str) -> Reply:
        """Count a frame that is not a message and return the refusal for it."""
        self._malformed += 1
        return identity, Refusal(request="frame", reason=reason)

    def settle(self) -> list[Reply]:
        """Send staged rows on their way to the disk, and acknowledge those that have arrived there."""
        if self.log is None:
            return []
        before = self.log.ring.end_cursor
        keys = dict.fromkeys(self.log.collect())
        if arrived := self.log.ring.end_cursor - before:
            self._rate.add(self._clock(), arrived)
        keys |= dict.fromkeys(self.log.tend())
        self.log.flush()
        return [(self._senders[key], self._ack(*key)) for key in keys if key in self._senders]

    def _ack(self, robot_id: str, boot_id: str) -> Ack:
        assert self.log is not None
        stream = self.log.stream(robot_id, boot_id)
        return Ack(
            robot_id=robot_id,
            boot_id=boot_id,
            durable_seq=stream.durable_seq,
            sealed_seq=stream.sealed_seq,
            cursor=stream.cursor,
        )

    def seal(self) -> None:
        """Hand unfinished episodes to the store; the last call before the store is closed."""
        if self.log is not None:
            self.log.seal_all()

    def close(self) -> None:
        """End the journal, when the store is closed."""
        if self.log is not None:
            self.log.close()

    def _open_log(self, spec: SpaceSpec) -> None:
        self.log = ExperienceLog(
            capacity_rows=self._config.capacity_rows,
            spec=spec,
            run_id=self.run_id,
            store=self._store,
            wall_ns=self._wall_ns,
            on_commit=self._on_commit,
            fsync=self._config.fsync,
        )
        self._spec_hash = spec.hash
        self.log.recover()

    def _hello(self, identity: bytes, hello: Hello) -> list[Reply]:
        if hello.protocol_version != PROTOCOL_VERSION:
            raise RefusedError(
                f"protocol version {hello.protocol_version}, this server speaks {PROTOCOL_VERSION}"
            )
        if hello.role not in ROLES:
            raise RefusedError(f"role must be one of {', '.join(ROLES)}, got {hello.role[:40]!r}")
        for name, text in (("process_id", hello.process_id), ("boot_id", hello.boot_id)):
            if not is_safe_id(text):
                raise RefusedError(f"{name} must be 1 to 64 of A-Z a-z 0-9 _ -, got {text[:80]!r}")
        replies: list[Reply] = []
        peer = Peer(hello.role, hello.process_id, hello.boot_id, self._clock())
        mine, reached = Stream(), dict[str, Stream]()
        if hello.role == "robot":
            peer.oldest_seqs = _oldest_seqs(hello)
            log = self._robot_log(hello)
            reached = {boot: log.stream(hello.process_id, boot) for boot in peer.oldest_seqs}
            mine = reached.pop(hello.boot_id)
            if command := self._commands.standing(hello):
                replies = [(identity, command)]
        self._peers.add(identity, peer)
        welcome = Welcome(
            run_id=self.run_id,
            server_boot_id=self.server_boot_id,
            spec=self.log.spec.to_json() if self.log else {},
            durable_seq=mine.durable_seq,
            sealed_seq=mine.sealed_seq,
            cursor=mine.cursor,
            backlog={boot: [s.durable_seq, s.sealed_seq] for boot, s in reached.items()},
        )
        return [(identity, welcome), *replies]

    def _robot_log(self, hello: Hello) -> ExperienceLog:
        """The log, opened by the first robot's spec; other specs are refused."""
        try:
            spec = SpaceSpec.from_json(hello.spec)
        except SpaceError as error:
            raise RefusedError(f"a robot must bring its spec: {error}") from error
        if self.log is None:
            try:
                self._store.save_spec(spec)
            except OSError as error:
                raise RefusedError(f"the spec cannot be written to the run folder: {error}") from error
            self._open_log(spec)
            logger.info("robot %s brought the spec of run %s", hello.process_id, self.run_id)
        assert self.log is not None
        run = self.log.spec
        if run.joints != spec.joints:
            raise RefusedError(
                f"robot {hello.process_id} has {spec.joints} joints, this run's robots have {run.joints}: "
                "arms with different numbers of joints cannot share one policy; "
                "start it in a fleet of its own"
            )
        if difference := run.difference(spec):
            raise RefusedError(
                f"robot {hello.process_id} has another spec than run {self.run_id}: {difference}; start it "
                "with the same fleet YAML as the others (task, robots, limits, sensors), or start a new run"
            )
        return self.log

    def _transitions(self, identity: bytes, batch: TransitionBatch, frame: bytes | memoryview) -> list[Reply]:
        peer = self._peers.get(identity)
        if peer is None or peer.role != "robot" or self.log is None:
            raise RefusedError("say hello first")
        if batch.robot_id != peer.process_id or batch.boot_id not in peer.oldest_seqs:
            raise RefusedError(
                f"rows of {batch.robot_id[:80]!r} (boot {batch.boot_id[:80]!r}) from a connection "
                f"that said hello as {peer.process_id!r} (boots {', '.join(peer.oldest_seqs)})"
            )
        if error := batch_error(batch, self.log.spec, self._spec_hash):
            raise RefusedError(error)
        robots = self.log.rows_by_robot
        if len(robots) >= _MAX_ROBOTS and batch.robot_id not in robots:
            raise RefusedError(f"run {self.run_id} has rows of {len(robots)} robots: start a new run")
        oldest_seq = peer.oldest_seqs[batch.boot_id]
        if oldest_seq <= batch.first_seq:
            self.log.give_up_before(batch.robot_id, batch.boot_id, oldest_seq)
        self._senders[batch.robot_id, batch.boot_id] = identity
        if self.log.stage(batch, frame):
            return []
        return [(identity, self._ack(batch.robot_id, batch.boot_id))]

    def _sample(self, identity: bytes, request: SampleRequest) -> list[Reply]:
        rows = request.batches * request.batch_size
        if request.batches < 1 or request.batch_size < 1 or rows > MAX_ROWS:
            raise RefusedError(f"batches × batch_size must be 1 … {MAX_ROWS}, got {rows}")
        if not 0 <= request.demonstration_fraction <= 1:  # nor NaN
            raise RefusedError(f"demonstration_fraction must be 0 … 1, got {request.demonstration_fraction}")
        inserted = self.log.rows_inserted if self.log else 0
        if self.log is None or inserted < self._config.sample_min_rows or not self.log.ring.rows:
            raise RefusedError(
                f"{inserted} of {self._config.sample_min_rows} rows are here "
                "(replay_server.sample_min_rows): ask again later"
            )
        ring = self.log.ring
        if rows * row_bytes(ring.nx, ring.nu) > _MAX_REPLY_BYTES:
            raise RefusedError(
                f"{rows} rows do not fit one reply, at most {self._reply_rows()}: ask for fewer"
            )
        if rows > (allowed := self._limiter.allowed(inserted, self._rows_sampled)):
            raise RefusedError(
                f"{rows} rows asked for, {allowed} allowed now "
                "by replay_server.samples_per_insert: ask again later"
            )
        self._rows_sampled += rows
        cursors = self._sampler.sample(
            ring.oldest_cursor,
            ring.end_cursor,
            ring.demonstrations,
            batches=request.batches,
            batch_size=request.batch_size,
            fraction=request.demonstration_fraction,
        )
        reply = SampleReply.from_packed(
            ring.gather(cursors), request_id=request.request_id, batches=request.batches, cursor=cursors
        )
        return [(identity, reply)]

    def _reply_rows(self) -> int:
        assert self.log is not None
        ring = self.log.ring
        return min(MAX_ROWS, _MAX_REPLY_BYTES // row_bytes(ring.nx, ring.nu))

    def _tail(self, identity: bytes, request: TailRequest) -> list[Reply]:
        if request.cursor < 0 or request.max_rows < 1:
            raise RefusedError(f"cursor ≥ 0 and max_rows ≥ 1, got {request.cursor} and {request.max_rows}")
        first, end, rows = 0, 0, np.zeros(0, row_dtype(0, 0))
        if self.log is not None:
            end = self.log.ring.end_cursor
            first, rows = self.log.ring.tail(request.cursor, min(request.max_rows, self._reply_rows()))
        reply = TailReply.from_packed(
            rows,
            request_id=request.request_id,
            first_cursor=first,
            next_cursor=first + len(rows),
            end_cursor=end,
        )
        return [(identity, reply)]

    def _heartbeat(self, identity: bytes, heartbeat: Heartbeat) -> list[Reply]:
        if error := heartbeat_error(heartbeat):
            raise RefusedError(error)
        self._processes.add(heartbeat, self._clock())
        self._commands.observe(heartbeat)
        return []

    def _command(self, identity: bytes, command: FleetCommand) -> list[Reply]:
        delivery = self._commands.deliver(command)
        forwarded: list[Reply] = [(robot, command) for robot, _ in delivery.robots]
        try:
            receipt = delivery.receipt(self._clock())
        except RefusedError as error:
            return [*forwarded, self.refuse(identity, "FleetCommand", str(error))]
        return [*forwarded, (identity, receipt)]

    def _status(self, identity: bytes, request: StatusRequest) -> list[Reply]:
        status = Status(
            request_id=request.request_id,
            run_id=self.run_id,
            stats=self.stats(),
            processes=self._processes.rows(self._clock()),
            evaluations=list(self.log.evaluations) if self.log else [],
            last_command=self._commands.last_kind,
        )
        return [(identity, status)]

    def stats(self) -> dict[str, Any]:
        """The server's numbers, flat slash keys; `replay/journal_error` is there while the disk refuses."""
        log = self.log
        stats: dict[str, Any] = {
            "replay/uptime_s": round(self._clock() - self._started_s, 3),
            "replay/rows_inserted": log.rows_inserted if log else 0,
            "replay/rows_in_ring": log.ring.rows if log else 0,
            "replay/demonstration_rows": len(log.ring.demonstrations) if log else 0,
            "replay/end_cursor": log.ring.end_cursor if log else 0,
            "replay/rows_per_s": round(self._rate.per_s(self._clock()), 3),
            "replay/duplicates_dropped": log.duplicates if log else 0,
            "replay/gaps": log.gaps if log else 0,
            "replay/deferred": log.deferred if log else 0,
            "replay/rows_lost": log.rows_lost if log else 0,
            "replay/journal_damage": log.journal_damage if log else 0,
            "replay/journal_groups": log.journal.groups if log else 0,
            "replay/journal_bytes": log.journal.bytes_written if log else 0,
            "replay/refused": self._refused,
            "replay/malformed_frames": self._malformed,
            "replay/samples": self._rows_sampled,
            "replay/episodes_stored": self._store.episodes_written + (log.episodes_recovered if log else 0),
            "replay/episodes_waiting": self._store.backlog,
            "replay/episode_write_errors": self._store.write_errors,
            "replay/episode_files_unreadable": log.files_unreadable if log else 0,
            "replay/robots": len(log.rows_by_robot) if log else 0,
        }
        stats |= self.door_stats
        if log and log.journal.error:
            stats["replay/journal_error"] = log.journal.error
        if log:
            stats.update({f"replay/rows/{robot}": rows for robot, rows in sorted(log.rows_by_robot.items())})
        return stats


def _oldest_seqs(hello: Hello) -> dict[str, int]:
    """The boots of a robot's hello, its own among them, each with its oldest seq."""
    if len(hello.backlog) > MAX_BACKLOG:
        raise RefusedError(f"backlog has {len(hello.backlog)} boots, at most {MAX_BACKLOG}")
    seqs = {**hello.backlog, hello.boot_id: hello.oldest_seq}
    for boot_id, seq in seqs.items():
        if type(boot_id) is not str or not is_safe_id(boot_id):
            raise RefusedError(
                f"a boot of the backlog must be 1 to 64 of A-Z a-z 0-9 _ -, got {boot_id!r:.80}"
            )
        if type(seq) is not int or not 0 <= seq <= _MAX_SEQ:
            raise RefusedError(f"the oldest seq of boot {boot_id} must be in 0 … 2^60, got {seq!r:.80}")
    return seqs
