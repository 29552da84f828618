"""Ships a robot's experience to the replay server, in order, until every row is stored there.

    Spool (disk) ─▶ Delivery (what is next) ─▶ DEALER ─▶ replay server

A thread owns the DEALER socket and reads the spool; the control loop only appends to it. Rows stay in
the spool until the server says they are stored: after a silence, a lost connection or a restart of the
server the thread says hello again and goes on from where the server's count ends. The same connection
carries this robot's heartbeats and the operator's commands.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from fleet.codec import decode, encode
from fleet.keys import Credentials
from fleet.messages import (
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    MessageError,
    Refusal,
    Welcome,
)
from fleet.sockets import connect_dealer
from fleet.spaces import SpaceSpec
from robot_nodes.delivery import Delivery
from robot_nodes.spool import Spool

logger = logging.getLogger(__name__)

_POLL_MS = 25
_HELLO_PERIOD_S = 1.0
_HELLO_AGAIN_PERIOD_S = 2.0  # a restarted server knows an idle robot, and has commands for it, only by hello
_ACK_TIMEOUT_S = 2.0
_HEARTBEAT_PERIOD_S = 0.5
_SEAL_PATIENCE_S = 1.0  # that closing waits for episode files once the journal has everything
_DISK_RETRY_S = 1.0
_LINGER_MS = 500
_REST = 3.0  # per CPU time that was spent


class ExperienceSender:
    """One robot's connection to the replay server.

    spool = Spool(RUN / "spool", robot_id, boot_id, spec, config)
    sender = ExperienceSender(endpoint, spool, spec, on_command, heartbeat)
    sender.start()
    spool.add_row(…); spool.end_episode(…)    # by the EpisodeRecorder, in the control loop
    left = sender.close(timeout_s=5)          # rows that stay in the spool until the next start
    spool.close()
    """

    def __init__(
        self,
        endpoint: str,
        spool: Spool,
        spec: SpaceSpec,
        on_command: Callable[[FleetCommand], None],
        heartbeat: Callable[[], tuple[str, dict[str, Any]]],
        *,
        credentials: Credentials | None = None,
        window: int = 64,
    ) -> None:
        self._endpoint, self._spool, self._spec = endpoint, spool, spec
        self._on_command, self._heartbeat = on_command, heartbeat
        self._credentials = credentials
        self._robot_id, self._boot_id = spool.current.head.robot_id, spool.current.head.boot_id
        self._delivery = Delivery(spool, window)
        self._server_boot_id = ""
        self._hello_unanswered = True
        self._last_progress_s = self._last_hello_s = self._last_heartbeat_s = float("-inf")
        self._next_disk_try_s = float("-inf")
        self._heartbeat_error = self._disk_error = ""
        self._closing = threading.Event()
        self._deadline_s = self._seal_deadline_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="experience-sender", daemon=True)
        self.stored_cursor = 0  # of the server's log, after the newest row of this start that it has stored
        self.refusal = ""  # why the server will not have this robot; empty when it will
        self.refused_rows = ""  # why it will not have the oldest rows: the robot must stop until it does

    def start(self) -> None:
        """Connect and begin to send."""
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the server answered our hello and has been heard from since."""
        return bool(self._server_boot_id)

    @property
    def waiting_rows(self) -> int:
        """Rows in the spool, of earlier starts too, that the server has not stored yet."""
        return self._delivery.waiting_rows

    @property
    def acked_rows(self) -> int:
        """Rows of this start that the server has stored."""
        return self._spool.current.durable_seq + 1

    @property
    def blocked(self) -> str:
        """Why the robot must not take another step; empty when it may."""
        return self._spool.blocked or self._disk_error or self.refusal or self.refused_rows

    def close(self, timeout_s: float) -> int:
        """Send what is left, for at most `timeout_s`, and return the rows that stay in the spool.

        No row may be recorded any more. The spool is the caller's to close, afterwards.
        """
        self._deadline_s = time.monotonic() + timeout_s
        self._spool.end_boot()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        return self._delivery.waiting_rows

    def _run(self) -> None:
        context = zmq.Context()
        identity = f"{self._robot_id}:{self._boot_id}:{secrets.token_hex(8)}".encode()
        socket = connect_dealer(context, self._endpoint, identity, self._credentials)
        cpu_s = time.thread_time()
        try:
            while not self._done():
                if socket.poll(_POLL_MS):
                    self._receive(socket)
                self._send(socket, time.monotonic())
                # A long backlog must not keep the interpreter from the control loop.
                cpu_s, last_cpu_s = time.thread_time(), cpu_s
                if not self._closing.is_set():
                    time.sleep(_REST * (cpu_s - last_cpu_s))
            self._send_heartbeat(socket)
        finally:
            socket.close(linger=_LINGER_MS)
            context.term()

    def _done(self) -> bool:
        if not self._closing.is_set():
            return False
        now_s = time.monotonic()
        if self.refusal or now_s > self._deadline_s:
            return True
        if not self._delivery.finished or self._spool.unwritten:
            return False
        # A little patience: what is in an episode file survives more than what is in the journal only.
        self._seal_deadline_s = min(self._seal_deadline_s, now_s + _SEAL_PATIENCE_S)
        return self._delivery.sealed or now_s > self._seal_deadline_s

    def _send(self, socket: zmq.Socket[bytes], now_s: float) -> None:
        if (
            self._server_boot_id
            and self._delivery.in_flight
            and now_s - self._last_progress_s > _ACK_TIMEOUT_S
        ):
            logger.warning("replay server %s is silent; saying hello again", self._endpoint)
            self._server_boot_id = ""
        period_s = _HELLO_AGAIN_PERIOD_S if self._server_boot_id else _HELLO_PERIOD_S
        due = self._server_boot_id and not self._hello_unanswered and self._delivery.hello_due
        if due or now_s - self._last_hello_s > period_s:
            self._last_hello_s = now_s
            self._hello_unanswered |= bool(due)
            self._say_hello(socket)
        if self._server_boot_id and now_s - self._last_heartbeat_s > _HEARTBEAT_PERIOD_S:
            self._last_heartbeat_s = now_s
            self._send_heartbeat(socket)
        if now_s > self._next_disk_try_s:
            try:
                self._spool.trim()
                self._send_rows(socket, now_s)
                self._disk_error = ""
            except OSError as error:
                self._report_disk_error(error)

    def _report_disk_error(self, error: OSError) -> None:
        text = f"spool {self._spool.path} cannot be used: {error}"
        if text != self._disk_error:
            logger.error("%s; the robot waits", text)
        self._disk_error = text
        self._next_disk_try_s = time.monotonic() + _DISK_RETRY_S

    def _say_hello(self, socket: zmq.Socket[bytes]) -> None:
        oldest_seq, backlog = self._delivery.tell()
        hello = Hello(
            role="robot",
            process_id=self._robot_id,
            boot_id=self._boot_id,
            spec=self._spec.to_json(),
            oldest_seq=oldest_seq,
            backlog=backlog,
        )
        self._try_send(socket, encode(hello))

    def _send_rows(self, socket: zmq.Socket[bytes], now_s: float) -> None:
        """Send what may be sent, from the disk only: what the server has must not vanish here."""
        if not self._server_boot_id or self._hello_unanswered:
            return
        batches = self._delivery.ready()
        if not batches:
            return
        self._spool.sync()
        if not self._delivery.in_flight:
            self._last_progress_s = now_s
        for batch in batches:
            if not self._try_send(socket, encode(batch)):
                return
            self._delivery.sent()

    def _send_heartbeat(self, socket: zmq.Socket[bytes]) -> None:
        try:
            state, stats = self._heartbeat()
            frame = encode(
                Heartbeat(
                    role="robot",
                    process_id=self._robot_id,
                    boot_id=self._boot_id,
                    state=state,
                    stamp_ns=time.time_ns(),
                    stats=stats,
                )
            )
        except Exception as error:  # a defect in what is only shown must not end the flow of rows
            if str(error) != self._heartbeat_error:
                logger.exception("no heartbeat can be sent")
                self._heartbeat_error = str(error)
            return
        self._try_send(socket, frame)

    @staticmethod
    def _try_send(socket: zmq.Socket[bytes], frame: bytes) -> bool:
        try:
            socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:  # no peer, or its queue is full: the next round tries again
            return False
        return True

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                self._handle(decode(frames[-1]))
            except MessageError as error:
                logger.warning("dropped a malformed message from %s: %s", self._endpoint, error)

    def _handle(self, message: Message) -> None:
        match message:
            case Welcome():
                self._on_welcome(message)
            case Ack(robot_id=self._robot_id):
                if message.boot_id == self._boot_id:  # first: who sees the rows stored sees where
                    self.stored_cursor = message.cursor
                self._note_progress(self._delivery.acknowledge(message))
            case FleetCommand():
                self._on_command(message)
            case Refusal(request="TransitionBatch"):
                self._server_boot_id = ""  # it may have restarted: hello, then the same rows again
                if "say hello first" not in message.reason and message.reason != self.refused_rows:
                    logger.error(
                        "replay server %s refuses rows, they stay in %s: %s",
                        self._endpoint,
                        self._spool.path,
                        message.reason,
                    )
                    self.refused_rows = message.reason
            case Refusal(request="Hello"):
                self._refuse(
                    f"replay server {self._endpoint} refuses this robot: {message.reason}", message.reason
                )
            case Refusal():
                logger.warning("replay server refused a %s: %s", message.request, message.reason)
            case _:
                logger.warning("unexpected %s from %s", type(message).__name__, self._endpoint)

    def _on_welcome(self, message: Welcome) -> None:
        try:
            reason = self._delivery.join(message)
        except OSError as error:
            self._report_disk_error(error)
            return
        if reason:
            self._refuse(reason, reason)
            return
        again = message.server_boot_id != self._server_boot_id
        if again:
            logger.info("connected to replay server %s, run %s", self._endpoint, message.run_id)
        self._server_boot_id, self.refusal, self._hello_unanswered = message.server_boot_id, "", False
        self.stored_cursor = message.cursor
        self._note_progress(self._delivery.welcome(message, again=again))

    def _refuse(self, text: str, refusal: str) -> None:
        if refusal != self.refusal:
            logger.error("%s", text)
        self.refusal = refusal

    def _note_progress(self, progress: bool) -> None:
        if progress:
            self.refused_rows = ""
            self._last_progress_s = time.monotonic()
