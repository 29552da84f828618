from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from fleet.messages import MAX_FRAME_BYTES
from fleet.sockets import (
    AddressInUseError,
    BindError,
    InsecureBindError,
    bind_policy_publisher,
    bind_router,
    bound_endpoint,
    connect_dealer,
    connect_policy_subscriber,
)

ANY_PORT = "tcp://127.0.0.1:*"


class KeepingContext(zmq.Context):
    """Holds its sockets until it is destroyed: pyzmq warns of one that is collected while open."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[zmq.Socket]
        object.__setattr__(self, "kept", [])

    def socket(self, *args: Any, **kwargs: Any) -> zmq.Socket:
        made = super().socket(*args, **kwargs)
        self.kept.append(made)
        return made


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    made = KeepingContext()
    yield made
    made.destroy(linger=0)
    made.kept.clear()


def receive(socket: zmq.Socket, timeout_s: float = 10.0) -> list[bytes]:
    assert socket.poll(timeout_s * 1000), f"nothing received in {timeout_s} s"
    return socket.recv_multipart()


@pytest.mark.parametrize("bind", [bind_router, bind_policy_publisher])
def test_a_port_in_use_says_where_and_what_to_do(context, bind) -> None:
    holder = bind_router(context, ANY_PORT)
    endpoint = bound_endpoint(holder)
    with pytest.raises(
        AddressInUseError, match=rf"^{endpoint} is in use: stop the process .* or change \w+\.\w+"
    ):
        bind(context, endpoint)
    holder.close()


@pytest.mark.parametrize("bind", [bind_router, bind_policy_publisher])
@pytest.mark.parametrize(
    "host", ["0.0.0.0", "*", "192.168.0.7", "lab-pc", "[::]", "127.0.0.1.evil.org", "10.0.0.1"]
)
def test_only_loopback_can_be_bound(context, bind, host: str) -> None:
    with pytest.raises(
        InsecureBindError,
        match=r"keys are not there yet, so only loopback .* set \w+\.\w*endpoint to tcp://127",
    ):
        bind(context, f"tcp://{host}:*")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_has_many_names(context, host: str) -> None:
    router = bind_router(context, f"tcp://{host}:*")
    dealer = connect_dealer(context, bound_endpoint(router), b"me")
    dealer.send(b"x")
    assert receive(router) == [b"me", b"x"]


@pytest.mark.parametrize("port", ["75536", "abc", "-1", ""])
def test_a_port_that_does_not_exist_is_not_taken_for_another(context, port: str) -> None:
    with pytest.raises(
        BindError, match=r"has no port from 1 to 65535, or \*: change replay_server\.endpoint"
    ):
        bind_router(context, f"tcp://127.0.0.1:{port}")
    with pytest.raises(ValueError, match="has no port"):
        connect_dealer(context, f"tcp://127.0.0.1:{port}", b"x")


def test_the_newest_connection_of_an_identity_takes_over(context) -> None:
    router = bind_router(context, ANY_PORT)
    first = connect_dealer(context, bound_endpoint(router), b"arm1:b0")
    first.send(b"1")
    receive(router)
    second = connect_dealer(context, bound_endpoint(router), b"arm1:b0")
    second.send(b"2")
    assert receive(router) == [b"arm1:b0", b"2"]
    router.send_multipart([b"arm1:b0", b"reply"])
    assert receive(second) == [b"reply"]


def test_a_dealer_may_start_before_its_server(context, free_endpoint: str) -> None:
    dealer = connect_dealer(context, free_endpoint, b"early")
    dealer.send(b"x")
    router = bind_router(context, free_endpoint)
    assert receive(router) == [b"early", b"x"]


def test_a_dealer_without_a_server_does_not_queue_for_ever(context, free_endpoint: str) -> None:
    dealer = connect_dealer(context, free_endpoint, b"early")
    with pytest.raises(zmq.Again):
        for _ in range(5000):
            dealer.send(b"x", zmq.NOBLOCK)


def test_a_router_never_waits_for_a_peer_that_is_gone(context) -> None:
    router = bind_router(context, ANY_PORT)
    dealer = connect_dealer(context, bound_endpoint(router), b"gone")
    dealer.send(b"x")
    receive(router)
    dealer.close()
    for _ in range(5000):
        router.send_multipart([b"gone", b"reply"], zmq.NOBLOCK)
    router.send_multipart([b"never seen", b"reply"], zmq.NOBLOCK)


def test_the_publisher_sees_each_subscriber(context) -> None:
    publisher = bind_policy_publisher(context, ANY_PORT)
    for _ in range(3):
        subscriber = connect_policy_subscriber(context, bound_endpoint(publisher))
        assert receive(publisher) == [b"\x01"]
        publisher.send(b"last policy")
        assert receive(subscriber) == [b"last policy"]


def test_a_slow_subscriber_gets_the_newest_policy_only(context, wait_until) -> None:
    publisher = bind_policy_publisher(context, ANY_PORT)
    slow = connect_policy_subscriber(context, bound_endpoint(publisher))
    # A plain one, which is to see every policy, so that the slow one has been sent them all too.
    quick = context.socket(zmq.SUB)
    quick.subscribe(b"")
    quick.connect(bound_endpoint(publisher))
    receive(publisher), receive(publisher)
    for version in range(200):
        publisher.send(b"%d" % version)
        assert receive(quick) == [b"%d" % version]
    newest: list[bytes] = []

    def read() -> bool:
        newest.append(receive(slow)[0])
        return newest[-1] == b"199"

    wait_until(read)
    # The last ones may still be under way at the first read; a queue would give 200.
    assert len(newest) <= 5


def test_every_socket_is_bounded_and_leaves_at_once(context, free_endpoint: str) -> None:
    sockets = [
        bind_router(context, ANY_PORT),
        bind_policy_publisher(context, ANY_PORT),
        connect_dealer(context, free_endpoint, b"x"),
        connect_policy_subscriber(context, free_endpoint),
    ]
    for socket in sockets:
        assert socket.getsockopt(zmq.MAXMSGSIZE) == MAX_FRAME_BYTES
        assert 0 < socket.getsockopt(zmq.SNDHWM) <= 1024
        assert 0 < socket.getsockopt(zmq.RCVHWM) <= 1024
        assert socket.getsockopt(zmq.LINGER) == 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
    sockets[2].send(b"to nobody")
    for socket in sockets:
        socket.close()
    ended = threading.Thread(target=context.term)
    ended.start()
    ended.join(5)
    assert not ended.is_alive()
