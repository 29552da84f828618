"""The only place that creates ZeroMQ sockets: bounded queues, bounded messages, keys or loopback.

With credentials a socket speaks CurveZMQ: everything is encrypted, the client proves its key to the
gatekeeper of the binding process (`fleet/gatekeeper.py`), the server its key to the client. Without
them every endpoint must be on loopback.
"""

from __future__ import annotations

import time

import zmq

from fleet.endpoints import check_loopback, has_port, host_of
from fleet.key_files import Role
from fleet.keys import Credentials
from fleet.messages import MAX_FRAME_BYTES

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

REPLAY_DOMAIN = "replay"
POLICY_DOMAIN = "policy"

# What one client can pin: so many replies that it does not read, so many requests not yet looked at.
_SERVER_SEND_QUEUE = 32
_SERVER_RECEIVE_QUEUE = 64
_DEALER_QUEUE = 1024
# Not a handful: libzmq takes note of what was sent only now and then, and meanwhile XPUB drops the newest.
_POLICY_QUEUE = 64
# Subscribers send the empty topic and, with keys, a handshake; of longer topics XPUB would keep every byte.
_MAX_SUBSCRIPTION_BYTES = 512

# A cable that is pulled is noticed in 11 s, without a FIN; a process that is stopped keeps its connection
# unless it should read: who takes nothing for 10 s is cut off, and does not pin its queue for ever.
# Not by ZeroMQ's heartbeats: in libzmq up to 4.3.5 they abort the whole process when a peer goes away
# whose messages were not read fast enough (zmq_assert in stream_engine_base.cpp, out_event).
_KEEPALIVE_IDLE_S, _KEEPALIVE_PERIOD_S, _KEEPALIVE_PROBES = 5, 2, 3
_UNREAD_TIMEOUT_MS = 10_000
# Connections that say nothing, or whose key is refused, hold a file descriptor for at most this long;
# a client that is refused tries again as often.
_HANDSHAKE_TIMEOUT_MS = 5000
_REBIND_TIMEOUT_S = 5.0


class BindError(RuntimeError):
    """A socket cannot be bound; the text names the endpoint and says what to do."""


class AddressInUseError(BindError):
    """Another process has the port."""


def bind_router(context: Context, endpoint: str, credentials: Credentials | None = None) -> Socket:
    """ROUTER of the replay server: one queue per peer, replies to vanished peers are dropped.

    Args:
        context: With credentials: one that has a `Gatekeeper`; without it everybody is refused.
        endpoint: Where to bind.
        credentials: Of role server.

    Raises:
        AddressInUseError: Another process has the port.
        fleet.endpoints.InsecureEndpointError: The endpoint is not on loopback, and there are no keys.
    """
    socket = _new_socket(context, zmq.ROUTER, _SERVER_SEND_QUEUE, _SERVER_RECEIVE_QUEUE)
    # A robot that restarts under its old identity takes over at once, not after a TCP timeout.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return _bind(socket, endpoint, "replay_server.endpoint", credentials, REPLAY_DOMAIN)


def connect_dealer(
    context: Context, endpoint: str, identity: bytes, credentials: Credentials | None = None
) -> Socket:
    """DEALER of robots and clients; connects in the background and reconnects for ever.

    While the server is away up to 1024 messages wait; send with `zmq.NOBLOCK` to get `zmq.Again`
    instead of blocking once they are that many.

    Args:
        context: The process's context.
        endpoint: Where the replay server is bound.
        identity: 1 to 255 bytes, unique among its clients; not beginning with a zero byte. Whoever knows
            it can take the connection over: put `secrets.token_hex(8)` into it.
        credentials: Of any role but server.

    Raises:
        fleet.config.ConfigError: The server's key is not known; or no keys and not on loopback.
    """
    socket = _new_socket(context, zmq.DEALER, _DEALER_QUEUE, _DEALER_QUEUE)
    socket.setsockopt(zmq.IDENTITY, identity)
    return _connect(socket, endpoint, "replay_server.endpoint", credentials, "server")


def bind_policy_publisher(context: Context, endpoint: str, credentials: Credentials | None = None) -> Socket:
    r"""XPUB of the learner: receives one frame, b"\x01", for every new subscriber.

    On that frame the learner sends the last policy again: ZeroMQ keeps nothing for late joiners.

    Args:
        context: With credentials: one that has a `Gatekeeper`; without it everybody is refused.
        endpoint: Where to bind.
        credentials: Of role learner.

    Raises:
        AddressInUseError: Another process has the port.
        fleet.endpoints.InsecureEndpointError: The endpoint is not on loopback, and there are no keys.
    """
    # XPUB takes in all subscriptions that wait before it lets its owner act on the first: let few wait.
    # Not 1: with keys ZeroMQ puts the key's owner into the queue first, and never counts it as read.
    socket = _new_socket(context, zmq.XPUB, _POLICY_QUEUE, receive_queue=2)
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_SUBSCRIPTION_BYTES)
    # Without VERBOSE only the first subscription to a topic is passed up, not the second robot's.
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    return _bind(socket, endpoint, "learner.policy_endpoint", credentials, POLICY_DOMAIN)


def connect_policy_subscriber(
    context: Context, endpoint: str, credentials: Credentials | None = None
) -> Socket:
    """SUB of a robot that holds the newest policy only, however slowly it is read.

    Args:
        context: The process's context.
        endpoint: Where the learner publishes.
        credentials: Of role robot or operator; only the learner's key is listened to.

    Raises:
        fleet.config.ConfigError: The learner's key is not known; or no keys and not on loopback.
    """
    socket = _new_socket(context, zmq.SUB, _POLICY_QUEUE, _POLICY_QUEUE)
    # After connect CONFLATE has no effect, and a slow robot would play old policies in order.
    socket.setsockopt(zmq.CONFLATE, 1)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    return _connect(socket, endpoint, "learner.policy_endpoint", credentials, "learner")


def bound_endpoint(socket: Socket) -> str:
    """Where a socket is bound, with the port that `*` stood for."""
    return socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]


def drop_connections(socket: Socket) -> None:
    """Cut every connection of a bound socket; those who still may come back by themselves.

    ZeroMQ asks for keys when a connection begins: this makes it ask again.

    Raises:
        BindError: Another process took the port in the moment that it was free.
    """
    endpoint = bound_endpoint(socket)
    socket.unbind(endpoint)
    deadline = time.monotonic() + _REBIND_TIMEOUT_S
    while True:
        try:
            socket.bind(endpoint)
            return
        except zmq.ZMQError as error:  # ZeroMQ's thread closes the old listener a moment later
            if error.errno != zmq.EADDRINUSE or time.monotonic() > deadline:
                raise BindError(f"{endpoint} cannot be bound again: {error.strerror}") from error
        time.sleep(0.001)


def _new_socket(context: Context, kind: int, send_queue: int, receive_queue: int) -> Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.SNDHWM, send_queue)
    socket.setsockopt(zmq.RCVHWM, receive_queue)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_TIMEOUT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, _KEEPALIVE_PERIOD_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, _KEEPALIVE_PROBES)
    socket.setsockopt(zmq.TCP_MAXRT, _UNREAD_TIMEOUT_MS)
    return socket


def _bind(
    socket: Socket, endpoint: str, config_key: str, credentials: Credentials | None, domain: str
) -> Socket:
    try:
        # Without keys, too: only then ZeroMQ refuses what looks like its protocol of 2010, as random bytes
        # do, and of which an early end can abort the process (errno_assert in zmtp_engine.cpp).
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        if credentials is None:
            check_loopback(endpoint, config_key)
        else:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, credentials.own.secret.encode())
            # Otherwise a context without a gatekeeper would let in any key.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if not has_port(endpoint):
            raise BindError(f"{endpoint} has no port from 1 to 65535, or *: change {config_key}")
        socket.setsockopt(zmq.IPV6, int(":" in host_of(endpoint)))
        # libzmq binds to addresses and interfaces, not to names.
        socket.bind(endpoint.replace("//localhost:", "//127.0.0.1:"))
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUseError(
                f"{endpoint} is in use: stop the process that holds it (an earlier run?), "
                f"or change {config_key} in the fleet's config"
            ) from error
        raise BindError(f"{endpoint} cannot be bound ({error.strerror}): change {config_key}") from error
    except (BindError, ValueError):
        socket.close()
        raise
    return socket


def _connect(
    socket: Socket, endpoint: str, config_key: str, credentials: Credentials | None, peer: Role
) -> Socket:
    try:
        if not has_port(endpoint):
            raise ValueError(f"{endpoint} has no port from 1 to 65535")
        if credentials is None:
            check_loopback(endpoint, config_key)
        else:
            socket.setsockopt(zmq.CURVE_SERVERKEY, credentials.key_of(peer))
            socket.setsockopt(zmq.CURVE_PUBLICKEY, credentials.own.public.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, credentials.own.secret.encode())
        socket.setsockopt(zmq.IPV6, int(":" in host_of(endpoint)))
        socket.connect(endpoint)
    except (zmq.ZMQError, ValueError):
        socket.close()
        raise
    return socket
