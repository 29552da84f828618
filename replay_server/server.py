"""The replay server's process: one loop over one ROUTER socket."""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import zmq

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.gatekeeper import Gatekeeper
from fleet.handshakes import HandshakeCounter
from fleet.keys import Credentials
from fleet.messages import Message, MessageError, Refusal
from fleet.sockets import Socket, bind_router, bound_endpoint, drop_connections
from replay_server.authorisation import denial
from replay_server.episode_store import EpisodeStore
from replay_server.log_throttle import LogThrottle
from replay_server.sealer import Sealer
from replay_server.service import ReplayService, Reply

logger = logging.getLogger(__name__)

_POLL_MS = 50
_BURST = 256
_GROUP = 16
_BURST_S = 0.02
_COPY_BYTES = 2**16
_LOOK_PERIOD_S = 1.0
_CONNECTIONS = 16384  # strangers hold one each until their handshake has failed; robots must still get in
_SWITCH_INTERVAL_S = 5e-4


def run_replay_server(
    config: ReplayServerConfig,
    run_dir: Path,
    run_id: str,
    stop: threading.Event | Callable[[], bool],
    on_ready: Callable[[], None] | None = None,
    seed: int | None = None,
    credentials: Credentials | None = None,
    task: str = "",
) -> None:
    """Serve one run until `stop`, then seal and write every episode.

    Args:
        config: The server's part of the fleet's config.
        run_dir: Where episodes go; what is there already is served again.
        run_id: Name of the run.
        stop: An event, or a function that turns true; looked at twenty times a second.
        on_ready: Called once, when clients are about to be served.
        seed: Of the sampler; none: from the operating system.
        credentials: Keys; none: no encryption, and loopback only.
        task: Kind of the task, for the episode files.

    Raises:
        BindError: The endpoint cannot be bound.
        StoreError: The run folder is damaged or in use.
    """
    should_stop = stop.is_set if isinstance(stop, threading.Event) else stop
    # The journal's thread must not wait 5 ms for this one after each fdatasync.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _allow_connections(_CONNECTIONS)
    context: zmq.Context[Socket] = zmq.Context()
    with ExitStack() as ends:
        ends.callback(context.term)
        gatekeeper = ends.enter_context(Gatekeeper(context, credentials)) if credentials else None
        # Bound first: a port in use is found before a large run is read.
        router = bind_router(context, config.endpoint, credentials)
        ends.callback(router.close)
        handshakes = HandshakeCounter(router)
        ends.callback(handshakes.close)
        waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        ends.callback(os.close, waker)
        sealer = Sealer()
        ends.callback(sealer.close)
        store = EpisodeStore(run_dir, write=sealer.write, task=task)
        try:
            service = ReplayService(
                config,
                run_id,
                store,
                rng=np.random.default_rng(seed),
                on_commit=lambda: os.eventfd_write(waker, 1),
            )
            logger.info(
                "replay server ready at %s (%s), run %s in %s, %d rows",
                bound_endpoint(router),
                "CurveZMQ" if credentials else "no keys",
                run_id,
                run_dir,
                service.log.rows_inserted if service.log else 0,
            )
            if on_ready is not None:
                on_ready()
            _ServerLoop(router, waker, service, gatekeeper, handshakes).run(should_stop)
            service.seal()
        finally:
            unwritten = store.close()
        service.close()
        logger.info("replay server stopped, %d episodes not written", len(unwritten))


def _allow_connections(wanted: int) -> None:
    """Raise this process's limit of open files, as far as the machine lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class _ServerLoop:
    """Reads bursts of frames and answers them; nothing a peer sends ends it."""

    def __init__(
        self,
        router: Socket,
        waker: int,
        service: ReplayService,
        gatekeeper: Gatekeeper | None,
        handshakes: HandshakeCounter,
    ) -> None:
        self._router, self._waker, self._service = router, waker, service
        self._gatekeeper, self._handshakes = gatekeeper, handshakes
        self._malformed_log = LogThrottle(logger)
        self._refusal_log = LogThrottle(logger)
        self._internal_log = LogThrottle(logger)
        self._next_look_s = 0.0

    def run(self, should_stop: Callable[[], bool]) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._waker, zmq.POLLIN)
        while not should_stop():
            ready = dict(poller.poll(_POLL_MS))
            if self._waker in ready:
                os.eventfd_read(self._waker)
            if self._router in ready:
                self._read_burst()
            self._settle()
            self._look_at_doors(time.monotonic())

    def _read_burst(self) -> None:
        until_s = time.monotonic() + _BURST_S
        for count in range(1, _BURST + 1):
            if time.monotonic() > until_s:  # large samples: others wait for their acks
                return
            try:
                identity, frames = self._receive()
            except zmq.Again:
                return
            for to, reply in self._answer(identity, frames):
                self._send(to, reply)
            if count % _GROUP == 0:  # the disk has work while the rest is read
                self._settle()

    def _receive(self) -> tuple[bytes, list[tuple[bytes | memoryview, str]]]:
        """An identity and its frames, each with the key it came with; empty without keys.

        Raises:
            zmq.Again: There is nothing to read.
        """
        if self._gatekeeper is None:  # copies of small frames are cheaper than zmq.Frame objects
            identity, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            return identity, [(frame, "") for frame in frames]
        sender, *parts = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
        return sender.bytes, [(part.buffer, str(part.get("User-Id"))) for part in parts]

    def _settle(self) -> None:
        for identity, reply in self._service.settle():
            self._send(identity, reply)

    def _answer(self, identity: bytes, frames: list[tuple[bytes | memoryview, str]]) -> list[Reply]:
        try:
            if len(frames) != 1:
                raise MessageError(f"a message is one frame, got {len(frames)}")
            frame, user_id = frames[0]
            message = decode(frame)
        except MessageError as error:
            self._malformed_log.warning(f"malformed frame from {identity!r}: {error}")
            return [self._service.malformed(identity, str(error))]
        kind = type(message).__name__
        if self._gatekeeper is not None:
            sender = self._gatekeeper.who(user_id)
            if reason := denial(sender, message):
                return [self._service.refuse(identity, kind, reason)]
        try:
            return self._service.handle(identity, message, frame)
        except Exception as error:  # a defect here must not end the run of a whole fleet
            logger.debug("internal error", exc_info=True)
            self._internal_log.warning(f"internal error on {kind} of {identity!r}: {error!r}")
            return [self._service.refuse(identity, kind, f"internal error of the server: {error!r}")]

    def _look_at_doors(self, now_s: float) -> None:
        """Every second: counts of connections into the stats, and connections of revoked keys away."""
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_PERIOD_S
        self._service.door_stats = {
            "replay/connections": self._handshakes.accepted,
            "replay/disconnects": self._handshakes.closed,
            "replay/handshakes_failed": self._handshakes.failed,
            **(self._gatekeeper.stats() if self._gatekeeper else {}),
        }
        if self._gatekeeper is not None and self._gatekeeper.revoked():
            drop_connections(self._router)

    def _send(self, identity: bytes, message: Message) -> None:
        if isinstance(message, Refusal):
            self._refusal_log.warning(f"refused {message.request} of {identity!r}: {message.reason}")
        try:
            frame = encode(message)
        except MessageError as error:
            self._internal_log.warning(f"{type(message).__name__} for {identity!r} cannot be sent: {error}")
            frame = encode(Refusal(request=type(message).__name__, reason=str(error)[:1000]))
        try:
            self._router.send_multipart([identity, frame], zmq.NOBLOCK, copy=len(frame) < _COPY_BYTES)
        except zmq.ZMQError as error:  # the peer is gone or does not read: it asks again if it cares
            logger.debug("reply to %r dropped: %s", identity, error)
