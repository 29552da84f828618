"""Other replay buffers under the measurements of replay_throughput.py, one class each in peers/.

`replay_throughput.py --peers` runs this file in the peers' own environment, one process per peer:

    PEER_PYTHON benchmarks/replay_peers.py NAME ROW_BYTES

It reads one JSON object a line, `{"what": "insert", "batch_rows": 64, "window": 1, "seconds": 3}`,
and answers each with a line of figures or `{"error": reason}`. A row is observation 30, action 7,
reward, next observation 30, terminated: 69 float32. Each peer is used as its documentation says for
throughput; its `how` says which calls. Nothing else of this project is imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # instead of this folder, whose fleet.py is not the peers'
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.peers.cpprb import Cpprb, CpprbShared
from benchmarks.peers.peer import SPAWN, NotOfferedError, Peer, Step
from benchmarks.peers.redis import DurableRedis, Redis
from benchmarks.peers.reverb import Reverb, ReverbClientSample
from benchmarks.peers.torchrl import TorchRL, TorchRLRay
from benchmarks.peers.transport import DurableTransport, Transport

PEERS: dict[str, type[Peer]] = {
    "Reverb": Reverb,
    "Reverb, Client.sample": ReverbClientSample,
    "limit: bytes": Transport,
    "limit: bytes, fdatasync": DurableTransport,
    "Redis": Redis,
    "Redis, fsync always": DurableRedis,
    "TorchRL over Ray": TorchRLRay,
    "TorchRL": TorchRL,
    "cpprb": Cpprb,
    "cpprb, shared memory": CpprbShared,
}


def timed(step: Step, seconds: float, rows: int) -> dict[str, float]:
    """Rows a second, and how long it takes until a batch is acknowledged or a request answered."""
    begun_at = deque([time.perf_counter()])
    for _ in range(step()):  # the first one connects and reserves, which is not timed
        begun_at.popleft()
    took_s: list[float] = []
    begun = now = time.perf_counter()
    while now < begun + seconds:
        begun_at.append(now)
        done = step()
        now = time.perf_counter()
        took_s += [now - begun_at.popleft() for _ in range(done)]
    if not took_s:
        raise RuntimeError(f"nothing was done in {seconds} s")
    p50, p99 = 1e3 * np.percentile(took_s, [50, 99])
    return {"rows/s": rows * len(took_s) / (now - begun), "p50 ms": p50, "p99 ms": p99}


def measure(peer: Peer, what: str, seconds: float, **setting: int) -> dict[str, float]:
    """One measurement."""
    if what == "insert":
        batch_rows, window = setting["batch_rows"], setting["window"]
        with peer.writing(batch_rows, window) as put:
            return timed(put, seconds, batch_rows)
    if what == "fill":
        peer.fill()
        return {}
    batches, in_flight = setting["batches"], setting["in_flight"]
    with peer.sampling(batches, in_flight) as take:
        return timed(take, seconds, 256 * batches)


def both(name: str, peer: Peer, row_bytes: int, seconds: float) -> dict[str, float]:
    """One process inserts ×64 with 16 in flight while this one samples, one minibatch in flight."""
    if not peer.address:
        raise NotOfferedError
    with peer.writing(64, 16), peer.sampling(1, 1):
        pass  # it offers both
    with _inserting(name, row_bytes, peer.address, seconds) as inserter:
        sampled = measure(peer, "sample", seconds, batches=1, in_flight=1)
        return {**sampled, "inserted rows/s": inserter.recv()}


@contextmanager
def _inserting(*args: Any) -> Iterator[Any]:
    ours, its = SPAWN.Pipe()
    process = SPAWN.Process(target=_insert, args=(its, *args), daemon=True)
    process.start()
    try:
        ours.recv()
        ours.send("go")
        yield ours
    finally:
        process.join(30)
        process.kill()


def _insert(pipe: Any, name: str, row_bytes: int, address: str, seconds: float) -> None:
    with ExitStack() as stack:
        peer = PEERS[name](stack, row_bytes, address)
        with peer.writing(64, 16) as put:
            pipe.send("ready")
            pipe.recv()
            pipe.send(timed(put, seconds, 64)["rows/s"])


def versions(how: str) -> str:
    """`how` with `{distribution}` as its installed version."""
    for part in how.split("{")[1:]:
        name = part.partition("}")[0]
        how = how.replace(f"{{{name}}}", version(name))
    return how


def main() -> None:
    # Peers print to stdout as they like: the answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, row_bytes = sys.argv[1], int(sys.argv[2])
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", RAY_USAGE_STATS_ENABLED="0")
    with ExitStack() as stack:
        try:
            peer = PEERS[name](stack, row_bytes)
            answers.write(json.dumps({"how": versions(peer.how)}) + "\n")
        except Exception as error:
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
            return
        answer: dict[str, Any]
        for line in sys.stdin:
            try:
                question = json.loads(line)
                if question["what"] == "both":
                    answer = both(name, peer, row_bytes, question["seconds"])
                else:
                    answer = measure(peer, **question)
            except NotOfferedError:
                answer = {"not_offered": True}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
