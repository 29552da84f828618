"""DeepMind's Reverb, sampled through its dataset or by its client."""

# ruff: noqa: D102  # what the methods do stands in Peer

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np

from benchmarks.peers.peer import CAPACITY, COLUMNS, NotOfferedError, Peer, Step, columns_of, lagging, serving


class Reverb(Peer):
    """DeepMind's Reverb: a gRPC server, tables with a rate limiter, a prefetching dataset."""

    groups = ("reverb",)
    how = (
        "dm-reverb {dm-reverb}; one in flight: StructuredWriter + flush(0); a window: Writer, "
        "chunk_length 64, max_in_flight_items; sample: TrajectoryDataset, "
        "max_in_flight_samples_per_worker 256 × in flight, batched, as numpy"
    )
    rows_kept = 30_000

    def __init__(self, stack: ExitStack, row_bytes: int, address: str = "") -> None:
        import reverb
        from reverb import structured_writer

        self.address = address or stack.enter_context(serving(_serve_reverb))
        self.client = reverb.Client(self.address)
        rows = columns_of(64)
        self.rows = [{name: column[i] for name, column in rows.items()} for i in range(64)]
        step = structured_writer.create_reference_step(dict.fromkeys(COLUMNS))
        self.pattern = {name: step[name][-1:] for name in COLUMNS}

    @contextmanager
    def writing(self, batch_rows: int, window: int, table: str = "inserted") -> Iterator[Step]:
        from reverb import structured_writer

        rows = self.rows[:batch_rows]
        if window == 1:
            config = structured_writer.create_config(self.pattern, table)
            structured = self.client.structured_writer([config])

            def put() -> None:
                for row in rows:
                    structured.append(row)
                structured.flush()

            yield lagging(put, 1)
            return
        in_flight = window * batch_rows
        with self.client.writer(64, chunk_length=64, max_in_flight_items=in_flight) as writer:

            def put_in_window() -> None:
                for row in rows:
                    writer.append(row)
                    writer.create_item(table, 1, 1.0)

            yield lagging(put_in_window, window)

    @contextmanager
    def sampling(self, batches: int, in_flight: int) -> Iterator[Step]:
        import reverb

        rows = 256 * batches
        dataset = reverb.TrajectoryDataset.from_table_signature(
            self.address, "sampled", max_in_flight_samples_per_worker=256 * in_flight
        )
        samples = dataset.batch(rows).as_numpy_iterator()
        yield lagging(lambda: next(samples), in_flight)

    def fill(self) -> None:
        with self.writing(64, 1, "sampled") as put:
            for _ in range(self.rows_kept // 64):
                put()


def _serve_reverb(pipe: Any) -> None:
    import reverb
    import tensorflow as tf

    signature = {name: tf.TensorSpec([1, n], tf.float32) for name, n in COLUMNS.items()}

    def table(name: str) -> Any:
        limiter = reverb.rate_limiters.MinSize(1)
        uniform, fifo = reverb.selectors.Uniform(), reverb.selectors.Fifo()
        return reverb.Table(name, uniform, fifo, CAPACITY, limiter, signature=signature)

    server = reverb.Server([table("inserted"), table("sampled")])
    pipe.send(f"127.0.0.1:{server.port}")
    server.wait()


class ReverbClientSample(Reverb):
    """Reverb without the dataset: one blocking call a reply."""

    how = "dm-reverb {dm-reverb}; Client.sample(emit_timesteps=False), stacked with numpy"

    def writing(self, batch_rows: int, window: int, table: str = "") -> AbstractContextManager[Step]:
        if table != "sampled":
            raise NotOfferedError
        return super().writing(batch_rows, window, table)

    @contextmanager
    def sampling(self, batches: int, in_flight: int) -> Iterator[Step]:
        if in_flight > 1:
            raise NotOfferedError

        def take() -> None:
            options = {"emit_timesteps": False, "unpack_as_table_signature": True}
            samples = [s.data for s in self.client.sample("sampled", 256 * batches, **options)]
            for name in COLUMNS:
                np.concatenate([sample[name] for sample in samples])

        yield lagging(take, 1)
