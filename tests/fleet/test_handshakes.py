"""Strangers at the door are counted."""

from __future__ import annotations

import socket
import threading

from fleet.handshakes import HandshakeCounter
from fleet.sockets import bind_router, bound_endpoint, connect_dealer


def test_who_speaks_zeromq_is_told_from_who_does_not(context, wait_until) -> None:
    router = bind_router(context, "tcp://127.0.0.1:*")
    counter = HandshakeCounter(router)
    host, port = bound_endpoint(router).removeprefix("tcp://").split(":")
    connect_dealer(context, bound_endpoint(router), b"friend").send(b"hello")
    wait_until(lambda: counter.completed == 1 and counter.accepted == 1, what="a handshake")
    assert counter.failed == 0
    with socket.create_connection((host, int(port)), timeout=5) as garbage:
        garbage.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
        with socket.create_connection((host, int(port)), timeout=5):
            wait_until(lambda: counter.accepted == 3, what="two strangers")
    assert (counter.completed, counter.failed) == (1, 2)
    counter.close()


def test_many_strangers_do_not_stop_the_server(context, wait_until) -> None:
    """More events than a monitor's queue holds."""
    router = bind_router(context, "tcp://127.0.0.1:*")
    counter = HandshakeCounter(router)
    host, port = bound_endpoint(router).removeprefix("tcp://").split(":")
    for _ in range(3000):
        socket.create_connection((host, int(port)), timeout=5).close()
    dealer = connect_dealer(context, bound_endpoint(router), b"friend")
    dealer.send(b"hello")
    assert router.poll(10_000) and router.recv_multipart() == [b"friend", b"hello"]
    wait_until(lambda: counter.failed == 3000, what="all strangers")
    counter.close()


def test_the_thread_ends(context) -> None:
    before = threading.active_count()
    router = bind_router(context, "tcp://127.0.0.1:*")
    for _ in range(3):
        HandshakeCounter(router).close()
    assert threading.active_count() == before
