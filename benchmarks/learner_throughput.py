"""How many NAF updates a second: ours, plain PyTorch, other libraries, and what the machine could do.

    python benchmarks/learner_throughput.py [--seconds 0.3] [--rounds 7] [--json PATH] [--peers]

Observations of 30, actions of 7, a full P, one thread. An update is a minibatch drawn from 100,000 rows
(the peers: from 10,000, in their own memory), gradient, Adam and target step. All take turns, window by
window, and the best window counts: `updates/CPU s` per second of processor time, which other processes on
the machine hardly change, `updates/s` by the clock. `limit` is what the update's products, or the bytes
of its parameters, take of what one core can do. With a GPU, that is measured as well. `--peers` adds public
implementations; the first time it installs them into build/peers (benchmarks/peers.txt).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, where fleet.py is another thing

import numpy as np
import torch

from benchmarks.common.limits import copy_bytes, fma_flops, sgemm_flops
from benchmarks.common.peer_environment import PeerEnvironment, PeerProcess, running_peers
from benchmarks.common.plain_naf import compiled_update, plain_update
from benchmarks.common.table import show
from benchmarks.learner_peers import PEERS
from fleet.config import LearnerConfig
from fleet.messages import Transitions
from fleet.spaces import Space, SpaceSpec
from learner.cuda_graph import UPDATES_PER_GRAPH, GraphedUpdates
from learner.mirror import ReplayMirror
from learner.naf import NafShape
from learner.packed_rows import RowLayout
from learner.trainer import Trainer

NX, NU, ROWS = 30, 7, 100_000
WIDTHS, BATCHES = (100, 256), (64, 256, 1024)
NOT_INSTALLABLE = "ikostrikov's and BY571's NAF are source repositories, not on the package index: not run"

Run = Callable[[int], None]
"""Does so many updates; on a GPU it need not wait for them."""


def spec() -> SpaceSpec:
    def box(n: int, prefix: str) -> Space:
        return Space(tuple(f"{prefix}{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)

    return SpaceSpec(observation=box(NX, "o"), action=box(NU, "a"))


def full_mirror(device: str) -> ReplayMirror:
    random, no = np.random.default_rng(0), np.zeros(ROWS, bool)
    observation, next_observation = (random.normal(size=(ROWS, NX)).astype("f4") for _ in range(2))
    action = random.uniform(-1, 1, (ROWS, NU)).astype("f4")
    mirror = ReplayMirror(NX, NU, ROWS, device)
    mirror.extend(
        Transitions(
            observation=observation,
            action=action,
            policy_action=action,
            reward=random.normal(size=ROWS).astype("f4"),
            next_observation=next_observation,
            terminated=no,
            truncated=no,
            intervened=no,
            clipped=no,
            policy_version=np.zeros(ROWS, "i8"),
            stamp_ns=np.zeros(ROWS, "i8"),
        )
    )
    return mirror


def repeated(update: Callable[[], None]) -> Run:
    def run(updates: int) -> None:
        for _ in range(updates):
            update()

    return run


def ours(width: int, batch_size: int, engine: str, mirror: ReplayMirror) -> Run:
    """The trainer as the learner uses it."""
    trainer = make_trainer(width, batch_size, engine, str(mirror.rows.device))
    return lambda updates: trainer.update_many(mirror, updates)


def graphed(width: int, batch_size: int, mirror: ReplayMirror) -> Run:
    """CUDA graphs."""
    trainer = make_trainer(width, batch_size, "eager", str(mirror.rows.device))
    updates = GraphedUpdates(
        trainer.config,
        mirror,
        trainer._gradient,
        trainer.flat,
        trainer.target,
        trainer.optimiser,
        trainer.generator,
    )
    return updates.update_many


def make_trainer(width: int, batch_size: int, engine: str, device: str) -> Trainer:
    config = LearnerConfig(
        hidden_sizes=[width, width], batch_size=batch_size, engine=engine, device=device, off_diagonal=True
    )
    return Trainer(config, spec())


def contenders(width: int, batch_size: int, mirror: ReplayMirror, with_compile: bool) -> dict[str, Run]:
    """Everything that runs in this process."""
    shape = NafShape(NX, NU, (width, width), off_diagonal=True)
    runs: dict[str, Run] = {}
    if mirror.rows.is_cuda:
        runs["ours, CUDA graph"] = graphed(width, batch_size, mirror)
    else:
        runs["ours, fused"] = ours(width, batch_size, "auto", mirror)
    runs["ours, closed form"] = ours(width, batch_size, "eager", mirror)
    if with_compile:
        runs["torch.compile"] = repeated(compiled_update(shape, mirror.rows, batch_size))
    runs["plain PyTorch"] = repeated(plain_update(shape, mirror.rows, batch_size))
    return runs


def timed(run: Run, seconds: float, synchronise: Callable[[], None]) -> dict[str, float]:
    """Updates per second of the clock and per second of the processor."""
    synchronise()
    done, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < begun + seconds:
        run(UPDATES_PER_GRAPH)
        synchronise()
        done += UPDATES_PER_GRAPH
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - begun
    return {"updates/s": done / wall_s, "updates/CPU s": done / cpu_s}


def floating_operations(width: int, batch_size: int) -> float:
    """Of one update's products: forward twice (of the target V alone), back to W and to the layers below."""
    shape = NafShape(NX, NU, (width, width), off_diagonal=True)
    forward = sum(inputs * outputs for inputs, outputs in shape.layer_shapes)
    target = forward - width * (shape.head_size - shape.values)
    return 2.0 * batch_size * (target + 3 * forward - NX * width)


def memory_bytes(width: int, batch_size: int) -> float:
    """That an update reads and writes of parameters, target, Adam's moments (no cache) and rows."""
    shape = NafShape(NX, NU, (width, width), off_diagonal=True)
    return 4.0 * (9 * shape.parameters + batch_size * RowLayout(NX, NU).width)


def measure(
    width: int,
    batch_size: int,
    mirror: ReplayMirror,
    peers: dict[str, PeerProcess],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The rows of one network and size of minibatch."""
    synchronise = torch.cuda.synchronize if mirror.rows.is_cuda else lambda: None
    runs = contenders(width, batch_size, mirror, options.compile)
    best: dict[str, dict[str, float]] = {}
    for run in runs.values():
        run(UPDATES_PER_GRAPH)  # compiles, captures, allocates
    for _ in range(options.rounds):
        figures = {name: timed(run, options.seconds, synchronise) for name, run in runs.items()}
        for name, peer in peers.items():
            answer = peer.ask(options.seconds, width=width, batch_size=batch_size)
            if answer is not None:
                figures[name] = answer
        for name, new in figures.items():
            old = best.setdefault(name, new)
            best[name] = {key: max(old[key], new[key]) for key in new}
    plain = best["plain PyTorch"]
    key = "updates/s" if mirror.rows.is_cuda else "updates/CPU s"
    return [
        {"network": f"2×{width}", "batch": batch_size, "": name, **rates, "× plain": rates[key] / plain[key]}
        for name, rates in best.items()
    ]


def limit_rows(flops: dict[str, float], copied: float) -> list[dict[str, Any]]:
    """What the CPU allows."""
    rows = []
    for width in WIDTHS:
        for batch_size in BATCHES:
            of = {"network": f"2×{width}", "batch": batch_size}
            operations = floating_operations(width, batch_size)
            for name, rate in flops.items():
                rows.append({**of, "": f"limit: {name}", "updates/CPU s": rate / operations})
            rows.append(
                {**of, "": "limit: memory", "updates/CPU s": copied / memory_bytes(width, batch_size)}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="of a window")
    parser.add_argument("--rounds", type=int, default=7, help="windows of each, of which the best counts")
    parser.add_argument("--peers", action="store_true", help="public implementations as well")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    flops = {"sgemm": sgemm_flops()}
    if (fma := fma_flops()) is not None:
        flops["multiply-adds"] = fma
    copied = copy_bytes()
    environment = PeerEnvironment(ROOT / "build" / "peers", ROOT / "benchmarks" / "peers.txt")
    wanted = dict.fromkeys(PEERS, ("learner",)) if options.peers else {}
    rows: list[dict[str, Any]] = []
    with running_peers(environment, ROOT / "benchmarks" / "learner_peers.py", wanted) as (running, missing):
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            mirror = full_mirror(device)
            for width in WIDTHS:
                for batch_size in BATCHES:
                    print(f"{device}, 2×{width}, batch {batch_size} …", file=sys.stderr)
                    peers = running if device == "cpu" else {}
                    found = measure(width, batch_size, mirror, peers, options)
                    rows += [{"device": device, **row} for row in found]
        for name, peer in running.items():
            print(f"{name}: {'; '.join([peer.how, *peer.failures])}")
        for name, reason in missing.items():
            print(f"{name}: not run: {reason}")
    rows += [{"device": "cpu", **row} for row in limit_rows(flops, copied)]
    rows.sort(key=lambda row: (row["device"], int(row["network"][2:]), row["batch"]))
    show("NAF updates", rows, options.json)
    print(", ".join(f"{name} {rate / 1e9:.1f} GFLOP/s" for name, rate in flops.items()), end=", ")
    print(f"copy {copied / 1e9:.1f} GB/s. {NOT_INSTALLABLE}.")


if __name__ == "__main__":
    main()
