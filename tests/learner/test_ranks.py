"""Several processes that share every minibatch end where one process does that has all of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.config import ConfigError, FleetConfig
from learner.checkpoint import STATE_FILE, list_checkpoints
from learner.process import run_learner
from learner.ranks import Ranks, device_of
from learner.sealed_folder import read_sealed

WaitUntil = Callable[..., None]
ROWS = 320
ENVIRONMENT = dict(os.environ) | {
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "MASTER_ADDR": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}

# One process that has imported PyTorch, and forks for each rank: importing it is what takes long.
TRAINERS = """
import json, multiprocessing, os, sys
import numpy as np
import torch
from fleet.config import LearnerConfig
from fleet.messages import Transitions
from fleet.spaces import Space, SpaceSpec
from learner.mirror import ReplayMirror
from learner.ranks import Ranks
from learner.trainer import Trainer

torch.set_num_threads(1)
settings, folder, ports = json.loads(sys.argv[1])
space = lambda n: Space(tuple(f"{n}_{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)
rng, n = np.random.default_rng(0), 500
f4 = lambda *size: rng.normal(size=size).astype("f4")
no = np.zeros(n, bool)
rows = Transitions(
    observation=f4(n, 3), action=np.tanh(f4(n, 2)), policy_action=f4(n, 2), reward=f4(n),
    next_observation=f4(n, 3), terminated=rng.random(n) < 0.1, truncated=no,
    intervened=rng.random(n) < 0.2, clipped=no,
    policy_version=np.zeros(n, "i8"), stamp_ns=np.zeros(n, "i8"),
)

def train(name, world, rank, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
    ranks = Ranks.join("cpu") if world else None
    trainer = Trainer(LearnerConfig(**settings[name]), SpaceSpec(space(3), space(2)), 7, ranks)
    mirror = ReplayMirror(3, 2, 10_000)
    mirror.extend(rows)
    trainer.observe(rows)
    trainer.update_many(mirror, 70)
    trainer.update_many(mirror, 130)
    tensors = {name: tensor.numpy() for name, tensor in trainer.tensors().items()}
    np.savez(f"{folder}/{name}-{world}-{rank}.npz", **tensors)
    if ranks:
        ranks.leave()

fork = multiprocessing.get_context("fork")
for name, world in (("naf", 0), ("naf", 1), ("naf", 2), ("naf", 4), ("ddpg", 0), ("ddpg", 2)):
    port = ports.pop() if world else 0
    children = [fork.Process(target=train, args=(name, world, rank, port)) for rank in range(max(world, 1))]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
"""

# The same for two ranks of a learner, as torchrun starts them; this process is the first.
LEARNER = """
import json, os, sys
from pathlib import Path
from fleet.config import FleetConfig, LearnerConfig, ReplayServerConfig
from fleet.ready import stop_on_signals
from learner.process import run_learner
learner, server, run, port = json.loads(sys.argv[1])
config = FleetConfig.model_construct(
    name="test", seed=4, learner=LearnerConfig(**learner), replay_server=ReplayServerConfig(**server)
)
second = os.fork()
rank = "0" if second else "1"
os.environ |= {
    "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": str(port),
    "TORCHELASTIC_RUN_ID": "test",
}
if second:
    print(second, flush=True)
run_learner(config, Path(run), stop_on_signals(), lambda: None)
if second:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
"""


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def test_any_number_of_ranks_gives_the_same_parameters(
    tmp_path: Path, make_endpoint: Callable[[], str]
) -> None:
    naf = {"demonstration_fraction": 0.5, "off_diagonal": True, "clip_targets": True}
    algorithms = {"naf": naf | {"normalise_rewards": True}, "ddpg": {"algorithm": "ddpg"}}
    sizes = {"hidden_sizes": [16, 16], "batch_size": 32}
    ports = [port_of(make_endpoint()) for _ in range(4)]
    settings = {name: sizes | changes for name, changes in algorithms.items()}
    arguments = [sys.executable, "-c", TRAINERS, json.dumps([settings, str(tmp_path), ports])]
    subprocess.run(arguments, env=ENVIRONMENT, check=True, timeout=60)

    def state(name: str, world: int, rank: int) -> dict[str, Any]:
        with np.load(tmp_path / f"{name}-{world}-{rank}.npz") as arrays:
            return dict(arrays)

    for name, world in (("naf", 1), ("naf", 2), ("naf", 4), ("ddpg", 2)):
        alone, first = state(name, 0, 0), state(name, world, 0)
        for key, array in alone.items():
            assert np.abs(first[key] - array).max() <= 1e-5 * np.abs(array).max(), (name, world, key)
            for rank in range(1, world):
                assert np.array_equal(state(name, world, rank)[key], first[key]), (name, world, rank, key)


def test_a_batch_that_cannot_be_divided_is_a_config_error() -> None:
    assert [Ranks(rank, 4).slice(64) for rank in (0, 3)] == [slice(0, 16), slice(48, 64)]
    with pytest.raises(
        ConfigError, match=r"learner.batch_size 64 cannot be divided among 3 ranks: make it a"
    ):
        Ranks(0, 3).slice(64)


@contextmanager
def two_ranks(arguments: list[Any], port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The first of two ranks, and the process id of the second."""
    command = [sys.executable, "-c", LEARNER, json.dumps([*arguments, port])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True) as first:
        assert first.stdout is not None
        second = int(first.stdout.readline())
        try:
            yield first, second
        finally:
            first.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(second, signal.SIGKILL)


@pytest.fixture
def filled_server(start: Callable[[str], Any], robot: Any) -> None:
    start("replay_server")
    robot.hello()
    for _ in range(10):
        robot.send_episode()


def state_of(run: Path) -> dict[str, Any]:
    files = read_sealed(list_checkpoints(run / "checkpoints")[-1])[1]
    with np.load(io.BytesIO(files[STATE_FILE])) as arrays:
        return dict(arrays)


@pytest.mark.usefixtures("filled_server")
def test_resumed_with_another_number_of_ranks_and_ended_by_the_death_of_one(
    config: FleetConfig, tmp_path: Path, wait_until: WaitUntil, make_endpoint: Callable[[], str]
) -> None:
    """One process does the first updates, two the next; a third run, of one process, does all of them."""
    half, total = 100, 250

    def with_updates(updates: float) -> FleetConfig:
        changes = {"updates_per_row": (updates + 0.5) / ROWS, "checkpoint_period_s": 0.2, "threads": 1}
        return config.model_copy(update={"learner": config.learner.model_copy(update=changes)})

    def saved(run: str) -> int:
        checkpoints = list_checkpoints(tmp_path / run / "checkpoints")
        return int(checkpoints[-1].name[:10]) if checkpoints else 0

    def alone(run: str, updates: int) -> None:
        stop = threading.Event()
        thread = threading.Thread(
            target=run_learner, args=(with_updates(updates), tmp_path / run, stop, lambda: None)
        )
        thread.start()
        wait_until(lambda: saved(run) >= updates, 30, f"a checkpoint of {updates} updates")
        stop.set()
        thread.join(20)
        assert not thread.is_alive()

    def arguments(updates: float) -> list[Any]:
        run = with_updates(updates)
        return [run.learner.model_dump(), run.replay_server.model_dump(), str(tmp_path / "divided")]

    alone("whole", total)
    alone("divided", half)
    with two_ranks(arguments(total), port_of(make_endpoint())) as (first, _):
        wait_until(lambda: saved("divided") >= total, 60, f"a checkpoint of {total} updates by two ranks")
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0, "the second has ended in order, too"
    whole, divided = state_of(tmp_path / "whole"), state_of(tmp_path / "divided")
    for name in ("network", "target", "adam_first", "adam_second"):
        assert np.abs(whole[name] - divided[name]).max() <= 1e-5 * np.abs(whole[name]).max(), name
    np.testing.assert_array_equal(whole["generator"], divided["generator"])

    with two_ranks(arguments(1e9), port_of(make_endpoint())) as (first, second):
        wait_until(lambda: saved("divided") > total, 60, "more updates by two ranks")
        os.kill(second, signal.SIGKILL)
        _, error = first.communicate(timeout=20)
        assert first.returncode == 1
    assert "RankError: rank 0 of 2 cannot go on: another rank ended or does not" in error


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("cuda:1") == "cuda:1"
    monkeypatch.setattr(Ranks, "launched", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (device_of("cuda"), device_of("cpu")) == ("cuda:1", "cpu")
    with pytest.raises(ConfigError, match="is one GPU for all ranks"):
        device_of("cuda:0")
