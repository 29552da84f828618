"""Ships a robot's experience to the replay server, in order, until every row is acknowledged.

A thread owns the DEALER socket; the control loop only appends to a bounded queue and never waits.
Batches stay queued until the server says they are stored: after a silence, a lost connection or a
restart of the server the thread says hello again and re-sends from where the server's count ends.
The same connection carries this robot's heartbeats and the operator's commands.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import zmq

from fleet.codec import decode, encode
from fleet.messages import (
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    MessageError,
    Refusal,
    TransitionBatch,
    Welcome,
)
from fleet.sockets import connect_dealer
from fleet.spaces import SpaceSpec

logger = logging.getLogger(__name__)

_POLL_MS = 10
_HELLO_PERIOD_S = 1.0
_HELLO_AGAIN_PERIOD_S = 2.0  # a restarted server knows an idle robot, and has commands for it, only by hello
_ACK_TIMEOUT_S = 2.0
_HEARTBEAT_PERIOD_S = 0.5


class ExperienceSender:
    """One robot's connection to the replay server.

    sender = ExperienceSender(endpoint, robot_id, boot_id, spec, on_command, heartbeat)
    sender.start()
    sender.put(batch)                 # from the control loop, never blocks
    left = sender.close(timeout_s=5)  # rows that no server has acknowledged
    """

    def __init__(
        self,
        endpoint: str,
        robot_id: str,
        boot_id: str,
        spec: SpaceSpec,
        on_command: Callable[[FleetCommand], None],
        heartbeat: Callable[[], tuple[str, dict[str, Any]]],
        *,
        max_queued_rows: int = 100_000,
        window: int = 64,
    ) -> None:
        self._endpoint, self._robot_id, self._boot_id, self._spec = endpoint, robot_id, boot_id, spec
        self._on_command, self._heartbeat = on_command, heartbeat
        self._max_queued_rows, self._window = max_queued_rows, window
        self._lock = threading.Lock()
        self._unacked: deque[tuple[TransitionBatch, bytes]] = deque()
        self._in_flight = 0  # leading batches of _unacked that were sent
        self._queued_rows = 0
        self._server_boot_id = ""
        self._last_progress_s = self._last_hello_s = self._last_heartbeat_s = float("-inf")
        self._heartbeat_error = ""
        self._closing = threading.Event()
        self._deadline_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="experience-sender", daemon=True)
        self.refusal = ""  # why the server will not have this robot; empty when it will
        self.refused_rows = ""  # why it will not have the oldest rows: the robot must stop until it does
        self.acked_rows = 0

    def start(self) -> None:
        """Connect and begin to send."""
        self._thread.start()

    def put(self, batch: TransitionBatch) -> None:
        """Queue a batch. Check `full` before taking the next step: nothing is ever dropped here."""
        frame = encode(batch)
        with self._lock:
            self._unacked.append((batch, frame))
            self._queued_rows += batch.rows

    @property
    def connected(self) -> bool:
        """Whether the server answered our hello and has been heard from since."""
        return bool(self._server_boot_id)

    @property
    def queued_rows(self) -> int:
        """Rows that no server has acknowledged yet."""
        return self._queued_rows

    @property
    def blocked(self) -> str:
        """Why the robot must not take another step; empty when it may."""
        if self.full:
            return "experience queue is full: is the replay server up?"
        return self.refusal or self.refused_rows

    @property
    def full(self) -> bool:
        """Whether the robot must stop until the server catches up."""
        return self._queued_rows >= self._max_queued_rows

    def close(self, timeout_s: float) -> int:
        """Send what is left, for at most `timeout_s`, and return the rows that stay unacknowledged."""
        self._deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        return self._queued_rows

    def _run(self) -> None:
        context = zmq.Context()
        socket = connect_dealer(context, self._endpoint, f"{self._robot_id}:{self._boot_id}".encode())
        try:
            while not self._done():
                if socket.poll(_POLL_MS):
                    self._receive(socket)
                self._send(socket, time.monotonic())
            self._send_heartbeat(socket)
        finally:
            socket.close(linger=500)
            context.term()

    def _done(self) -> bool:
        if not self._closing.is_set():
            return False
        return not self._unacked or bool(self.refusal) or time.monotonic() > self._deadline_s

    def _send(self, socket: zmq.Socket[bytes], now_s: float) -> None:
        if self._server_boot_id and self._in_flight and now_s - self._last_progress_s > _ACK_TIMEOUT_S:
            logger.warning("replay server %s is silent; saying hello again", self._endpoint)
            self._server_boot_id = ""
        period_s = _HELLO_AGAIN_PERIOD_S if self._server_boot_id else _HELLO_PERIOD_S
        if now_s - self._last_hello_s > period_s:
            self._last_hello_s = now_s
            hello = Hello(
                role="robot",
                process_id=self._robot_id,
                boot_id=self._boot_id,
                spec=self._spec.to_json(),
                oldest_seq=self.acked_rows,
            )
            self._try_send(socket, encode(hello))
        if not self._server_boot_id:
            return
        if now_s - self._last_heartbeat_s > _HEARTBEAT_PERIOD_S:
            self._last_heartbeat_s = now_s
            self._send_heartbeat(socket)
        with self._lock:
            frames = [frame for _, frame in islice(self._unacked, self._in_flight, self._window)]
        if frames and not self._in_flight:
            self._last_progress_s = now_s
        for frame in frames:
            if not self._try_send(socket, frame):
                return
            self._in_flight += 1

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
                self._acknowledge(message.durable_seq)
                if message.server_boot_id != self._server_boot_id:
                    logger.info("connected to replay server %s, run %s", self._endpoint, message.run_id)
                    self._in_flight = 0  # what was under way may be lost: the server drops duplicates
                self._server_boot_id, self.refusal = message.server_boot_id, ""
            case Ack(robot_id=self._robot_id, boot_id=self._boot_id):
                self._acknowledge(message.durable_seq)
            case FleetCommand():
                self._on_command(message)
            case Refusal(request="TransitionBatch"):
                self._server_boot_id = ""  # it may have restarted: hello, then the same rows again
                if "say hello first" not in message.reason and message.reason != self.refused_rows:
                    logger.error("replay server %s refuses rows: %s", self._endpoint, message.reason)
                    self.refused_rows = message.reason
            case Refusal(request="Hello"):
                if message.reason != self.refusal:
                    logger.error("replay server %s refuses this robot: %s", self._endpoint, message.reason)
                self.refusal = message.reason
            case Refusal():
                logger.warning("replay server refused a %s: %s", message.request, message.reason)
            case _:
                logger.warning("unexpected %s from %s", type(message).__name__, self._endpoint)

    def _acknowledge(self, durable_seq: int) -> None:
        with self._lock:
            while self._unacked:
                batch = self._unacked[0][0]
                if batch.first_seq + batch.rows - 1 > durable_seq:
                    break
                self._unacked.popleft()
                self._in_flight = max(0, self._in_flight - 1)
                self._queued_rows -= batch.rows
                self.acked_rows += batch.rows
                self.refused_rows = ""
                self._last_progress_s = time.monotonic()
