"""The proxy forwards, resets and swallows, on real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from fleet.fault_proxy import FaultProxy

TIMEOUT_S = 5.0


class EchoServer:
    """Sends back whatever it gets, on a free port."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1000):
                    connection.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    server = EchoServer()
    with FaultProxy(server.endpoint) as made:
        yield made
    server.close()


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(proxy.endpoint.rpartition(":")[2])), timeout=TIMEOUT_S)


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(1000)


def test_it_forwards_both_ways(proxy: FaultProxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        assert ask(one, b"a") == b"a"
        assert ask(two, b"b") == b"b"


def test_a_reset_is_seen_and_the_next_connection_works(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"a") == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1000)
    with connect(proxy) as connection:
        assert ask(connection, b"b") == b"b"


def test_nothing_passes_in_a_silence_and_what_went_through_it_is_gone(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"a") == b"a"
        proxy.silence()
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            ask(connection, b"b")
        proxy.lift()
        connection.settimeout(TIMEOUT_S)
        with pytest.raises(ConnectionResetError):
            connection.recv(1000)
    with connect(proxy) as connection:
        assert ask(connection, b"c") == b"c"


def test_without_anyone_upstream_connections_end() -> None:
    server = EchoServer()
    server.close()
    refused = contextlib.suppress(ConnectionResetError)
    with FaultProxy(server.endpoint) as proxy, connect(proxy) as connection, refused:
        assert connection.recv(1000) == b""
