"""How fast the replay server takes, keeps and gives rows: one process each, over loopback TCP.

    python benchmarks/replay_throughput.py [--seconds 3] [--json PATH] [--only insert sample …] [--peers]

Rows are observations of 30, actions of 7 (328 bytes with everything that is stored beside them).
`durable`: fdatasync before every acknowledgement. `curve`: CurveZMQ with an allow-list. The server
checks, deduplicates and journals every row in all of these. `--peers` measures other replay buffers
in the same run, each right after ours in the same setting; the first time it installs them into
build/peers (benchmarks/peers.txt). `ours/it` divides our durable server's rate by theirs in the same
setting, `ours/its best` by their best with any number in flight (and, sampling, any size of reply).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, where fleet.py is another thing

import numpy as np
import zmq

from benchmarks.common.table import machine, show
from benchmarks.peer_table import PeerTable, peer_table
from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.key_files import KeyFolder
from fleet.keys import Credentials, find_credentials, make_fleet_keys
from fleet.messages import (
    Ack,
    Hello,
    Refusal,
    SampleReply,
    SampleRequest,
    TransitionBatch,
    Transitions,
    Welcome,
    row_dtype,
)
from fleet.sockets import connect_dealer
from fleet.spaces import Space, SpaceSpec
from replay_server.client import ReplayClient
from replay_server.episode_builder import EpisodeBuilder
from replay_server.episode_catalog import seal_episode
from replay_server.journal import Journal, JournalBatch
from replay_server.ring import Ring
from replay_server.server import run_replay_server

NX, NU = 30, 7
PORT = 5799
EPISODE_ROWS = 16384  # a file each; one core writes about a hundred a second, whatever their length
_FOLDER = ROOT / "build"  # not in a memory file system, as /tmp may be
WINDOW = 64
_WARM_S = 1.0
_RING_ROWS = 100_000


def spec() -> SpaceSpec:
    def box(n: int, prefix: str) -> Space:
        return Space(tuple(f"{prefix}{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)

    return SpaceSpec(observation=box(NX, "o"), action=box(NU, "a"))


SPEC = spec()
ROBOT = "robot1"


def rows_of(n: int) -> Any:
    rows = np.zeros(n, row_dtype(NX, NU))
    random = np.random.default_rng(0)
    for name in ("observation", "action", "policy_action", "reward", "next_observation"):
        rows[name] = random.uniform(-1, 1, rows[name].shape)
    return rows


@dataclass
class Server:
    """A replay server in a process of its own, and how to reach it."""

    endpoint: str
    run_dir: Path
    keys: Path | None

    def credentials(self, role: Any) -> Credentials | None:
        """The keys of a client in this role; none if the server has none."""
        if self.keys is None:
            return None
        return find_credentials(KeyFolder(self.keys), role, ROBOT if role == "robot" else "")

    def dealer(self, context: zmq.Context[Any], name: str, role: Any) -> zmq.Socket[bytes]:
        """A connected client socket."""
        identity = f"{name}:{time.time_ns()}".encode()
        return connect_dealer(context, self.endpoint, identity, self.credentials(role))


def serve(endpoint: str, run_dir: Path, keys: Path | None, durable: bool, capacity: int, ready: Any) -> None:
    config = ReplayServerConfig(endpoint=endpoint, capacity_rows=capacity, fsync=durable)
    credentials = find_credentials(KeyFolder(keys), "server") if keys else None
    run_replay_server(config, run_dir, "benchmark", lambda: ready.stop.is_set(), ready.up.set, 0, credentials)


@dataclass
class Ready:
    """Events of a server's process."""

    up: Any
    stop: Any


@contextmanager
def server(
    run_dir: Path | None = None, *, durable: bool = True, curve: bool = False, capacity: int = 1_000_000
) -> Iterator[Server]:
    folder = run_dir or Path(tempfile.mkdtemp(prefix="replay-", dir=_FOLDER))
    keys = folder / "keys" if curve else None
    if keys is not None and not keys.exists():
        make_fleet_keys(keys, [ROBOT])
    context = multiprocessing.get_context("spawn")
    ready = Ready(context.Event(), context.Event())
    endpoint = f"tcp://127.0.0.1:{PORT}"
    process = context.Process(target=serve, args=(endpoint, folder, keys, durable, capacity, ready))
    process.start()
    try:
        if not ready.up.wait(120):
            raise RuntimeError("the server did not come up")
        yield Server(endpoint, folder, keys)
    finally:
        ready.stop.set()
        process.join(60)
        process.kill()
        if run_dir is None:
            shutil.rmtree(folder)


class Writer:
    """Sends batches with a window of them in flight, as a robot's sender does, without its spool."""

    def __init__(self, at: Server, context: zmq.Context[Any], batch_rows: int) -> None:
        self.socket = at.dealer(context, ROBOT, "robot")
        self.boot_id = f"b{time.time_ns()}"
        self.packed = rows_of(batch_rows)
        self.sent = self.acked = 0
        self.episode = self.episode_rows = 0
        hello = Hello(role="robot", process_id=ROBOT, boot_id=self.boot_id, spec=SPEC.to_json())
        self.socket.send(encode(hello))
        answer = decode(self.socket.recv())
        if not isinstance(answer, Welcome):
            raise RuntimeError(str(answer))

    def send(self) -> None:
        """Send the next batch."""
        self.episode_rows += len(self.packed)
        end = self.episode_rows >= EPISODE_ROWS
        batch = TransitionBatch.from_packed(
            self.packed,
            robot_id=ROBOT,
            boot_id=self.boot_id,
            first_seq=self.sent,
            episode=self.episode,
            spec_hash=_SPEC_HASH,
            end="time_limit" if end else "",
        )
        self.socket.send(encode(batch))
        self.sent += len(self.packed)
        if end:
            self.episode, self.episode_rows = self.episode + 1, 0

    def wait(self) -> None:
        """Take one acknowledgement."""
        answer = decode(self.socket.recv())
        if not isinstance(answer, Ack):
            raise RuntimeError(str(answer))
        self.acked = max(self.acked, answer.durable_seq + 1)


_SPEC_HASH = SPEC.hash


def insert(at: Server, batch_rows: int, window: int, seconds: float) -> dict[str, Any]:
    """Rows a second that one writer gets acknowledged, and how long a batch takes to be.

    A second before that fills the ring, so that memory which is touched for the first time is not measured.
    """
    with zmq.Context() as context:
        writer = Writer(at, context, batch_rows)
        sent_at: list[float] = []
        took_s: list[float] = []
        begun, warm = time.perf_counter() + _WARM_S, 0
        while (now := time.perf_counter()) < begun + seconds:
            while writer.sent - writer.acked < window * batch_rows:
                sent_at.append(time.perf_counter())
                writer.send()
            writer.wait()
            now = time.perf_counter()
            done = writer.acked // batch_rows
            took_s += [now - at_s for at_s in sent_at[len(took_s) : done]]
            if now < begun:
                warm = done
        rows_per_s = (done - warm) * batch_rows / (now - begun)
        writer.socket.close()
    p50, p99 = 1e3 * np.percentile(took_s[warm:], [50, 99])
    return {"rows/s": int(rows_per_s), "p50 ms": float(p50), "p99 ms": float(p99)}


def fill(at: Server, rows: int) -> None:
    with zmq.Context() as context:
        writer = Writer(at, context, 512)
        while writer.sent < rows:
            while writer.sent - writer.acked < 16 * 512 and writer.sent < rows:
                writer.send()
            writer.wait()
        while writer.acked < rows:
            writer.wait()
        writer.socket.close()


def sample(at: Server, batches: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Minibatches of 256 a second that one client gets, and how long a request takes."""
    with zmq.Context() as context:
        socket = at.dealer(context, "learner", "learner")
        request = encode(SampleRequest(request_id=0, batches=batches, batch_size=256))
        sent_at: list[float] = []
        took_s: list[float] = []

        def ask() -> None:
            sent_at.append(time.perf_counter())
            socket.send(request)

        for _ in range(in_flight):
            ask()
        begun = time.perf_counter()
        while (now := time.perf_counter()) < begun + seconds:
            reply = decode(socket.recv(copy=False).buffer)
            if isinstance(reply, Refusal):
                raise RuntimeError(reply.reason)
            assert isinstance(reply, SampleReply)
            took_s.append(time.perf_counter() - sent_at[len(took_s)])
            ask()
        socket.close()
    p50, p99 = 1e3 * np.percentile(took_s, [50, 99])
    return {
        "batches/s": int(batches * len(took_s) / (now - begun)),
        "p50 ms": float(p50),
        "p99 ms": float(p99),
    }


def both(at: Server, seconds: float) -> dict[str, Any]:
    """One writer and one sampler at once."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Event(), context.SimpleQueue()
    process = context.Process(target=_insert_into, args=(at, seconds, ready, results))
    process.start()
    if not ready.wait(60):
        raise RuntimeError("the writer did not come up")
    sampled = sample(at, 1, 1, seconds)
    inserted = results.get()
    process.join()
    return {"server": "durable", "inserted rows/s": inserted["rows/s"], **sampled}


def _insert_into(at: Server, seconds: float, ready: Any, results: Any) -> None:
    ready.set()
    results.put(insert(at, 64, 16, seconds))


def mirror(at: Server, rows: int, seconds: float) -> list[dict[str, Any]]:
    """How fast a learner follows the log, and samples its mirror against a bare gather from a tensor."""
    import torch

    from learner.mirror import ReplayMirror

    torch.set_num_threads(1)
    copy = ReplayMirror(NX, NU, 1_000_000)
    with ReplayClient(at.endpoint, "learner", "learner", credentials=at.credentials("learner")) as client:
        client.hello()
        begun = time.perf_counter()
        while copy.cursor < rows:
            copy.extend(reply := client.tail(copy.cursor, 8192))
            copy.cursor = reply.next_cursor
        tail_s = time.perf_counter() - begun
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(rows, copy.layout.width)

    def bare() -> None:
        table.index_select(0, torch.randint(rows, (256,), generator=generator))

    def per_s(call: Callable[[], Any]) -> float:
        rates = []
        for _ in range(5):  # the best of interleaved stretches: the machine is shared
            calls, begun = 0, time.perf_counter()
            while time.perf_counter() < begun + seconds / 10:
                call()
                calls += 1
            rates.append(calls / (time.perf_counter() - begun))
        return max(rates)

    pairs = [(per_s(lambda: copy.sample(generator, 256)), per_s(bare)) for _ in range(3)]
    sampled, gathered = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    return [
        {"what": "tail, 8192 rows a reply", "rows/s": int(rows / tail_s)},
        {
            "what": "mirror, minibatches of 256",
            "rows/s": int(256 * sampled),
            "batches/s": int(sampled),
            "of a bare gather": sampled / gathered,
        },
    ]


def restart(rows: int, episode_rows: int, in_hdf5: bool) -> dict[str, Any]:
    """How long a server needs to serve what lies in its folder, its process's start included."""
    folder = Path(tempfile.mkdtemp(prefix="restart-", dir=_FOLDER))
    try:
        (folder / "spec.json").write_text(json.dumps(SPEC.to_json()))
        (write_episodes if in_hdf5 else write_journal)(folder, rows, episode_rows)
        begun = time.perf_counter()
        with server(folder, capacity=rows) as at:
            took_s = time.perf_counter() - begun
            with ReplayClient(at.endpoint, "monitor", "benchmark") as client:
                found = client.status().stats["replay/rows_in_ring"]
    finally:
        shutil.rmtree(folder)
    if found != rows:
        raise RuntimeError(f"{found} of {rows} rows are there")
    where = "HDF5" if in_hdf5 else "the journal"
    return {"what": f"{rows:,} rows in episodes of {episode_rows}, in {where}", "s": took_s}


def write_episodes(folder: Path, rows: int, episode_rows: int) -> None:
    os.fsync = lambda fd: None  # type: ignore[assignment]  # they are read only once, on this machine
    for i in range(rows // episode_rows):
        cursor = np.arange(i * episode_rows, (i + 1) * episode_rows)
        builder = EpisodeBuilder(run_id="benchmark", robot_id=ROBOT, boot_id="b", episode=i, spec=SPEC)
        builder.extend(Transitions.from_packed(rows_of(episode_rows)), cursor, cursor)
        seal_episode(folder, builder.seal(end="time_limit", success=True, metrics={}, received_ns=i))


def write_journal(folder: Path, rows: int, episode_rows: int) -> None:
    written = threading.Event()
    journal = Journal(folder, written.set)
    packed = rows_of(64)
    for first in range(0, rows, 64 * 64):
        group = []
        for seq in range(first, min(first + 64 * 64, rows), 64):
            batch = TransitionBatch.from_packed(
                packed,
                robot_id=ROBOT,
                boot_id="b",
                first_seq=seq,
                episode=seq // episode_rows,
                spec_hash=_SPEC_HASH,
            )
            group.append(JournalBatch(batch, encode(batch), 0, seq, 0))
        written.clear()
        journal.submit(group)
        written.wait()
    journal.close()


def in_process(peers: PeerTable, seconds: float) -> list[dict[str, Any]]:
    """The server's ring and the peers' buffers when called directly: no server, nothing on disk."""
    ring = Ring(1_000_000, NX, NU)
    one, many = Transitions.from_packed(rows_of(1)), Transitions.from_packed(rows_of(64))
    random = np.random.default_rng(0)

    def sample_ring() -> None:
        ring.gather(random.integers(ring.oldest_cursor, ring.end_cursor, 256))

    def per_s(call: Callable[[], Any]) -> float:
        calls, begun = 0, time.perf_counter()
        while (now := time.perf_counter()) < begun + seconds:
            call()
            calls += 1
        return calls / (now - begun)

    rows: dict[str, dict[str, Any]] = {}
    for title, batch, call, question in (
        ("insert 1", 1, lambda: ring.extend(one), {"what": "insert", "batch_rows": 1, "window": 1}),
        ("insert ×64", 64, lambda: ring.extend(many), {"what": "insert", "batch_rows": 64, "window": 1}),
        ("sample 256", 256, sample_ring, {"what": "sample", "batches": 1, "in_flight": 1}),
    ):
        ours = batch * per_s(call)
        for name, its in [("our ring", {"rows/s": ours}), *peers.answers(seconds, served=False, **question)]:
            row = rows.setdefault(name, {"buffer": name})
            row[f"{title}, rows/s"] = int(its["rows/s"])
            row[f"{title}, ours/it"] = ours / its["rows/s"]
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the restart")
    parser.add_argument("--only", nargs="*", default=["insert", "sample", "both", "mirror", "restart"])
    parser.add_argument("--peers", action="store_true", help="measure other replay buffers beside ours")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with peer_table(options.peers, row_dtype(NX, NU).itemsize) as peers:
        tables = measure(options, peers)
        notes = peers.notes()
    for title, rows in tables.items():
        show(title, rows, None)
    for name, how in notes.items():
        print(f"{name}: {how}")
    if options.json is not None:
        options.json.write_text(
            json.dumps({"machine": machine(), "tables": tables, "peers": notes}, indent=2) + "\n"
        )


def measure(options: argparse.Namespace, peers: PeerTable) -> dict[str, list[dict[str, Any]]]:
    """The tables that were asked for, by title."""
    seconds: float = options.seconds
    tables: dict[str, list[dict[str, Any]]] = {}
    _FOLDER.mkdir(exist_ok=True)
    settings: dict[str, dict[str, bool]] = {
        "durable": {},
        "durable, curve": {"curve": True},
        "not durable": {"durable": False},
    }
    if "insert" in options.only:
        tables["Insert, one writer"] = inserts = []
        for name, how in settings.items():
            for batch_rows, window in ((1, 1), (1, WINDOW), (64, 1), (64, WINDOW)):
                with server(**how, capacity=_RING_ROWS) as at:
                    figures = insert(at, batch_rows, window, seconds)
                inserts.append({"server": name, "rows a batch": batch_rows, "in flight": window, **figures})
                if name == "durable":
                    inserts += peers.inserts(seconds, batch_rows, window)
        peers.compare(inserts, "rows/s", kind=("rows a batch",), same=("rows a batch", "in flight"))
    if "sample" in options.only:
        tables["Sample, minibatches of 256, one client"] = samples = []
        peers.fill()
        for name in ("durable", "durable, curve"):
            with server(**settings[name]) as at:
                fill(at, 300_000)
                for batches, in_flight in ((1, 1), (1, 2), (8, 1), (8, 2)):
                    figures = sample(at, batches, in_flight, seconds)
                    samples.append({"server": name, "a reply": batches, "in flight": in_flight, **figures})
                    if name == "durable":
                        samples += peers.samples(seconds, batches, in_flight)
        peers.compare(samples, "batches/s", kind=(), same=("a reply", "in flight"))
    if "both" in options.only:
        with server() as at:
            fill(at, 300_000)
            tables["Insert ×64, 16 in flight, and sample 256, one in flight, at once"] = boths = [
                both(at, seconds),
                *peers.boths(seconds),
            ]
        peers.compare(boths, "batches/s", kind=(), same=())
    if "mirror" in options.only:
        with server() as at:
            fill(at, 300_000)
            tables["A learner's mirror"] = mirror(at, 300_000, seconds)
    if "restart" in options.only:
        tables["Restart until served"] = [
            restart(options.rows // 80 * 80, 80, in_hdf5=True),
            restart(options.rows // 4096 * 4096, 100_000, in_hdf5=False),
        ]
    if peers.running:
        tables["No server: buffers called in their own process"] = in_process(peers, seconds)
    return tables


if __name__ == "__main__":
    main()
