"""The learner's main loop against a real replay server over real sockets, all in threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from fleet.codec import decode
from fleet.config import ConfigError, FleetConfig
from fleet.messages import PolicyMessage
from fleet.run_folder import RunFolder
from fleet.sockets import AddressInUseError, Context, connect_policy_subscriber
from learner.checkpoint import Progress, list_checkpoints, save_checkpoint
from learner.process import run_learner
from learner.publisher import policy_message
from learner.trainer import Trainer
from replay_server.client import ReplayClient
from robot_nodes.policy_file import read_policy, run_policy_file

WaitUntil = Callable[..., None]
ROWS = 32  # of an episode of `Robot`


def learner_stats(client: ReplayClient) -> dict[str, Any]:
    for process in client.status().processes:
        if process["role"] == "learner":
            return {"state": process["state"], **process["stats"]}
    return {}


def test_from_the_first_row_to_a_checkpoint(
    config: FleetConfig,
    tmp_path: Path,
    start: Callable[[str], Any],
    context: Context,
    robot: Any,
    wait_until: WaitUntil,
) -> None:
    learner = start("learner")  # before anyone else
    start("replay_server")
    policies = connect_policy_subscriber(context, config.learner.policy_endpoint)
    robot.hello()

    def next_policy() -> PolicyMessage:
        assert policies.poll(10_000), "no policy"
        message = decode(policies.recv())
        assert isinstance(message, PolicyMessage)
        return message

    first = next_policy()
    assert (first.run_id, first.learner_step, first.exploration_std) == ("run1", 0, 1.0)
    for _ in range(3):  # nothing new, but robots see that the learner is there
        again = next_policy()
        assert (again.version, again.published_ns) == (0, first.published_ns)
    robot.send_episode()
    with ReplayClient(config.replay_server.endpoint, "monitor", "test", context=context) as client:
        wait_until(lambda: learner_stats(client).get("learner/rows") == ROWS, what="32 rows in the mirror")
        stats = learner_stats(client)
        assert (stats["state"], stats["learner/updates"]) == ("waiting", 0)
        assert (stats["learner/policy_version"], stats["learner/policies_published"]) == (0, 1)
        for _ in range(4):
            robot.send_episode()
        wait_until(lambda: learner_stats(client).get("learner/updates") == 2 * 5 * ROWS, what="320 updates")
        stats = learner_stats(client)
    assert stats["state"] == "running"
    assert stats["learner/updates_per_row"] == 2.0
    assert 0 <= stats["learner/mu_saturation"] <= 1
    assert np.isfinite(stats["learner/td_loss"])
    later = next_policy()
    while later.learner_step < 320:
        later = next_policy()
    assert later.version > first.version
    assert later.exploration_std == 0.25
    learner.end()
    (checkpoint,) = list_checkpoints(tmp_path / "checkpoints")
    assert checkpoint.name == f"0000000320-{later.version:010d}"
    saved = read_policy(run_policy_file(RunFolder(tmp_path)))
    assert (saved.version, saved.learner_step, saved.checksum) == (later.version, 320, later.checksum)
    assert list((tmp_path / "tensorboard").glob("events.*"))
    policies.close()


def test_begins_with_what_another_run_has_learned(
    config: FleetConfig, start: Callable[[str], Any], context: Context, robot: Any, tmp_path: Path
) -> None:
    """Its first policy is the other's, with the noise of one that has learned, and updates count from 0."""
    other = Trainer(config.learner, robot.spec, seed=7)
    other.flat += 0.1
    other.updates = other.optimiser.steps = 500
    policy = policy_message(other, "another", 5, 0.1, 0)
    saved = save_checkpoint(tmp_path / "other", other, Progress("another", 5, 6, 1000), policy, keep=1)
    saved.rename(tmp_path / "start")
    start("replay_server")
    policies = connect_policy_subscriber(context, config.learner.policy_endpoint)
    start("learner")
    robot.hello()
    assert policies.poll(10_000), "no policy"
    first = decode(policies.recv())
    assert isinstance(first, PolicyMessage)
    assert (first.run_id, first.checksum) == ("run1", policy.checksum)
    assert (first.learner_step, first.exploration_std) == (0, 0.25)
    policies.close()


def test_survives_the_server_and_resumes_its_own_work(
    config: FleetConfig,
    start: Callable[[str], Any],
    context: Context,
    robot: Any,
    wait_until: WaitUntil,
) -> None:
    server = start("replay_server")
    robot.hello()
    for _ in range(4):
        robot.send_episode()
    learner = start("learner")
    policies = connect_policy_subscriber(context, config.learner.policy_endpoint)

    def updates_published(updates: int) -> Callable[[], bool]:
        def look() -> bool:
            if not policies.poll(50):
                return False
            message = decode(policies.recv())
            versions.append(message.version)  # type: ignore[union-attr]
            return message.learner_step == updates  # type: ignore[union-attr]

        return look

    versions: list[int] = []
    wait_until(updates_published(4 * ROWS * 2), what="256 updates")
    server.end()
    start("replay_server")
    robot.hello()
    robot.send_episode()
    wait_until(updates_published(5 * ROWS * 2), 20, what="320 updates, after the server came back")
    learner.end()
    learner = start("learner")
    robot.send_episode()
    wait_until(updates_published(6 * ROWS * 2), 20, what="384 updates, after the learner came back")
    assert versions == sorted(versions)
    with ReplayClient(config.replay_server.endpoint, "monitor", "test", context=context) as client:
        wait_until(lambda: learner_stats(client).get("learner/policy_version") == versions[-1])
        stats = learner_stats(client)
    assert versions[-1] >= 1000, "versions leave a gap at a restart"
    assert len(set(versions)) <= stats["learner/policies_published"] < 500, "the count of them does not"
    learner.end()
    policies.close()


def test_says_for_whom_it_waits_and_stops_at_once(
    start: Callable[[str], Any], caplog: pytest.LogCaptureFixture, wait_until: WaitUntil
) -> None:
    caplog.set_level(logging.INFO)
    learner = start("learner")
    wait_until(lambda: "waiting for the replay server: no answer to Hello from tcp://" in caplog.text)
    learner.end()


def test_a_port_in_use_is_an_error(config: FleetConfig, tmp_path: Path, context: Context) -> None:
    taken = context.socket(zmq.PUB)
    taken.bind(config.learner.policy_endpoint)
    with pytest.raises(AddressInUseError, match=config.learner.policy_endpoint):
        run_learner(config, tmp_path, threading.Event(), lambda: None)
    taken.close()


@pytest.mark.parametrize(
    ("device", "found", "text"),
    [
        ("cuda", 0, r"learner\.device = cuda: PyTorch \S+ finds no CUDA device: use cpu, or install"),
        ("cuda:3", 2, r"learner\.device = cuda:3: PyTorch finds 2 CUDA device\(s\), numbered from cuda:0"),
    ],
)
def test_a_device_that_is_not_there_is_a_config_error_before_anything_else(
    config: FleetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, found: int, text: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    learner = config.learner.model_copy(update={"device": device})
    config = config.model_copy(update={"learner": learner})
    stop, ready = threading.Event(), threading.Event()
    stop.set()  # a learner that does not look would end without a word
    with pytest.raises(ConfigError, match=text):
        run_learner(config, tmp_path, stop, ready.set)
    assert not ready.is_set()
