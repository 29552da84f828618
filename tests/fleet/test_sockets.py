from __future__ import annotations

import contextlib
import socket
import threading

import pytest
import zmq

from fleet.endpoints import InsecureEndpointError
from fleet.messages import MAX_FRAME_BYTES
from fleet.sockets import (
    AddressInUseError,
    BindError,
    bind_policy_publisher,
    bind_router,
    bound_endpoint,
    connect_dealer,
    connect_policy_subscriber,
    drop_connections,
)

ANY_PORT = "tcp://127.0.0.1:*"


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
def test_without_keys_only_loopback_can_be_bound(context, bind, host: str) -> None:
    with pytest.raises(InsecureEndpointError, match=r"set \w+\.\w*endpoint to tcp://127") as error:
        bind(context, f"tcp://{host}:*")
    for command in ("pnaf keys new server --role server", "pnaf keys allow", "security: {keys: "):
        assert command in str(error.value)


@pytest.mark.parametrize("host", ["192.168.0.7", "lab-pc", "[fe80::1]"])
def test_without_keys_nothing_is_sent_to_other_machines(context, host: str) -> None:
    with pytest.raises(InsecureEndpointError, match="or make keys"):
        connect_dealer(context, f"tcp://{host}:5710", b"x")
    with pytest.raises(InsecureEndpointError, match="or make keys"):
        connect_policy_subscriber(context, f"tcp://{host}:5711")


def test_with_keys_every_address_can_be_bound(context, credentials_of) -> None:
    for host in ("0.0.0.0", "*", "127.0.0.1"):
        bind_router(context, f"tcp://{host}:*", credentials_of("server"))
        bind_policy_publisher(context, f"tcp://{host}:*", credentials_of("learner"))


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
        publisher.poll(0)  # takes note of what was read; a learner does between two policies
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
    for each in sockets:
        assert each.getsockopt(zmq.MAXMSGSIZE) == (512 if each.type == zmq.XPUB else MAX_FRAME_BYTES)
        assert 0 < each.getsockopt(zmq.SNDHWM) <= 1024
        assert 0 < each.getsockopt(zmq.RCVHWM) <= 1024
        assert each.getsockopt(zmq.LINGER) == 0
        assert each.getsockopt(zmq.TCP_KEEPALIVE) == 1
        assert 5000 < each.getsockopt(zmq.TCP_MAXRT) <= 15_000  # survives a stop of 5 s
        assert each.getsockopt(zmq.HEARTBEAT_IVL) == 0  # libzmq's heartbeats can abort the process
    sockets[2].send(b"to nobody")
    for each in sockets:
        each.close()
    ended = threading.Thread(target=context.term)
    ended.start()
    ended.join(5)
    assert not ended.is_alive()


def test_a_client_that_never_reads_pins_a_bounded_number_of_replies(context) -> None:
    router = bind_router(context, ANY_PORT)
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, b"greedy")
    dealer.setsockopt(zmq.RCVHWM, 1)
    dealer.connect(bound_endpoint(router))
    dealer.send(b"give me all")
    receive(router)
    sent = 200
    for number in range(sent):
        router.send_multipart([b"greedy", b"%d" % number + bytes(2**20)])  # never blocks
    got = 0
    while dealer.poll(500):
        dealer.recv()
        got += 1
    assert got <= 32 + 32  # the queue, and what the kernel's buffers hold of 1 MiB replies


def test_silent_connections_are_dropped(context, monkeypatch) -> None:
    monkeypatch.setattr("fleet.sockets._HANDSHAKE_TIMEOUT_MS", 100)
    router = bind_router(context, ANY_PORT)
    host, port = bound_endpoint(router).removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as silent:
        while silent.recv(1024):  # the server's greeting, then the end
            pass


def test_cut_connections_come_back_by_themselves(context, wait_until) -> None:
    router = bind_router(context, ANY_PORT)
    dealer = connect_dealer(context, bound_endpoint(router), b"me")

    def sends() -> bool:  # what is under way while the connection is cut is lost
        dealer.send(b"x")
        return bool(router.poll(50))

    for _ in range(3):
        wait_until(sends)
        while router.poll(0):
            assert router.recv_multipart() == [b"me", b"x"]
        drop_connections(router)


def test_a_port_that_is_taken_while_connections_are_cut_is_an_error(context, monkeypatch) -> None:
    monkeypatch.setattr("fleet.sockets._REBIND_TIMEOUT_S", 0.1)
    router = bind_router(context, ANY_PORT)
    endpoint = bound_endpoint(router)
    unbind = router.unbind

    class Taken:
        def unbind(self, address: str) -> None:
            unbind(address)
            while True:
                try:
                    context.socket(zmq.REP).bind(address)
                    return
                except zmq.ZMQError:
                    continue

        def __getattr__(self, name: str):
            return getattr(router, name)

    with pytest.raises(BindError, match=f"{endpoint} cannot be bound again"):
        drop_connections(Taken())


@pytest.mark.parametrize("bind", [bind_router, bind_policy_publisher])
def test_what_looks_like_the_protocol_of_2010_is_refused(context, bind) -> None:
    """It knows no keys, and random bytes often look like it."""
    bound = bind(context, ANY_PORT)
    port = int(bound_endpoint(bound).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as old:
        old.sendall(b"\x01\x00" + b"\x06\x00\x01topic")
        with contextlib.suppress(ConnectionResetError):
            while old.recv(100):
                pass
    assert not bound.poll(100)
