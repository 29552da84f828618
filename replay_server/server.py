"""The replay server's process: one loop over one ROUTER socket."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zmq

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.messages import Message, MessageError, Refusal
from fleet.sockets import Socket, bind_router, bound_endpoint
from replay_server.episode_store import EpisodeStore
from replay_server.log_throttle import LogThrottle
from replay_server.service import ReplayService, Reply

logger = logging.getLogger(__name__)

_POLL_MS = 50
_BURST = 256


def run_replay_server(
    config: ReplayServerConfig,
    run_dir: Path,
    run_id: str,
    stop: threading.Event | Callable[[], bool],
    on_ready: Callable[[], None] | None = None,
    seed: int | None = None,
) -> None:
    """Serve one run until `stop`, then seal and write every episode.

    Args:
        config: The server's part of the fleet's config.
        run_dir: Where episodes go; what is there already is served again.
        run_id: Name of the run.
        stop: An event, or a function that turns true; looked at twenty times a second.
        on_ready: Called once, when clients are about to be served.
        seed: Of the sampler; none: from the operating system.

    Raises:
        BindError: The endpoint cannot be bound.
        StoreError: The run folder is damaged or in use.
    """
    should_stop = stop.is_set if isinstance(stop, threading.Event) else stop
    context: zmq.Context[Socket] = zmq.Context()
    try:
        # Bound first: a port in use is found before a large run is read.
        router = bind_router(context, config.endpoint)
        try:
            store = EpisodeStore(run_dir)
            try:
                service = ReplayService(config, run_id, store, rng=np.random.default_rng(seed))
                endpoint = bound_endpoint(router)
                rows = service.log.rows_inserted if service.log else 0
                logger.info(
                    "replay server ready at %s, run %s in %s, %d rows", endpoint, run_id, run_dir, rows
                )
                if on_ready is not None:
                    on_ready()
                _ServerLoop(router, service).run(should_stop)
                service.seal()
            finally:
                unwritten = store.close()
            logger.info("replay server stopped, %d episodes not written", len(unwritten))
        finally:
            router.close()
    finally:
        context.term()


class _ServerLoop:
    """Reads bursts of frames and answers them; nothing a peer sends ends it."""

    def __init__(self, router: Socket, service: ReplayService) -> None:
        self._router = router
        self._service = service
        self._malformed_log = LogThrottle(logger)
        self._refusal_log = LogThrottle(logger)
        self._internal_log = LogThrottle(logger)

    def run(self, should_stop: Callable[[], bool]) -> None:
        while not should_stop():
            if not self._router.poll(_POLL_MS):
                continue
            for _ in range(_BURST):
                try:
                    parts = self._router.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                for identity, reply in self._answer(parts):
                    self._send(identity, reply)

    def _answer(self, parts: list[bytes]) -> list[Reply]:
        identity = parts[0]
        try:
            if len(parts) != 2:
                raise MessageError(f"a message is one frame, got {len(parts) - 1}")
            message = decode(parts[1])
        except MessageError as error:
            self._malformed_log.warning(f"malformed frame from {identity!r}: {error}")
            return [self._service.malformed(identity, str(error))]
        try:
            return self._service.handle(identity, message)
        except Exception as error:  # a defect here must not end the run of a whole fleet
            kind = type(message).__name__
            logger.debug("internal error", exc_info=True)
            self._internal_log.warning(f"internal error on {kind} of {identity!r}: {error!r}")
            return [self._service.refuse(identity, kind, f"internal error of the server: {error!r}")]

    def _send(self, identity: bytes, message: Message) -> None:
        if isinstance(message, Refusal):
            self._refusal_log.warning(f"refused {message.request} of {identity!r}: {message.reason}")
        try:
            frame = encode(message)
        except MessageError as error:
            self._internal_log.warning(f"{type(message).__name__} for {identity!r} cannot be sent: {error}")
            frame = encode(Refusal(request=type(message).__name__, reason=str(error)[:1000]))
        try:
            self._router.send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # the peer is gone or does not read: it asks again if it cares
            logger.debug("reply to %r dropped: %s", identity, error)
