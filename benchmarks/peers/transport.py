"""The limits of the transport: bytes there and back over ZeroMQ."""

# ruff: noqa: D102  # what the methods do stands in Peer

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from benchmarks.peers.peer import NotOfferedError, Peer, Step, scratch_folder, serving, windowed


class Transport(Peer):
    """The limit of the transport: as many bytes as ours there and back, and nothing done with them."""

    groups = ()
    how = "pyzmq {pyzmq} DEALER/ROUTER; batches' bytes answered with 64, 64 with a reply's"
    durable = False

    def __init__(self, stack: ExitStack, row_bytes: int, address: str = "") -> None:
        import zmq

        self.row_bytes = row_bytes
        if not address:
            folder = stack.enter_context(scratch_folder()) if self.durable else ""
            address = stack.enter_context(serving(_serve_bytes, row_bytes, folder))
        self.address = address
        self.context = stack.enter_context(zmq.Context())

    def writing(self, batch_rows: int, window: int) -> AbstractContextManager[Step]:
        return self._exchange(b"i" + bytes(batch_rows * self.row_bytes), window)

    def sampling(self, batches: int, in_flight: int) -> AbstractContextManager[Step]:
        if self.durable:
            raise NotOfferedError
        return self._exchange(b"s%d" % batches + bytes(62), in_flight)

    @contextmanager
    def _exchange(self, request: bytes, window: int) -> Iterator[Step]:
        import zmq

        with self.context.socket(zmq.DEALER) as socket:
            socket.connect(self.address)

            def send() -> None:
                socket.send(request)

            def receive() -> int:
                return int.from_bytes(socket.recv(copy=False).buffer[:2], "little")

            with windowed(send, receive, window) as step:
                yield step

    def fill(self) -> None:
        """It keeps nothing."""


class DurableTransport(Transport):
    """The limit of a durable transport: what arrived is appended and synced before it is answered."""

    how = "pyzmq {pyzmq} DEALER/ROUTER; all that waits: writev, one fdatasync, then the answers"
    durable = True


def _serve_bytes(pipe: Any, row_bytes: int, folder: str) -> None:
    import zmq

    one = (1).to_bytes(2, "little")
    replies = {batches: one + bytes(256 * batches * row_bytes) for batches in (1, 8)}
    log = os.open(f"{folder}/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) if folder else None
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        pipe.send(f"tcp://127.0.0.1:{port}")
        while True:
            batches = []
            inserted: dict[bytes, int] = {}
            with contextlib.suppress(zmq.Again):
                while len(batches) < 1024:  # IOV_MAX
                    client, frame = socket.recv_multipart(zmq.NOBLOCK if batches else 0, copy=False)
                    head = bytes(frame.buffer[:2])
                    if head[:1] == b"s":
                        socket.send_multipart([client, replies[int(head[1:])]], copy=False)
                    else:
                        batches.append(frame.buffer)
                        inserted[client.bytes] = inserted.get(client.bytes, 0) + 1
            if log is not None:
                os.writev(log, batches)
                os.fdatasync(log)
            for identity, done in inserted.items():
                socket.send_multipart([identity, done.to_bytes(2, "little") + bytes(62)])
