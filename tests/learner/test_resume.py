"""A learner that was stopped or killed and resumed is, bit for bit, one that never was."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

import learner.log_tail as log_tail_module
from fleet.config import FleetConfig
from fleet.messages import TailReply
from fleet.run_folder import RunFolder
from fleet.sockets import bind_policy_publisher
from fleet.spaces import SpaceSpec
from learner.checkpoint import STATE_FILE, WrongCheckpointError, list_checkpoints
from learner.learner import Learner
from learner.process import run_learner
from learner.publisher import PolicyPublisher
from learner.replay_link import ReplayLink
from learner.sealed_folder import read_sealed
from replay_server.client import ReplayClient

Context = zmq.Context[Any]
WaitUntil = Callable[..., None]
EPISODES = 10
ROWS = 32 * EPISODES
HALF = 105  # updates; ROWS / 2 and multiples of 16 would hide mistakes


class Runs:
    """Learners, one after the other, in run folders under one path."""

    def __init__(self, config: FleetConfig, path: Path, context: Context) -> None:
        self.config, self._path, self._context = config, path, context
        self._clients: list[ReplayClient] = []
        self._publisher = PolicyPublisher(bind_policy_publisher(context, config.learner.policy_endpoint))

    def begin(self, name: str, updates: int) -> Learner:
        """A new learner, or a resumed one, that the rows allow to do so many updates in all."""
        learner = self.config.learner.model_copy(update={"updates_per_row": (updates + 0.5) / ROWS})
        config = self.config.model_copy(update={"learner": learner})
        endpoint = config.replay_server.endpoint
        self._clients.append(ReplayClient(endpoint, "learner", "learner", context=self._context))
        link = ReplayLink(self._clients[-1], time.monotonic)
        deadline = time.monotonic() + 20
        while (spec := link.spec()) is None:
            assert time.monotonic() < deadline, "the replay server did not answer within 20 s"
        return Learner(config, spec, RunFolder(self._path / name), link, self._publisher)

    def end(self, learner: Learner) -> None:
        """As `Learner.run` does on the way out."""
        learner.courier.close()
        learner.save()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._publisher.close()


def pull(learner: Learner) -> None:
    """What the courier's thread does, and what the thread of the updates then does, in one."""
    learner.courier.pull(math.inf)
    learner.take_rows()


def tend(learner: Learner, now: float) -> None:
    for _ in range(2):  # it asks for a snapshot, and uses it
        learner.courier.tend(now)
        learner.show()
    learner.courier.tend(now)


def train_to_the_end(learner: Learner, disturb: bool) -> None:
    deadline = time.monotonic() + 20
    while not learner._complete:
        assert time.monotonic() < deadline, "the log was not read within 20 s"
        pull(learner)
        assert not learner.train() or learner._complete, "updates on a part of the rows"
    now = time.monotonic()
    while learner.train():
        if disturb:
            now += 1.0
            tend(learner, now)
            pull(learner)


def assert_equal(one: Learner, other: Learner) -> None:
    mine, theirs = one.trainer, other.trainer
    assert mine.updates == theirs.updates
    assert torch.equal(mine.flat, theirs.flat)
    assert torch.equal(mine.target, theirs.target)
    assert mine.optimiser.steps == theirs.optimiser.steps
    assert torch.equal(mine.optimiser.first, theirs.optimiser.first)
    assert torch.equal(mine.optimiser.second, theirs.optimiser.second)
    assert mine.normaliser.state() == theirs.normaliser.state()
    assert torch.equal(mine.generator.get_state(), theirs.generator.get_state())


def state_of(run: Path) -> bytes:
    return read_sealed(list_checkpoints(run / "checkpoints")[-1])[1][STATE_FILE]


@pytest.fixture
def runs(config: FleetConfig, tmp_path: Path, context: Context) -> Iterator[Runs]:
    runs = Runs(config, tmp_path, context)
    yield runs
    runs.close()


@pytest.fixture
def filled_server(start: Callable[[str], Any], robot: Any) -> None:
    """A replay server that holds ROWS rows of one robot, or the newest `capacity` of them."""
    start("replay_server")
    robot.hello()
    for _ in range(EPISODES):
        robot.send_episode()


@pytest.mark.parametrize(
    ("capacity", "demonstration_fraction"), [(10_000, 0.0), (ROWS, 0.5), (100, 0.5), (96, 0.0)]
)
@pytest.mark.usefixtures("filled_server")
def test_stopped_at_an_update_and_resumed(runs: Runs, tmp_path: Path, capacity: int) -> None:
    whole = runs.begin("whole", 2 * HALF)
    train_to_the_end(whole, disturb=False)
    assert (whole.trainer.updates, len(whole.mirror)) == (2 * HALF, min(capacity, ROWS))
    runs.end(whole)

    first = runs.begin("divided", HALF)
    train_to_the_end(first, disturb=True)
    assert first.trainer.updates == HALF
    runs.end(first)
    assert state_of(tmp_path / "divided") != state_of(tmp_path / "whole")
    second = runs.begin("divided", 2 * HALF)
    assert_equal(second, first)
    train_to_the_end(second, disturb=True)
    runs.end(second)
    assert_equal(second, whole)
    assert state_of(tmp_path / "divided") == state_of(tmp_path / "whole")


@pytest.mark.parametrize("capacity", [10_000, 100])
@pytest.mark.usefixtures("filled_server")
def test_stopped_before_it_had_read_the_log(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: in the second start the checkpoint is ahead of the mirror when it is saved again."""
    monkeypatch.setattr(log_tail_module, "TAIL_ROWS", 48)
    whole = runs.begin("whole", HALF)
    train_to_the_end(whole, disturb=False)
    runs.end(whole)
    for replies in (2, 1, 2):
        part = runs.begin("divided", HALF)
        deadline = time.monotonic() + 20
        while replies:
            assert time.monotonic() < deadline, "no rows within 20 s"
            before = part.mirror.cursor
            pull(part)
            replies -= part.mirror.cursor > before
        assert not part.train()
        runs.end(part)
    last = runs.begin("divided", HALF)
    train_to_the_end(last, disturb=False)
    runs.end(last)
    assert last.trainer.normaliser.count == whole.trainer.normaliser.count == len(whole.mirror)
    assert_equal(last, whole)


@pytest.mark.usefixtures("filled_server")
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = runs.begin("run", 2 * HALF)
    folder = tmp_path / "run" / "checkpoints"
    train_to_the_end(whole, disturb=False)
    runs.end(whole)
    (old,) = list_checkpoints(folder)
    more = runs.begin("run", 3 * HALF)
    train_to_the_end(more, disturb=False)
    runs.end(more)
    newest = list_checkpoints(folder)[-1]
    versions = more.courier._versions.last
    state = bytearray((newest / STATE_FILE).read_bytes())
    state[len(state) // 2] ^= 1
    (newest / STATE_FILE).write_bytes(state)
    (folder / "policy_version").write_text("")

    again = runs.begin("run", 3 * HALF)
    assert again.trainer.updates == 2 * HALF
    assert f"{newest / STATE_FILE}: is damaged: it does not match its checksum" in caplog.text
    assert f"{folder / 'policy_version'}: cannot be read" in caplog.text
    assert list_checkpoints(folder) == [old]
    assert (folder / f"damaged-{newest.name}" / STATE_FILE).read_bytes() == state
    train_to_the_end(again, disturb=False)
    runs.end(again)
    assert_equal(again, more)
    assert again.courier._versions.last > versions


@pytest.mark.usefixtures("filled_server")
def test_checkpoints_of_another_run_or_network_are_refused(runs: Runs, tmp_path: Path) -> None:
    learner = runs.begin("run", 1)
    learner.courier._link.run_id = "run0"
    runs.end(learner)
    with pytest.raises(WrongCheckpointError, match=r"is of run 'run0', the replay server serves run 'run1'"):
        runs.begin("run", 1)
    runs.end(runs.begin("other", 1))
    learner_config = runs.config.learner.model_copy(update={"hidden_sizes": [9]})
    runs.config = runs.config.model_copy(update={"learner": learner_config})
    with pytest.raises(WrongCheckpointError, match=r"hidden_sizes is \[8, 8\] there, \[9\] in this"):
        runs.begin("other", 1)
    assert len(list_checkpoints(tmp_path / "other" / "checkpoints")) == 1


class ScriptedLink(ReplayLink):
    """Gives the replies of a list, one per poll."""

    def __init__(self, replies: list[TailReply]) -> None:
        self.replies, self.asked = replies, list[int]()
        self.run_id, self.connected = "run1", False

    def poll_tail(self, cursor: int, max_rows: int) -> TailReply | None:
        self.asked.append(cursor)
        return self.replies.pop(0) if self.replies else None


@pytest.fixture
def scripted(
    config: FleetConfig, tmp_path: Path, spec: SpaceSpec, context: Context
) -> Iterator[Callable[[list[TailReply]], Learner]]:
    publisher = PolicyPublisher(bind_policy_publisher(context, config.learner.policy_endpoint))
    yield lambda replies: Learner(config, spec, RunFolder(tmp_path), ScriptedLink(replies), publisher)
    publisher.close()


def test_a_server_that_lost_rows_is_followed_and_its_new_rows_are_seen(
    scripted: Callable[..., Learner], make_reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    learner = scripted([make_reply(0, 70, 90), make_reply(70, 90, 90)])
    pull(learner)
    assert not learner.train(), "70 of 90 rows are not the log"
    pull(learner)
    assert learner.train()
    learner.save()
    assert not caplog.text
    for start in (learner, scripted([make_reply(0, 40, 40)])):  # alive, or started again
        start.courier._link.replies = start.courier._link.replies or [make_reply(40, 40, 40)]
        pull(start)
        assert "came back with 40 rows, 90 were read before" in caplog.text
        assert (start.mirror.cursor, len(start.mirror), start.trainer.normaliser.count) == (40, 40, 90)
        start.courier._link.replies = [make_reply(40, 45, 45)]
        pull(start)
        assert (start.mirror.cursor, len(start.mirror), start.trainer.normaliser.count) == (45, 45, 95)
        assert start.courier._link.asked[-1] == 40
        caplog.clear()


def test_a_full_disk_is_reported_and_training_goes_on(
    scripted: Callable[..., Learner], make_reply: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even the folders can be made; in the end there is room again."""
    blocked = [tmp_path / "checkpoints", tmp_path / "tensorboard"]
    learner = scripted([make_reply(0, 90, 90)])
    for path in blocked:
        path.touch()
    pull(learner)
    for now in (1e9, 2e9):
        assert learner.train()
        tend(learner, now)
        for text in ("no new policy: its version cannot be written down", "cannot write the curves"):
            assert text in caplog.text
    for path in blocked:
        path.unlink()
    tend(learner, 3e9)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1
    assert list((tmp_path / "tensorboard").glob("events.*"))
    blocked[0].rename(tmp_path / "kept")
    blocked[0].touch()
    assert learner.train()
    tend(learner, 4e9)
    assert "cannot write the checkpoint" in caplog.text
    learner.courier.close()


PROCESS = """
import json, sys, threading
from pathlib import Path
from fleet.config import FleetConfig, LearnerConfig, ReplayServerConfig
from fleet.ready import stop_on_signals
from learner.process import run_learner
learner, server, run = json.loads(sys.argv[1])
config = FleetConfig.model_construct(
    name="test", seed=4, learner=LearnerConfig(**learner), replay_server=ReplayServerConfig(**server)
)
run_learner(config, Path(run), stop_on_signals(), lambda: None)
"""


@pytest.mark.usefixtures("filled_server")
def test_processes_killed_in_the_middle_end_where_an_undisturbed_one_does(
    config: FleetConfig, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """One is ended by SIGKILL, one by SIGINT, and a third does the rest."""
    total = 12_000
    changes = {
        "updates_per_row": (total + 0.5) / ROWS,
        "checkpoint_period_s": 0.05,
        "threads": 1,
        "engine": "eager",  # the other one is done before anybody can interrupt it
    }
    config = config.model_copy(update={"learner": config.learner.model_copy(update=changes)})
    arguments = [config.learner.model_dump(), config.replay_server.model_dump(), str(tmp_path / "killed")]
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def saved(run: str) -> int:
        checkpoints = list_checkpoints(tmp_path / run / "checkpoints")
        return int(checkpoints[-1].name[:10]) if checkpoints else 0

    def wait_for(run: str, updates: int) -> None:
        wait_until(lambda: saved(run) >= updates, 60, f"a checkpoint of {updates} updates")

    reached = [0]
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0)):
        command = [sys.executable, "-c", PROCESS, json.dumps(arguments)]
        with subprocess.Popen(command, env=environment) as process:
            wait_for("killed", reached[-1] + 1)
            process.send_signal(number)
            assert process.wait(20) == status
        reached.append(saved("killed"))
    assert 0 < reached[1] < reached[2] < total

    for run in ("killed", "whole"):
        stop = threading.Event()
        thread = threading.Thread(target=run_learner, args=(config, tmp_path / run, stop, lambda: None))
        thread.start()
        wait_for(run, total)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")
