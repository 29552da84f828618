"""The only place that creates ZeroMQ sockets: bounded queues, bounded messages, loopback only.

Keys are not there yet, so binding anywhere but on loopback is refused; CurveZMQ belongs into
`_new_socket` (both sides) and `_bind` (which then may leave loopback).
"""

from __future__ import annotations

import ipaddress

import zmq

from fleet.messages import MAX_FRAME_BYTES

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

_SERVER_QUEUE = 256
_DEALER_QUEUE = 1024
# Not a handful: libzmq takes note of what was sent only now and then, and meanwhile XPUB drops the newest.
_POLICY_QUEUE = 64


class BindError(RuntimeError):
    """A socket cannot be bound; the text names the endpoint and says what to do."""


class AddressInUseError(BindError):
    """Another process has the port."""


class InsecureBindError(BindError):
    """The endpoint is reachable from other machines, and there are no keys."""


def bind_router(context: Context, endpoint: str) -> Socket:
    """ROUTER of the replay server: one queue per peer, replies to vanished peers are dropped.

    Raises:
        AddressInUseError: Another process has the port.
        InsecureBindError: The endpoint is not on loopback.
    """
    socket = _new_socket(context, zmq.ROUTER, queue=_SERVER_QUEUE)
    # A robot that restarts under its old identity takes over at once, not after a TCP timeout.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return _bind(socket, endpoint, config_key="replay_server.endpoint")


def connect_dealer(context: Context, endpoint: str, identity: bytes) -> Socket:
    """DEALER of robots and clients; connects in the background and reconnects for ever.

    While the server is away up to 1024 messages wait; send with `zmq.NOBLOCK` to get `zmq.Again`
    instead of blocking once they are that many.

    Args:
        context: The process's context.
        endpoint: Where the replay server is bound.
        identity: 1 to 255 bytes, unique among its clients; not beginning with a zero byte.
    """
    socket = _new_socket(context, zmq.DEALER, queue=_DEALER_QUEUE)
    socket.setsockopt(zmq.IDENTITY, identity)
    return _connect(socket, endpoint)


def bind_policy_publisher(context: Context, endpoint: str) -> Socket:
    r"""XPUB of the learner: receives one frame, b"\x01", for every new subscriber.

    On that frame the learner sends the last policy again: ZeroMQ keeps nothing for late joiners.

    Raises:
        AddressInUseError: Another process has the port.
        InsecureBindError: The endpoint is not on loopback.
    """
    socket = _new_socket(context, zmq.XPUB, queue=_POLICY_QUEUE)
    # Without VERBOSE only the first subscription to a topic is passed up, not the second robot's.
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    return _bind(socket, endpoint, config_key="learner.policy_endpoint")


def connect_policy_subscriber(context: Context, endpoint: str) -> Socket:
    """SUB of a robot that holds the newest policy only, however slowly it is read."""
    socket = _new_socket(context, zmq.SUB, queue=_POLICY_QUEUE)
    # After connect CONFLATE has no effect, and a slow robot would play old policies in order.
    socket.setsockopt(zmq.CONFLATE, 1)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    return _connect(socket, endpoint)


def bound_endpoint(socket: Socket) -> str:
    """Where a socket is bound, with the port that `*` stood for."""
    return socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]


def _new_socket(context: Context, kind: int, queue: int) -> Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.SNDHWM, queue)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    return socket


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _has_port(endpoint: str) -> bool:
    """Whether the port exists; libzmq would take 75536 for 10000."""
    port = endpoint.rpartition(":")[2]
    return port == "*" or (port.isdecimal() and int(port) <= 65535)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(socket: Socket, endpoint: str, config_key: str) -> Socket:
    host = _host(endpoint)
    try:
        if not _is_loopback(host):
            raise InsecureBindError(
                f"{endpoint}: keys are not there yet, so only loopback can be bound: "
                f"set {config_key} to tcp://127.0.0.1:PORT"
            )
        if not _has_port(endpoint):
            raise BindError(f"{endpoint} has no port from 1 to 65535, or *: change {config_key}")
        socket.setsockopt(zmq.IPV6, int(":" in host))
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
    except BindError:
        socket.close()
        raise
    return socket


def _connect(socket: Socket, endpoint: str) -> Socket:
    try:
        if not _has_port(endpoint):
            raise ValueError(f"{endpoint} has no port from 1 to 65535")
        socket.setsockopt(zmq.IPV6, int(":" in _host(endpoint)))
        socket.connect(endpoint)
    except (zmq.ZMQError, ValueError):
        socket.close()
        raise
    return socket
