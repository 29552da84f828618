"""Do publishing, checkpoints, curves and new rows hold up the learner's updates?

    python benchmarks/learner_pauses.py [--seconds 20] [--rows 20000] [--json PATH]

A real learner beside a real replay server, which 8 robots give 20 rows a second each, and every 5 s one
of them a burst of 4096. A policy is published ten times a second, a point of the curves written every
second and a checkpoint every 2 s. Compared with a bare loop of the same updates on as many rows, in the
same process, right before and right after it, while the robots go on.

    gap       from the end of a run of updates to the start of the next one: what the loop's own work takes
    pause     what a run of updates and the gap after it take beyond the median time of its updates, in
              units of that time: also what the threads beside it take, as when both want Python's lock

Where other programs want the cores, this measures them: begin the command with `chrt --rr 1` there (as root).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, where fleet.py is another thing

import numpy as np
import zmq

from benchmarks.common.table import show
from fleet.codec import decode, encode
from fleet.config import FleetConfig, LearnerConfig, ReplayServerConfig
from fleet.messages import Ack, Hello, TransitionBatch, Welcome
from fleet.sockets import connect_dealer
from fleet.spaces import Space, SpaceSpec

NX, NU = 30, 7
PORT = 5791
ROBOTS, RATE_HZ = 8, 20
BURST_ROWS, BURST_PERIOD_S = 4096, 5.0
EPISODE_ROWS = 100


def box(n: int, prefix: str) -> Space:
    return Space(tuple(f"{prefix}{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)


SPEC = SpaceSpec(observation=box(NX, "o"), action=box(NU, "a"))


def serve(endpoint: str, run_dir: str, stop: Any, ready: Any) -> None:
    from replay_server.server import run_replay_server

    config = ReplayServerConfig(endpoint=endpoint)
    run_replay_server(config, Path(run_dir), "benchmark", stop.is_set, ready.set, 0)


class Robot:
    """Sends rows of one robot, each call a batch and the end of an episode now and then."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, number: int) -> None:
        self.name, self._random = f"robot{number}", np.random.default_rng(number)
        self._seq = self._episode = self._in_episode = 0
        self.socket = connect_dealer(context, endpoint, self.name.encode())
        hello = Hello(role="robot", process_id=self.name, boot_id="b", spec=SPEC.to_json())
        self.socket.send(encode(hello))
        while not isinstance(decode(self.socket.recv()), Welcome):
            pass

    def send(self, n: int) -> None:
        """A batch of n rows."""
        uniform, no = self._random.uniform, np.zeros(n, bool)
        action = uniform(-1, 1, (n, NU)).astype("f4")
        observation = uniform(-1, 1, (n, NX)).astype("f4")
        self._in_episode += n
        end, truncated = self._in_episode >= EPISODE_ROWS, no.copy()
        truncated[-1] = end
        batch = TransitionBatch(
            robot_id=self.name,
            boot_id="b",
            first_seq=self._seq,
            episode=self._episode,
            spec_hash=SPEC.hash,
            end="time_limit" if end else "",
            observation=observation,
            action=action,
            policy_action=action,
            reward=-np.square(observation[:, :NU] - action).sum(axis=1),
            next_observation=uniform(-1, 1, (n, NX)).astype("f4"),
            terminated=no,
            truncated=truncated,
            intervened=no,
            clipped=no,
            policy_version=np.zeros(n, "i8"),
            stamp_ns=np.arange(n, dtype="i8"),
        )
        self.socket.send(encode(batch))
        self._seq += n
        if end:
            self._episode, self._in_episode = self._episode + 1, 0

    def drain(self, all_of_it: bool = False) -> None:
        """Read acknowledgements, with `all_of_it` until every row has one."""
        durable = -1
        while (all_of_it and durable < self._seq - 1) or self.socket.poll(0):
            message = decode(self.socket.recv())
            assert isinstance(message, Ack), message
            durable = max(durable, message.durable_seq)


def send_rows(endpoint: str, rows: int, stop: Any, filled: Any) -> None:
    """Fill the log with so many rows, then go on as a fleet does."""
    context: zmq.Context[Any] = zmq.Context()
    robots = [Robot(context, endpoint, number) for number in range(ROBOTS)]
    for start in range(0, rows, 1024):
        robots[0].send(min(1024, rows - start))
        robots[0].drain(all_of_it=True)
    filled.set()
    due_s = time.monotonic()
    burst_s = due_s + BURST_PERIOD_S / 2
    while not stop.is_set():
        for robot in robots:
            robot.send(1)
            robot.drain()
        if time.monotonic() >= burst_s:
            burst_s += BURST_PERIOD_S
            robots[1].send(BURST_ROWS)
        due_s += 1.0 / RATE_HZ
        stop.wait(max(0.0, due_s - time.monotonic()))
    context.destroy(linger=0)


class Timed:
    """`Trainer.update_many`, with the times of each call."""

    def __init__(self, trainer: Any) -> None:
        self._calls: list[tuple[int, int, int]] = []
        self._update_many = trainer.update_many
        trainer.update_many = self

    def __call__(self, mirror: Any, updates: int) -> None:
        """Do them, and remember when."""
        start = time.perf_counter_ns()
        self._update_many(mirror, updates)
        self._calls.append((start, time.perf_counter_ns(), updates))

    def times(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Duration of each call and of the gap after it (µs), and its updates, but for the first tenth."""
        calls = np.array(self._calls[len(self._calls) // 10 :], np.float64)
        start, end, updates = calls.T * np.array([[1e-3], [1e-3], [1.0]])
        return (end - start)[:-1], start[1:] - end[:-1], updates[:-1]


def bare_loop(config: FleetConfig, rows: Any, updates: int, seconds: float) -> Timed:
    """The same updates, in calls of so many, and nothing else."""
    from learner.mirror import ReplayMirror
    from learner.trainer import Trainer

    trainer = Trainer(config.learner, SPEC, seed=1)
    mirror = ReplayMirror(NX, NU, config.replay_server.capacity_rows)
    mirror.extend(rows)
    trainer.observe(rows)
    timed = Timed(trainer)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        trainer.update_many(mirror, updates)
    return timed


def learner(config: FleetConfig, run_dir: Path, seconds: float) -> tuple[Timed, dict[str, Any]]:
    """A learner as it runs in a fleet, its updates timed."""
    from fleet.run_folder import RunFolder
    from fleet.sockets import bind_policy_publisher
    from learner.learner import Learner
    from learner.publisher import PolicyPublisher
    from learner.replay_link import ReplayLink
    from replay_server.client import ReplayClient

    context: zmq.Context[Any] = zmq.Context()
    publisher = PolicyPublisher(bind_policy_publisher(context, config.learner.policy_endpoint))
    with ReplayClient(config.replay_server.endpoint, "learner", "learner", context=context) as client:
        link = ReplayLink(client, time.monotonic)
        while link.spec() is None:
            time.sleep(0.1)
        learner = Learner(config, SPEC, RunFolder(run_dir), link, publisher)
        timed, stop = Timed(learner.trainer), threading.Event()
        threading.Timer(seconds, stop.set).start()
        learner.run(stop)
        facts = learner.courier.stats(learner.report()[1])
    publisher.close()
    context.term()
    return timed, facts


def summary(what: str, timed: Timed, update_us: float) -> dict[str, Any]:
    call, gap, updates = timed.times()
    pause = (call + gap) / update_us - updates
    row: dict[str, Any] = {
        "loop": what,
        "updates/s": float(updates.sum() / (call + gap).sum() * 1e6),
        "updates/call": float(np.median(updates)),
    }
    for name, values, unit in (("gap", gap, "µs"), ("pause", pause, "updates")):
        for label, value in zip(("p50", "p99", "max"), np.percentile(values, (50, 99, 100)), strict=True):
            row[f"{name} {label} ({unit})"] = float(value)
    return row


def measure(network: list[int], batch_size: int, seconds: float, rows: int) -> list[dict[str, Any]]:
    import torch

    from replay_server.client import ReplayClient

    torch.set_num_threads(1)
    server_config = ReplayServerConfig(endpoint=f"tcp://127.0.0.1:{PORT}")
    learner_config = LearnerConfig(
        policy_endpoint=f"tcp://127.0.0.1:{PORT + 1}",
        hidden_sizes=network,
        batch_size=batch_size,
        updates_per_row=1e9,
        publish_period_s=0.1,
        log_period_s=1.0,
        checkpoint_period_s=2.0,
    )
    config = FleetConfig.model_construct(
        name="pauses", seed=0, learner=learner_config, replay_server=server_config
    )
    spawn = multiprocessing.get_context("spawn")
    stop, ready, filled = spawn.Event(), spawn.Event(), spawn.Event()
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:  # a disk, not memory as /tmp may be
        children = [
            spawn.Process(target=serve, args=(server_config.endpoint, f"{folder}/server", stop, ready)),
            spawn.Process(target=send_rows, args=(server_config.endpoint, rows, stop, filled)),
        ]
        try:
            for child in children:
                child.start()
            assert filled.wait(60), "the replay server did not take the first rows within 60 s"
            with ReplayClient(server_config.endpoint, "monitor", "benchmark") as client:
                first = client.tail(0, rows)
            timed, facts = learner(config, Path(folder) / "run", seconds)
            in_call = int(np.median(timed.times()[2]))
            before = bare_loop(config, first, in_call, seconds / 2)
            again, _ = learner(config, Path(folder) / "run", seconds)
            after = bare_loop(config, first, in_call, seconds / 2)
        finally:
            stop.set()
            for child in children:
                child.join(20)
                child.terminate()
    call, _, updates = before.times()
    update_us = float(np.median(call / updates))
    name = f"{'×'.join(map(str, network))}, B {batch_size}"
    for key in ("learner/rows", "learner/policies_published", "learner/updates_per_s"):
        sys.stderr.write(f"{name}: {key} {facts[key]:.6g}\n")
    return [
        {"network": name, "update (µs)": update_us, **summary(what, loop, update_us)}
        for what, loop in (("learner", timed), ("bare", before), ("learner", again), ("bare", after))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each learner (default: 20)")
    parser.add_argument("--rows", type=int, default=20_000, help="in the log at the start (default: 20000)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    (ROOT / "build").mkdir(exist_ok=True)
    rows = []
    for network, batch_size in (([100, 100], 64), ([256, 256], 256)):
        rows += measure(network, batch_size, arguments.seconds, arguments.rows)
    show("What holds up the learner's updates", rows, arguments.json)


if __name__ == "__main__":
    main()
