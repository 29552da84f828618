"""A TCP proxy on loopback whose connections can be reset and swallowed, as by a bad network.

with FaultProxy("tcp://127.0.0.1:5710") as proxy:
    connect to proxy.endpoint
    proxy.reset()                       # both sides see a connection reset, what was under way is gone
    proxy.silence(); …; proxy.lift()    # nothing passes meanwhile; then the connections are reset
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

_CHUNK_BYTES = 2**16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close sends a reset


class FaultProxy:
    """Forwards connections to one endpoint, in a thread of its own."""

    def __init__(self, upstream: str) -> None:
        """Listen on a free port of loopback; `upstream` is tcp://host:port and may come and go."""
        host, _, port = upstream.removeprefix("tcp://").rpartition(":")
        self._upstream = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Reset every connection, now."""
        self._loop.call_soon_threadsafe(self._reset)

    def silence(self) -> None:
        """Let nothing pass until `lift`; connections stay open and new ones are taken."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def lift(self) -> None:
        """Let everything pass again; connections that went through a silence are reset."""
        self._loop.call_soon_threadsafe(self._reset)
        self._loop.call_soon_threadsafe(self._passing.set)

    def close(self) -> None:
        """Reset every connection and listen no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _reset(self) -> None:
        for writer in self._connections:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                )
            writer.transport.abort()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._passing.set()
        server = await asyncio.start_server(self._connected, sock=self._listener)
        await self._stop.wait()
        server.close()
        self._reset()
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        up_writer: asyncio.StreamWriter | None = None
        try:
            await self._passing.wait()
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            self._connections.add(up_writer)
            pumps = [
                asyncio.ensure_future(self._pump(reader, up_writer)),
                asyncio.ensure_future(self._pump(up_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # nobody listens upstream, or this proxy ends
            pass
        finally:
            for end in (writer, up_writer):
                if end is not None:
                    self._connections.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
