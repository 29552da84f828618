"""The learner process, or one rank of it: what it needs before training can begin, and what it leaves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import zmq

from fleet.config import FleetConfig
from fleet.gatekeeper import Gatekeeper
from fleet.keys import load_credentials
from fleet.run_folder import RunFolder
from fleet.sockets import Context, bind_policy_publisher
from learner.device import check_device
from learner.learner import Learner
from learner.orders import Leader, follow
from learner.publisher import PolicyPublisher
from learner.ranks import Ranks, device_of
from learner.replay_link import ReplayLink
from replay_server.client import ReplayClient

_WAIT_S = 0.5
_SWITCH_S = 1e-4  # a thread that holds the interpreter gives it up to the updates after so long


def run_learner(
    config: FleetConfig, run_dir: Path, stop: threading.Event, on_ready: Callable[[], None]
) -> None:
    """Train until `stop` is set, then save a checkpoint.

    Started by torchrun, this is one rank of several: the first does all of it, the others compute.

    Args:
        config: The fleet as run.
        run_dir: The run's folder: checkpoints are resumed from and written there.
        stop: Set it from anywhere to end in order.
        on_ready: Called once the policy socket is bound; robots need not exist yet.

    Raises:
        fleet.config.ConfigError: PyTorch does not find `learner.device`, a key is missing, or the
            checkpoints in the run folder are of another run or network.
        learner.trainer.DivergedError: The network left the finite numbers.
        fleet.sockets.BindError: The policy endpoint is taken.
        learner.ranks.RankError: Another rank is gone.
    """
    device = device_of(config.learner.device)
    config = config.model_copy(update={"learner": config.learner.model_copy(update={"device": device})})
    check_device(device)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    torch.set_num_threads(config.learner.threads)
    sys.setswitchinterval(_SWITCH_S)
    if not Ranks.launched():
        _lead(config, run_dir, stop, on_ready, None)
        return
    ranks = Ranks.join(device)
    try:
        ranks.slice(config.learner.batch_size)
        if ranks.rank:
            follow(ranks, device)
            return
        leader = Leader(ranks)
        try:
            _lead(config, run_dir, stop, on_ready, leader)
        finally:
            leader.end()
    finally:
        ranks.leave()


def _lead(
    config: FleetConfig,
    run_dir: Path,
    stop: threading.Event,
    on_ready: Callable[[], None],
    leader: Leader | None,
) -> None:
    credentials = load_credentials(config, "learner")
    context: Context = zmq.Context()
    gatekeeper = Gatekeeper(context, credentials) if credentials else None
    publisher = None
    try:
        socket = bind_policy_publisher(context, config.learner.policy_endpoint, credentials)
        publisher = PolicyPublisher(socket, gatekeeper)
        on_ready()
        with ReplayClient(
            config.replay_server.endpoint, "learner", "learner", context=context, credentials=credentials
        ) as client:
            link = ReplayLink(client, time.monotonic)
            while (spec := link.spec()) is None:
                link.heartbeat("waiting", {})
                if leader is not None:
                    leader.wait()
                if stop.wait(_WAIT_S):
                    return
            Learner(config, spec, RunFolder(run_dir), link, publisher, leader).run(stop)
    finally:
        if publisher is not None:
            publisher.close()
        if gatekeeper is not None:
            gatekeeper.close()
        context.term()
